"""Metrics over their floors, the same distances between real windows and real windows, and from these one score.

Shapes: N, M window, n window of a split's half, C component, T sample, S split, D feature.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables import distances, metrics
from trainables.batches import LEAST_SPREAD, Windows
from trainables.distances import Distance
from trainables.embedding import Embedding
from trainables.reference import Reference, drift_reference, kept
from trainables.score import misfit, score

# With fewer real windows or events to judge by, differences between scores are mostly chance.
MIN_WINDOWS, MIN_EVENTS = 50, 10
# Two halves of two windows each have a mean and a spread; with fewer there is no distance.
MIN_JUDGED = 4
# The parts of the score; the others are reported beside it. Without coupling it hardly tells noise shaped like records,
# component by component, from records; without conditions, records from those that heed nothing they are asked for.
SCORED = ("log_psd", "envelope", "duration", "coupling", "embedding", "band_envelope", "conditions")
# What is expected to change with magnitude and distance.
CONDITIONED = ("log_psd", "envelope")
SLOW = "slow_motion"
# Windows looked at together, which bounds the memory that a large dataset takes.
CHUNK = 32
# Draws of real windows are the same for every trial, whatever its seed: their scores are compared.
SEED = 0

Feature = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Band:
    """Sampling rate and the frequencies that every window truly holds, in Hz."""

    fs_hz: float
    low_hz: float
    high_hz: float


class Fidelity:
    """Judges generated windows against real ones; built once a training, called after every epoch.

    Where a file is named, what depends on the real windows alone is read from it, or else measured and kept there.
    """

    def __init__(self, train: Windows, val: Windows, band: Band, fakes: int, splits: int, file: Path | None = None):
        if len(val.wave) < MIN_JUDGED:
            raise ValueError(f"only {len(val.wave)} windows to judge by; expected at least {MIN_JUDGED}")
        self._embedding = Embedding(train.wave, band.fs_hz, band.high_hz)
        self._measures = _measures(band, self._embedding, components=train.wave.shape[1])
        self._varying = val.label.std(0, correction=0) > LEAST_SPREAD
        self._distances = {name: distance for name, (_, distance) in self._measures.items()}
        if self._varying.any():
            self._distances["conditions"] = partial(distances.association, int(self._varying.sum()))
        self._slow: Feature = partial(metrics.slow_motion, fs_hz=band.fs_hz, low_hz=band.low_hz)
        rng = torch.Generator().manual_seed(SEED)
        self._count = fakes
        self._one, self._other = _random_halves(len(val.wave), fakes, splits, rng)
        self._fakes = _random_draws(fakes, self._one.shape[1], splits, rng)
        measure = partial(self._measured, train, val, rng)
        self._reference = kept(file, val.wave.device, measure) if file else measure()
        self.floors, self.event_disjoint = self._reference.floors, self._reference.event_disjoint
        self._real = self._reference.features
        self._slow_std, self._slow_mean = torch.std_mean(self._real[SLOW], dim=0, correction=0)
        self.resolvable = val.earthquakes >= MIN_WINDOWS and val.events >= MIN_EVENTS

    def _measured(self, train: Windows, val: Windows, rng: torch.Generator) -> Reference:
        real = self._features(val.wave, val.label)
        places = self._embedding.projected(real["embedding"])
        distance = torch.cdist(places, places)
        return Reference(
            features=real | {SLOW: _features(self._slow, val.wave)},
            floors={
                name: _quantiles(self._among_real(name, each, self._one, self._other)) for name, each in real.items()
            },
            event_disjoint=self._event_disjoint(real, val.event, rng),
            places=self._picked_places(distance, distance, self._other),
            drift=drift_reference(train.wave, self._count),
            thesis=_thesis(val.wave),
        )

    def __call__(self, wave_NCT: Tensor, label_NL: Tensor) -> dict[str, float]:
        """Score generated windows as the generator gives them, not normalised; lower is better, 1 the best.

        `label_NL` are the labels and conditions that they were generated for.

        Returns:
            `score`; its parts and further ones over their floors; the gates; the drifts in units of their spread; and
            the thesis's own statistics.
        """
        assert len(wave_NCT) == self._count, "the number of fakes is fixed, or the floors would not belong to it"
        shape = metrics.z_score(wave_NCT)
        features = self._features(shape, label_NL)
        parts = {name: self._over_floor(name, feature) for name, feature in features.items()}
        gates = {"normalisation": metrics.normalisation_drift(wave_NCT), SLOW: self._excess(shape)}
        gates |= self._among_fakes(features)
        misfits = [misfit(parts[name], self.floors[name]) for name in SCORED if name in parts]
        return {
            "score": score(misfits, gates, self.resolvable),
            **{f"fidelity/{name}": value for name, value in parts.items()},
            **{f"gate/{name}": value for name, value in gates.items()},
            **{f"drift/{name}": value for name, value in self.drifts(wave_NCT).items()},
            **{f"thesis/{name}": value for name, value in self._thesis_table(wave_NCT).items()},
        }

    def _features(self, wave_NCT: Tensor, label_NL: Tensor) -> dict[str, Tensor]:
        features = {name: _features(feature, wave_NCT) for name, (feature, _) in self._measures.items()}
        if "conditions" in self._distances:
            heeding = [features[name] for name in CONDITIONED]
            features["conditions"] = torch.cat([*heeding, label_NL[:, self._varying]], dim=1)
        return features

    def _over_floor(self, name: str, fake_ND: Tensor) -> float:
        distance = self._distances[name](self._real[name], self._one, fake_ND, self._fakes)
        return float(distance.median()) / self.floors[name]["median"]

    def _among_real(self, name: str, real_ND: Tensor, one_Sn: Tensor, other_Sn: Tensor) -> Tensor:
        return self._distances[name](real_ND, one_Sn, real_ND, other_Sn)

    def _event_disjoint(self, real: Mapping[str, Tensor], event_N: Tensor, rng: torch.Generator) -> dict[str, float]:
        """Floors between windows of different earthquakes over floors between any: what a few events decide."""
        count, splits = len(event_N) // 3, len(self._one)
        # Else one earthquake, in the middle of an order by earthquakes, may reach into both thirds at its ends.
        apart = largest_event(event_N) <= len(event_N) - 2 * count + 1
        if count < 2 or not apart:
            return {}
        any_halves = _random_halves(len(event_N), count, splits, rng)
        by_event = _halves_by_event(event_N.cpu(), count, splits, rng)
        medians = {
            name: [float(self._among_real(name, feature, *halves).median()) for halves in (by_event, any_halves)]
            for name, feature in real.items()
        }
        return {name: disjoint / mixed for name, (disjoint, mixed) in medians.items()}

    def _among_fakes(self, features: Mapping[str, Tensor]) -> dict[str, float]:
        """How generated windows lie among real ones: coverage, density and diversity over those of real ones."""
        real, fake = (self._embedding.projected(each["embedding"]) for each in (self._real, features))
        place = self._picked_places(torch.cdist(real, real), torch.cdist(real, fake), self._fakes)
        found = {name: value / self._reference.places[name] for name, value in place.items()}
        count = min(len(real), len(fake))
        of_fakes = metrics.nearest(appearance(features)[:count])
        of_real = metrics.nearest(appearance(self._real)[evenly(count, len(real))])
        return {**found, "diversity": of_fakes / max(of_real, metrics.EPS)}

    def _picked_places(self, real_NN: Tensor, between_NM: Tensor, other_Sn: Tensor) -> dict[str, float]:
        """Means over splits of coverage and density of one half of the real windows by others."""
        within = distances.picked(real_NN, self._one, self._one)
        between = distances.picked(between_NM, self._one, other_Sn)
        density, coverage = metrics.density_coverage(within, between)
        return {"coverage": float(coverage.mean()), "density": float(density.mean())}

    def _excess(self, wave_NCT: Tensor) -> float:
        """By how many standard deviations slow motion exceeds the real windows', the worst kind of it; 0 or more."""
        excess = (_features(self._slow, wave_NCT).mean(0) - self._slow_mean) / self._slow_std.clamp_min(metrics.EPS)
        return max(0.0, float(excess.view(-1, wave_NCT.shape[1]).mean(1).max()))

    def drifts(self, wave_NCT: Tensor) -> dict[str, float]:
        """How far the mean of each moment is from the real one, in units of that mean's spread."""
        now = {name: float(value.mean()) for name, value in metrics.moments(wave_NCT).items()}
        return {name: (now[name] - mean) / unit for name, (mean, unit) in self._reference.drift.items()}

    def _thesis_table(self, wave_NCT: Tensor) -> dict[str, float]:
        table: dict[str, float] = {}
        for name, value in _thesis(wave_NCT).items():
            real = self._reference.thesis[name]
            table |= {f"{name}_real": real, f"{name}_generated": value, f"{name}_difference": value - real}
        return table


