"""What ends a whole search before its last trial: its time, its cost, or a score that is good enough.

Cost is time: the machines of a search are paid by the hour, busy or not.
"""

import heapq
import math
from collections.abc import Iterable, Sequence
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.stopper import TimeoutStopper

from search.config import SearchConfig
from search.finalists import stages
from search.optuna_search import PastTrial
from search.trials import OUT_OF_TIME, TrialRow, best_row, trial_rows

OUT_OF_MONEY, GOOD_ENOUGH = "budget: cost is used up", "budget: target score reached"
# No more than this share of the time is kept for the finalists.
MOST_KEPT = 0.5


def limit_hours(config: SearchConfig) -> float:
    """What the search may take, `max_hours` or what `max_cost` pays for; infinite without either."""
    return min(config.max_hours or math.inf, _paid_hours(config))


def _paid_hours(config: SearchConfig) -> float:
    return config.max_cost / config.resources.cost_per_hour if config.max_cost else math.inf


def seconds_needed(found: Iterable[tuple[float, float]], config: SearchConfig, at_once: int) -> float:
    """How long the finalists will take: from score and seconds an epoch of each trial so far, and trials at once.

    No more than their share of the time there is: if that is too little, some trainings are cut off.
    """
    best = heapq.nsmallest(config.finalists.count, found)
    if len(best) < 2:
        return 0.0
    rounds = sum(math.ceil(trainings / at_once) for trainings in stages(len(best), config.finalists.seeds, at_once))
    needed = rounds * config.training.max_epochs * max(seconds for _, seconds in best)
    return min(needed, limit_hours(config) * 3600 * MOST_KEPT)


class TimeLimit(TimeoutStopper):
    """Ends trainings, so many at once, when their time is over; infinite means no limit."""

    def __init__(self, seconds: float, at_once: int):
        super().__init__(seconds)
        self._at_once = at_once

    def replay(self, past: Sequence[PastTrial]) -> None:
        """Take off the time that restored trials had taken."""
        self._budget -= sum(report["seconds"] for trial in past for report in trial.reports) / self._at_once


class Budget(TimeLimit):
    """Ends a search at its target score, or while there is still time, or money, for its finalists.

    A trial that has come to the target has to be heard of again, by another report or its end: Tune, which stops a
    search at once, saves the checkpoint only after the report.
    """

    def __init__(self, config: SearchConfig, at_once: int):
        super().__init__(limit_hours(config) * 3600, at_once)
        self._config, self._reached = config, False
        # Of each trial the lowest score and the seconds of its last epoch.
        self._found: dict[str, tuple[float, float]] = {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Take note of a report; no trial is stopped for it alone."""
        before, _ = self._found.get(trial_id, (math.inf, 0.0))
        self._reached |= before <= self._config.target_score
        if math.isfinite(result.get("score", math.nan)):
            self._found[trial_id] = min(before, result["score"]), result["seconds"]
        return False

    def replay(self, past: Sequence[PastTrial]) -> None:
        """Take note of what a restored search had reported, and of the time that its trials had taken."""
        super().replay(past)
        for trial in past:
            for report in [*trial.reports, *([] if trial.running else trial.reports[-1:])]:
                self(trial.trial_id, dict(report))

    def stop_all(self) -> bool:
        """Whether the search's share of the time is over, or its target reached."""
        over: bool = super().stop_all()  # type: ignore[no-untyped-call]
        if over or self._reached:
            return True
        # Tune asks at each of its steps: without a limit nothing is reckoned.
        limited = math.isfinite(self._budget)
        return limited and self._budget <= seconds_needed(self._found.values(), self._config, self._at_once)


def ended_by(config: SearchConfig, trials: Sequence[Trial]) -> str:
    """The stop reason of trials that were cut off with the search."""
    best = best_row(trial_rows(trials))
    if best and best.score <= config.target_score:
        return GOOD_ENOUGH
    return OUT_OF_MONEY if _paid_hours(config) < (config.max_hours or math.inf) else OUT_OF_TIME


def left_s(rows: Sequence[TrialRow], config: SearchConfig, at_once: int, taken_s: float) -> float:
    """What is left of the time, and at least what the search has kept for its finalists; infinite without a limit.

    The time of a resumed search, of which this process has taken `taken_s`, is that of its trials too.
    """
    found = [(row.score, row.epoch_seconds) for row in rows if math.isfinite(row.score)]
    spent_s = max(taken_s, sum(row.seconds for row in rows) / at_once)
    return max(seconds_needed(found, config, at_once), 3600 * limit_hours(config) - spent_s)
