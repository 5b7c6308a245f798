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


def failed(row: TrialRow) -> bool:
    """Whether a training ended by an error or by a rule that it broke."""
    broken = row.stop_reason and row.stop_reason.partition(":")[0] not in HARMLESS
    return bool(row.state == "failed" or broken)


def counted_score(row: TrialRow) -> float:
    """The score that a finalist's training counts with: infinite if it failed, NaN if it did not come to its end."""
    if failed(row):
        return math.inf
    return math.nan if not row.ended or row.stop_reason.startswith("budget") else row.score


@dataclass(frozen=True)
class Finalist:
    """A configuration, by the search's trial, and the score that each of its trainings counts with, by seed.

    `worst` is the highest finite score of all the finalists' trainings, None if there is none.
    """

    trial_id: str
    scores: Mapping[int, float]
    worst: float | None

    @property
    def mean(self) -> float:
        """Geometric mean, for seeds change a score by factors; a training that failed counts as the worst of all.

        Of three seeds the median says less: whichever it was of median, mean or best over all seeds that counted,
        choosing by it cost more in recorded trainings (`tests/bench/replay.py`).
        """
        if self.worst is None or all(math.isinf(score) for score in self.scores.values()):
            return math.inf
        return geometric_mean([min(score, self.worst) for score in self.scores.values()])

    @property
    def summary(self) -> tuple[float, float, float]:
        """Mean, lowest and highest score."""
        return self.mean, min(self.scores.values()), max(self.scores.values())

    @property
    def texts(self) -> tuple[str, str, str]:
        """The summary as it is shown."""
        middle, low, high = (score_text(score) if math.isfinite(score) else "failed" for score in self.summary)
        return middle, low, high


@dataclass(frozen=True)
class Verdict:
    """The finalists, lowest mean first."""

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
        listed = ["trial {} {} ({} to {})".format(one.trial_id, *one.texts) for one in self.ranked]
        return [f"Finalists, mean score (lowest to highest) with other seeds: {', '.join(listed)}", self.sentence]

    def content(self) -> dict[str, Any]:
        """As plain JSON content; an infinite score, of a training that failed, is null."""
        return {
            "ranked": [_content(one) for one in self.ranked],
            "p": self.p,
            "told_apart": self.told_apart,
            "verdict": self.sentence,
        }


def _content(one: Finalist) -> dict[str, Any]:
    summary = dict(zip(("mean", "lowest", "highest"), map(_finite, one.summary), strict=True))
    return {"trial_id": one.trial_id, **summary, "scores": {str(k): _finite(v) for k, v in one.scores.items()}}


def _finite(score: float) -> float | None:
    return score if math.isfinite(score) else None


def compare(trainings: Iterable[tuple[str, int, TrialRow]]) -> Verdict | None:
    """The verdict on trainings, each with the search's trial and its seed; None if none has come to its end."""
    scores: dict[str, dict[int, float]] = {}
    for trial_id, seed, row in trainings:
        if not math.isnan(score := counted_score(row)):
            scores.setdefault(trial_id, {})[seed] = score
    finite = [score for each in scores.values() for score in each.values() if math.isfinite(score)]
    finalists = [Finalist(trial_id, each, max(finite, default=None)) for trial_id, each in scores.items()]
    ranked = sorted(finalists, key=lambda one: one.summary)
    return Verdict(tuple(ranked)) if ranked else None
