"""From the samples of one record to one window: resampling, filter, cut, normalisation.

Pure functions of arrays. Shapes: C component (E, N, Z), T sample. Samples are accelerations in cm/s².
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import fft, signal

from data_prep.checks import UnusableError
from data_prep.onset import signal_to_noise, sum_of_squares

WindowRule = Literal["onset", "whole"]

LEAD_S = 5.0  # kept before the onset, and at most an eighth of the window
LEAST_LEAD_S = 1.0
USABLE_SHARE = 0.8  # of the Nyquist frequency: above it anti-alias filters have bitten
_BLOCK = 1024  # samples filtered at once, at least


@dataclass(frozen=True)
class Window:
    """A normalised window (C, T) in float32, the scale taken out and the peaks (C) in cm/s², and what it was cut from.

    `snr` and `energy_kept` are NaN and `onset` is None where there is no earthquake.
    """

    wave: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    peak: np.ndarray
    start: int  # its first sample in what it was cut from
    onset: int | None  # of P, in what it was cut from
    snr: float
    n_valid: int  # samples before the padding
    energy_kept: float


def stack(samples: Sequence[np.ndarray], fs_hz: Sequence[float], start_ns: Sequence[int]) -> np.ndarray:
    """Stack three components of one record, (C, T); `UnusableError` unless rate, start and length agree."""
    if len(set(fs_hz)) > 1 or not 0 < fs_hz[0] < np.inf:
        raise UnusableError("sampling rate", f"components at {', '.join(f'{fs:g}' for fs in fs_hz)} Hz")
    apart_s = (max(start_ns) - min(start_ns)) / 1e9
    if apart_s > 0.5 / fs_hz[0]:
        raise UnusableError("components differ", f"they start up to {apart_s:g} s apart")
    lengths = [wave.size for wave in samples]
    if len(set(lengths)) > 1:
        raise UnusableError("components differ", f"they have {', '.join(map(str, lengths))} samples")
    return np.array(samples, dtype=np.float64)


def detrend(wave_CT: np.ndarray) -> np.ndarray:
    """Subtract from each component its straight line of least squares.

    Reckoned in double precision, returned in single: what follows needs no more, and takes half the time.
    """
    time_T = _centred_time(wave_CT.shape[1])
    # Not by @: the threads of a BLAS would get into the way of the other workers.
    slope_C = np.einsum("ct,t->c", wave_CT, time_T) / np.einsum("t,t->", time_T, time_T)
    line_CT = slope_C[:, None] * time_T
    line_CT += wave_CT.mean(axis=1, keepdims=True)
    return np.subtract(wave_CT, line_CT, out=line_CT).astype(np.float32)


@lru_cache(maxsize=8)
def _centred_time(samples: int) -> np.ndarray:
    return np.arange(samples) - (samples - 1) / 2


def resample(wave_CT: np.ndarray, fs_hz: float, new_fs_hz: float) -> np.ndarray:
    """Change the rate by a rational factor: what lies below 0.8 of the lower Nyquist frequency stays, nothing above it.

    Raises:
        UnusableError: the two rates have no ratio of small whole numbers.
    """
    if fs_hz == new_fs_hz:
        return wave_CT
    ratio = Fraction(new_fs_hz / fs_hz).limit_denominator(128)
    if abs(float(ratio) * fs_hz / new_fs_hz - 1) > 1e-5:
        raise UnusableError("sampling rate", f"{fs_hz:g} Hz has no simple ratio to {new_fs_hz:g} Hz")
    up, down = ratio.numerator, ratio.denominator
    if min(up, down) == 1:
        return _resample(wave_CT, up, down)
    return signal.resample_poly(wave_CT, up, down, axis=1, window=_anti_alias(max(up, down)), padtype="line")


def _resample(wave_CT: np.ndarray, up: int, down: int) -> np.ndarray:
    """What `resample_poly` does, block by block in the frequency domain: a quarter of the time, where a factor is 1."""
    kernel, samples, first, last = _resampling_kernel(up, down), wave_CT.shape[1], wave_CT[:, :1], wave_CT[:, -1:]
    beyond = kernel.size // (2 * up) + 1  # samples needed at either end, on the line from the first to the last
    line = (last - first) / (samples - 1) * np.arange(1, beyond + 1, dtype=wave_CT.dtype)
    spread_CT = np.zeros((len(wave_CT), up * (samples + 2 * beyond)), wave_CT.dtype)
    spread_CT[:, ::up] = np.concatenate([first - line[:, ::-1], wave_CT, last + line], axis=1)
    return _convolve(spread_CT, kernel, 0, 0)[:, up * beyond : up * (beyond + samples) : down]


@lru_cache
def _resampling_kernel(up: int, down: int) -> "_Kernel":
    return _Kernel(up * _anti_alias(max(up, down)))


@lru_cache
def _anti_alias(factor: int) -> np.ndarray:
    """Taps of the filter, 70 dB down at the lower Nyquist frequency, where `resample_poly`'s own is down by 6 dB."""
    taps, beta = signal.kaiserord(70, (1 - USABLE_SHARE) / factor)
    return signal.firwin(taps | 1, (1 + USABLE_SHARE) / 2 / factor, window=("kaiser", beta)).astype(np.float32)


