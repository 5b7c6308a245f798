import pytest
from ray import tune
from ray.train._internal.session import _TrainingResult
from ray.train._internal.storage import StorageContext
from ray.tune.execution import tune_controller
from ray.tune.experiment import Trial

from search.internals import forget_metrics, forget_reports, recall_scores, save_state_sparingly


def test_of_an_ended_trial_tune_keeps_the_score_alone():
    trial = Trial("any", stub=True)
    for epoch, score in enumerate((3.0, 1.0, 2.0), start=1):
        trial.update_last_result({"score": score, "loss/critic": 0.1, "training_iteration": epoch, "pid": 1})
    assert set(trial.metric_analysis) > {"score", "loss/critic"}  # else there is nothing left to drop
    before = trial.get_json_state()[1]
    forget_metrics(trial)
    assert trial.metric_analysis.keys() == {"score"}
    after = trial.get_json_state()[1]
    assert len(after) < len(before)  # not what it has written once
    restored = Trial("any", stub=True)
    restored.restore_run_metadata(after)
    assert restored.metric_analysis["score"]["min"] == 1.0
    assert restored.last_result["loss/critic"] == 0.1


def test_a_restored_trial_is_worth_the_best_it_had_reported():
    trial, known = Trial("any", stub=True), [4.0, 1.0, float("nan"), 2.0]
    recall_scores(trial, known[:1])  # Tune had saved nothing of it
    assert trial.metric_analysis["score"]["min"] == 4.0
    recall_scores(trial, known)
    trial.update_last_result({"score": 3.0, "training_iteration": 5, "pid": 1})
    assert trial.metric_analysis["score"]["min"] == 1.0


def test_beside_the_checkpoints_of_an_ended_trial_is_what_the_export_asks_for(tmp_path):
    trial = Trial("any", stub=True, storage=StorageContext(tmp_path, "tune"))
    for epoch in (1, 2):
        report = {"best_score": 3.0 - epoch, "score": 5.0, "loss/critic": 0.1, "training_iteration": epoch}
        trial.update_last_result(report)
        trial.on_checkpoint(_TrainingResult(tune.Checkpoint(f"/any/checkpoint_{epoch:06d}"), report))
    before = trial.get_json_state()[1]
    forget_reports(trial)
    assert len(trial.get_json_state()[1]) < len(before)
    restored = Trial("any", stub=True)
    restored.restore_run_metadata(trial.get_json_state()[1])
    kept = restored.run_metadata.checkpoint_manager.best_checkpoint_results
    assert [result.metrics for result in kept] == [{"best_score": 2.0}, {"best_score": 1.0}]
    assert restored.last_result["loss/critic"] == 0.1


class Syncer:
    """Stands for Ray's, and counts."""

    def __init__(self):
        self.waits = 0

    def sync_up(self, *_):
        return True

    def wait(self):
        self.waits += 1


class Storage:
    experiment_driver_staging_path = experiment_fs_path = "any"

    def __init__(self):
        self.syncer = Syncer()


@pytest.mark.parametrize(("took_s", "saves"), [(0.01, 7), (4.0, 1)])
def test_tune_saves_its_state_soon_after_two_checkpoints_of_a_trial_if_that_is_cheap(monkeypatch, took_s, saves):
    """In twelve seconds, each with a checkpoint of a trial; and it never waits for what is being sent."""
    clock = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    save_state_sparingly()
    storage = Storage()
    manager = tune_controller._ExperimentCheckpointManager(
        storage=storage, checkpoint_period="auto", sync_every_n_trial_checkpoints=2
    )
    saved = []

    def save():
        saved.append(clock[0])
        clock[0] += took_s

    manager.sync_up_experiment_state(save)
    manager.sync_up_experiment_state(save)
    for _ in range(12):
        clock[0] += 1.0
        manager.on_trial_checkpoint("trial")
        manager.sync_up_experiment_state(save)
    # At first and after every second checkpoint; or, where saving takes 4 s, not within the 76 s after that.
    assert len(saved) == saves
    assert storage.syncer.waits == 0
    manager.sync_up_experiment_state(save, force=True, wait=True)
    assert storage.syncer.waits == 2
