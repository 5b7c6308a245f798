"""Measures of waveforms as pure functions: features of each window, and distances between two sets of features.

Frequencies and times are physical, so that data of any sampling rate are measured alike. Letters such as (C) are those
by which the measures are known throughout: fidelity, documentation, report.
Shapes: N window, C component (E, N, Z), T sample, F frequency band, P period, D feature; S split of windows in two.
"""

import itertools
import math

import torch
from torch import Tensor
from torch.nn import functional as F

BANDS = 64
OCTAVES = 5
ENVELOPE_S = 0.5
# Relative to a z-scored signal's standard deviation: far below the noise before an onset, so padding and silence
# look alike instead of running off to minus infinity.
ENVELOPE_FLOOR = 1e-2
POWER_FLOOR = 1e-12
EPS = 1e-8
PERIODS = 10
DAMPING = 0.05
# An oscillator's period in samples, at least: fewer would miss the peaks of its motion.
LEAST_PERIOD = 10
# Shares of the energy between which durations are measured, and its first arrival.
ARIAS_SHARES = (0.05, 0.75, 0.95)
NEIGHBOURS = 5


def z_score(wave_NCT: Tensor) -> Tensor:
    """Each signal with mean 0 and standard deviation 1 over all its samples."""
    std, mean = torch.std_mean(wave_NCT, dim=-1, correction=0, keepdim=True)
    return (wave_NCT - mean) / std.clamp_min(EPS)


def moments(wave_NCT: Tensor) -> dict[str, Tensor]:
    """Minimum, maximum, mean, log std, skewness and log kurtosis of each signal, each (N, C); ln throughout."""
    std, mean = torch.std_mean(wave_NCT, dim=-1, correction=0)
    z = z_score(wave_NCT)
    squares = z.square()
    return {
        "minimum": wave_NCT.amin(-1),
        "maximum": wave_NCT.amax(-1),
        "mean": mean,
        "log_std": std.clamp_min(EPS).log(),
        "skewness": (squares * z).mean(-1),
        "log_kurtosis": squares.square().mean(-1).clamp_min(EPS).log(),
    }


def normalisation_drift(wave_NCT: Tensor) -> float:
    """(A) Mean |mean| plus mean |ln std| of the signals; z-scored data give 0 exactly."""
    std, mean = torch.std_mean(wave_NCT, dim=-1, correction=0)
    return float(mean.abs().mean() + std.clamp_min(EPS).log().abs().mean())


def crest(wave_NCT: Tensor) -> Tensor:
    """(B) Minimum, maximum, skewness and log kurtosis: (N, 4 C)."""
    found = moments(wave_NCT)
    return torch.cat([found[name] for name in ("minimum", "maximum", "skewness", "log_kurtosis")], dim=1)


