"""Prepare a dataset of normalised windows from strong-motion archives (ITACA, ESM) and their flatfile.

    python data_prep/prepare.py data/itaca --flatfile data/flatfile.csv --out data/prepared

Every record of the archives and of the flatfile becomes a window or a row of `rejected.csv` with its reason. The
folder appears whole or not at all; the same command again finds it there and does nothing.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from data_prep.archive import find_archives, index_archives
from data_prep.command import Parser, run_command
from data_prep.dataset import PARTS, REPORT, new_folder, open_dataset, write_dataset
from data_prep.files import sha256
from data_prep.flatfile import MagnitudeRule, read_flatfile, with_magnitude
from data_prep.parallel import Runner, in_order, warm_up
from data_prep.process import WindowRule
from data_prep.record import PrepareSettings
from data_prep.selection import keep_best_processing, list_noise, match_records, select
from data_prep.split import SplitSummary, describe, split
from data_prep.windows import SENSOR, SOURCE, accepted, make_windows, with_source


@dataclass(frozen=True)
class PreparedSummary:
    """Where the dataset is, its manifest, and whether this run made it or found it there."""

    path: Path
    manifest: dict[str, Any]
    made: bool

    @property
    def report(self) -> Path:
        """The page about the dataset."""
        return self.path / REPORT

    def __str__(self) -> str:
        counts, rejected = self.manifest["counts"], self.manifest["counts"]["rejected"]
        lines = [
            f"{counts['records']} records: {counts['windows']} windows of {self.manifest['samples']} samples at "
            f"{self.manifest['fs_hz']:g} Hz, {sum(rejected.values())} rejected",
            *(f"  {count:5d}  {kind}" for kind, count in sorted(rejected.items(), key=lambda item: -item[1])),
            *self._noise(),
            *self._low_pass(),
            *self._parts(),
            f"dataset: {self.path}" + ("" if self.made else " (was there already, unchanged)"),
            f"look at it: {self.report}",
            f"next: python search/run.py --data {self.path}",
        ]
        return "\n".join(lines)

    def _noise(self) -> list[str]:
        labels = self.manifest["counts"]["labels"]
        return [f"labels: {labels['earthquake']} earthquake, {labels['noise']} noise"] if "noise" in labels else []

    def _low_pass(self) -> list[str]:
        pass_hz = self.manifest["low_pass_hz"]
        if pass_hz is None:
            return []
        return [f"low-pass: {pass_hz:g} Hz on all windows, what the most slowly sampled record carries"]

    def _parts(self) -> list[str]:
        counts, summary = self.manifest["counts"], SplitSummary(**self.manifest["split"])
        parts = ", ".join(f"{name} {counts[name]} ({counts[name] / counts['windows']:.0%})" for name in PARTS)
        return [f"parts: {parts}", str(summary), *(f"warning: {warning}" for warning in summary.warnings)]


def prepare(
    archives: Sequence[Path | str],
    flatfile: Path,
    out: Path,
    settings: PrepareSettings,
    noise_files: Sequence[Path | str] = (),
    workers: int = 1,
    ray_address: str | None = None,
    progress: bool = True,
) -> PreparedSummary:
    """Prepare the dataset `out`; what is there already from the same inputs and settings is left as it is.

    `archives` and `noise_files` (ambient noise) are ASDF files, folders of them or glob patterns. The arrays do not
    depend on the number of workers: processes, or the CPUs of the Ray cluster at `ray_address`.

    Raises:
        ValueError: bad input, nothing left to prepare, too few groups to split, or another folder at `out`.
    """
    if workers < 1:
        raise ValueError(f"workers {workers}: at least 1 expected")
    if workers > 1 and ray_address is None:
        warm_up("data_prep.prepare")
    paths, noise_paths = find_archives(archives), find_archives(noise_files)
    if both := sorted(set(paths) & set(noise_paths)):
        raise ValueError(f"archive {both[0]}: given as earthquakes and as noise; give it once")
    with in_order(workers, ray_address) as run, ThreadPoolExecutor() as threads:
        rows = threads.submit(read_flatfile, flatfile)  # goes on, as hashing does, beside the reading of the archives
        fingerprints = threads.map(_fingerprint, *zip(*_roles(paths, noise_paths, flatfile), strict=True))
        index, noise_index = index_archives(paths, run), index_archives(noise_paths, run) if noise_paths else None
        table = _candidates(index, noise_index, rows.result(), settings)
        inputs = sorted(fingerprints, key=lambda file: (file["role"], file["name"], file["sha256"]))
        manifest = _existing(out, settings, inputs)
        if manifest is not None:
            return PreparedSummary(out, manifest, made=False)
        quakes = accepted(table[table["label"] == "earthquake"], "selected")
        split(quakes, settings.seed, settings.block_km)  # too few groups: said before the long work
        with new_folder(out) as folder:
            manifest = _write(table, folder, settings, inputs, run, progress)
    return PreparedSummary(out, manifest, made=True)


def main() -> None:
    """Command line."""
    from data_prep.report import write_report  # its figures would take half a second of every worker's start

    options = vars(_parser().parse_args())
    archives, flatfile, out, workers = (options.pop(name) for name in ("archives", "flatfile", "out", "workers"))
    noise_files, ray = options.pop("noise", None), options.pop("ray", None)
    settings = PrepareSettings(**options, noise=noise_files is not None)
    summary = prepare(archives, flatfile, out, settings, noise_files or (), workers, ray)
    if not summary.report.exists():
        write_report(out)
    print(summary)


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
    text = "add noise windows: from before P, and from these archives of ambient noise"
    add("--noise", nargs="*", metavar="FILE", default=argparse.SUPPRESS, help=text)
    add("--fs-hz", type=float, default=default.fs_hz, help="sampling rate of the windows, Hz")
    add("--window-s", type=float, default=default.window_s, help="length of the windows, seconds")
    add("--min-snr", type=float, default=default.min_snr, help="reject what rises less above its noise")
    text = "reject windows with a smaller share of their record's energy"
    add("--min-energy-kept", type=float, default=default.min_energy_kept, help=text)
    add("--block-km", type=float, default=default.block_km, help="places this close go into one part of the split")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes; the result is the same")
    text = "work on this Ray cluster instead, which sees the same files (auto: the one this machine is part of)"
    add("--ray", metavar="ADDRESS", default=argparse.SUPPRESS, help=text)
    add("--seed", type=int, default=default.seed, help="of the split into train, val and test")
    return parser


def _candidates(
    index: pd.DataFrame, noise_index: pd.DataFrame | None, flatfile: pd.DataFrame, settings: PrepareSettings
) -> pd.DataFrame:
    """All records of archives, flatfile and noise; `kind` and `reason` are empty for those to be prepared."""
    table = match_records(index, with_magnitude(flatfile, settings.magnitude))
    keep_best_processing(table)
    select(table, settings.country, settings.min_magnitude, settings.max_depth_km)
    return table if noise_index is None else pd.concat([table, list_noise(noise_index)], ignore_index=True)


def _roles(paths: Sequence[Path], noise_paths: Sequence[Path], flatfile: Path) -> Iterator[tuple[str, Path]]:
    yield from (("archive", path) for path in paths)
    yield from (("noise", path) for path in noise_paths)
    yield "flatfile", flatfile


def _fingerprint(role: str, path: Path) -> dict[str, Any]:
    return {"role": role, "name": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}


def _existing(out: Path, settings: PrepareSettings, inputs: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Manifest of the dataset at `out` if it is the one asked for, None if there is nothing yet."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / "manifest.json").is_file():
        raise ValueError(f"--out {out}: exists and is no prepared dataset; choose another folder")
    manifest = dict(open_dataset(out).manifest)
    if (manifest.get("settings"), manifest.get("inputs")) != (asdict(settings), inputs):
        raise ValueError(
            f"--out {out}: holds a dataset of other inputs or settings; remove it or choose another folder"
        )
    return manifest


def _write(
    table: pd.DataFrame,
    folder: Path,
    settings: PrepareSettings,
    inputs: list[dict[str, Any]],
    run: Runner,
    progress: bool,
) -> dict[str, Any]:
    """Make the windows of the records of `table` still in and write the dataset into `folder`."""
    scratch = folder / "scratch"
    made = make_windows(table, settings, scratch, run, progress)
    rows = accepted(made.rows, "prepared")
    accepted(made.rows[made.rows["label"] == "earthquake"], "prepared")
    part = split(rows, settings.seed, settings.block_km)
    lost = pd.concat([with_source(table), made.rows], ignore_index=True)
    lost = lost[lost["kind"] != ""]
    head = {
        "settings": asdict(settings),
        "inputs": inputs,
        "fs_hz": settings.fs_hz,
        "low_pass_hz": made.low_pass_hz,
        "split": asdict(describe(rows, part, settings.block_km)),
    }
    rejected = lost[[*SENSOR, "label", "kind", "reason", *SOURCE]]
    manifest = write_dataset(folder, made.waves, rows.drop(columns=["kind", "reason"]), part, rejected, head)
    scratch.unlink()
    return manifest


if __name__ == "__main__":
    run_command(main)
