"""What the search relies on inside Ray that Ray does not document; `tests/test_internals.py` says what must hold.

A new version of Ray that changes any of it fails there first.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from pyarrow.fs import FileSelector, LocalFileSystem
from ray import tune
from ray.train._internal import checkpoint_manager
from ray.train._internal.storage import _FilesystemSyncer
from ray.tune import TuneError
from ray.tune.execution import tune_controller
from ray.tune.execution.experiment_state import _ExperimentCheckpointManager
from ray.tune.experiment import Experiment, Trial
from ray.tune.logger import JsonLoggerCallback

from search.storage import Changes, Place

# What is read of the metrics beside an ended trial's checkpoints, when the best is exported.
EXPORTED_BY = "best_score"
# Of its time Tune may spend one part in so many on saving its state.
SAVING_SHARE = 20
# How many checkpoints are deleted at once in a bucket: of 500 trials that report each minute, with a few to spare.
DELETERS = 8


class ForgetMetrics(tune.Callback):
    """Drops Tune's statistics of each metric but the score, and what it keeps beside an ended trial's checkpoints.

    Tune keeps minimum, maximum and running means of every metric of every trial, over 100 KB a trial, and writes them
    anew into each of its snapshots, with three copies of the last reports. Only the least score is ever read.
    """

    def on_checkpoint(self, iteration: int, trials: list[Trial], trial: Trial, checkpoint: Any, **info: Any) -> None:
        """Tune calls this when a trial has saved a checkpoint."""
        forget_metrics(trial)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tune calls this when a trial has ended well."""
        forget_metrics(trial)
        forget_reports(trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tune calls this when a trial has failed."""
        forget_metrics(trial)
        forget_reports(trial)


def forget_metrics(trial: Trial) -> None:
    """Keep the statistics of the score alone; setting attributes tells Tune to write them into its next snapshot."""
    records: Any = trial.run_metadata
    records.metric_analysis = {name: kept for name, kept in records.metric_analysis.items() if name == "score"}
    records.metric_n_steps = {name: kept for name, kept in records.metric_n_steps.items() if name == "score"}


def forget_reports(trial: Trial) -> None:
    """Of the reports beside the checkpoints of a trial that does not go on, keep what the export asks for."""
    manager: Any = trial.run_metadata.checkpoint_manager
    for result in manager.best_checkpoint_results:
        result.metrics = {name: value for name, value in result.metrics.items() if name == EXPORTED_BY}
    trial.run_metadata.invalidate_cache()


def recall_scores(trial: Trial, scores: Iterable[float]) -> None:
    """Have the statistics of a restored trial's score count what it had reported, which may be more than Tune saved."""
    for score in scores:
        if math.isfinite(score):
            trial.run_metadata.update_metric("score", score)  # type: ignore[arg-type]  # Ray asks for `numbers.Number`


class _SparingSaves(_ExperimentCheckpointManager):
    """Has Tune save its state of all trials soon after any of them has saved two checkpoints, if that is cheap.

    Tune keeps two checkpoints of a trial, and would save its state, and wait until it is sent, whenever one has saved
    two more: with short epochs or thousands of trials it would do little else. A state may be older than that: a trial
    that goes on finds its newest checkpoint.
    """

    _took_s = 0.0

    def on_trial_checkpoint(self, trial: Trial) -> None:
        """Tune calls this when a trial has saved a checkpoint."""
        super().on_trial_checkpoint(trial)
        if self._should_force_sync_up:
            self._should_force_sync_up = False
            self._checkpoint_period = min(self._checkpoint_period, (SAVING_SHARE - 1) * self._took_s)

    def _update_auto_checkpoint_time(self, time_taken: float) -> None:
        self._took_s = time_taken
        super()._update_auto_checkpoint_time(time_taken)


def save_state_sparingly() -> None:
    """Have Tune spend a small part of its time alone on saving its state."""
    tune_controller._ExperimentCheckpointManager = _SparingSaves  # type: ignore[attr-defined]


@contextmanager
def deleting_aside(kept: Place) -> Iterator[None]:
    """Have Tune not wait until a bucket has deleted a checkpoint, which takes seven requests at each report of a trial.

    What is still to be deleted when a search fails stays; a trial that goes on is not misled by more checkpoints.
    """
    if not kept.copy:
        yield
        return
    delete = checkpoint_manager._delete_fs_path  # type: ignore[attr-defined]
    pool = ThreadPoolExecutor(DELETERS, "deleting")

    def delete_aside(**what: Any) -> None:
        pool.submit(delete, **what).add_done_callback(Future.result)  # an error is logged, as Tune does itself

    checkpoint_manager._delete_fs_path = delete_aside  # type: ignore[assignment,attr-defined]
    try:
        yield
        pool.shutdown()
    finally:
        checkpoint_manager._delete_fs_path = delete  # type: ignore[attr-defined]
        pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def own_errors() -> Iterator[None]:
    """Raise what goes wrong in a searcher, a scheduler or a callback as itself.

    Tune raises its traceback as the text of an error of its own where it has happened at a trial's report. A
    `ValueError` stays within that: by itself it would be told as bad input, and it is our own mistake there.
    """
    try:
        yield
    except TuneError as error:
        if error.__context__ is None or isinstance(error.__context__, ValueError):
            raise
        raise error.__context__ from error.__context__.__cause__


@contextmanager
def closing_files(results: JsonLoggerCallback) -> Iterator[None]:
    """Close the files of trials that are cut off with a search: Tune leaves them open."""
    try:
        yield
    finally:
        for trial in list(results._trial_files):
            results.log_trial_end(trial)


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
