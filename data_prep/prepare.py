"""Prepare a dataset of normalised windows from strong-motion archives (ITACA, ESM) and their flatfile.

    python data_prep/prepare.py data/itaca --flatfile data/flatfile.csv --out data/prepared

Every record of the archives and of the flatfile becomes a window or a row of `rejected.csv` with its reason. The
folder appears whole or not at all; the same command again finds it there and does nothing.
"""

import argparse
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track
from scipy.signal import detrend

from data_prep import process
from data_prep.archive import COMPONENTS, Traces, find_archives, index_archives, read_rate, read_traces
from data_prep.command import run_command
from data_prep.dataset import FORMAT, new_folder, read_manifest, write_dataset
from data_prep.files import sha256
from data_prep.flatfile import MagnitudeRule, read_flatfile, with_magnitude
from data_prep.process import Unusable, Window, WindowRule
from data_prep.selection import keep_best_processing, match_records, select
from data_prep.split import split

_ROW = ("event_id", "network", "station", "location", "band", "processing", "magnitude", "magnitude_type")
_ROW += ("depth_km", "distance_km", "event_latitude", "event_longitude", "source_fs_hz", "source_file", "source_key")
_REJECTED = ("record", "event_id", "network", "station", "kind", "reason", "source_file", "source_key")


@dataclass(frozen=True)
class PrepareSettings:
    """What decides a dataset besides its inputs; checked when built (`ValueError`)."""

    country: str = "IT"
    min_magnitude: float = 4.0
    max_depth_km: float = 50.0
    magnitude: MagnitudeRule = "Mw-or-Ml"
    window: WindowRule = "onset"
    fs_hz: float = 200.0
    window_s: float = 40.0
    min_snr: float = 3.0
    min_energy_kept: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not isfinite(value):
                raise ValueError(f"{field.name} {value}: a finite number expected")
        for name, rule in (("magnitude", MagnitudeRule), ("window", WindowRule)):
            if getattr(self, name) not in get_args(rule):
                raise ValueError(f"{name} {getattr(self, name)!r}: expected {' or '.join(get_args(rule))}")
        if self.country != "any" and not (len(self.country) == 2 and self.country.isupper()):
            raise ValueError(f"country {self.country!r}: expected two capital letters such as IT, or any")
        exact = self.fs_hz * self.window_s
        if self.fs_hz <= 0 or abs(exact - round(exact)) > 1e-6 or exact < process.SHORTEST_S * self.fs_hz:
            raise ValueError(
                f"fs_hz {self.fs_hz:g} and window_s {self.window_s:g}: expected a whole number of samples and a "
                f"window of {process.SHORTEST_S:g} s or more"
            )

    @property
    def samples(self) -> int:
        """Samples of a window."""
        return round(self.fs_hz * self.window_s)


@dataclass(frozen=True)
class PreparedSummary:
    """Where the dataset is, its manifest, and whether this run made it or found it there."""

    path: Path
    manifest: dict[str, Any]
    made: bool


@dataclass(frozen=True)
class Job:
    """One record to read, and what to make of it; `pass_hz` is the common low-pass, if any."""

    path: Path
    keys: tuple[str, ...]
    settings: PrepareSettings
    pass_hz: float | None


@dataclass(frozen=True)
class Prepared:
    """A window (C, T) float32 and its own columns of the table."""

    wave_CT: np.ndarray
    row: dict[str, float | int]


