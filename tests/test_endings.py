"""Every kind of ending, and what Optuna, Tune, `trials.csv` and W&B are told of it."""

import json
import math
import os
import signal
import sys
from pathlib import Path

import pandas as pd
import pytest
from optuna.trial import TrialState
from ray import cloudpickle
from ray.tune import ExperimentAnalysis

from search import plan, session, tuner
from search.run import parse_arguments
from search.tune_state import mend_state
from tests.made_up import AtReport, ctrl_c, report, send
from tests.test_search import run, search, study, two_hours_pass, with_callback
from tests.wandb_fakes import Offline
from trainables.trainable import MAX_FAILURES

pytestmark = pytest.mark.slow

LAST = 4
COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL


def out_of_memory(epoch):
    return {"score": math.inf, "stop_reason": "out of memory: 9 GB"} if epoch == 2 else {}


def diverged(epoch):
    return {"score": math.inf, "stop_reason": "diverged: non-finite loss"} if epoch == 2 else {}


def raising(epoch):
    if epoch == 2:
        raise RuntimeError("of its own")
    return {}


def killed(epoch):
    if epoch == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return {}


# By name: what a trial reports beside the ordinary, or does, at an epoch; and how it is told by Optuna (its state and
# the violated constraint), by Tune and by trials.csv and W&B (state, beginning of the stop reason, epochs).
ENDINGS = {
    "complete": (lambda epoch: {"score": 2.1 - epoch / 10}, COMPLETE, {}, "TERMINATED", "complete", "", LAST),
    "scheduler": (lambda epoch: {"score": 9.0}, PRUNED, {}, "TERMINATED", "stopped", "scheduler: others", 1),
    "drifting": (
        lambda epoch: {"drift/mean": 99.0},
        *(PRUNED, {"drifting": 1.0}, "TERMINATED", "stopped", "drifting: mean off by 99.0", 2),
    ),
    "collapsed": (
        lambda epoch: {"gate/diversity": 0.0},
        *(PRUNED, {"collapsed": 1.0}, "TERMINATED", "stopped", "collapsed: diversity 0.00", 2),
    ),
    "stalled": (lambda epoch: {}, PRUNED, {}, "TERMINATED", "stopped", "stalled: score 2.00", 3),
    "diverged": (diverged, PRUNED, {"diverged": 1.0}, "TERMINATED", "stopped", "diverged: non-finite loss", 2),
    "out of memory": (out_of_memory, PRUNED, {"out of memory": 1.0}, "TERMINATED", "stopped", "out of memory: 9", 2),
    "exception": (raising, FAIL, {}, "ERROR", "failed", "error", 1),
    "worker lost": (killed, FAIL, {}, "ERROR", "failed", "error", 1),
}
PLANTED = [planted for planted, *_ in ENDINGS.values()]


def run_planted(parameters, *, stop_rule, **_):
    """In place of a training: the ending that the searched parameter names, in the order of the table."""
    planted, history = PLANTED[parameters["model.latent_dim"] - 100], []
    for epoch in range(1, LAST + 1):
        metrics = report(epoch, LAST, 2.0) | planted(epoch)
        history.append(metrics)
        metrics["stop_reason"] = metrics["stop_reason"] or stop_rule(history) or ""
        send(metrics)
        if metrics["stop_reason"]:
            return


def run_for_ever(parameters, **_):
    """In place of a training: one that others have to end."""
    for epoch in range(1, 10_000):
        send(report(epoch, 10_000, 2 + 1 / epoch))


@pytest.fixture(scope="module", autouse=True)
def shipped():
    """Trial processes cannot import this module: what they run of it travels whole."""
    for module in (sys.modules[__name__], sys.modules[report.__module__]):
        cloudpickle.register_pickle_by_value(module)
    yield
    for module in (sys.modules[__name__], sys.modules[report.__module__]):
        cloudpickle.unregister_pickle_by_value(module)


