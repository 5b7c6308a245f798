"""A sampler that learns from every rung: it models score by parameters and epoch, and proposes for the last epoch.

Successive halving stops most trials early, and a sampler that sees only complete ones, or ranks the stopped ones by how
far they came, learns little from them. Here one Gaussian process holds all of it: where trials stopped at an early rung
tell what a region is worth, and those that went on how curves go on from there (as Swersky et al. 2014 and Klein et al.
2020 do). It is asked for the greatest expected improvement at the last epoch (Jones et al. 1998), trials that still run
counting as what they are expected to come to. The first proposals spread evenly over the space, and every so many later
ones too.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import norm, qmc, rankdata

from search.samplers.curve_model import coordinates, depth
from search.samplers.gaussian_process import Array, GaussianProcess, Indices, one_thread
from search.schedulers import recent_score
from search.space import Space

# Trials that spread evenly before the model is asked, for each parameter.
STARTUP_PER_PARAMETER = 2
SPREAD_SHARE = 0.4
# What a proposal is chosen from: points of the whole space, and points around the best known.
CANDIDATES, CENTRES, NEIGHBOURS = 500, 5, 40
NEIGHBOUR_STEPS = (0.05, 0.15)
# The cost of a model grows with their cube. Those with the best scores say where to search, as many others where not.
MAX_OBSERVATIONS = 200
# The hyperparameters are fitted again each time that there are so much more observations.
GROWTH = 1.25


class _Curve(NamedTuple):
    """What a trial tells: its parameters in shares of their ranges; how deep it was at its scores, and these."""

    shares: Array
    depths: list[float]
    scores: list[float]


class CurveSampler(BaseSampler):
    """Proposes by expected improvement at the last epoch, from the scores of all trials at the rungs they reached.

    Args:
        space: what to draw from, `distributions` the same in Optuna's terms.
        rungs: epochs at which the scheduler compares trials.
        max_epochs: epochs of a complete trial.
        seed: proposals depend on it, on the trial's number, and on what is known.
    """

    def __init__(
        self,
        space: Space,
        distributions: dict[str, BaseDistribution],
        rungs: Sequence[int],
        max_epochs: int,
        seed: int,
    ):
        self._space, self._distributions = space, distributions
        self._rungs, self._max_epochs, self._seed = set(rungs), max_epochs, seed
        self._independent = RandomSampler(seed=seed)
        self._process = GaussianProcess(coordinates(space, np.zeros((1, len(space))), np.zeros(1)).shape[1])
        self._fitted = 0
        # Of the trials that have ended, by number: they tell the same at every proposal.
        self._ended: dict[int, _Curve] = {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All parameters are drawn together."""
        return self._distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose the parameters of a trial."""
        others = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        known = [other for other in others if other.intermediate_values and other.state is not TrialState.FAIL]
        rng = np.random.default_rng((self._seed, trial.number))
        started = trial.number >= STARTUP_PER_PARAMETER * len(self._space) and len(known) > len(self._space) // 2
        if not self._space or not started or rng.random() < SPREAD_SHARE:
            return self._values(self._spread(trial.number))
        running = [other for other in others if other.state is TrialState.RUNNING]
        # The same again would come to the same score.
        tried = [other.params for other in others]
        with one_thread():
            promising = self._promising(known, running, rng)
        proposals = map(self._values, promising)
        return next((values for values in proposals if values not in tried), self._values(self._spread(trial.number)))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw what is not of the space at random."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def _spread(self, number: int) -> Array:
        """Point of a trial in a sequence that fills the space evenly, in shares of each range."""
        sequence = qmc.Sobol(max(1, len(self._space)), rng=self._seed)
        if number:  # SciPy cannot skip none
            sequence.fast_forward(number)
        point: Array = sequence.random(1)[0]
        return point

    def _values(self, share_P: Array) -> dict[str, Any]:
        return {key: domain.at(share) for (key, domain), share in zip(self._space.items(), share_P, strict=False)}

    def _promising(self, known: list[FrozenTrial], running: list[FrozenTrial], rng: np.random.Generator) -> Array:
        """Candidates in shares, the greatest expected improvement at the last epoch first."""
        shares = self._learn(known, running, rng)
        expected = self._process.predict(self._at(shares, np.ones(len(shares))))[0]
        candidates = _candidates(shares[np.argsort(expected)[:CENTRES]], rng)
        mean, std = self._process.predict(self._at(candidates, np.ones(len(candidates))))
        return candidates[np.argsort(-_expected_improvement(expected.min() - mean, std))]

    def _learn(self, known: list[FrozenTrial], running: list[FrozenTrial], rng: np.random.Generator) -> Array:
        """Fit to what is known, and take for known what running trials are expected to come to.

        Returns:
            The parameters that it was fitted to, in shares.
        """
        curves = [self._curve(trial) for trial in known]
        of_curve = np.repeat(np.arange(len(curves)), [len(curve.scores) for curve in curves])
        y = _deviates([score for curve in curves for score in curve.scores])
        observed = len(y)
        chosen = _most_telling(y, rng)
        y, of_curve = y[chosen] - y[chosen].mean(), of_curve[chosen]
        shares = np.array([curve.shares for curve in curves])
        depths = np.array([depth for curve in curves for depth in curve.depths])
        x = self._at(shares[of_curve], depths[chosen])
        if observed >= GROWTH * self._fitted:
            self._process.fit(x, y)
            self._fitted = observed
        else:
            self._process.condition(x, y)
        if running:
            ahead = self._at(np.array([self._shares(trial) for trial in running]), np.ones(len(running)))
            self._process.condition(np.vstack([x, ahead]), np.concatenate([y, self._process.predict(ahead)[0]]))
        return shares[np.unique(of_curve)]

    def _curve(self, trial: FrozenTrial) -> _Curve:
        """The scores of a trial at the rungs and at its end."""
        if trial.number in self._ended:
            return self._ended[trial.number]
        epochs, scores = sorted(trial.intermediate_values), []
        compared = sorted(self._rungs.intersection(epochs) | {epochs[-1]})
        for epoch in compared:
            past = [trial.intermediate_values[step] for step in epochs if step <= epoch]
            scores.append(recent_score(past) if _feasible(trial) else math.inf)
        curve = _Curve(self._shares(trial), [depth(epoch, self._max_epochs) for epoch in compared], scores)
        if trial.state.is_finished():
            self._ended[trial.number] = curve
        return curve

    def _shares(self, trial: FrozenTrial) -> Array:
        return np.array([domain.share(trial.params[key]) for key, domain in self._space.items()])

    def _at(self, shares_NP: Array, depth_N: Array) -> Array:
        """Coordinates of the model."""
        return coordinates(self._space, shares_NP, depth_N)


def _deviates(scores: list[float]) -> Array:
    """The rank of each score among all as a normal deviate."""
    deviates: Array = norm.ppf((rankdata(scores) - 0.5) / len(scores))
    return deviates


def _most_telling(y_N: Array, rng: np.random.Generator) -> Indices:
    """Which observations to fit to: all of few; of many half of them the best, the others at random."""
    if len(y_N) <= MAX_OBSERVATIONS:
        return np.arange(len(y_N))
    order, half = np.argsort(y_N, kind="stable"), MAX_OBSERVATIONS // 2
    return np.concatenate([order[:half], rng.permutation(order[half:])[:half]])


def _feasible(trial: FrozenTrial) -> bool:
    return all(value <= 0 for value in trial.constraints.values())


def _candidates(centres_NP: Array, rng: np.random.Generator) -> Array:
    """Points of the whole space, and points that differ from a centre in about half of the parameters."""
    points = [rng.random((CANDIDATES, centres_NP.shape[1]))]
    for centre in centres_NP:
        for step in NEIGHBOUR_STEPS:
            size = (NEIGHBOURS, len(centre))
            moved = rng.normal(0, step, size) * (rng.random(size) < 0.5)
            points.append(np.clip(centre + moved, 0, 1))
    return np.concatenate(points)


def _expected_improvement(gain: Array, std: Array) -> Array:
    """By how much a normal deviate of mean `gain` exceeds 0 on average."""
    ratio = gain / std
    return std * (ratio * norm.cdf(ratio) + norm.pdf(ratio))
