"""From the table of selected records to their windows, whatever their number: the long work of `prepare.py`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from os.path import basename
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import Progress

from data_prep import noise
from data_prep.archive import COMPONENTS, read_rates
from data_prep.checks import SHORTEST_S, UnusableError
from data_prep.dataset import StoredWindows
from data_prep.duplicates import near_duplicates
from data_prep.parallel import Runner
from data_prep.record import Job, Prepared, PrepareSettings, common_pass_hz, prepare_records
from data_prep.selection import NO_DATA

CHUNK = 16  # records handed to a worker at once
SENSOR = ["record", "event_id", "network", "station", "location", "band", "processing"]
SOURCE = ["source_file", "source_key"]
_EVENT = ["magnitude", "depth_km", "distance_km", "event_latitude", "event_longitude"]
_ROW = [*SENSOR, *_EVENT, "magnitude_type", "event_time", "station_latitude", "station_longitude"]


@dataclass(frozen=True)
class Windows:
    """Windows (N, C, T) in float32, on disk, and their rows; `kind` and `reason` of those to leave out."""

    waves: StoredWindows
    rows: pd.DataFrame
    low_pass_hz: float | None


def make_windows(table: pd.DataFrame, settings: PrepareSettings, scratch: Path, run: Runner, progress: bool) -> Windows:
    """Make the windows of the records of `table` without a `kind`, which those without a window get here.

    `scratch` is the file they are written to. Near-duplicates and noise that shares
    the time of an earthquake are windows with a `kind`.

    Raises:
        ValueError: not one window.
    """
    chosen = accepted(table, "selected")
    jobs, low_pass_hz = _jobs(chosen, settings, run)
    chunks = run(prepare_records, [jobs[start : start + CHUNK] for start in range(0, len(jobs), CHUNK)])
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        shown = bar.track(chain.from_iterable(chunks), len(jobs), description="preparing")
        made, signatures_NK = _collect(shown, chosen.index, table, scratch)
    if not made:
        accepted(table, "prepared")
    shape = (len(made), len(COMPONENTS), settings.samples)
    waves_NCT = StoredWindows(scratch, shape)
    rows = _rows(table, made)
    overlap = noise.overlapping(rows, settings.window_s)
    rows.loc[overlap, ["kind", "reason"]] = ["earthquake inside", "an earthquake's window at the station has its time"]
    same = near_duplicates(rows, signatures_NK, waves_NCT)
    rows.loc[same != "", "kind"], rows.loc[same != "", "reason"] = "near-duplicate", same[same != ""]
    return Windows(waves_NCT, rows, low_pass_hz)


def accepted(table: pd.DataFrame, done: str) -> pd.DataFrame:
    """Rows without a reason against them; `ValueError` with the commonest reasons where there are none."""
    left = table[table["kind"] == ""]
    if left.empty:
        reasons = ", ".join(f"{kind} {count}" for kind, count in table["kind"].value_counts().head(4).items())
        there = table[table["kind"] != NO_DATA] if (table["kind"] != NO_DATA).any() else table
        example = there.loc[there["kind"] == there["kind"].value_counts().index[0], "reason"].iloc[0]
        raise ValueError(
            f"none of {len(table)} records could be {done} ({reasons}), for instance: {example}; widen the selection"
        )
    return left


def with_source(table: pd.DataFrame) -> pd.DataFrame:
    """Name the file without its folder, and the record by its first dataset."""
    name = table["source_file"].map(basename, na_action="ignore")
    return table.assign(source_file=name, source_key=table["E"].fillna(table["N"]).fillna(table["Z"]))


def _jobs(chosen: pd.DataFrame, settings: PrepareSettings, run: Runner) -> tuple[list[Job], float | None]:
    """A job a record, and the corner in Hz of the low-pass that they share."""
    paths, keys = chosen["source_file"].map(Path), chosen[list(COMPONENTS)].to_numpy().tolist()
    ambient = chosen["label"] == noise.LABEL
    files = [
        (path, some.tolist(), settings.window_s if quiet else SHORTEST_S)
        for (path, quiet), some in chosen["E"].groupby([paths, ambient])
    ]
    pass_hz = common_pass_hz(chain.from_iterable(run(read_rates, *zip(*files, strict=True))), settings.fs_hz)
    records = zip(paths, keys, ambient, strict=True)
    return [Job(path, tuple(three), settings, pass_hz, quiet) for path, three, quiet in records], pass_hz


def _collect(
    results: Iterable[list[Prepared] | UnusableError], index: pd.Index, table: pd.DataFrame, scratch: Path
) -> tuple[list[tuple[int, dict[str, Any]]], np.ndarray]:
    """Write windows to `scratch` and reasons into `table`; returns the table's index and own columns of each window."""
    made, signatures = [], []
    with scratch.open("wb") as file:
        for label, result in zip(index, results, strict=True):
            if isinstance(result, UnusableError):
                table.loc[label, ["kind", "reason"]] = [result.kind, result.reason]
                continue
            for window in result:
                file.write(np.ascontiguousarray(window.wave).data)
                made.append((label, window.row))
                signatures.append(window.signature)
    return made, np.array(signatures)


def _rows(table: pd.DataFrame, made: Sequence[tuple[int, dict[str, Any]]]) -> pd.DataFrame:
    """A row a window; noise windows of one record are numbered, and know nothing of its earthquake but the id."""
    record = with_source(table.loc[[label for label, _ in made]]).reindex(columns=[*_ROW, *SOURCE])
    rows = record.reset_index(drop=True).join(pd.DataFrame([row for _, row in made])).assign(kind="", reason="")
    quiet = rows["label"] == noise.LABEL
    rows.loc[quiet, _EVENT] = np.nan
    rows.loc[quiet, "magnitude_type"] = ""
    number = rows.groupby(["record", "label"]).cumcount().astype(str)
    rows["record"] = rows["record"].where(~quiet, rows["record"] + "__noise" + number)
    return rows
