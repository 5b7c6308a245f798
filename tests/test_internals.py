import json
from pathlib import Path

import pytest
from ray import tune
from ray.tune.experiment import Trial

from search.internals import forget_metrics
from search.schedulers import RunAll


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


class Unsaved(tune.Callback):
    """Trials that had ended at the end of a step, but had not by what Tune had saved."""

    def __init__(self):
        self.trials = set()

    def on_step_end(self, iteration, trials, **info):
        ended = {trial.trial_id for trial in trials if trial.is_finished()}
        if ended:
            (state,) = Path(trials[0].storage.experiment_driver_staging_path).glob("experiment_state-*.json")
            saved = [json.loads(of_trial) for of_trial, _ in json.loads(state.read_text())["trial_data"]]
            self.trials |= ended - {trial["trial_id"] for trial in saved if trial["status"] in ("TERMINATED", "ERROR")}


def report_once_or_fail(parameters):
    if parameters["fails"]:
        raise RuntimeError("planted")
    tune.report({"score": 1.0})


@pytest.mark.slow
def test_tune_saves_its_state_as_a_trial_ends(cluster, tmp_path):
    unsaved = Unsaved()
    analysis = tune.run(
        report_once_or_fail,
        config={"fails": tune.grid_search([False, True, False])},
        scheduler=RunAll(),
        storage_path=str(tmp_path),
        callbacks=[unsaved],
        max_concurrent_trials=1,
        raise_on_failed_trial=False,
        verbose=0,
    )
    assert [trial.status for trial in analysis.trials] == ["TERMINATED", "ERROR", "TERMINATED"]
    assert not unsaved.trials
