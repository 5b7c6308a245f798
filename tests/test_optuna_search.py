import math
from functools import partial
from statistics import median

import optuna
import pytest
from optuna.trial import TrialState

from search.optuna_search import OptunaSearch, PastTrial, check_new, earlier_trials, ending, open_storage
from search.samplers import make_sampler
from search.space import Choices, Range
from search.storage import JOURNAL

SPACE = {"training.critic_lr": Range(1e-5, 1e-3, log=True), "model.latent_dim": Range(100, 1000), "k": Choices((1, 2))}


def result(score, epoch, last_epoch=False, stop_reason=""):
    return {"score": score, "epoch": epoch, "last_epoch": last_epoch, "stop_reason": stop_reason}


def searcher(tmp_path, sampler="tpe", seed=3, **kwargs):
    make = partial(make_sampler, sampler, SPACE, [1, 3], 9, seed)
    return OptunaSearch(SPACE, make, open_storage(tmp_path / JOURNAL), "a search", **kwargs)


def study(tmp_path):
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / JOURNAL)))
    return optuna.load_study(study_name="a search", storage=storage)


def states(tmp_path):
    return [trial.state for trial in study(tmp_path).trials]


def test_proposals_lie_in_the_space(tmp_path):
    search = searcher(tmp_path)
    for i in range(5):
        parameters = search.suggest(f"t{i}")
        assert parameters.keys() == SPACE.keys()
        assert 1e-5 <= parameters["training.critic_lr"] <= 1e-3
        assert isinstance(parameters["model.latent_dim"], int)
        assert parameters["k"] in (1, 2)


POINT = {"training.critic_lr": 1e-4, "model.latent_dim": 800, "k": 1}


def past(trial_id, parameters, *reports, running=False, failed=False):
    return PastTrial(trial_id, parameters, reports, running, failed)


def test_baselines_come_first_and_once(tmp_path):
    search = searcher(tmp_path, baselines=[POINT])
    assert search.suggest("a") == POINT
    assert search.suggest("b") != POINT
    search.rebuild([past("a", POINT, result(2.0, 1), running=True)])
    assert search.suggest("c") != POINT


def test_a_baseline_that_tune_has_not_heard_of_is_tried_again(tmp_path):
    search = searcher(tmp_path, baselines=[POINT])
    search.suggest("a")
    search.rebuild([])
    assert search.suggest("b") == POINT


def test_a_baseline_without_a_fixed_parameter_leaves_the_others_to_the_sampler(tmp_path):
    assert searcher(tmp_path, baselines=[{"k": 2}]).suggest("a")["k"] == 2


@pytest.mark.parametrize(
    ("final", "error", "state"),
    [
        (result(2.0, 9, last_epoch=True), False, TrialState.COMPLETE),
        (result(2.0, 4), False, TrialState.PRUNED),  # stopped by the scheduler
        (result(2.0, 4, stop_reason="drifting: minimum"), False, TrialState.PRUNED),
        (result(2.0, 9, last_epoch=True, stop_reason="drifting: minimum"), False, TrialState.PRUNED),
        (result(math.inf, 9, last_epoch=True, stop_reason="diverged"), False, TrialState.PRUNED),
        (result(math.nan, 9, last_epoch=True), False, TrialState.PRUNED),
        (result(2.0, 4), True, TrialState.FAIL),
        (None, True, TrialState.FAIL),
        (None, False, TrialState.FAIL),
        ({}, False, TrialState.FAIL),
    ],
)
def test_how_each_ending_is_told(tmp_path, final, error, state):
    assert ending(final, error) is state
    search = searcher(tmp_path)
    search.suggest("a")
    search.on_trial_complete("a", final, error)
    assert states(tmp_path) == [state]


def test_a_pruned_trial_keeps_its_scores_by_epoch_the_last_one_too(tmp_path):
    search = searcher(tmp_path)
    search.suggest("a")
    search.on_trial_result("a", result(9.0, 1))
    search.on_trial_result("a", result(math.inf, 2))
    search.on_trial_complete("a", result(5.0, 3))
    assert study(tmp_path).trials[0].intermediate_values == {1: 9.0, 3: 5.0}


