from ray.tune.experiment import Trial

from search.internals import forget_metrics


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
