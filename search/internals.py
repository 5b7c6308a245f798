"""What the search relies on inside Ray that Ray does not document; `tests/test_internals.py` says what must hold.

A new version of Ray that changes any of it fails there first.
"""

from typing import Any

from ray import tune
from ray.tune.experiment import Trial


class ForgetMetrics(tune.Callback):
    """Of a trial that has ended, drops Tune's statistics of each metric but the score.

    Tune keeps minimum, maximum and running means of every metric of every trial, over 100 KB a trial, and writes them
    anew into each of its snapshots. Only the least score is ever read.
    """

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tune calls this when a trial has ended well."""
        forget_metrics(trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tune calls this when a trial has failed."""
        forget_metrics(trial)


def forget_metrics(trial: Trial) -> None:
    """Keep the statistics of the score alone; setting attributes tells Tune to write them into its next snapshot."""
    records: Any = trial.run_metadata
    records.metric_analysis = {name: kept for name, kept in records.metric_analysis.items() if name == "score"}
    records.metric_n_steps = {name: kept for name, kept in records.metric_n_steps.items() if name == "score"}