def log_psd(wave_NCT: Tensor, fs_hz: float, low_hz: float, high_hz: float) -> Tensor:
    """(C) Natural log of the power spectrum in 64 smoothed bands, log-spaced from `low_hz` to `high_hz`: (N, C, F)."""
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
    """(D) Natural log of the moving root mean square over 0.5 s, every 0.25 s: (N, C, D) (Florez et al. 2022)."""
    window = max(2, round(ENVELOPE_S * fs_hz))
    power = F.avg_pool1d(wave_NCT.square(), window, stride=max(1, window // 2))
    return power.sqrt().clamp_min(ENVELOPE_FLOOR).log()


def band_envelopes(wave_NCT: Tensor, fs_hz: float, high_hz: float) -> Tensor:
    """(O) Log envelopes in the five octaves below `high_hz`, the lowest one open below: (N, 5 C, D).

    Noise shaped to a record's spectrum and envelope has the same envelope in every band; a record does not.
    """
    spectrum = torch.fft.rfft(wave_NCT)
    masks = _octaves(wave_NCT.shape[-1], fs_hz, high_hz).to(wave_NCT)
    bands = [torch.fft.irfft(spectrum * mask, n=wave_NCT.shape[-1]) for mask in masks]
    return log_envelope(torch.cat(bands, dim=1), fs_hz)


def _octaves(samples: int, fs_hz: float, high_hz: float) -> Tensor:
    """Masks (5, frequencies) of the octaves below `high_hz`, the lowest one open below, without the mean."""
    frequency = torch.fft.rfftfreq(samples, 1 / fs_hz)
    octave = torch.log2(high_hz / frequency.clamp_min(EPS)).floor().clamp_max(OCTAVES - 1)
    inside = (frequency > 0) & (frequency <= high_hz)
    return torch.stack([(octave.clamp_min(0) == number) & inside for number in range(OCTAVES)])


def durations(wave_NCT: Tensor, fs_hz: float) -> Tensor:
    """(E) D5-95, D5-75 and the time of 5 % of the energy, in s: (N, 3 C) (Trifunac and Brady 1975)."""
    energy = wave_NCT.square().cumsum(-1)
    shares = energy / energy[..., -1:].clamp_min(EPS)
    wanted = shares.new_tensor(ARIAS_SHARES).repeat(*shares.shape[:-1], 1)
    first, most, last = torch.searchsorted(shares, wanted).unbind(-1)
    return torch.cat([last - first, most - first, first], dim=1) / fs_hz


def periods_s(samples: int, fs_hz: float, low_hz: float) -> list[float]:
    """Ten log-spaced periods in s: from ten samples to a tenth of the window, within the usable band."""
    longest = min(samples / fs_hz / 10, 1 / low_hz if low_hz else math.inf)
    return torch.logspace(math.log10(LEAST_PERIOD / fs_hz), math.log10(longest), PERIODS).tolist()


def response_spectra(wave_NCT: Tensor, fs_hz: float, low_hz: float) -> Tensor:
    """(F) ln of the spectral acceleration at 5 % damping over the peak acceleration, ten periods: (N, P C).

    The pseudo-spectral acceleration of a linear oscillator, computed in the frequency domain; zeros after the record
    let the slowest oscillator come to rest before it would wrap around.
    """
    samples = wave_NCT.shape[-1]
    periods = periods_s(samples, fs_hz, low_hz)
    # After that many periods a free oscillation has decayed to exp(-2 π 0.05 · 10) = 4 %.
    padded = 2 ** math.ceil(math.log2(samples + 10 * max(periods) * fs_hz))
    spectrum = torch.fft.rfft(wave_NCT, n=padded)
    frequency = torch.fft.rfftfreq(padded, 1 / fs_hz, device=wave_NCT.device)
    peak = wave_NCT.abs().amax(-1).clamp_min(EPS)
    spectra = []
    for period in periods:
        ratio = frequency * period
        motion = torch.fft.irfft(spectrum / torch.complex(1 - ratio.square(), 2 * DAMPING * ratio), n=padded)
        spectra.append((motion.abs().amax(-1).clamp_min(EPS) / peak).log())
    return torch.cat(spectra, dim=1)


def coupling(wave_NCT: Tensor, fs_hz: float, high_hz: float) -> Tensor:
    """(G) Correlation of each two of several components, and their coherence in octaves: (N, 6 pairs)."""
    spectrum = torch.fft.rfft(wave_NCT)
    masks = _octaves(wave_NCT.shape[-1], fs_hz, high_hz).to(wave_NCT)
    power = (spectrum.abs().square() @ masks.T).clamp_min(EPS)
    z, found = z_score(wave_NCT), []
    for one, other in itertools.combinations(range(wave_NCT.shape[1]), 2):
        found.append((z[:, one] * z[:, other]).mean(-1, keepdim=True))
        cross = (spectrum[:, one] * spectrum[:, other].conj()) @ masks.T.to(spectrum.dtype)
        found.append(cross.abs() / (power[:, one] * power[:, other]).sqrt())
    return torch.cat(found, dim=1)


def slow_motion(wave_NCT: Tensor, fs_hz: float, low_hz: float) -> Tensor:
    """Logs of peak velocity, peak displacement (both over peak acceleration) and power below the usable band: (N, D).

    They show what the spectrum within the band hides: a drift of a tenth of a standard deviation multiplies the
    displacement by 18.
    """
    samples = wave_NCT.shape[-1]
    spectrum = torch.fft.rfft(wave_NCT - wave_NCT.mean(-1, keepdim=True), n=2 * samples)
    spectrum[..., 0] = 0  # what rounding left there would be all there is after two integrations
    frequency = torch.fft.rfftfreq(2 * samples, 1 / fs_hz, device=wave_NCT.device)
    turn = (2 * math.pi * frequency).clamp_min(EPS)
    peak, power = wave_NCT.abs().amax(-1).clamp_min(EPS), spectrum[..., 1:].abs().square()
    found = []
    for times in (1, 2):
        motion = torch.fft.irfft(spectrum / (1j * turn) ** times, n=2 * samples)[..., :samples]
        found.append((motion.abs().amax(-1).clamp_min(EPS) / peak).log())
    below = (frequency[1:] < low_hz).to(power)
    if below.any():
        found.append(((power @ below) / power.sum(-1).clamp_min(EPS)).clamp_min(POWER_FLOOR).log())
    return torch.cat(found, dim=1)


def frechet_diagonal(mean_a: Tensor, std_a: Tensor, mean_b: Tensor, std_b: Tensor) -> Tensor:
    """(Δμ² + Δσ²) averaged over features (…, D): the Fréchet distance of Gaussians with diagonal covariances."""
    return ((mean_a - mean_b).square() + (std_a - std_b).square()).mean(-1)


def wasserstein(a_SND: Tensor, b_SND: Tensor) -> Tensor:
    """Wasserstein-1 distance of equal numbers of values, for each feature: (S, D)."""
    return (a_SND.sort(dim=-2).values - b_SND.sort(dim=-2).values).abs().mean(-2)


def polynomial_kernel(a_ND: Tensor, b_ND: Tensor) -> Tensor:
    """(a · b / D + 1)³, as in the kernel inception distance (Bińkowski et al. 2018)."""
    return (a_ND @ b_ND.T / a_ND.shape[1] + 1) ** 3


def mmd(kernel_SNN: Tensor, between_SNN: Tensor, other_SNN: Tensor) -> Tensor:
    """Squared maximum mean discrepancy, V-statistic, from the kernel within either set and between both: (S,).

    The unbiased form is negative for a quarter to half of all splits of real data, and no floor then.
    """
    return kernel_SNN.mean((-2, -1)) + other_SNN.mean((-2, -1)) - 2 * between_SNN.mean((-2, -1))


def density_coverage(within_SNN: Tensor, between_SNN: Tensor) -> tuple[Tensor, Tensor]:
    """(J) Density and coverage (Naeem et al. 2020) from distances among real windows and from real (rows) to fake ones.

    A real window's ball reaches to its fifth neighbour. Density: in how many balls a fake lies, over five; coverage:
    the share of balls that hold a fake. Each (S,).
    """
    neighbours = min(NEIGHBOURS, within_SNN.shape[-1] - 1)
    radius = within_SNN.kthvalue(neighbours + 1, dim=-1).values  # the nearest is the window itself
    inside = between_SNN < radius[..., None]
    return inside.float().sum(-2).mean(-1) / neighbours, inside.any(-1).float().mean(-1)


def nearest(features_ND: Tensor) -> float:
    """Mean distance of a window to its nearest neighbour in the same set."""
    distance = torch.cdist(features_ND, features_ND).fill_diagonal_(math.inf)
    return float(distance.amin(1).mean())
