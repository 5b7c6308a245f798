"""What the search relies on inside Ray that Ray does not document; `tests/test_internals.py` says what must hold.

A new version of Ray that changes any of it fails there first.
"""

from collections.abc import Callable
from typing import Any

from pyarrow.fs import FileSelector, LocalFileSystem
from ray import tune
from ray.train._internal.storage import _FilesystemSyncer
from ray.tune.experiment import Experiment, Trial

from search.storage import Changes, Place


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


class _Syncer(_FilesystemSyncer):
    """Sends what has changed of what Tune saves in a folder of this machine, as it is when Tune asks."""

    def __init__(self, kept: Place):
        super().__init__(kept.filesystem)
        self._kept, self._changes = kept, Changes(kept)

    def __reduce__(self) -> tuple[type["_Syncer"], tuple[Place]]:
        return _Syncer, (self._kept,)  # or what is just being sent would be saved with each trial

    def _sync_up_command(self, local_path: str, uri: str, exclude: Any = None) -> tuple[Callable[..., None], Any]:
        files = LocalFileSystem().get_file_info(FileSelector(local_path, recursive=True))
        changes = list(self._changes.among((file for file in files if file.is_file), local_path))
        return self._changes.send_these, {"changes": changes}


def send_changes_alone(experiment: Experiment, kept: Place) -> None:
    """Have Tune send to a bucket what has changed since it last saved its state.

    It would send all files of all trials each time, also while it writes them.
    """
    if kept.copy:
        experiment.storage.syncer = _Syncer(kept)
