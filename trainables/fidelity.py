"""One score from the metrics: each distance over its floor, the same distance between real windows and real windows.

1 means that generated windows differ from real ones no more than real ones differ among themselves.
Shapes: N window, C component, T sample, S split, D feature.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainables import metrics
from trainables.batches import Windows

# With fewer real windows or events to judge by, differences between scores are mostly chance.
MIN_WINDOWS, MIN_EVENTS = 50, 10
# Two halves of two windows each have a mean and a spread; with fewer there is no distance.
MIN_JUDGED = 4
# A z-scored record has mean 0 and std 1; up to this much is forgiven before the score grows in proportion.
NORMALISATION_TOLERANCE = 0.2
# Z-scored records agree in mean and std to rounding, which is no unit to measure a drift by.
DRIFT_UNIT_FLOOR = 0.02
# Windows looked at together, which bounds the memory that a large dataset takes.
CHUNK = 256

Feature = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Band:
    """Sampling rate and the frequencies that every window truly holds, in Hz."""

    fs_hz: float
    low_hz: float
    high_hz: float


class Fidelity:
    """Judges generated windows against real ones; built once a dataset, called after every epoch."""

    def __init__(self, train: Windows, val: Windows, band: Band, fakes: int, splits: int, seed: int):
        self._features: dict[str, Feature] = {
            "log_psd": lambda wave: metrics.log_psd(wave, band.fs_hz, band.low_hz, band.high_hz),
            "envelope": lambda wave: metrics.log_envelope(wave, band.fs_hz),
        }
        rng = torch.Generator().manual_seed(seed)
        self._count = fakes
        self._halves = _random_halves(len(val.wave), fakes, splits, rng)
        self._fakes = _random_draws(fakes, self._halves.shape[-1], splits, rng)
        self._real = {
            name: _statistics(_flat(feature, val.wave), self._halves) for name, feature in self._features.items()
        }
        self.floors = {name: _floor(mean, std) for name, (mean, std) in self._real.items()}
        self._drift = _drift_reference(train.wave, fakes)
        self.resolvable = len(val.wave) >= MIN_WINDOWS and val.events >= MIN_EVENTS

    def __call__(self, wave_NCT: Tensor) -> dict[str, float]:
        """Score generated windows as the generator gives them, not normalised; lower is better, 1 the best.

        Returns:
            `score`, its parts over their floors, the normalisation gate and the drifts in units of their spread.
        """
        assert len(wave_NCT) == self._count, "the number of fakes is fixed, or the floors would not belong to it"
        shape = metrics.z_score(wave_NCT)
        parts = {name: self._ratio(name, feature, shape) for name, feature in self._features.items()}
        normalisation = metrics.normalisation_drift(wave_NCT)
        return {
            "score": score(parts, normalisation),
            **{f"fidelity/{name}": value for name, value in parts.items()},
            "gate/normalisation": normalisation,
            **{f"drift/{name}": value for name, value in self._drifts(wave_NCT).items()},
        }

    def _ratio(self, name: str, feature: Feature, wave_NCT: Tensor) -> float:
        fake_mean, fake_std = _statistics(_flat(feature, wave_NCT), self._fakes)
        real_mean, real_std = self._real[name]
        distance = metrics.frechet_diagonal(real_mean[:, 0], real_std[:, 0], fake_mean, fake_std)
        return float(distance.median()) / self.floors[name]["median"]

    def _drifts(self, wave_NCT: Tensor) -> dict[str, float]:
        now = {name: float(value.mean()) for name, value in metrics.moments(wave_NCT).items()}
        return {name: (now[name] - mean) / unit for name, (mean, unit) in self._drift.items()}


def score(parts: Mapping[str, float], normalisation: float) -> float:
    """Geometric mean of the parts, each at least 1, times what the normalisation drift exceeds its tolerance by.

    A part below 1 is closer than real data to themselves, and must not pay for another that is far.
    """
    logs = torch.tensor(list(parts.values()), dtype=torch.float64).clamp_min(1).log()
    return float(logs.mean().exp()) * max(1.0, normalisation / NORMALISATION_TOLERANCE)


def describe(fidelity: Fidelity) -> dict[str, Any]:
    """What a score was measured by, as plain JSON content: the floors with their bands."""
    return {"resolvable": fidelity.resolvable, "floors": fidelity.floors}


def _random_halves(n: int, most: int, splits: int, rng: torch.Generator) -> Tensor:
    """Indices (S, 2, count): real windows cut at random into two equal parts of at most `most`, S times."""
    count = min(n // 2, most)
    if n < MIN_JUDGED:
        raise ValueError(f"only {n} windows to judge by; expected at least {MIN_JUDGED}")
    order = torch.stack([torch.randperm(n, generator=rng) for _ in range(splits)])
    return order[:, : 2 * count].reshape(splits, 2, count)


def _random_draws(n: int, count: int, splits: int, rng: torch.Generator) -> Tensor:
    """Indices (S, count) into n fakes, as many as there are real windows in a half, so that biases are equal."""
    return torch.stack([torch.randperm(n, generator=rng)[:count] for _ in range(splits)])


def _flat(feature: Feature, wave_NCT: Tensor) -> Tensor:
    return feature(wave_NCT).flatten(1)


def _statistics(features_ND: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and std (…, D) of the windows picked by `index` (…, count)."""
    std, mean = torch.std_mean(features_ND[index], dim=-2, correction=0)
    return mean, std


def _floor(mean: Tensor, std: Tensor) -> dict[str, float]:
    distance = metrics.frechet_diagonal(mean[:, 0], std[:, 0], mean[:, 1], std[:, 1])
    low, median, high = torch.quantile(distance.cpu(), torch.tensor([0.05, 0.5, 0.95])).tolist()
    return {"low": low, "median": median, "high": high}


def _drift_reference(train_NCT: Tensor, count: int) -> dict[str, tuple[float, float]]:
    """Real mean of each moment and its unit: the spread of such a mean over draws of `count` training windows."""
    chunks = [metrics.moments(chunk) for chunk in train_NCT.split(CHUNK)]
    reference = {}
    for name in chunks[0]:
        std, mean = torch.std_mean(torch.cat([chunk[name] for chunk in chunks]).mean(1), correction=0)
        reference[name] = (float(mean), max(float(std) / count**0.5, DRIFT_UNIT_FLOOR))
    return reference
