"""Real windows made worse by known amounts, to see whether the measures of fidelity notice.

Every function takes windows (N, C, T), a level and the rest, and returns as many; the same random numbers serve all
levels, so that only the level differs. Shapes: N window, C component, T sample, F frequency.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.batches import PreparedDataset, Windows
from trainables.config import CONDITIONS, ModelConfig
from trainables.fidelity import Band
from trainables.metrics import z_score

SEED = 7
STRONG_MOTION_S = 6.0
SMOOTHED_BINS = 15


@dataclass(frozen=True)
class Degradation:
    """What is done, at which levels, and which of the reported values has to rise with them."""

    apply: Callable[[Tensor, float, Band], Tensor]
    levels: Sequence[float]
    named: str
    falls: bool = False


def white_noise(wave_NCT: Tensor, level: float, band: Band) -> Tensor:
    """Noise of `level` standard deviations on top."""
    return z_score(wave_NCT + level * _noise(wave_NCT))


def low_pass(wave_NCT: Tensor, share: float, band: Band) -> Tensor:
    """A Butterworth filter of order 4, forward and backward, with its corner at that share of the band's end."""
    frequency = torch.fft.rfftfreq(wave_NCT.shape[-1], 1 / band.fs_hz)
    return z_score(_filtered(wave_NCT, 1 / (1 + (frequency / (share * band.high_hz)) ** 8)))


def phases(wave_NCT: Tensor, level: float, band: Band) -> Tensor:
    """Phases moved at random by up to `level` half turns, the same for all components."""
    spectrum = torch.fft.rfft(wave_NCT)
    moved = torch.rand(len(wave_NCT), 1, spectrum.shape[-1], generator=_rng()) * 2 - 1
    turned = torch.polar(torch.ones_like(moved), torch.pi * level * moved)
    return z_score(torch.fft.irfft(spectrum * turned, n=wave_NCT.shape[-1]))


def time_shift(wave_NCT: Tensor, seconds: float, band: Band) -> Tensor:
    """Later by so much, the end put first."""
    return torch.roll(wave_NCT, round(seconds * band.fs_hz), dims=-1)


def component_shuffle(wave_NCT: Tensor, share: float, band: Band) -> Tensor:
    """So many of the windows with the first component of another window."""
    count = round(share * len(wave_NCT))
    other = torch.randperm(len(wave_NCT), generator=_rng())[:count]
    shuffled = wave_NCT.clone()
    shuffled[:count, 0] = wave_NCT[other, 0]
    return shuffled


def exchange(wave_NCT: Tensor, share: float, band: Band) -> Tensor:
    """So many of the windows each in the place of the one before, whose conditions they were not made for."""
    count = round(share * len(wave_NCT))
    return torch.cat([wave_NCT[:count].roll(1, 0), wave_NCT[count:]])


def amplitude(wave_NCT: Tensor, factor: float, band: Band) -> Tensor:
    """Too large by a factor."""
    return wave_NCT * factor


def spectral_tilt(wave_NCT: Tensor, power: float, band: Band) -> Tensor:
    """Amplitudes times frequency to a power."""
    frequency = torch.fft.rfftfreq(wave_NCT.shape[-1], 1 / band.fs_hz)
    return z_score(_filtered(wave_NCT, frequency.clamp_min(float(frequency[1])) ** power))


def duplicates(wave_NCT: Tensor, unique: float, band: Band) -> Tensor:
    """Only that share of the windows, again and again."""
    return wave_NCT[torch.arange(len(wave_NCT)) % max(1, round(unique * len(wave_NCT)))]


def dropped_strong_motion(wave_NCT: Tensor, level: float, band: Band) -> Tensor:
    """The strongest six seconds made weaker, at level 1 silent."""
    steps = round(STRONG_MOTION_S * band.fs_hz)
    power = wave_NCT.square().sum(1).cumsum(-1)
    start = (power[:, steps:] - power[:, :-steps]).argmax(1)
    place = (torch.arange(wave_NCT.shape[-1]) - start[:, None]) / steps
    taper = torch.where((place >= 0) & (place <= 1), torch.sin(torch.pi * place).clamp_min(0) ** 0.2, 0.0)
    return z_score(wave_NCT * (1 - level * taper)[:, None])