def low_pass(wave_CT: np.ndarray, fs_hz: float, pass_hz: float) -> np.ndarray:
    """Zero-phase FIR low-pass: flat up to `pass_hz`, 60 dB down from `pass_hz / 0.8` (Kaiser's design).

    Block by block in the frequency domain (overlap-save), the first and last sample held beyond the ends.
    """
    return _convolve(wave_CT, _low_pass_kernel(fs_hz, pass_hz), wave_CT[:, :1], wave_CT[:, -1:])


class _Kernel:
    """Taps of a filter, an odd number, and their spectrum over a block of samples."""

    def __init__(self, taps: np.ndarray) -> None:
        self.size = taps.size
        self.block = max(_BLOCK, fft.next_fast_len(4 * taps.size))
        self.spectrum = fft.rfft(taps, self.block).astype(np.complex64)


@lru_cache
def _low_pass_kernel(fs_hz: float, pass_hz: float) -> _Kernel:
    stop_hz = pass_hz / USABLE_SHARE
    taps, beta = signal.kaiserord(60, (stop_hz - pass_hz) / (fs_hz / 2))
    return _Kernel(signal.firwin(taps | 1, (pass_hz + stop_hz) / 2, window=("kaiser", beta), fs=fs_hz))


def _convolve(wave_CT: np.ndarray, kernel: _Kernel, before: ArrayLike, after: ArrayLike) -> np.ndarray:
    """Filter without delay, by overlap-save; `before` and `after` (numbers, or (C, 1)) stand beyond the ends."""
    components, length = wave_CT.shape
    half, step = kernel.size // 2, kernel.block - kernel.size + 1
    padded_CT = np.empty((components, length + 2 * half + -length % step), wave_CT.dtype)
    padded_CT[:, :half], padded_CT[:, half : half + length], padded_CT[:, half + length :] = before, wave_CT, after
    blocks = np.lib.stride_tricks.sliding_window_view(padded_CT, kernel.block, axis=1)[:, ::step]
    filtered = fft.irfft(fft.rfft(blocks) * kernel.spectrum, kernel.block)[..., kernel.size - 1 :]
    return filtered.reshape(components, -1)[:, :length]


def cut(wave_CT: np.ndarray, fs_hz: float, samples: int, rule: WindowRule, onset: int) -> Window:
    """Cut, pad and normalise one window of `samples` from a detrended record whose P wave begins at sample `onset`.

    `onset`: from 5 s (at most an eighth of the window) before the onset of P, or from as little as 1 s before it where
    the shaking would not fit otherwise; `whole`: the record from its start, refused where it is longer than the
    window. What ends before the window does is tapered (one second) and padded with zeros. Each component is z-scored
    over all samples, padding included.

    Raises:
        UnusableError: a longer record under `whole`, or a component without motion inside the window.
    """
    length = wave_CT.shape[1]
    if rule == "whole" and length > samples:
        raise UnusableError("longer than the window", f"{length / fs_hz:.1f} s, the window {samples / fs_hz:g} s")
    snr, noise = signal_to_noise(wave_CT, fs_hz, onset)
    # Noise lasts as long as the recorder runs: only what exceeds it counts as the earthquake's energy.
    energy = np.cumsum(np.append(0, sum_of_squares(wave_CT) - noise))
    end = int(np.searchsorted(energy, 0.95 * energy[-1]))
    start = _start(onset, end, samples, fs_hz) if rule == "onset" else 0
    part_CT = wave_CT[:, start : start + samples]
    kept = energy[start + part_CT.shape[1]] - energy[start]
    wave, mean, std = normalise(pad(part_CT, samples, round(fs_hz)))
    return Window(
        wave=wave,
        mean=mean,
        std=std,
        peak=np.abs(part_CT).max(axis=1),
        start=start,
        onset=onset,
        snr=snr,
        n_valid=part_CT.shape[1],
        energy_kept=float(np.clip(kept / energy[-1], 0, 1)) if energy[-1] > 0 else 0.0,
    )


def pad(wave_CT: np.ndarray, samples: int, taper: int) -> np.ndarray:
    """Zeros at the end up to `samples`, after a cosine taper of the last `taper` samples; else unchanged."""
    missing = samples - wave_CT.shape[1]
    if missing == 0:
        return wave_CT
    ramp = np.ones(wave_CT.shape[1])
    ramp[-taper:] = np.cos(np.linspace(0, np.pi / 2, taper)) ** 2
    return np.pad(wave_CT * ramp, ((0, 0), (0, missing)))


def normalise(wave_CT: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Z-score each component over all its samples: float32 waves, then the means and standard deviations."""
    mean_C = wave_CT.mean(axis=1, dtype=np.float64)
    centred_CT = (wave_CT - mean_C[:, None]).astype(np.float32)
    std_C = np.sqrt(np.square(centred_CT).mean(axis=1)).astype(np.float64)
    if (std_C == 0).any():
        raise UnusableError("constant", f"{'ENZ'[int(std_C.argmin())]} does not move inside the window")
    return (centred_CT / std_C[:, None]).astype(np.float32), mean_C, std_C


def _start(onset: int, end: int, samples: int, fs_hz: float) -> int:
    """First sample of a window: the usual lead before the onset, less where the end of shaking asks for it."""
    lead, least = round(min(LEAD_S, samples / fs_hz / 8) * fs_hz), round(LEAST_LEAD_S * fs_hz)
    return max(0, min(max(onset - lead, end - samples), onset - least))
