"""Prepare a dataset of normalised windows from strong-motion archives (ITACA, ESM) and their flatfile.

    python data_prep/prepare.py data/itaca --flatfile data/flatfile.csv --out data/prepared

Every record of the archives and of the flatfile becomes a window or a row of `rejected.csv` with its reason. The
folder appears whole or not at all; the same command again finds it there and does nothing.
"""

import argparse
import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track

from data_prep.archive import COMPONENTS, find_archives, index_archives, read_rate
from data_prep.command import Parser, run_command
from data_prep.dataset import PARTS, new_folder, open_dataset, write_dataset
from data_prep.files import sha256
from data_prep.flatfile import MagnitudeRule, read_flatfile, with_magnitude
from data_prep.process import UnusableError, WindowRule
from data_prep.record import Job, Prepared, PrepareSettings, common_pass_hz, prepare_window
from data_prep.selection import keep_best_processing, match_records, select
from data_prep.split import split

_SENSOR = ["record", "event_id", "network", "station", "location", "band", "processing"]
_SOURCE = ["source_file", "source_key"]
_ROW = [*_SENSOR, "magnitude", "magnitude_type", "depth_km", "distance_km", "event_latitude", "event_longitude"]


@dataclass(frozen=True)
class PreparedSummary:
    """Where the dataset is, its manifest, and whether this run made it or found it there."""

    path: Path
    manifest: dict[str, Any]
    made: bool

    def __str__(self) -> str:
        counts = self.manifest["counts"]
        parts = ", ".join(f"{name} {counts[name]} ({counts[name] / counts['windows']:.0%})" for name in PARTS)
        lines = [
            f"{counts['records']} records: {counts['windows']} windows of {self.manifest['samples']} samples at "
            f"{self.manifest['fs_hz']:g} Hz, {sum(counts['rejected'].values())} rejected",
            *(f"  {count:5d}  {kind}" for kind, count in sorted(counts["rejected"].items(), key=lambda x: -x[1])),
            *self._low_pass(),
            f"parts: {parts}",
            f"dataset: {self.path}" + ("" if self.made else " (was there already, unchanged)"),
            f"next: python search/run.py --data {self.path}",
        ]
        return "\n".join(lines)

    def _low_pass(self) -> list[str]:
        pass_hz = self.manifest["low_pass_hz"]
        if pass_hz is None:
            return []
        return [f"low-pass: {pass_hz:g} Hz on all windows, what the most slowly sampled record carries"]


def prepare(
    archives: Sequence[Path | str],
    flatfile: Path,
    out: Path,
    settings: PrepareSettings,
    workers: int = 1,
    progress: bool = True,
) -> PreparedSummary:
    """Prepare the dataset `out`; what is there already from the same inputs and settings is left as it is.

    `archives` are ASDF files, folders of them or glob patterns. The arrays do not depend on the number of workers
    (processes).

    Raises:
        ValueError: bad input, nothing left to prepare, too few groups to split, or another folder at `out`.
    """
    if workers < 1:
        raise ValueError(f"workers {workers}: at least 1 expected")
    paths = find_archives(archives)
    table = _candidates(paths, flatfile, settings)
    inputs = [_fingerprint(path) for path in [*paths, flatfile]]
    manifest = _existing(out, settings, inputs)
    if manifest is not None:
        return PreparedSummary(out, manifest, made=False)
    split(_accepted(table, "selected"), settings.seed)  # too few groups: said before the long work
    with new_folder(out) as folder:
        manifest = _prepare(table, folder, settings, inputs, workers, progress)
    return PreparedSummary(out, manifest, made=True)


def main() -> None:
    """Command line."""
    options = vars(_parser().parse_args())
    archives, flatfile, out, workers = (options.pop(name) for name in ("archives", "flatfile", "out", "workers"))
    print(prepare(archives, flatfile, out, PrepareSettings(**options), workers))


def _parser() -> argparse.ArgumentParser:
    default = PrepareSettings()
    parser = Parser(
        description="Turn strong-motion archives and their flatfile into a dataset of equal, normalised windows.",
        epilog="Example: python data_prep/prepare.py data/itaca --flatfile data/flatfile.csv --out data/prepared",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("archives", nargs="+", metavar="ARCHIVE", help="ASDF (HDF5) file, folder of them, or glob pattern")
    path = partial(add, type=Path, required=True, default=argparse.SUPPRESS)
    path("--flatfile", metavar="FILE", help="table of the records, as ITACA or ESM give it")
    path("--out", metavar="DIR", help="folder to make; the dataset")
    add("--country", default=default.country, help="two letters, or any; by nation column, else (IT) by epicentre")
    add("--min-magnitude", type=float, default=default.min_magnitude, help="keep larger; at 0 a blank one passes")
    add("--max-depth-km", type=float, default=default.max_depth_km, help="keep shallower; at 800 a blank one passes")
    add("--magnitude", choices=get_args(MagnitudeRule), default=default.magnitude, help="may Ml fill a blank Mw?")
    add("--window", choices=get_args(WindowRule), default=default.window, help="cut from P, or short records whole")
    add("--fs-hz", type=float, default=default.fs_hz, help="sampling rate of the windows, Hz")
    add("--window-s", type=float, default=default.window_s, help="length of the windows, seconds")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes; the result is the same")
    add("--seed", type=int, default=default.seed, help="of the split into train, val and test")
    return parser


def _candidates(paths: Sequence[Path], flatfile: Path, settings: PrepareSettings) -> pd.DataFrame:
    """All records of archives and flatfile; `kind` and `reason` are empty for those to be prepared."""
    table = match_records(index_archives(paths), with_magnitude(read_flatfile(flatfile), settings.magnitude))
    keep_best_processing(table)
    select(table, settings.country, settings.min_magnitude, settings.max_depth_km)
    return table


def _accepted(table: pd.DataFrame, done: str) -> pd.DataFrame:
    """Rows without a reason against them; `ValueError` with the commonest reasons where there are none."""
    left = table[table["kind"] == ""]
    if left.empty:
        reasons = ", ".join(f"{kind} {count}" for kind, count in table["kind"].value_counts().head(4).items())
        raise ValueError(f"none of {len(table)} records could be {done} ({reasons}); widen the selection")
    return left


def _fingerprint(path: Path) -> dict[str, Any]:
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}