DEGRADATIONS = {
    "white noise": Degradation(white_noise, (0.05, 0.1, 0.2, 0.4, 0.8), "fidelity/log_psd"),
    "low-pass": Degradation(low_pass, (0.8, 0.6, 0.4, 0.25, 0.15), "fidelity/log_psd"),
    "phase randomisation": Degradation(phases, (0.2, 0.4, 0.6, 0.8, 1.0), "fidelity/band_envelope"),
    "time shift": Degradation(time_shift, (0.5, 1.0, 2.0, 4.0, 8.0), "fidelity/envelope"),
    "component shuffle": Degradation(component_shuffle, (0.2, 0.4, 0.6, 0.8, 1.0), "fidelity/coupling"),
    "exchange": Degradation(exchange, (0.2, 0.4, 0.6, 0.8, 1.0), "fidelity/conditions"),
    "amplitude": Degradation(amplitude, (1.3, 1.5, 2.0, 3.0, 5.0), "gate/normalisation"),
    "spectral tilt": Degradation(spectral_tilt, (0.1, 0.2, 0.4, 0.8, 1.6), "fidelity/log_psd"),
    "duplicates": Degradation(duplicates, (0.9, 0.7, 0.5, 0.3, 0.1), "gate/coverage", falls=True),
    "dropped strong motion": Degradation(dropped_strong_motion, (0.2, 0.4, 0.6, 0.8, 1.0), "fidelity/duration"),
}


def shaped_noise(wave_NCT: Tensor, band: Band) -> Tensor:
    """Gaussian noise with each window's own smoothed spectrum and, over 1 s, its envelope."""
    power = torch.fft.rfft(wave_NCT).abs().square()
    noise = _filtered(_noise(wave_NCT), _smoothed(power, SMOOTHED_BINS).sqrt())
    return z_score(z_score(noise) * _smoothed(wave_NCT.square(), round(band.fs_hz)).sqrt())


def mean_spectrum_noise(wave_NCT: Tensor, band: Band) -> Tensor:
    """Stationary Gaussian noise with the windows' mean spectrum."""
    return z_score(_filtered(_noise(wave_NCT), torch.fft.rfft(wave_NCT).abs().square().mean(0).sqrt()))


def flat_noise(wave_NCT: Tensor, band: Band) -> Tensor:
    """White noise."""
    return z_score(_noise(wave_NCT))


def thirds(dataset: PreparedDataset, seed: int) -> tuple[Windows, Windows, Windows]:
    """All windows of a dataset in three equal parts, drawn at random as the halves of a floor are."""
    parts = [dataset.part(name, ModelConfig(conditions=CONDITIONS)) for name in ("train", "val", "test")]
    offsets = [0, *torch.tensor([part.events for part in parts]).cumsum(0).tolist()]
    wave, label = (torch.cat([getattr(part, name) for part in parts]) for name in ("wave", "label"))
    event = torch.cat([part.event + offset for part, offset in zip(parts, offsets[:-1], strict=True)])
    count = len(wave) // 3
    order = torch.randperm(len(wave), generator=torch.Generator().manual_seed(seed))
    first, second, third = (order[start : start + count] for start in (0, count, 2 * count))
    return tuple(Windows(wave[i], label[i], event[i]) for i in (first, second, third))  # type: ignore[return-value]


def _rng() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def _noise(wave_NCT: Tensor) -> Tensor:
    return torch.randn(wave_NCT.shape, generator=_rng())


def _filtered(wave_NCT: Tensor, response: Tensor) -> Tensor:
    return torch.fft.irfft(torch.fft.rfft(wave_NCT) * response, n=wave_NCT.shape[-1])


def _smoothed(values: Tensor, width: int) -> Tensor:
    return F.avg_pool1d(F.pad(values, (width // 2, width - 1 - width // 2), mode="replicate"), width, 1)
