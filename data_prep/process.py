"""From the samples of one record to one window: checks, resampling, onset, cut, normalisation.

Pure functions of arrays. Shapes: C component (E, N, Z), T sample. Samples are accelerations in cm/s².
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from scipy import ndimage, signal

WindowRule = Literal["onset", "whole"]

SHORTEST_S = 10.0
LEAD_S = 5.0  # kept before the onset, and at most an eighth of the window
LEAST_LEAD_S = 1.0
NOTHING = 1e-12  # of the largest power: what rounding leaves where there was no motion
MOST_CM_S2 = 1e5  # 100 g, 25 times the strongest ground motion on record
USABLE_SHARE = 0.8  # of the Nyquist frequency: above it anti-alias filters have bitten


class UnusableError(Exception):
    """A record that cannot become a window: `kind` in a word or two, and the reason."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind, self.reason = kind, reason


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
    if len(set(fs_hz)) > 1 or not fs_hz[0] > 0:
        raise UnusableError("sampling rate", f"components at {', '.join(f'{fs:g}' for fs in fs_hz)} Hz")
    apart_s = (max(start_ns) - min(start_ns)) / 1e9
    if apart_s > 0.5 / fs_hz[0]:
        raise UnusableError("components differ", f"they start up to {apart_s:g} s apart")
    lengths = [wave.size for wave in samples]
    if len(set(lengths)) > 1:
        raise UnusableError("components differ", f"they have {', '.join(map(str, lengths))} samples")
    return np.stack(samples)


def check(wave_CT: np.ndarray, fs_hz: float, most: float = MOST_CM_S2) -> None:
    """Raise `UnusableError` for a record that is too short or has a component that no ground motion draws.

    `most` is the largest amplitude to be believed; another than the default where the unit is not cm/s².
    """
    if wave_CT.shape[1] < SHORTEST_S * fs_hz:
        raise UnusableError("too short", f"{wave_CT.shape[1] / fs_hz:.1f} s, at least {SHORTEST_S:g} s needed")
    for name, wave_T in zip("ENZ", wave_CT, strict=True):
        if not np.isfinite(wave_T).all():
            raise UnusableError("not finite", f"{name} holds NaN or infinity")
        if (reached := np.abs(wave_T).max()) > most:
            raise UnusableError("amplitude", f"{name} reaches {reached:.3g}, no earthquake {most:g} cm/s²; which unit?")
        if np.ptp(wave_T) == 0:
            raise UnusableError("constant", f"{name} never changes")
        if (run := _clipped_samples(wave_T)) >= 5:
            raise UnusableError("clipped", f"{name} stays at its extreme for {run} samples")
        if (drawn_s := _straight_s(wave_T, fs_hz)) >= 1:
            raise UnusableError("straight line", f"{name} is drawn with straight lines for {drawn_s:.1f} s")
    _check_glitch(signal.detrend(wave_CT), fs_hz)


def resample(wave_CT: np.ndarray, fs_hz: float, new_fs_hz: float) -> np.ndarray:
    """Change the rate by a rational factor, with the anti-alias filter of `scipy.signal.resample_poly`.

    Raises:
        UnusableError: the two rates have no ratio of small whole numbers.
    """
    if fs_hz == new_fs_hz:
        return wave_CT
    ratio = Fraction(new_fs_hz / fs_hz).limit_denominator(128)
    if abs(float(ratio) * fs_hz / new_fs_hz - 1) > 1e-5:
        raise UnusableError("sampling rate", f"{fs_hz:g} Hz has no simple ratio to {new_fs_hz:g} Hz")
    return signal.resample_poly(wave_CT, ratio.numerator, ratio.denominator, axis=1, padtype="line")


def low_pass(wave_CT: np.ndarray, fs_hz: float, pass_hz: float) -> np.ndarray:
    """Zero-phase FIR low-pass: flat up to `pass_hz`, 60 dB down from `pass_hz / 0.8` (Kaiser's design)."""
    stop_hz = pass_hz / USABLE_SHARE
    taps, beta = signal.kaiserord(60, (stop_hz - pass_hz) / (fs_hz / 2))
    kernel = signal.firwin(taps | 1, (pass_hz + stop_hz) / 2, window=("kaiser", beta), fs=fs_hz)
    return ndimage.convolve1d(wave_CT, kernel, axis=1, mode="nearest")