def planted_search(results, data, trainable, *arguments):
    """A search of made-up trials, one at a time, without an export."""
    settings = [
        "baselines=[]",  # of another space
        'space={"model.latent_dim": {"low": 100, "high": 120}}',
        "baselines=" + json.dumps([{"model.latent_dim": 100 + i} for i in range(len(ENDINGS))]),
        *("sampler=random", "scheduler.reduction_factor=4", "stopping.patience=2", "stopping.stall_patience=2"),
        *("stopping.grace_epochs=0", "stopping.grace_generator_steps=0", "stopping.interval_generator_steps=1"),
    ]
    laid = [part for text in settings for part in ("--set", text)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuner, "run_trial", trainable)
        patch.setattr(session, "check_fit", lambda config, dataset: None)
        patch.setattr(session, "finish", lambda *_: None)
        return search(results, data, "--max-epochs", str(LAST), "--name", "x", *laid, *arguments)


def offline(folder, trial_id):
    (file,) = folder.glob(f"wandb/offline-run-*/run-x-{trial_id}.wandb")
    return Offline(file)


def table_of(folder):
    return pd.read_csv(folder / "trials.csv", dtype={"trial_id": str}, keep_default_na=False)


def told(folder):
    """What Optuna knows of each trial that has begun, by Tune's id."""
    begun = (trial for trial in study(folder).trials if trial.state is not TrialState.WAITING)
    return {trial.user_attrs["tune_trial_id"]: trial for trial in begun}


def statuses(folder):
    """As Tune would go on from them: of itself it may save an earlier status of a trial that failed last."""
    mend_state(folder)
    return {trial.trial_id: trial.status for trial in ExperimentAnalysis(str(folder / "tune")).trials}


@pytest.fixture(scope="module")
def search_of_all(cluster, prepared, tmp_path_factory):
    """The folder of a search whose trials end in all ways of the table, and what it printed."""
    results = tmp_path_factory.mktemp("results")
    folder, text, finished = planted_search(results, prepared, run_planted, "--num-samples", str(len(ENDINGS)))
    assert finished
    return folder, text


@pytest.fixture(scope="module")
def ended(search_of_all):
    return search_of_all[0]


@pytest.mark.parametrize("number", range(len(ENDINGS)), ids=list(ENDINGS))
def test_each_ending_is_told_alike_everywhere(ended, number):
    _, state, constraints, status, shown_state, reason, epochs = list(ENDINGS.values())[number]
    row = table_of(ended).iloc[number]
    assert row["model.latent_dim"] == 100 + number
    assert (row["state"], row["epochs"]) == (shown_state, epochs)
    assert row["stop_reason"].startswith(reason)
    assert bool(row["stop_reason"]) == bool(reason)
    trial = told(ended)[row["trial_id"]]
    assert (trial.state, trial.constraints) == (state, constraints)
    assert statuses(ended)[row["trial_id"]] == status
    run = offline(ended, row["trial_id"])
    assert run.steps == list(range(1, epochs + 1))
    assert (run.summary["state"], run.summary["stop_reason"]) == (shown_state, row["stop_reason"])
    assert run.exit_code == (shown_state == "failed")


@pytest.mark.parametrize(
    ("ending", "cause"),
    [("exception", "RuntimeError: of its own"), ("worker lost", "its process has died, or its machine is lost")],
)
def test_what_fails_is_told_in_a_line_with_the_cause_and_where_to_read_more(search_of_all, ending, cause):
    folder, text = search_of_all
    trial_id = table_of(folder)["trial_id"][list(ENDINGS).index(ending)]
    lines = [line for line in text.splitlines() if line.startswith(f"Trial {trial_id}")]
    assert lines[:-1] == [f"Trial {trial_id}: {cause}; it goes on from epoch 1."] * MAX_FAILURES
    said, _, file = lines[-1].removesuffix(".").partition(". More in ")
    assert said == f"Trial {trial_id} has failed: {cause}"
    assert Path(file).read_text().count("Failure # ") == MAX_FAILURES + 1
    assert "Traceback" not in text


