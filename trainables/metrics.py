"""Measures of waveforms as pure functions: features of each window, and distances between two sets of features.

Shapes: N window, C component (E, N, Z), T sample, F frequency band, D feature.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

BANDS = 64
ENVELOPE_S = 0.5
# Relative to a z-scored signal's standard deviation: far below the noise before an onset, so padding and silence
# look alike instead of running off to minus infinity.
ENVELOPE_FLOOR = 1e-2
POWER_FLOOR = 1e-12
EPS = 1e-8


def z_score(wave_NCT: Tensor) -> Tensor:
    """Each signal with mean 0 and standard deviation 1 over all its samples."""
    std, mean = torch.std_mean(wave_NCT, dim=-1, correction=0, keepdim=True)
    return (wave_NCT - mean) / std.clamp_min(EPS)


def moments(wave_NCT: Tensor) -> dict[str, Tensor]:
    """Minimum, maximum, mean, log std, skewness and log kurtosis of each signal, each (N, C); ln throughout."""
    std, mean = torch.std_mean(wave_NCT, dim=-1, correction=0)
    z = z_score(wave_NCT)
    return {
        "minimum": wave_NCT.amin(-1),
        "maximum": wave_NCT.amax(-1),
        "mean": mean,
        "log_std": std.clamp_min(EPS).log(),
        "skewness": z.pow(3).mean(-1),
        "log_kurtosis": z.pow(4).mean(-1).clamp_min(EPS).log(),
    }


def normalisation_drift(wave_NCT: Tensor) -> float:
    """Mean |mean| plus mean |ln std| of the signals; z-scored data give 0 exactly."""
    m = moments(wave_NCT)
    return float(m["mean"].abs().mean() + m["log_std"].abs().mean())


def log_psd(wave_NCT: Tensor, fs_hz: float, low_hz: float, high_hz: float) -> Tensor:
    """Natural log of the power spectrum in 64 smoothed bands, log-spaced from `low_hz` to `high_hz`: (N, C, F)."""
    samples = wave_NCT.shape[-1]
    power = torch.fft.rfft(wave_NCT).abs().square() / samples
    weights = _band_weights(samples, fs_hz, low_hz, high_hz).to(power)
    return (power @ weights.T).clamp_min(POWER_FLOOR).log()


def _band_weights(samples: int, fs_hz: float, low_hz: float, high_hz: float) -> Tensor:
    """Gaussian weights on log frequency (bands, frequencies), each as wide as the bands' or the bins' spacing."""
    frequency = torch.fft.rfftfreq(samples, 1 / fs_hz)[1:]
    low_hz = max(low_hz, float(frequency[0]))
    if not low_hz < high_hz <= fs_hz / 2:
        raise ValueError(f"the band {low_hz:g} to {high_hz:g} Hz is empty or above the Nyquist frequency {fs_hz / 2:g}")
    centre = torch.logspace(math.log10(low_hz), math.log10(high_hz), BANDS)[:, None]
    width = torch.maximum(torch.log1p(frequency[0] / centre), torch.tensor(math.log(high_hz / low_hz) / BANDS))
    weights = torch.exp(-0.5 * ((frequency / centre).log() / width).square())
    return F.pad(weights / weights.sum(1, keepdim=True), (1, 0))


def log_envelope(wave_NCT: Tensor, fs_hz: float) -> Tensor:
    """Natural log of the moving root mean square over 0.5 s, every 0.25 s: (N, C, D) (Florez et al. 2022)."""
    window = max(2, round(ENVELOPE_S * fs_hz))
    power = F.avg_pool1d(wave_NCT.square(), window, stride=max(1, window // 2))
    return power.sqrt().clamp_min(ENVELOPE_FLOOR).log()


def frechet_diagonal(mean_a: Tensor, std_a: Tensor, mean_b: Tensor, std_b: Tensor) -> Tensor:
    """(Δμ² + Δσ²) averaged over features (…, D): the Fréchet distance of Gaussians with diagonal covariances."""
    return ((mean_a - mean_b).square() + (std_a - std_b).square()).mean(-1)