def find_onset(wave_CT: np.ndarray, fs_hz: float) -> int:
    """First sample of the P wave; 0 where no noise precedes the shaking.

    Before the strongest half second, the split of the three components' power (1 to 20 Hz) into a weak and a
    strong part of least AIC (Maeda 1985) is the onset of P, or of S: so the part before is split again, as long
    as the power rises fourfold there and stays up. Later splits leave out the record's first 5 %, or a taper there
    would pass for an onset.
    """
    power = _power(wave_CT, fs_hz)
    second = round(fs_hz)
    smooth = ndimage.uniform_filter1d(power, second // 2)
    start, onset, end = _live(wave_CT)[0], 0, int(smooth.argmax()) + 1
    after_taper = start + _taper(power.size - start, second)
    while end - start > 2 * second:
        floored = np.maximum(power[start:end], max(np.percentile(smooth[start:end], 5), NOTHING * power.max()))
        split = _least_aic(floored)
        before, after = floored[:split].mean(), floored[split : split + second].mean()
        if after < 4 * before or np.percentile(smooth[start + split : end], 10) < 2 * before:
            break
        end = onset = start + split
        start = after_taper
    return onset


def signal_to_noise(wave_CT: np.ndarray, fs_hz: float, onset: int) -> tuple[float, float]:
    """Ratio of root-mean-square amplitudes, and the noise power (cm/s²)² a sample, of the three components.

    Signal: from 5 to 95 % of the energy after the onset. Noise: what precedes the onset, without zeros and taper;
    with less than a second of it, the quietest second of the record, which can only be stronger than the noise.
    """
    power = (wave_CT**2).sum(axis=0)
    second = round(fs_hz)
    smooth = ndimage.uniform_filter1d(power, second)
    first, last = untapered(wave_CT, fs_hz)
    before = power[first:onset]
    noise = before.mean() if before.size >= second else smooth[first:last].min()
    share = np.cumsum(power[onset:]) / power[onset:].sum()
    first, last = np.searchsorted(share, [0.05, 0.95])
    noise = max(noise, NOTHING * power.max())
    return float(np.sqrt(power[onset:][first : last + 1].mean() / noise)), float(noise)


def untapered(wave_CT: np.ndarray, fs_hz: float) -> tuple[int, int]:
    """First and last (exclusive) sample between the zeros and tapers that processing may have left at either end."""
    start, end = _live(wave_CT)
    taper = _taper(end - start, round(fs_hz))
    return start + taper, end - taper


def cut(wave_CT: np.ndarray, fs_hz: float, samples: int, rule: WindowRule) -> Window:
    """Cut, pad and normalise one window of `samples` from a detrended record.

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
    onset = find_onset(wave_CT, fs_hz)
    snr, noise = signal_to_noise(wave_CT, fs_hz, onset)
    # Noise lasts as long as the recorder runs: only what exceeds it counts as the earthquake's energy.
    energy = np.cumsum(np.append(0, (wave_CT**2).sum(axis=0) - noise))
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
    mean_C, std_C = wave_CT.mean(axis=1), wave_CT.std(axis=1)
    if (std_C == 0).any():
        raise UnusableError("constant", f"{'ENZ'[int(std_C.argmin())]} does not move inside the window")
    return ((wave_CT - mean_C[:, None]) / std_C[:, None]).astype(np.float32), mean_C, std_C


def _start(onset: int, end: int, samples: int, fs_hz: float) -> int:
    """First sample of a window: the usual lead before the onset, less where the end of shaking asks for it."""
    lead, least = round(min(LEAD_S, samples / fs_hz / 8) * fs_hz), round(LEAST_LEAD_S * fs_hz)
    return max(0, min(max(onset - lead, end - samples), onset - least))


def _clipped_samples(wave_T: np.ndarray) -> int:
    return max(int(np.diff(edges).max()) for edges in map(_runs, (wave_T == wave_T.max(), wave_T == wave_T.min())))


def _straight_s(wave_T: np.ndarray, fs_hz: float) -> float:
    """Seconds of straight lines of 0.3 s or more drawn between two corners, as over missing samples.

    A quiet stretch is nearly straight too, but no corner ends it: within 0.1 s of both ends the second difference
    must be 20 times the line's. A level line is the noise of a coarse digitiser, unless its corners are large.
    """
    wave_T = wave_T / np.ptp(wave_T)
    bend = np.abs(np.diff(wave_T, 2))
    straight, near, seconds = 5e-7, max(1, round(0.1 * fs_hz)), 0.0
    for begin, end in _runs(bend < straight):
        if end - begin >= 0.3 * fs_hz and begin > 0 and end < bend.size:
            corner = min(bend[max(0, begin - near) : begin].max(), bend[end : end + near].max())
            sloped = abs(wave_T[end] - wave_T[begin + 1]) > 10 * straight
            seconds += (end - begin) / fs_hz if corner > (20 * straight if sloped else 0.01) else 0
    return seconds


def _check_glitch(wave_CT: np.ndarray, fs_hz: float) -> None:
    """No ground motion peaks six times higher in one direction than, within a second of it, in both others."""
    size_CT = np.abs(wave_CT)
    for component, peak in enumerate(size_CT.argmax(axis=1)):
        around = size_CT[:, max(0, peak - round(fs_hz)) : peak + round(fs_hz)].max(axis=1)
        highest, others = around[component], np.delete(around, component).max()
        if highest > 6 * others:
            where = f"{'ENZ'[component]} peaks at {highest:.3g} cm/s² {peak / fs_hz:.1f} s in"
            raise UnusableError("glitch", f"{where}, the others near it at {others:.3g} at most")


def _runs(mask: np.ndarray) -> np.ndarray:
    """Begin and end (exclusive) of each run of true values, (N, 2)."""
    edges = np.diff(np.concatenate([[0], mask.astype(np.int8), [0]]))
    return np.stack([np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)], axis=1)


def _power(wave_CT: np.ndarray, fs_hz: float) -> np.ndarray:
    band = signal.butter(2, [1, min(20, 0.4 * fs_hz)], "bandpass", fs=fs_hz, output="sos")
    return np.asarray((signal.sosfilt(band, wave_CT - wave_CT[:, :1], axis=1) ** 2).sum(axis=0))


def _live(wave_CT: np.ndarray) -> tuple[int, int]:
    """First and last (exclusive) sample without the zeros, by now a line, that padding left at either end."""
    step = np.abs(np.diff(wave_CT, axis=1)).max(axis=0)
    moving = np.flatnonzero(step > 1e-5 * step.max())
    return int(moving[0]), int(moving[-1]) + 2


def _taper(live: int, second: int) -> int:
    """Samples at either end of a live record that processing may have tapered: the customary 5 %, at most 5 s."""
    return min(5 * second, round(0.05 * live))


def _least_aic(power: np.ndarray) -> int:
    """Length of the first part when `power` is split in two of least k ln(mean) + (n - k) ln(mean)."""
    total = np.cumsum(power)
    k = np.arange(1, power.size)
    aic = k * np.log(total[:-1] / k) + (power.size - k) * np.log((total[-1] - total[:-1]) / (power.size - k))
    return int(aic.argmin()) + 1
