"""One record, from the archive to its windows: what a worker of `prepare.py` does."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from math import isfinite
from operator import attrgetter
from pathlib import Path
from typing import get_args

import h5py
import numpy as np

from data_prep import checks, noise, process
from data_prep.archive import COMPONENTS, Traces, read_traces
from data_prep.checks import UnusableError
from data_prep.duplicates import signatures
from data_prep.flatfile import MagnitudeRule
from data_prep.onset import find_onset
from data_prep.process import Window, WindowRule
from data_prep.split import BLOCK_KM

# The onset is sought up to 20 Hz; no accelerometer is sampled faster, no record lasts longer, no place is wider.
LEAST_FS_HZ, MOST_FS_HZ, MOST_S, MOST_KM = 42.0, 1000.0, 3600.0, 1000.0
LEAST_KM = 0.01
MOST_COUNTS = 2.0**31  # of any digitiser


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
    min_energy_kept: float = 0.85
    noise: bool = False  # windows from before P too
    block_km: float = BLOCK_KM
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
        if not LEAST_KM <= self.block_km <= MOST_KM:
            raise ValueError(f"block_km {self.block_km:g}: {LEAST_KM:g} to {MOST_KM:g} expected")
        if not 0 <= self.min_energy_kept <= 1:
            raise ValueError(f"min_energy_kept {self.min_energy_kept:g}: a share from 0 to 1 expected")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed {self.seed}: 0 to {2**32 - 1} expected")
        if not LEAST_FS_HZ <= self.fs_hz <= MOST_FS_HZ:
            raise ValueError(f"fs_hz {self.fs_hz:g}: {LEAST_FS_HZ:g} to {MOST_FS_HZ:g} expected")
        if not checks.SHORTEST_S <= self.window_s <= MOST_S:
            raise ValueError(f"window_s {self.window_s:g}: {checks.SHORTEST_S:g} to {MOST_S:g} expected")
        exact = self.fs_hz * self.window_s
        if abs(exact - round(exact)) > 1e-6:
            raise ValueError(f"{self.window_s:g} s at {self.fs_hz:g} Hz are {exact:g} samples; a whole number expected")

    @property
    def samples(self) -> int:
        """Samples of a window."""
        return round(self.fs_hz * self.window_s)


@dataclass(frozen=True)
class Job:
    """One record to read (paths of its E, N and Z datasets) and what to make of it."""

    path: Path
    keys: tuple[str, ...]
    settings: PrepareSettings
    pass_hz: float | None  # common low-pass
    ambient: bool = False  # a recording of noise, in units that may be unknown


Row = dict[str, float | int | str]
Made = tuple[np.ndarray, Row]  # a window and its own columns of the table


@dataclass(frozen=True)
class Prepared:
    """A window (C, T) in float32, its signature (K) and its own columns of the table."""

    wave: np.ndarray
    signature: np.ndarray
    row: Row


def prepare_records(jobs: Sequence[Job]) -> list[list[Prepared] | UnusableError]:
    """Make the windows of each record, the earthquake's first, or say why there is none; opens each file once."""
    results: list[list[Made] | UnusableError] = []
    for path, some in groupby(jobs, attrgetter("path")):
        of_file = list(some)
        try:
            with h5py.File(path, "r") as file:
                results += [_prepare_one(file, job) for job in of_file]
        except OSError as error:  # readable when it was indexed
            results += [_unreadable(error)] * len(of_file)
    waves = [wave for result in results if isinstance(result, list) for wave, _ in result]
    signed = iter(signatures(np.stack(waves)) if waves else ())
    return [
        [Prepared(wave, next(signed), row) for wave, row in result] if isinstance(result, list) else result
        for result in results
    ]


def _prepare_one(file: h5py.File, job: Job) -> list[Made] | UnusableError:
    try:
        traces = read_traces(file, job.keys)
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:  # whatever h5py makes of damaged bytes
        return _unreadable(error)
    try:
        return _ambient_noise(traces, job) if job.ambient else _earthquake(traces, job)
    except UnusableError as unusable:
        return unusable


def _unreadable(error: Exception) -> UnusableError:
    return UnusableError("unreadable", f"damaged in the archive: {' '.join(str(error).split())}")


def common_pass_hz(rates_hz: Iterable[float], fs_hz: float) -> float | None:
    """Corner of the low-pass that leaves no window more than every record could carry; None for no filter.

    With one rate all carry the same, and nothing is to be taken from above the new rate's own limit. A record sampled
    more slowly than `slowest_hz` is rejected, and takes nothing from the others.
    """
    known = {rate for rate in rates_hz if rate >= slowest_hz(fs_hz)}
    lowest_hz = process.USABLE_SHARE * min(known, default=fs_hz) / 2
    return lowest_hz if len(known) > 1 and lowest_hz < process.USABLE_SHARE * fs_hz / 2 else None