def test_a_complete_trial_is_worth_its_best_epoch(tmp_path):
    search = searcher(tmp_path)
    search.suggest("a")
    search.on_trial_result("a", result(2.0, 1))
    search.on_trial_complete("a", result(5.0, 9, last_epoch=True))
    assert study(tmp_path).trials[0].value == 2.0


def test_trials_cut_off_with_the_search_do_not_run_for_ever(tmp_path):
    search = searcher(tmp_path)
    search.suggest("a")
    search.suggest("b")
    search.on_trial_result("a", result(2.0, 1))
    search.settle()
    assert states(tmp_path) == [TrialState.PRUNED, TrialState.FAIL]


def test_a_second_ending_of_the_same_trial_changes_nothing(tmp_path):
    search = searcher(tmp_path)
    search.suggest("a")
    search.on_trial_complete("a", result(5.0, 3))
    search.on_trial_result("a", result(1.0, 4))
    search.on_trial_complete("a", result(1.0, 9, last_epoch=True))
    assert states(tmp_path) == [TrialState.PRUNED]
    assert study(tmp_path).trials[0].intermediate_values == {3: 5.0}


def test_a_trial_that_broke_a_rule_violates_a_constraint_of_its_name(tmp_path):
    search = searcher(tmp_path)
    reasons = {"a": "drifting: minimum off by 60", "b": "", "c": "out of memory: 9 GB", "d": "stalled: score 2.00"}
    for name, reason in reasons.items():
        search.suggest(name)
        search.on_trial_complete(name, result(2.0, 4, stop_reason=reason))
    assert [trial.constraints for trial in study(tmp_path).trials] == [
        {"drifting": 1.0},
        {},
        {"out of memory": 1.0},
        {},
    ]


def test_a_study_made_anew_of_what_trials_reported_is_the_one_there_was(tmp_path):
    endings = {
        "complete": ([result(3.0, 1), result(2.0, 2), result(2.5, 3, last_epoch=True)], False),
        "scheduler": ([result(9.0, 1), result(8.0, 2)], False),
        "drift": ([result(9.0, 1), result(8.0, 2, stop_reason="drifting: mean")], False),
        "diverged": ([result(9.0, 1), result(math.inf, 2, stop_reason="diverged: loss")], False),
        "failed": ([result(9.0, 1)], True),
        "failed at once": ([], True),
    }
    search, known = searcher(tmp_path), []
    for name, (reports, failed) in endings.items():
        parameters = search.suggest(name)
        for report in reports if failed else reports[:-1]:
            search.on_trial_result(name, report)
        search.on_trial_complete(name, None if failed else reports[-1], failed)
        known.append(past(name, parameters, *reports, failed=failed))
    known.append(past("running", search.suggest("running"), result(4.0, 1), running=True))
    search.on_trial_result("running", result(4.0, 1))

    def told():
        kept = ("number", "state", "values", "params", "distributions", "intermediate_values", "constraints")
        return [[getattr(trial, name) for name in kept] for trial in study(tmp_path).trials]

    before = told()
    (tmp_path / JOURNAL).write_bytes((tmp_path / JOURNAL).read_bytes()[:-20])  # as a kill leaves it
    again = searcher(tmp_path)
    again.rebuild(known)
    assert told() == before
    again.on_trial_complete("running", result(1.0, 9, last_epoch=True))
    assert states(tmp_path)[-1] is TrialState.COMPLETE
    assert study(tmp_path).trials[-1].value == 1.0


def test_a_trial_that_tune_has_forgotten_is_forgotten(tmp_path):
    search = searcher(tmp_path)
    known = [past(name, search.suggest(name), running=True) for name in "abc"]
    search.rebuild(known[:2])
    search.on_trial_complete("c", result(1.0, 9, last_epoch=True))
    assert states(tmp_path) == [TrialState.RUNNING, TrialState.RUNNING]


@pytest.mark.parametrize("sampler", ["curves", "tpe"])
def test_the_same_seed_and_results_give_the_same_proposals(tmp_path, sampler):
    def proposals(folder):
        folder.mkdir()
        search, found = searcher(folder, sampler), []
        for i in range(12):
            parameters = search.suggest(str(i))
            found.append(parameters)
            search.on_trial_complete(str(i), result(parameters["training.critic_lr"], 9, last_epoch=True))
        return found

    first = proposals(tmp_path / "a")
    assert first == proposals(tmp_path / "b")
    assert len({tuple(p.values()) for p in first}) == 12


