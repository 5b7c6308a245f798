"""When the P wave arrives, and how far the shaking stands above the noise before it.

Shapes: C component (E, N, Z), T sample. Samples are accelerations in cm/s².
"""

from functools import lru_cache

import numpy as np
from scipy import ndimage, signal

NOTHING = 1e-12  # of the largest power: what rounding leaves where there was no motion


def find_onset(wave_CT: np.ndarray, fs_hz: float) -> int:
    """First sample of the P wave; 0 where no noise precedes the shaking.

    Before the strongest half second, the split of the three components' power (1 to 20 Hz) into a weak and a
    strong part of least AIC (Maeda 1985) is the onset of P, or of S: so the part before is split again, as long
    as the power rises fourfold there and stays up. Later splits leave out the record's first 5 %, or a taper there
    would pass for an onset.
    """
    second = round(fs_hz)
    start, onset = _live(wave_CT)[0], 0
    after_taper = start + _taper(wave_CT.shape[1] - start, second)
    end = int(ndimage.uniform_filter1d(sum_of_squares(wave_CT), second // 2).argmax()) + 1
    power = band_power(wave_CT[:, :end], fs_hz)
    smooth = ndimage.uniform_filter1d(power, second // 2)
    while end - start > 2 * second:
        floored = np.maximum(power[start:end], max(_percentile(smooth[start:end], 5), NOTHING * power.max()))
        split = _least_aic(floored)
        before, after = floored[:split].mean(), floored[split : split + second].mean()
        if after < 4 * before or _percentile(smooth[start + split : end], 10) < 2 * before:
            break
        end = onset = start + split
        start = after_taper
    return onset


def signal_to_noise(wave_CT: np.ndarray, fs_hz: float, onset: int) -> tuple[float, float]:
    """Ratio of root-mean-square amplitudes, and the noise power (cm/s²)² a sample, of the three components.

    Signal: from 5 to 95 % of the energy after the onset. Noise: what precedes the onset, without zeros and taper;
    with less than a second of it, the quietest second of the record, which can only be stronger than the noise.
    """
    power, second = sum_of_squares(wave_CT), round(fs_hz)
    first, last = untapered(wave_CT, fs_hz)
    before = power[first:onset]
    noise = before.mean() if before.size >= second else ndimage.uniform_filter1d(power, second)[first:last].min()
    noise = max(float(noise), NOTHING * float(power.max()))
    energy = np.cumsum(power[onset:])
    first, last = np.searchsorted(energy, [0.05 * energy[-1], 0.95 * energy[-1]])
    return float(np.sqrt(power[onset:][first : last + 1].mean() / noise)), noise


def untapered(wave_CT: np.ndarray, fs_hz: float) -> tuple[int, int]:
    """First and last (exclusive) sample between the zeros and tapers that processing may have left at either end."""
    start, end = _live(wave_CT)
    taper = _taper(end - start, round(fs_hz))
    return start + taper, end - taper


def band_power(wave_CT: np.ndarray, fs_hz: float) -> np.ndarray:
    """Power of the three components together between 1 and 20 Hz, (T)."""
    return sum_of_squares(signal.sosfilt(_band(fs_hz), wave_CT - wave_CT[:, :1], axis=1))


def sum_of_squares(wave_CT: np.ndarray) -> np.ndarray:
    """Power of the three components together, (T), in double precision."""
    return np.einsum("ct,ct->t", wave_CT, wave_CT).astype(np.float64)


@lru_cache
def _band(fs_hz: float) -> np.ndarray:
    return np.asarray(signal.butter(2, [1, min(20, 0.4 * fs_hz)], "bandpass", fs=fs_hz, output="sos"))


def _percentile(values: np.ndarray, percent: int) -> float:
    rank = values.size * percent // 100
    return float(np.partition(values, rank)[rank])


def _live(wave_CT: np.ndarray) -> tuple[int, int]:
    """First and last (exclusive) sample without the zeros, by now a line, that padding left at either end."""
    step = np.abs(np.diff(wave_CT, axis=1)).max(axis=0)
    moving = step > 1e-5 * step.max()
    return int(moving.argmax()), moving.size - int(moving[::-1].argmax()) + 1


def _taper(live: int, second: int) -> int:
    """Samples at either end of a live record that processing may have tapered: the customary 5 %, at most 5 s."""
    return min(5 * second, round(0.05 * live))


def _least_aic(power: np.ndarray) -> int:
    """Length of the first part when `power` is split in two of least k ln(mean) + (n - k) ln(mean)."""
    total = np.cumsum(power)
    k = np.arange(1.0, power.size)
    aic = k * np.log(total[:-1] / k) + (power.size - k) * np.log((total[-1] - total[:-1]) / (power.size - k))
    return int(aic.argmin()) + 1