def prepare(
    archives: Sequence[Path | str],
    flatfile: Path,
    out: Path,
    settings: PrepareSettings,
    workers: int = 1,
    progress: bool = True,
) -> PreparedSummary:
    """Prepare the dataset `out`; what is there already from the same inputs and settings is left as it is.

    The arrays do not depend on the number of workers (processes).

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
    _open(table, "selected; widen the selection (country, magnitude, depth)")
    split(table[table["kind"] == ""], settings.seed)  # too few groups are told before the long work
    with new_folder(out) as folder:
        manifest = _write(folder, table, inputs, settings, workers, progress)
    return PreparedSummary(out, manifest, made=True)


def prepare_window(job: Job) -> Prepared | Unusable:
    """Read one record and make its window, or say why there is none."""
    try:
        traces = read_traces(job.path, job.keys)
    except (OSError, KeyError, RuntimeError, ValueError) as error:  # whatever h5py makes of damaged bytes
        return Unusable("unreadable", f"damaged in the archive: {' '.join(str(error).split())}")
    try:
        return _window(traces, job.settings, job.pass_hz)
    except Unusable as unusable:
        return unusable


def common_pass_hz(rates_hz: Iterable[float], fs_hz: float) -> float | None:
    """Corner of the low-pass that leaves no record more than all can carry; None where no filter is needed.

    With one rate every record carries the same; nor is there anything to take from above the new rate's own limit.
    """
    known = {rate for rate in rates_hz if rate > 0}
    lowest_hz = process.USABLE_SHARE * min(known, default=fs_hz) / 2
    return lowest_hz if len(known) > 1 and lowest_hz < process.USABLE_SHARE * fs_hz / 2 else None


def _window(traces: Traces, settings: PrepareSettings, pass_hz: float | None) -> Prepared:
    wave_CT = process.stack(traces.samples, traces.fs_hz, traces.start_ns)
    source_hz = traces.fs_hz[0]
    process.check(wave_CT, source_hz)
    wave_CT = process.resample(detrend(wave_CT), source_hz, settings.fs_hz)
    if pass_hz is not None:
        wave_CT = process.low_pass(wave_CT, settings.fs_hz, pass_hz)
    window = process.cut(wave_CT, settings.fs_hz, settings.samples, settings.window)
    if not window.snr >= settings.min_snr:
        raise Unusable("noisy", f"signal-to-noise ratio {window.snr:.2g}, at least {settings.min_snr:g} needed")
    if window.energy_kept < settings.min_energy_kept:
        share = f"{window.energy_kept:.0%} of the energy is inside the window"
        raise Unusable("energy outside", f"{share}, at least {settings.min_energy_kept:.0%} needed")
    return Prepared(window.wave_CT, _row(window, traces, settings.fs_hz, pass_hz))


def _row(window: Window, traces: Traces, fs_hz: float, pass_hz: float | None) -> dict[str, float | int]:
    source_hz = traces.fs_hz[0]
    highest = [process.USABLE_SHARE * min(source_hz, fs_hz) / 2, traces.high_cut_hz, pass_hz or np.nan]
    return {
        "source_fs_hz": source_hz,
        **{f"mean_{c.lower()}_cm_s2": value for c, value in zip(COMPONENTS, window.mean_C.tolist(), strict=True)},
        **{f"std_{c.lower()}_cm_s2": value for c, value in zip(COMPONENTS, window.std_C.tolist(), strict=True)},
        "onset_s": window.onset_s,
        "usable_low_hz": float(np.nan_to_num(traces.low_cut_hz)),
        "usable_high_hz": float(np.nanmin(highest)),
        "snr": window.snr,
        "n_valid": window.n_valid,
        "energy_kept": window.energy_kept,
    }


def _candidates(paths: Sequence[Path], flatfile: Path, settings: PrepareSettings) -> pd.DataFrame:
    """All records of archives and flatfile; `kind` and `reason` are empty for those to be prepared."""
    table = match_records(index_archives(paths), with_magnitude(read_flatfile(flatfile), settings.magnitude))
    keep_best_processing(table)
    select(table, settings.country, settings.min_magnitude, settings.max_depth_km)
    return table.rename(columns={"E": "source_key"})


def _open(table: pd.DataFrame, task: str) -> pd.DataFrame:
    """Rows without a reason against them; `ValueError` with the commonest reasons where there are none."""
    left = table[table["kind"] == ""]
    if left.empty:
        reasons = ", ".join(f"{kind} {count}" for kind, count in table["kind"].value_counts().head(4).items())
        raise ValueError(f"none of {len(table)} records could be {task} (left out: {reasons})")
    return left


def _write(
    folder: Path,
    table: pd.DataFrame,
    inputs: list[dict[str, Any]],
    settings: PrepareSettings,
    workers: int,
    progress: bool,
) -> dict[str, Any]:
    chosen = _open(table, "selected")
    rates = [read_rate(Path(row.source_file), row.source_key) for row in chosen.itertuples()]
    pass_hz = common_pass_hz(rates, settings.fs_hz)
    jobs = [
        Job(Path(row.source_file), (row.source_key, row.N, row.Z), settings, pass_hz) for row in chosen.itertuples()
    ]
    scratch, rows = folder / "scratch", []
    with scratch.open("wb") as waves, _results(jobs, workers) as results:
        for index, result in zip(
            chosen.index, track(results, "preparing", len(jobs), disable=not progress), strict=True
        ):
            if isinstance(result, Unusable):
                table.loc[index, ["kind", "reason"]] = [result.kind, result.reason]
            else:
                waves.write(result.wave_CT.tobytes())
                rows.append(result.row)