def _existing(out: Path, settings: PrepareSettings, inputs: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Manifest of the dataset at `out` if it is the one asked for, None if there is nothing yet."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / "manifest.json").is_file():
        raise ValueError(f"--out {out}: exists and is no prepared dataset; choose another folder")
    manifest = dict(open_dataset(out).manifest)
    if (manifest["settings"], manifest["inputs"]) != (asdict(settings), inputs):
        raise ValueError(
            f"--out {out}: holds a dataset of other inputs or settings; remove it or choose another folder"
        )
    return manifest


def _prepare(
    table: pd.DataFrame,
    folder: Path,
    settings: PrepareSettings,
    inputs: list[dict[str, Any]],
    workers: int,
    progress: bool,
) -> dict[str, Any]:
    """Make the windows of the accepted rows of `table` and write the dataset into `folder`."""
    chosen = _accepted(table, "selected")
    sources = list(chosen[["source_file", *COMPONENTS]].itertuples(index=False, name=None))
    pass_hz = common_pass_hz((read_rate(Path(file), key) for file, key, *_ in sources), settings.fs_hz)
    jobs = [Job(Path(file), (east, north, up), settings, pass_hz) for file, east, north, up in sources]
    scratch = folder / "scratch"  # windows in the table's order: their parts are known only at the end
    with _results(jobs, workers) as results:
        shown = track(results, "preparing", len(jobs), console=Console(stderr=True), disable=not progress)
        made = _collect(shown, chosen.index, table, scratch)
    rows = _accepted(table, "prepared")
    waves_NCT = np.memmap(scratch, np.float32, "r", shape=(len(rows), len(COMPONENTS), settings.samples))
    scratch.unlink()  # mapped as long as needed, but no file of the dataset
    part = split(rows, settings.seed)
    rows = _with_source(rows)[[*_ROW, *_SOURCE]].assign(label="earthquake").join(made)
    rejected = _with_source(table[table["kind"] != ""])[[*_SENSOR, "kind", "reason", *_SOURCE]]
    head = {"settings": asdict(settings), "inputs": inputs, "fs_hz": settings.fs_hz, "low_pass_hz": pass_hz}
    return write_dataset(folder, waves_NCT, rows, part, rejected, head)


@contextmanager
def _results(jobs: Sequence[Job], workers: int) -> Iterator[Iterable[Prepared | UnusableError]]:
    """Results in the order of the jobs from `workers` processes; on an error or Ctrl-C the rest is dropped."""
    if workers == 1:
        yield map(prepare_window, jobs)
        return
    # Spawned, as a forked copy of a process with threads may hang. Ctrl-C is for the parent to answer.
    spawn = multiprocessing.get_context("spawn")
    ignore_ctrl_c = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    pool = ProcessPoolExecutor(workers, spawn, ignore_ctrl_c)
    try:
        yield pool.map(prepare_window, jobs, chunksize=8)
    except BrokenProcessPool:
        raise ValueError("a worker process was killed, perhaps for want of memory; choose fewer --workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _collect(
    results: Iterable[Prepared | UnusableError], index: pd.Index, table: pd.DataFrame, scratch: Path
) -> pd.DataFrame:
    """Write windows to `scratch` and reasons into `table`; returns the windows' own columns."""
    made = {}
    with scratch.open("wb") as file:
        for label, result in zip(index, results, strict=True):
            if isinstance(result, UnusableError):
                table.loc[label, ["kind", "reason"]] = [result.kind, result.reason]
            else:
                file.write(result.wave.tobytes())
                made[label] = result.row
    return pd.DataFrame.from_dict(made, orient="index")


def _with_source(table: pd.DataFrame) -> pd.DataFrame:
    """Name the file without its folder, and the record by its first dataset."""
    name = table["source_file"].map(lambda path: Path(path).name, na_action="ignore")
    return table.assign(source_file=name, source_key=table["E"].fillna(table["N"]).fillna(table["Z"]))


if __name__ == "__main__":
    run_command(main)
