"""Searches for two objectives: what Optuna is told, which trials are the best of both, and what is refused."""

import math
from functools import partial
from statistics import median

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from search.config import SearchConfig, with_settings
from search.objectives import Both, front, of_trial
from search.optuna_search import OptunaSearch, PastTrial, earlier_trials, open_storage
from search.samplers import make_sampler
from search.space import Range
from search.storage import JOURNAL

SPACE = {"x": Range(0.0, 1.0)}


def report(score, epoch, coverage=0.5, last_epoch=False, stop_reason="", seconds=1.0):
    told = {"score": score, "epoch": epoch, "seconds": seconds, "last_epoch": last_epoch, "stop_reason": stop_reason}
    return told | ({"gate/coverage": coverage} if math.isfinite(score) else {})


def searcher(folder, sampler="nsga2", second="coverage", **kwargs):
    make = partial(make_sampler, sampler, SPACE, [9], 9, 0)
    return OptunaSearch(SPACE, make, open_storage(folder / JOURNAL), "a search", second=second, **kwargs)


def study(folder):
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL)))
    return optuna.load_study(study_name="a search", storage=storage)


@pytest.mark.parametrize(("second", "better"), [("coverage", np.greater_equal), ("epoch_seconds", np.less_equal)])
def test_the_front_is_every_trial_that_no_other_beats(second, better):
    rng = np.random.default_rng(0)
    for _ in range(50):
        points = [Both(*pair) for pair in rng.integers(0, 6, (12, 2)).astype(float).tolist()]
        names = {f"t{i}": point for i, point in enumerate(points)}
        kept = front(names, second)
        for name, point in names.items():
            others = [p for p in points if p != point and p.score <= point.score and better(p.second, point.second)]
            assert bool(others) != (point in [names[k] for k in kept]), (name, point)


def test_a_trial_has_the_coverage_of_its_best_epoch_and_the_time_of_its_fastest():
    reports = [Both(3.0, 0.9), Both(2.0, 0.4), Both(math.inf, math.nan), Both(5.0, 0.1)]
    assert of_trial(reports, "coverage") == (2.0, 0.4)
    assert of_trial(reports, "epoch_seconds") == (2.0, 0.1)
    assert of_trial(reports[2:3], "coverage") is None


def test_optuna_is_told_both_of_a_complete_trial_and_neither_of_another(tmp_path):
    asked = searcher(tmp_path)
    endings = {
        "complete": [report(3.0, 1, 0.9), report(2.0, 2, 0.4), report(2.5, 9, 0.6, last_epoch=True)],
        "drifting": [report(9.0, 1), report(8.0, 2, stop_reason="drifting: mean")],
        "diverged": [report(9.0, 1), report(math.inf, 2, stop_reason="diverged: loss")],
    }
    known = []
    for name, reports in endings.items():
        known.append(PastTrial(name, asked.suggest(name), reports, running=False, failed=False))
        for each in reports[:-1]:
            asked.on_trial_result(name, each)
        asked.on_trial_complete(name, reports[-1])
    known.append(PastTrial("running", asked.suggest("running"), [report(4.0, 1, 0.7)], running=True, failed=False))
    asked.on_trial_result("running", report(4.0, 1, 0.7))

    def told():
        return [(t.state, t.values, t.params, t.constraints) for t in study(tmp_path).trials]

    before = told()
    assert [values for _, values, *_ in before] == [[2.0, 0.4], None, None, None]
    assert [trial.state for trial in study(tmp_path).trials[1:3]] == [TrialState.PRUNED] * 2
    again = searcher(tmp_path)
    again.rebuild(known)
    assert told() == before
    again.on_trial_complete("running", report(5.0, 9, 0.8, last_epoch=True))
    assert study(tmp_path).trials[-1].values == [4.0, 0.7]


def test_trials_cut_off_with_the_search_are_pruned_if_they_reported(tmp_path):
    asked = searcher(tmp_path)
    for name in "ab":
        asked.suggest(name)
    asked.on_trial_result("a", report(2.0, 1))
    asked.settle()
    assert [trial.state for trial in study(tmp_path).trials] == [TrialState.PRUNED, TrialState.FAIL]


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_samplers_learn_where_either_is_good(tmp_path, sampler):
    """Score is best at 0.2 and coverage at 0.4: nothing outside is worth a trial."""
    asked, found = searcher(tmp_path, sampler), []
    for i in range(25):
        x = asked.suggest(str(i))["x"]
        found.append(abs(x - 0.3))
        asked.on_trial_complete(str(i), report((x - 0.2) ** 2, 9, 1 - (x - 0.4) ** 2, last_epoch=True))
    assert median(found[-10:]) < 0.15  # uniform draws: 0.3


def test_trials_of_a_search_for_other_objectives_are_not_learnt_from(tmp_path):
    searcher(tmp_path, second="").suggest("a")
    with pytest.raises(ValueError, match="other objectives"):
        earlier_trials([str(tmp_path)], SPACE, "coverage")


def test_settings_that_need_each_other_may_come_in_any_order():
    settings = ["second_objective=coverage", "sampler=nsga2", "scheduler.name=none"]
    config = with_settings(SearchConfig(), settings)
    assert config == with_settings(SearchConfig(), settings[::-1])
    assert (config.second_objective, config.sampler, config.scheduler.name) == ("coverage", "nsga2", "none")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["scheduler.name=none", "sampler=nsga2", "second_objective=beauty"],
            "expected one of coverage, epoch_seconds",
        ),
        (["scheduler.name=none", "second_objective=coverage"], "sampler of two objectives; add"),
        (["sampler=tpe", "second_objective=coverage"], "scheduler.name=none"),
    ],
)
def test_what_does_not_go_with_a_second_objective_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        with_settings(SearchConfig(), settings)
