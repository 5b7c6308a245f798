"""What a search is said to have found out, against planted effects and counts by hand."""

import json
import math

import numpy as np
import pytest
from scipy.stats import rankdata

from search import answers
from search.answers import Report, best_by_seconds, best_by_trial, common_epoch, importance, rank_correlation
from search.line_log import LOG, LineLog
from search.space import Choices, Range
from search.trials import TrialRow

SPACE = {"a": Range(0.0, 1.0), "b": Range(1e-4, 1.0, log=True), "c": Range(1, 9), "d": Choices(("x", "y"))}
SCHEDULER = "scheduler: others did better"


def row(number, score=1.0, epochs=10, state="complete", reason="", parameters=None):
    name = f"t{number}"
    return TrialRow(name, name, state, reason, epochs, 0, score, 1.0, 1.0, parameters or {})


def history(*scores, start_s=0.0, seconds=1.0):
    return [Report(i + 1, score, seconds, start_s + i * seconds) for i, score in enumerate(scores)]


def drawn(count, seed=0):
    """Trials drawn evenly from the space."""
    rng = np.random.default_rng(seed)
    return [
        row(
            i,
            parameters={
                "a": rng.random(),
                "b": 10 ** rng.uniform(-4, 0),
                "c": int(rng.integers(1, 10)),
                "d": "xy"[i % 2],
            },
        )
        for i in range(count)
    ]


@pytest.mark.parametrize(
    ("name", "effect"),
    [
        ("a", lambda a: (a - 0.3) ** 2),
        ("b", lambda b: abs(math.log10(b) + 2)),
        ("c", lambda c: -c),
    ],
)
def test_a_parameter_that_alone_decides_is_given_nearly_all(name, effect):
    rows = drawn(100)
    found = importance(rows, {one.trial_id: effect(one.parameters[name]) for one in rows}, SPACE)
    assert found["trials"] == 100
    assert next(iter(found["parameters"])) == name  # the first is the most important
    assert found["parameters"][name]["share"] > 0.85
    assert [key for key, each in found["parameters"].items() if each["clear"]] == [name]
    assert sum(each["share"] for each in found["parameters"].values()) == pytest.approx(1)


def test_where_nothing_matters_next_to_nothing_is_clear():
    clear = 0
    for seed in range(10):
        rows, rng = drawn(40, seed), np.random.default_rng(seed)
        found = importance(rows, {one.trial_id: rng.random() for one in rows}, SPACE)
        clear += sum(each["clear"] for each in found["parameters"].values())
    assert clear <= 6  # of 40, one in 20 by chance


def test_what_failed_trials_have_in_common_counts_against_it():
    rows = drawn(60)
    rng = np.random.default_rng(1)
    scores = {one.trial_id: math.inf if one.parameters["a"] > 0.4 else 5 + rng.random() for one in rows}
    found = importance(rows, scores, SPACE)["parameters"]
    assert found["a"]["clear"]
    assert found["a"]["share"] > 0.4


@pytest.mark.parametrize("count", [0, 1, 19])
def test_of_too_few_trials_no_figure_is_given(count):
    rows = drawn(count)
    found = importance(rows, {one.trial_id: 1.0 for one in rows}, SPACE)
    assert found == {"trials": count, "why": "20 trials with a score are needed to say which parameters matter"}


def test_a_trial_outside_the_space_is_left_out_of_it():
    rows = [*drawn(20), row(20, parameters={"a": 7.0, "b": 1.0, "c": 1, "d": "x"})]
    assert importance(rows, {one.trial_id: float(one.trial_id[1:]) for one in rows}, SPACE)["trials"] == 20


def test_trials_are_compared_at_the_last_epoch_that_almost_all_came_to():
    rows = [row(i, epochs=3, state="stopped", reason=SCHEDULER) for i in range(12)] + [row(20 + i) for i in range(8)]
    reports = {one.trial_id: history(*[1.0] * one.epochs) for one in rows}
    assert common_epoch(rows, reports) == 3
    early = row(30, epochs=1, state="stopped", reason="diverged: non-finite score")
    assert common_epoch([*rows, early], reports) == 3
    assert common_epoch([row(1, epochs=10), row(2, epochs=10)], reports) == 10
    assert common_epoch([], {}) == 0


