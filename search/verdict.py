"""What several trainings of each finalist say: which configuration is best, and whether the difference is real."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import geometric_mean
from typing import Any

from scipy.stats import PermutationMethod, mannwhitneyu

from search.trials import TrialRow, score_text

# Stops that say nothing against a configuration; after any other a training has failed.
HARMLESS = ("scheduler", "stalled", "budget")
# The smallest two-sided p that three seeds against three can reach: all of one below all of the other.
TOLD_APART = 0.1


def broke_rule(stop_reason: str) -> bool:
    """Whether a training that was stopped for this reason had broken a rule."""
    return bool(stop_reason) and stop_reason.partition(":")[0] not in HARMLESS


def failed(row: TrialRow) -> bool:
    """Whether a training ended by an error or by a rule that it broke."""
    return row.state == "failed" or broke_rule(row.stop_reason)


def counted_score(row: TrialRow) -> float:
    """The score that a finalist's training counts with: infinite if it failed, NaN if it did not come to its end."""
    if failed(row):
        return math.inf
    return math.nan if not row.ended or row.stop_reason.startswith("budget") else row.score


@dataclass(frozen=True)
class Finalist:
    """A configuration, by the search's trial, and the score that each of its trainings counts with, by seed.

    `expected` is the score that the search lets expect of it, `worst` the highest finite score of all the finalists'
    trainings, None if there is none.
    """

    trial_id: str
    expected: float
    scores: Mapping[int, float]
    worst: float | None

    @property
    def mean(self) -> float:
        """Geometric mean of its scores and of the expected one; a training that failed counts as the worst of all.

        Geometric, for seeds change a score by factors. What the search lets expect is worth about one seed more: it
        rests on the scores of all configurations alike (`tests/bench/replay.py`, where the median of three seeds,
        their best, or their mean alone chose worse).
        """
        if self.worst is None or all(math.isinf(score) for score in self.scores.values()):
            return math.inf
        return geometric_mean([self.expected, *(min(score, self.worst) for score in self.scores.values())])

    @property
    def texts(self) -> tuple[str, str, str]:
        """Mean, expected score and those of its trainings, as they are shown."""
        scores = [_text(score) for _, score in sorted(self.scores.items())]
        return _text(self.mean), score_text(self.expected), ", ".join(scores)


@dataclass(frozen=True)
class Verdict:
    """The finalists, best first: those given the most trainings, and of these the lowest mean."""

    ranked: tuple[Finalist, ...]

    @property
    def winner(self) -> str:
        """The search's trial whose configuration won."""
        return self.ranked[0].trial_id

    @property
    def p(self) -> float | None:
        """The chance that the ranks of equal configurations' scores differ as much as winner's and runner-up's.

        Two-sided permutation test of the rank sum, of all permutations up to seven seeds each, of 9,999 of more; None
        unless both have two scores.
        """
        samples = [list(one.scores.values()) for one in self.ranked[:2]]
        if len(samples) < 2 or min(map(len, samples)) < 2:
            return None
        return float(mannwhitneyu(*samples, method=PermutationMethod(rng=0)).pvalue)

    @property
    def told_apart(self) -> bool:
        """Whether the winner is better than the runner-up beyond what seeds alone make likely."""
        return self.p is not None and self.p <= TOLD_APART

    @property
    def sentence(self) -> str:
        """Winner against runner-up, in words."""
        if self.p is None:
            return "Too few of their trainings came to an end to compare winner and runner-up."
        chance = f"equal ones would differ as clearly in {100 * self.p:.0f} of 100 such comparisons"
        return f"Winner and runner-up {'are told' if self.told_apart else 'cannot be told'} apart: {chance}."

    @property
    def lines(self) -> list[str]:
        """What the terminal says."""
        head = "Finalists, mean score (expected by the search; with other seeds):"
        listed = ["  trial {} {} ({}; {})".format(one.trial_id, *one.texts) for one in self.ranked]
        return [head, *listed, self.sentence]

    def content(self) -> dict[str, Any]:
        """As plain JSON content; an infinite score, of a training that failed, is null."""
        return {
            "ranked": [_content(one) for one in self.ranked],
            "p": self.p,
            "told_apart": self.told_apart,
            "verdict": self.sentence,
        }


def _content(one: Finalist) -> dict[str, Any]:
    scores = {str(seed): _finite(score) for seed, score in one.scores.items()}
    ends = {"lowest": _finite(min(one.scores.values())), "highest": _finite(max(one.scores.values()))}
    return {"trial_id": one.trial_id, "mean": _finite(one.mean), "expected": one.expected, **ends, "scores": scores}


def _text(score: float) -> str:
    return score_text(score) if math.isfinite(score) else "failed"


def _finite(score: float) -> float | None:
    return score if math.isfinite(score) else None


def compare(expected: Mapping[str, float], trainings: Iterable[tuple[str, int, float]]) -> Verdict | None:
    """The verdict on trainings, each by the search's trial, its seed and the score that it counts with.

    `expected` is what the search lets expect of each trial's configuration. None if no training has come to its end.
    """
    given: dict[str, dict[int, float]] = {}
    for trial_id, seed, score in trainings:
        given.setdefault(trial_id, {})[seed] = score
    worst = max((score for each in given.values() for score in each.values() if math.isfinite(score)), default=None)
    finalists = [
        Finalist(trial_id, expected[trial_id], counted, worst)
        for trial_id, each in given.items()
        if (counted := {seed: score for seed, score in each.items() if not math.isnan(score)})
    ]
    ranked = sorted(finalists, key=lambda one: (-len(given[one.trial_id]), one.mean))
    return Verdict(tuple(ranked)) if ranked else None