def describe(fidelity: Fidelity) -> dict[str, Any]:
    """What a score was measured by, as plain JSON content: the floors with their bands."""
    return {"resolvable": fidelity.resolvable, "floors": fidelity.floors, "event_disjoint": fidelity.event_disjoint}


def _measures(band: Band, embedding: Embedding, components: int) -> dict[str, tuple[Feature, Distance]]:
    fs_hz, low_hz, high_hz = band.fs_hz, band.low_hz, band.high_hz
    measures: dict[str, tuple[Feature, Distance]] = {
        "log_psd": (partial(metrics.log_psd, fs_hz=fs_hz, low_hz=low_hz, high_hz=high_hz), distances.frechet),
        "envelope": (partial(metrics.log_envelope, fs_hz=fs_hz), distances.frechet),
        "band_envelope": (partial(metrics.band_envelopes, fs_hz=fs_hz, high_hz=high_hz), distances.frechet),
        "duration": (partial(metrics.durations, fs_hz=fs_hz), distances.wasserstein),
        "embedding": (embedding, distances.mmd),
        "crest": (metrics.crest, distances.wasserstein),
        "response_spectrum": (partial(metrics.response_spectra, fs_hz=fs_hz, low_hz=low_hz), distances.wasserstein),
    }
    if components > 1:
        measures["coupling"] = partial(metrics.coupling, fs_hz=fs_hz, high_hz=high_hz), distances.wasserstein
    return measures