def slowest_hz(fs_hz: float) -> float:
    """The lowest sampling rate, in Hz, that a window at `fs_hz` is made from: a quarter of it."""
    return fs_hz / 4


def _earthquake(traces: Traces, job: Job) -> list[Made]:
    settings, fs_hz = job.settings, job.settings.fs_hz
    sound_CT = _sound(process.stack(traces.samples, traces.fs_hz, traces.start_ns), traces, job)
    # Before any filter without phase has moved some of P ahead of its onset.
    onset = round(find_onset(sound_CT, traces.fs_hz[0]) * fs_hz / traces.fs_hz[0])
    wave_CT = _filtered(sound_CT, traces, job)
    window = process.cut(wave_CT, fs_hz, settings.samples, settings.window, onset)
    if not window.snr >= settings.min_snr:
        raise UnusableError("noisy", f"signal-to-noise ratio {window.snr:.4g}, at least {settings.min_snr:g} needed")
    if window.energy_kept < settings.min_energy_kept:
        share = f"{window.energy_kept:.0%} of the energy is inside the window"
        raise UnusableError("energy outside", f"{share}, at least {settings.min_energy_kept:.0%} needed")
    quiet = noise.before_event(wave_CT, fs_hz, settings.samples, window) if settings.noise else []
    return [_row(window, "earthquake", traces, job), *(_row(part, noise.LABEL, traces, job) for part in quiet)]


def _ambient_noise(traces: Traces, job: Job) -> list[Made]:
    settings = job.settings
    traces = noise.common_time(traces, settings.window_s)
    wave_CT = _filtered(_sound(np.stack(traces.samples), traces, job), traces, job)
    windows = noise.quiet_windows(wave_CT, settings.fs_hz, settings.samples)
    if not windows:
        raise UnusableError("earthquake inside", "the noise rises like an earthquake in every window")
    return [_row(window, noise.LABEL, traces, job) for window in windows]


def _sound(wave_CT: np.ndarray, traces: Traces, job: Job) -> np.ndarray:
    """Check and detrend: the same for earthquakes and noise, as is `_filtered`."""
    fs_hz, least_hz = traces.fs_hz[0], slowest_hz(job.settings.fs_hz)
    if fs_hz < least_hz:
        raise UnusableError("sampled slowly", f"sampled at {fs_hz:g} Hz, at least {least_hz:g} Hz needed")
    checks.check(wave_CT, fs_hz, MOST_COUNTS if job.ambient else checks.MOST_CM_S2)
    detrended_CT = process.detrend(wave_CT)
    checks.check_detrended(detrended_CT, np.abs(wave_CT).max(axis=1), fs_hz)
    return detrended_CT


def _filtered(wave_CT: np.ndarray, traces: Traces, job: Job) -> np.ndarray:
    wave_CT = process.resample(wave_CT, traces.fs_hz[0], job.settings.fs_hz)
    return wave_CT if job.pass_hz is None else process.low_pass(wave_CT, job.settings.fs_hz, job.pass_hz)


def _row(window: Window, label: str, traces: Traces, job: Job) -> Made:
    fs_hz, source_fs_hz = job.settings.fs_hz, traces.fs_hz[0]
    known = not job.ambient or traces.unit_known
    scale = {"mean": window.mean, "std": window.std}
    row: Row = {"label": label, "source_fs_hz": source_fs_hz}
    for position, component in enumerate(COMPONENTS):
        for name, values in scale.items():
            row[f"{name}_{component.lower()}_cm_s2"] = float(values[position]) if known else np.nan
    limits_hz = [process.USABLE_SHARE * min(source_fs_hz, fs_hz) / 2, traces.high_cut_hz, job.pass_hz or np.nan]
    row |= {
        "pga_cm_s2": float(np.sqrt(window.peak[0] * window.peak[1])) if label == "earthquake" else np.nan,
        "start_ns": traces.start_ns[0] + round(window.start / fs_hz * 1e9),
        "onset_s": np.nan if window.onset is None else (window.onset - window.start) / fs_hz,
        "usable_low_hz": float(np.nan_to_num(traces.low_cut_hz)),  # unknown: no limit known
        "usable_high_hz": float(np.nanmin(limits_hz)),
        "snr": window.snr,
        "n_valid": window.n_valid,
        "energy_kept": window.energy_kept,
    }
    return window.wave, row