def run_and_fail(parameters, **_):
    """In place of a training: what happens on a machine whose disk is full."""
    send(report(1, LAST, 2.0))
    raise OSError(28, "No space left on device")


@pytest.mark.all
def test_a_search_whose_trials_all_fail_ends_with_the_reason_and_can_go_on(cluster, prepared, tmp_path):
    why = r"5 of the last 5 trials have failed, .*: OSError: \[Errno 28\] No space left on device. .*--resume"
    with pytest.raises(OSError, match=why):
        planted_search(tmp_path, prepared, run_and_fail, "--num-samples", "7")
    assert [trial.state for trial in told(tmp_path / "x").values()] == [FAIL] * 5
    again = ["--results", str(tmp_path), "--name", "x", "--resume"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuner, "run_trial", run_planted)
        patch.setattr(session, "check_fit", lambda config, dataset: None)
        patch.setattr(session, "finish", lambda *_: None)
        folder, _, finished = run(plan.make(parse_arguments(again), {}))
    assert finished
    assert table_of(folder)["trial_id"].is_unique
    assert list(table_of(folder)["state"] == "failed") == [True] * 5 + [False] * 2


def no_room():
    raise OSError(28, "No space left on device")


def test_a_disk_that_is_full_at_a_report_is_told_as_itself(cluster, prepared, tmp_path, monkeypatch):
    with_callback(monkeypatch, AtReport(3, no_room))
    with pytest.raises(OSError, match=r"^\[Errno 28\] No space left on device$"):
        planted_search(tmp_path, prepared, run_for_ever, "--set", "stopping.stall_patience=0")


def test_a_database_lost_in_mid_search_is_told_without_its_address(cluster, prepared, tmp_path, monkeypatch):
    file = tmp_path / "hidden.db"
    monkeypatch.setenv("OPTUNA_STORAGE", f"sqlite:///{file}")
    with_callback(monkeypatch, AtReport(3, lambda: file.write_bytes(b"no database")))
    with pytest.raises(OSError, match=r"OPTUNA_STORAGE names a database that does not answer .*--resume") as told:
        planted_search(tmp_path / "results", prepared, run_for_ever, "--set", "stopping.stall_patience=0")
    assert "hidden" not in str(told.value)


def test_ctrl_c_leaves_a_trial_to_go_on_with(cluster, prepared, tmp_path, monkeypatch):
    with_callback(monkeypatch, AtReport(3, ctrl_c))
    folder, text, finished = planted_search(tmp_path, prepared, run_for_ever, "--set", "stopping.stall_patience=0")
    assert not finished
    assert "--resume" in text
    ((trial_id, trial),) = told(folder).items()
    assert trial.state is TrialState.RUNNING
    assert statuses(folder)[trial_id] not in ("TERMINATED", "ERROR")
    assert not (folder / "trials.csv").exists()  # written whenever a trial ends
    run = offline(folder, trial_id)
    assert (run.steps, run.summary["state"]) == ([1, 2, 3], "interrupted")


def test_trials_that_time_cuts_off_have_ended(cluster, prepared, tmp_path, monkeypatch):
    two_hours_pass(monkeypatch)
    folder, _, finished = planted_search(tmp_path, prepared, run_for_ever, "--max-hours", "1")
    assert finished
    (row,) = table_of(folder).to_dict("records")
    assert (row["state"], row["stop_reason"]) == ("stopped", "budget: time is up")
    (trial,) = told(folder).values()
    assert (trial.state, trial.constraints) == (PRUNED, {})
    assert statuses(folder) == {row["trial_id"]: "TERMINATED"}
    run = offline(folder, row["trial_id"])
    assert run.steps == list(range(1, row["epochs"] + 1))
    assert (run.summary["state"], run.summary["stop_reason"]) == ("stopped", "budget: time is up")