@pytest.mark.parametrize("sampler", ["curves", "tpe", "random"])
def test_a_resumed_search_does_not_repeat_its_first_proposals(tmp_path, sampler):
    search = searcher(tmp_path, sampler)
    first = search.suggest("a")
    search.rebuild([past("a", first, running=True)])
    assert search.suggest("b") != first


@pytest.mark.parametrize("sampler", ["tpe", "curves", "gp"])
def test_samplers_learn_where_scores_are_low(tmp_path, sampler):
    space = {"x": Range(0.0, 1.0)}
    make = partial(make_sampler, sampler, space, [9], 9, 0)
    search, found = OptunaSearch(space, make, open_storage(tmp_path / JOURNAL), "s"), []
    for i in range(20):
        x = search.suggest(str(i))["x"]
        found.append(abs(x - 0.2))
        search.on_trial_complete(str(i), result((x - 0.2) ** 2, 9, last_epoch=True))
    assert median(found[-10:]) < 0.1  # uniform draws: 0.25


def test_earlier_trials_within_the_space_are_learnt_from_and_not_counted(tmp_path):
    (tmp_path / "earlier").mkdir()
    earlier = searcher(tmp_path / "earlier")
    for name in "ab":
        parameters = earlier.suggest(name)
        earlier.on_trial_complete(name, result(3.0, 9, last_epoch=True))
    earlier.suggest("still running")
    found = earlier_trials([str(tmp_path / "earlier")], SPACE)
    assert [trial.value for trial in found] == [3.0, 3.0]
    narrow = {**SPACE, "model.latent_dim": Range(1, parameters["model.latent_dim"] - 1)}
    assert len(earlier_trials([str(tmp_path / "earlier")], narrow)) < 2
    assert earlier_trials([str(tmp_path / "earlier")], {"k": SPACE["k"]}) == []
    search = searcher(tmp_path, earlier=found, baselines=[POINT])
    assert search.suggest("a") == POINT
    assert states(tmp_path) == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.RUNNING]
    with pytest.raises(ValueError, match=r"nowhere.*does not exist"):
        earlier_trials([str(tmp_path / "nowhere")], SPACE)


def test_earlier_trials_of_fewer_choices_and_another_scale_are_learnt_from(tmp_path):
    (tmp_path / "earlier").mkdir()
    earlier = searcher(tmp_path / "earlier")
    parameters = earlier.suggest("a")
    earlier.on_trial_complete("a", result(3.0, 9, last_epoch=True))
    wider = {**SPACE, "k": Choices((1, 2, 3)), "model.latent_dim": Range(50, 1000, log=True)}
    make = partial(make_sampler, "tpe", wider, [1, 3], 9, 3)
    found = earlier_trials([str(tmp_path / "earlier")], wider)
    search = OptunaSearch(wider, make, open_storage(tmp_path / JOURNAL), "a search", earlier=found)
    assert search.suggest("b").keys() == parameters.keys()
    assert study(tmp_path).trials[0].params == parameters


def test_a_database_holds_the_study_where_one_is_named(tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    monkeypatch.setenv("OPTUNA_STORAGE", url)
    check_new("a search")
    search = searcher(tmp_path)
    search.suggest("a")
    search.on_trial_complete("a", result(3.0, 9, last_epoch=True))
    assert len(optuna.load_study(study_name="a search", storage=url).trials) == 1
    assert not (tmp_path / JOURNAL).exists()
    with pytest.raises(ValueError, match="has a study a search already; choose another --name"):
        check_new("a search")
    assert [trial.value for trial in earlier_trials([str(tmp_path / "a search")], SPACE)] == [3.0]
    with pytest.raises(ValueError, match=r"another.*does not exist"):
        earlier_trials([str(tmp_path / "another")], SPACE)


@pytest.mark.parametrize("url", ["no url", "sqlite:////nowhere/hidden.db", "odd://me:hidden@host/studies"])
def test_a_database_that_cannot_be_opened_is_told_without_its_address(tmp_path, monkeypatch, url):
    monkeypatch.setenv("OPTUNA_STORAGE", url)
    with pytest.raises(ValueError, match="names a database that cannot be opened") as refusal:
        open_storage(tmp_path / JOURNAL)
    assert "hidden" not in str(refusal.value)
