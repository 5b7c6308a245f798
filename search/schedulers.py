"""When a trial is stopped because others do better."""

import math
from collections.abc import Mapping, Sequence
from random import Random
from statistics import median
from typing import Any

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from search.config import SchedulerConfig
from search.trials import trial_number

# Scores of adversarial training jump from epoch to epoch: a trial is compared by the median of its last ones.
REPORTS_COMPARED = 3


def recent_score(scores: Sequence[float]) -> float:
    """What a trial is worth after these reports, oldest first."""
    return median(scores[-REPORTS_COMPARED:])


class Asha(FIFOScheduler):
    """Asynchronous successive halving (Li et al. 2018) on what the critic has seen.

    At each rung the best share of the trials that have come so far goes on. A rung asks for so many samples seen by the
    critic, and for a number of generator steps, below which a score says nothing: in large batches an epoch has few. A
    score that is not finite stops its trial and stays out of the rungs.

    All there is to remember follows from the trials' reports: `replay` brings a restored search to where it was.

    Args:
        rungs: samples that each rung asks for, ascending.
        generator_steps: what every rung asks for besides.
        reduction_factor: one in so many goes on.
        brackets: trials are dealt out to so many; each further one begins a rung later (Hyperband's idea).
        seed: of dealing out, by a trial's number.
    """

    def __init__(
        self, rungs: Sequence[float], generator_steps: int, reduction_factor: float, brackets: int = 1, seed: int = 0
    ):
        super().__init__()  # type: ignore[no-untyped-call]
        self._levels, self._generator_steps, self._share = list(rungs), generator_steps, 1 / reduction_factor
        self._brackets, self._seed = brackets, seed
        # By bracket and rung the score of each trial that reached it.
        self._rungs: list[list[dict[str, float]]] = [[{} for _ in self._levels] for _ in range(brackets)]
        # By trial its scores, by epoch: a restored trial reports some again.
        self._scores: dict[str, dict[int, float]] = {}

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Decide on one report."""
        return self.STOP if self._falls_behind(trial, result) else self.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Take note of a trial's last report."""
        if result:
            self._falls_behind(trial, result)
        self._scores.pop(trial.trial_id, None)

    def replay(self, trial: Trial, reports: Sequence[Mapping[str, Any]]) -> None:
        """Take note of a trial's reports of before, whose decisions have been made."""
        for report in reports:
            self._falls_behind(trial, report)

    def _falls_behind(self, trial: Trial, report: Mapping[str, Any]) -> bool:
        """Whether a trial that has reached a further rung is not among the best there."""
        if not math.isfinite(report.get("score", math.nan)):
            return True
        scores = self._scores.setdefault(trial.trial_id, {})
        scores[report["epoch"]] = report["score"]
        bracket = self._bracket(trial)
        reached = [
            rung
            for rung, level in zip(self._rungs[bracket][bracket:], self._levels[bracket:], strict=True)
            if report["samples"] >= level and report["generator_steps"] >= self._generator_steps
        ]
        if not reached or trial.trial_id in reached[-1]:
            return False
        score, others = recent_score(list(scores.values())), list(reached[-1].values())
        reached[-1][trial.trial_id] = score
        return bool(others) and bool(score > np.quantile(others, self._share))

    def _bracket(self, trial: Trial) -> int:
        """Hyperband's shares: each bracket costs as much as another, so a later one gets fewer trials."""
        if self._brackets == 1:
            return 0
        weights = [self._share**bracket for bracket in range(self._brackets)]
        return Random(f"{self._seed} {trial_number(trial)}").choices(range(self._brackets), weights)[0]


def rung_epochs(config: SchedulerConfig, max_epochs: int) -> list[int]:
    """Epochs of the rungs below the last epoch."""
    rungs = [min(config.grace_epochs, max_epochs)]
    while rungs[-1] * config.reduction_factor < max_epochs:
        rungs.append(rungs[-1] * config.reduction_factor)
    return rungs


def make_scheduler(config: SchedulerConfig, max_epochs: int, windows: int, seed: int) -> TrialScheduler:
    """A Tune scheduler that minimises `score`; an epoch is one pass of the critic over so many windows."""
    if config.name == "none":
        return FIFOScheduler()
    if config.name == "median":
        every = range(min(config.grace_epochs, max_epochs), max_epochs + 1)
        return Asha([epoch * windows for epoch in every], config.grace_generator_steps, reduction_factor=2)
    levels = [epoch * windows for epoch in rung_epochs(config, max_epochs)]
    brackets = len(levels) if config.name == "hyperband" else min(config.brackets, len(levels))
    return Asha(levels, config.grace_generator_steps, config.reduction_factor, brackets, seed)
