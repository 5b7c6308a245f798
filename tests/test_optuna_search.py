import math
import pickle

import optuna
import pytest
from optuna.trial import TrialState

from search.optuna_search import OptunaSearch, ending, make_sampler
from search.space import Choices, Range

SPACE = {"training.critic_lr": Range(1e-5, 1e-3, log=True), "model.latent_dim": Range(100, 1000), "k": Choices((1, 2))}


def result(score, epoch, last_epoch=False, stop_reason=""):
    return {"score": score, "epoch": epoch, "last_epoch": last_epoch, "stop_reason": stop_reason}


def searcher(tmp_path, **kwargs):
    return OptunaSearch(SPACE, tmp_path / "optuna.journal", "tpe", seed=3, **kwargs)


def study(tmp_path):
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(tmp_path / "optuna.journal"))
    )
    return optuna.load_study(study_name="search", storage=storage)


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


def test_baselines_come_first_and_once(tmp_path):
    point = {"training.critic_lr": 1e-4, "model.latent_dim": 800, "k": 1}
    searcher(tmp_path, baselines=[point])
    search = searcher(tmp_path, baselines=[point])
    assert search.suggest("a") == point
    assert search.suggest("b") != point


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


def test_a_restored_searcher_goes_on_with_its_trials(tmp_path):
    search = searcher(tmp_path)
    search.suggest("a")
    search.suggest("b")
    search.save(str(tmp_path / "state"))
    restored = pickle.loads(pickle.dumps(search))
    restored.restore(str(tmp_path / "state"))
    restored.on_trial_complete("a", result(1.0, 9, last_epoch=True))
    assert states(tmp_path) == [TrialState.COMPLETE, TrialState.RUNNING]


def test_trials_that_tune_has_forgotten_do_not_run_for_ever(tmp_path):
    search = searcher(tmp_path)
    for name in "abc":
        search.suggest(name)
    search.on_trial_complete("a", result(1.0, 9, last_epoch=True))
    search.forget_unknown({"a", "b"})
    assert states(tmp_path) == [TrialState.COMPLETE, TrialState.RUNNING, TrialState.FAIL]


def test_the_same_seed_and_results_give_the_same_proposals(tmp_path):
    def proposals(folder):
        folder.mkdir()
        search, found = searcher(folder), []
        for i in range(12):
            parameters = search.suggest(str(i))
            found.append(parameters)
            search.on_trial_complete(str(i), result(parameters["training.critic_lr"], 9, last_epoch=True))
        return found

    first = proposals(tmp_path / "a")
    assert first == proposals(tmp_path / "b")
    assert len({tuple(p.values()) for p in first}) == 12


def test_a_restored_search_does_not_repeat_its_first_proposals(tmp_path):
    first = searcher(tmp_path).suggest("a")
    assert searcher(tmp_path).suggest("b") != first


def test_tpe_learns_where_scores_are_low(tmp_path):
    search = OptunaSearch({"x": Range(0.0, 1.0)}, tmp_path / "j", "tpe", seed=0)
    found = []
    for i in range(40):
        x = search.suggest(str(i))["x"]
        found.append(x)
        search.on_trial_complete(str(i), result((x - 0.2) ** 2, 9, last_epoch=True))
    assert sum(abs(x - 0.2) for x in found[-15:]) / 15 < 0.17  # uniform draws: 0.34


def test_samplers_by_name():
    assert isinstance(make_sampler("random", 0), optuna.samplers.RandomSampler)
    assert isinstance(make_sampler("tpe", 0), optuna.samplers.TPESampler)