def evenly(count: int, n: int, first: int = 0) -> Tensor:
    """Which of n windows to take `count` of: spread over all of them, or where there are fewer, all in turn.

    A part of a dataset is in the order of its earthquakes, noise last: its first windows are not like the others.
    """
    return (first + torch.arange(count) * max(n, count) // count) % n


def largest_event(event_N: Tensor) -> int:
    """Windows of the earthquake that has most; those of none, below 0, are each on its own."""
    known = event_N[event_N >= 0]
    return int(known.unique(return_counts=True)[1].max()) if len(known) else 1


def _features(feature: Feature, wave_NCT: Tensor) -> Tensor:
    """Features (N, D) of windows, a few at a time."""
    return torch.cat([feature(chunk).flatten(1) for chunk in wave_NCT.split(CHUNK)])


def appearance(features: Mapping[str, Tensor]) -> Tensor:
    """Envelope and amplitude spectrum as they would be drawn, (N, D): what tells two windows apart at a glance.

    They are linear, so that noise too faint to be seen does not pass for diversity.
    """
    return torch.cat([features["envelope"].exp(), (features["log_psd"] / 2).exp()], dim=1)


def _random_halves(n: int, most: int, splits: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Indices (S, count) and (S, count): windows cut at random into two equal parts of at most `most`, S times."""
    count = min(n // 2, most)
    order = _random_draws(n, 2 * count, splits, rng)
    return order[:, :count], order[:, count:]


def _halves_by_event(event_N: Tensor, count: int, splits: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Indices (S, count) twice: the first and the last windows, ordered by earthquake in a random order."""
    number = torch.where(event_N < 0, event_N.max() + 1 + torch.arange(len(event_N)), event_N)
    keys = torch.stack([torch.randperm(int(number.max()) + 1, generator=rng)[number] for _ in range(splits)])
    order = keys.argsort(dim=1)
    return order[:, :count], order[:, -count:]


def _random_draws(n: int, count: int, splits: int, rng: torch.Generator) -> Tensor:
    """Indices (S, count) into n windows."""
    return torch.stack([torch.randperm(n, generator=rng)[:count] for _ in range(splits)])


def _quantiles(distance_S: Tensor) -> dict[str, float]:
    low, median, high = torch.quantile(distance_S.cpu(), distance_S.new_tensor([0.05, 0.5, 0.95]).cpu()).tolist()
    return {"low": low, "median": median, "high": high}


def _thesis(wave_NCT: Tensor) -> dict[str, float]:
    """Statistics over all samples at once, as the thesis has them; extremes of a sample, which grow with its size."""
    std, mean = torch.std_mean(wave_NCT, correction=0)
    skewness = ((wave_NCT - mean) / std.clamp_min(metrics.EPS)).pow(3).mean()
    values = {"minimum": wave_NCT.min(), "maximum": wave_NCT.max(), "mean": mean, "std": std, "skewness": skewness}
    return {name: float(value) for name, value in values.items()}
