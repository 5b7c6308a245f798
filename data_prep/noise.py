"""Windows without an earthquake: the negative class.

They come from the quiet part of earthquake records before P, and from recordings of ambient noise. They go through the
same filter and resampling as earthquakes, and are never padded, or the padding would tell the classes apart.
Shapes: C component (E, N, Z), T sample.
"""

from dataclasses import replace

import numpy as np
import pandas as pd

from data_prep import onset, process
from data_prep.archive import Traces
from data_prep.checks import UnusableError
from data_prep.process import Window

LABEL = "noise"
LEAST_SNR = 3.0  # of an onset that makes an earthquake of noise
LOUDEST = 3.0  # amplitude of a window over that of the quietest tenth: more is an earthquake's coda
CODA_S = 120.0  # after an earthquake's window, at its station


def common_time(traces: Traces, seconds: float) -> Traces:
    """Cut the components of a recording, each with its own start, to the time they share.

    Raises:
        UnusableError: they share less than `seconds`, or a component is shorter by itself.
    """
    fs_hz = traces.fs_hz[0]
    if len(set(traces.fs_hz)) > 1 or not 0 < fs_hz < np.inf:
        raise UnusableError("sampling rate", f"components at {', '.join(f'{fs:g}' for fs in traces.fs_hz)} Hz")
    late = max(traces.start_ns)
    skip = [round((late - start) / 1e9 * fs_hz) for start in traces.start_ns]
    shared = min(wave.size - first for wave, first in zip(traces.samples, skip, strict=True))
    shortest_s = min(wave.size for wave in traces.samples) / fs_hz
    if shortest_s < seconds:
        raise UnusableError("too short", f"{shortest_s:.1f} s, a noise window needs {seconds:g} s")
    if shared < seconds * fs_hz:
        have = f"its components share {max(0, shared) / fs_hz:.1f} s"
        raise UnusableError("components apart", f"{have}, a noise window needs {seconds:g} s")
    parts = tuple(wave[first : first + shared] for wave, first in zip(traces.samples, skip, strict=True))
    return replace(traces, samples=parts, start_ns=(late,) * len(parts))


def quiet_windows(wave_CT: np.ndarray, fs_hz: float, samples: int) -> list[Window]:
    """Cut a quiet stretch into windows one after another, but for those with an earthquake's beginning or coda."""
    power = onset.band_power(wave_CT, fs_hz)
    seconds = power[: power.size // round(fs_hz) * round(fs_hz)].reshape(-1, round(fs_hz)).mean(axis=1)
    most = LOUDEST**2 * np.percentile(seconds, 10)
    return [
        _window(wave_CT[:, start : start + samples], start)
        for start in range(0, wave_CT.shape[1] - samples + 1, samples)
        if power[start : start + samples].mean() <= most and not _has_onset(wave_CT[:, start : start + samples], fs_hz)
    ]


def before_event(wave_CT: np.ndarray, fs_hz: float, samples: int, event: Window) -> list[Window]:
    """Quiet windows of an earthquake's record that end where the window of the earthquake begins, or before.

    Zeros and taper at the record's start are left out.
    """
    first = onset.untapered(wave_CT, fs_hz)[0]
    if event.start - first < samples:
        return []
    first = event.start - (event.start - first) // samples * samples
    windows = quiet_windows(wave_CT[:, first : event.start], fs_hz, samples)
    return [replace(window, start=window.start + first) for window in windows]


def overlapping(rows: pd.DataFrame, seconds: float) -> pd.Series:
    """Which noise windows share time with a window of an earthquake at the same station, or follow it within 2 min.

    Starts are in `start_ns`, `seconds` is the length of the windows.
    """
    shared = pd.Series(False, index=rows.index)
    for _, station in rows.groupby(["network", "station"]):
        noise = station["label"] == LABEL
        starts = np.sort(station.loc[~noise, "start_ns"].to_numpy())
        if noise.any() and starts.size:
            begin = station.loc[noise, "start_ns"].to_numpy()
            length = round(seconds * 1e9)
            first = np.searchsorted(starts, begin - length - round(CODA_S * 1e9), side="right")
            shared[noise[noise].index] = np.searchsorted(starts, begin + length) > first
    return shared


def _window(wave_CT: np.ndarray, start: int) -> Window:
    wave, mean, std = process.normalise(wave_CT)
    peak = np.abs(wave_CT).max(axis=1)
    return Window(wave, mean, std, peak, start, onset=None, snr=np.nan, n_valid=wave.shape[1], energy_kept=np.nan)


def _has_onset(wave_CT: np.ndarray, fs_hz: float) -> bool:
    first = onset.find_onset(wave_CT, fs_hz)
    return first > 0 and onset.signal_to_noise(wave_CT, fs_hz, first)[0] >= LEAST_SNR
