"""The race of the finalists: each is trained with another seed, and the best two go on with the rest of the seeds.

Seeds scatter scores more than good configurations differ, so trainings are better spent on the two that may win than
on all alike (sequential halving, Karnin et al. 2013).
"""

import math
from collections.abc import Sequence
from typing import Any

from ray.tune.search import Searcher

from search.finalists import CHOICE_FILE, LAST, SEED, Finalists
from search.optuna_search import PastTrial
from search.verdict import broke_rule, compare


class Race(Searcher):
    """Proposes the finalists' trainings to Tune: the first stage's, and when all of these have ended the second's."""

    def __init__(self, finalists: Finalists):
        super().__init__(metric="score", mode="min")
        self._finalists, points = finalists, finalists.points()
        first = len(finalists.chosen) * finalists.first_seeds
        self._first, self._others = points[:first], points[first:]
        self._given: dict[str, dict[str, Any]] = {}
        # By training its lowest score so far, and of those that ended what they count with.
        self._lowest: dict[str, float] = {}
        self._ended: dict[str, float] = {}

    @property
    def trainings(self) -> int:
        """How many there are in both stages."""
        return len(self._first) + LAST * (len(self._finalists.seeds) - self._finalists.first_seeds)

    def __str__(self) -> str:
        first, left = self._finalists.first_seeds, len(self._finalists.seeds) - self._finalists.first_seeds
        each = "another seed" if first == 1 else f"{first} other seeds"
        then = f", then the best {LAST} with {left} more" if left else ""
        return f"the {len(self._finalists.chosen)} most promising configurations again with {each} each{then}"

    def suggest(self, trial_id: str) -> Any:
        """The next training that no trial has, None if it is not known yet, or that there are no more."""
        left = self._left(self._first)
        if not left:
            ended = [self._given[trial_id] for trial_id in self._ended]
            if any(point not in ended for point in self._first):
                return None
            left = self._left(self._second())
        if not left:
            return self.FINISHED
        self._given[trial_id] = left[0]
        return left[0]

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Take note of a score."""
        if math.isfinite(result.get("score", math.nan)):
            self._lowest[trial_id] = min(result["score"], self._lowest.get(trial_id, math.inf))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Take note of how a training ended."""
        result = result or {}
        self.on_trial_result(trial_id, result)
        failed = error or broke_rule(result.get("stop_reason", ""))
        self._ended[trial_id] = math.inf if failed else self._lowest.get(trial_id, math.inf)

    def rebuild(self, past: Sequence[PastTrial]) -> None:
        """Take note of the trainings of a restored search.

        Raises:
            ValueError: if one is not of this race.
        """
        for trial in past:
            point = dict(trial.parameters)
            if point not in [*self._first, *self._others]:
                raise ValueError(
                    f"trial {trial.trial_id} of finalists/ is of a configuration that {CHOICE_FILE} does not name; "
                    "remove both to choose and train anew"
                )
            self._given[trial.trial_id] = point
            for report in trial.reports:
                self.on_trial_result(trial.trial_id, dict(report))
            if not trial.running:
                self.on_trial_complete(trial.trial_id, dict(trial.reports[-1]) if trial.reports else None, trial.failed)

    def _left(self, points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        given = list(self._given.values())
        return [point for point in points if point not in given]

    def _second(self) -> list[dict[str, Any]]:
        """The trainings of the second stage: with the other seeds, of those that lead after the first."""
        origin, given = self._finalists.origin, self._given
        scores = [
            (str(origin(point)), point[SEED], self._ended[trial_id])
            for trial_id, point in given.items()
            if trial_id in self._ended and point in self._first
        ]
        verdict = compare(self._finalists.expected, scores)
        last = [one.trial_id for one in verdict.ranked[:LAST]] if verdict else []
        return [point for point in self._others if origin(point) in last]
