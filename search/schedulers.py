"""When a trial is stopped because others do better."""

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from search.config import SchedulerConfig


def make_scheduler(config: SchedulerConfig, max_epochs: int) -> TrialScheduler:
    """A Tune scheduler that minimises `score`, its rungs counted in epochs.

    `epoch` is the training's own counter: Tune's `training_iteration` starts again after some restores.
    """
    if config.name == "none":
        return FIFOScheduler()
    return AsyncHyperBandScheduler(
        time_attr="epoch",
        metric="score",
        mode="min",
        max_t=max_epochs,
        grace_period=min(config.grace_epochs, max_epochs),
        reduction_factor=config.reduction_factor,
    )