def test_a_score_is_comparable_at_an_epoch_or_infinite_or_missing():
    rows = [
        row(1),
        row(2, epochs=2, state="stopped", reason="diverged: non-finite score"),
        row(3, epochs=2, state="stopped", reason="budget: time is up"),
        row(4, epochs=2, state="stopped", reason="stalled: score 4.00"),
        row(5, epochs=2, state="failed", reason="error"),
    ]
    reports = {
        "t1": history(9.0, 4.0, 6.0, 1.0),
        "t2": history(9.0, math.inf),
        "t3": history(9.0, 3.0),
        "t4": history(9.0, 4.0),
        "t5": history(9.0, 2.0),
    }
    assert answers.comparable_scores(rows, reports, 3) == {"t1": 4.0, "t2": math.inf, "t4": 4.0}


def test_the_best_so_far_by_trial_and_by_seconds_of_training():
    assert best_by_trial([row(1, math.nan), row(2, 5.0), row(3, math.inf), row(4, 7.0), row(5, 2.0)]) == [
        None,
        5,
        5,
        5,
        2,
    ]
    reports = {"t1": history(9.0, 8.0, 3.0, start_s=10), "t2": history(math.inf, 5.0, start_s=10.5)}
    # In the order of the clock: 9, inf, 8, 5, 3, a second each.
    assert best_by_seconds(reports) == [(1.0, 9.0), (3.0, 8.0), (4.0, 5.0), (5.0, 3.0)]


def test_rank_correlation_is_the_correlation_of_ranks():
    rng = np.random.default_rng(0)
    curves = rng.random((8, 6)) * np.linspace(3, 1, 6)
    rows = [row(i, epochs=6) for i in range(8)]
    found = rank_correlation(rows, {f"t{i}": history(*curve) for i, curve in enumerate(curves)})
    best = np.minimum.accumulate(curves, axis=1)
    expected = {
        str(epoch): np.corrcoef(rankdata(best[:, epoch - 1]), rankdata(best[:, -1]))[0, 1] for epoch in range(1, 6)
    }
    assert found["trials"] == 8
    assert found["epochs"] == pytest.approx(expected)


def test_rank_correlation_of_complete_trials_alone():
    rows = [row(i, epochs=2) for i in range(5)] + [row(9, epochs=1, state="stopped", reason=SCHEDULER)]
    reports = {f"t{i}": history(float(i), float(i) / 2) for i in range(10)}
    assert rank_correlation(rows, reports) == {"trials": 5, "epochs": {"1": pytest.approx(1.0)}}
    assert rank_correlation(rows[1:], reports)["why"] == "5 complete trials are needed"
    flat = {one.trial_id: history(7.0, float(i)) for i, one in enumerate(rows)}
    assert rank_correlation(rows, flat)["epochs"] == {"1": None}


def test_all_answers_are_plain_json_and_say_what_matters():
    rows = drawn(40)
    reports = {one.trial_id: history(1.0, one.parameters["a"]) for one in rows}
    reports["t0"] = history(math.inf)
    rows[0] = row(0, math.inf, 1, "stopped", "diverged: non-finite score", rows[0].parameters)
    for i, one in enumerate(rows[1:], start=1):
        rows[i] = row(i, one.parameters["a"], 2, parameters=one.parameters)
    found = answers.answers(rows, reports, SPACE)
    assert json.loads(json.dumps(found, allow_nan=False))["common_epoch"] == 2
    assert found["slices"]["a"][0] == [rows[0].parameters["a"], None]
    assert found["slices"]["a"][1:] == [[one.parameters["a"], one.parameters["a"]] for one in rows[1:]]
    assert len(found["history"]["by_trial"]) == 40
    told = answers.what_matters({"importance": {"parameters": {"training.n_critic": {"share": 0.613, "clear": True}}}})
    assert told == "What mattered most, by its share of importance: n_critic 61 %"
    assert answers.what_matters({"importance": {"trials": 3, "why": "too few"}}) == ""


def test_of_an_epoch_trained_twice_the_last_report_counts(tmp_path):
    log = LineLog(tmp_path / LOG)
    for epoch, score in ((1, 9.0), (2, 8.0), (2, 7.0), (3, 6.0)):
        log.write({"trial": "t1", "report": {"epoch": epoch, "score": score, "seconds": 1.0}})
        log.write({"trial": "a finalist", "report": {"epoch": epoch, "score": score, "seconds": 1.0}})
    log.close()
    found = answers.histories(tmp_path, [row(1), row(2)])
    assert {trial_id: [told[:4] for told in history] for trial_id, history in found.items()} == {
        "t1": [(1, 9.0, 1.0, 0), (2, 7.0, 1.0, 4), (3, 6.0, 1.0, 6)]
    }
