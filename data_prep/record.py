"""One record, from the archive to its window: what a worker of `prepare.py` does."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from math import isfinite
from pathlib import Path
from typing import get_args

import numpy as np
from scipy.signal import detrend

from data_prep import process
from data_prep.archive import COMPONENTS, Traces, read_traces
from data_prep.flatfile import MagnitudeRule
from data_prep.process import UnusableError, Window, WindowRule

# The onset is sought up to 20 Hz; no accelerometer is sampled faster, no record lasts longer.
LEAST_FS_HZ, MOST_FS_HZ, MOST_S = 42.0, 1000.0, 3600.0


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
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed {self.seed}: 0 to {2**32 - 1} expected")
        if not LEAST_FS_HZ <= self.fs_hz <= MOST_FS_HZ:
            raise ValueError(f"fs_hz {self.fs_hz:g}: {LEAST_FS_HZ:g} to {MOST_FS_HZ:g} expected")
        if not process.SHORTEST_S <= self.window_s <= MOST_S:
            raise ValueError(f"window_s {self.window_s:g}: {process.SHORTEST_S:g} to {MOST_S:g} expected")
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
    keys: tuple[str, str, str]
    settings: PrepareSettings
    pass_hz: float | None  # common low-pass


@dataclass(frozen=True)
class Prepared:
    """A window (C, T) in float32 and its own columns of the table."""

    wave: np.ndarray
    row: dict[str, float | int]


def prepare_window(job: Job) -> Prepared | UnusableError:
    """Read one record and make its window, or say why there is none."""
    try:
        traces = read_traces(job.path, job.keys)
    except (OSError, KeyError, RuntimeError, ValueError) as error:  # whatever h5py makes of damaged bytes
        return UnusableError("unreadable", f"damaged in the archive: {' '.join(str(error).split())}")
    try:
        return _prepare(traces, job.settings, job.pass_hz)
    except UnusableError as unusable:
        return unusable


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


def _prepare(traces: Traces, settings: PrepareSettings, pass_hz: float | None) -> Prepared:
    wave_CT = process.stack(traces.samples, traces.fs_hz, traces.start_ns)
    if traces.fs_hz[0] < slowest_hz(settings.fs_hz):
        slow = f"sampled at {traces.fs_hz[0]:g} Hz, at least {slowest_hz(settings.fs_hz):g} Hz needed"
        raise UnusableError("sampled slowly", slow)
    process.check(wave_CT, traces.fs_hz[0])
    wave_CT = process.resample(detrend(wave_CT), traces.fs_hz[0], settings.fs_hz)
    if pass_hz is not None:
        wave_CT = process.low_pass(wave_CT, settings.fs_hz, pass_hz)
    window = process.cut(wave_CT, settings.fs_hz, settings.samples, settings.window)
    if not window.snr >= settings.min_snr:
        raise UnusableError("noisy", f"signal-to-noise ratio {window.snr:.4g}, at least {settings.min_snr:g} needed")
    if window.energy_kept < settings.min_energy_kept:
        share = f"{window.energy_kept:.0%} of the energy is inside the window"
        raise UnusableError("energy outside", f"{share}, at least {settings.min_energy_kept:.0%} needed")
    return Prepared(window.wave, _row(window, traces, settings.fs_hz, pass_hz))


def _row(window: Window, traces: Traces, fs_hz: float, pass_hz: float | None) -> dict[str, float | int]:
    scales = zip(COMPONENTS, window.mean.tolist(), window.std.tolist(), strict=True)
    limits_hz = [process.USABLE_SHARE * min(traces.fs_hz[0], fs_hz) / 2, traces.high_cut_hz, pass_hz or np.nan]
    row = {"source_fs_hz": traces.fs_hz[0]}
    for component, mean, std in scales:
        row |= {f"mean_{component.lower()}_cm_s2": mean, f"std_{component.lower()}_cm_s2": std}
    return row | {
        "onset_s": window.onset_s,
        "usable_low_hz": float(np.nan_to_num(traces.low_cut_hz)),  # unknown: no limit known
        "usable_high_hz": float(np.nanmin(limits_hz)),
        "snr": window.snr,
        "n_valid": window.n_valid,
        "energy_kept": window.energy_kept,
    }
