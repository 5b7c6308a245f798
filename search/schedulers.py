"""When a trial is stopped because others do better."""

import math
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from search.config import SchedulerConfig


class Asha(AsyncHyperBandScheduler):
    """Tune's ASHA, but a score that is not finite stops its trial and stays out of the rungs it would spoil."""

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Decide on one report."""
        if not math.isfinite(result["score"]):
            return self.STOP
        return super().on_trial_result(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Take note of a trial's last report."""
        if math.isfinite(result.get("score", math.nan)):
            super().on_trial_complete(tune_controller, trial, result)


def make_scheduler(config: SchedulerConfig, max_epochs: int) -> TrialScheduler:
    """A Tune scheduler that minimises `score`, its rungs counted in epochs.

    `epoch` is the training's own counter: Tune's `training_iteration` starts again after some restores.
    """
    if config.name == "none":
        return FIFOScheduler()
    return Asha(
        time_attr="epoch",
        metric="score",
        mode="min",
        max_t=max_epochs,
        grace_period=min(config.grace_epochs, max_epochs),
        reduction_factor=config.reduction_factor,
    )
