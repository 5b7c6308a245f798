import math

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from scipy.spatial.distance import pdist
from scipy.stats import norm, qmc
from threadpoolctl import threadpool_info, threadpool_limits

from search.samplers import curves, distribution
from search.samplers.curves import CurveSampler, _expected_improvement
from search.samplers.gaussian_process import GaussianProcess
from search.space import Choices, Range

SPACE = {"lr": Range(1e-4, 1e-1, log=True), "layers": Range(1, 5), "kind": Choices(("a", "b", "c"))}
DISTRIBUTIONS = {key: distribution(domain) for key, domain in SPACE.items()}


def study(space=SPACE, seed=0, max_epochs=27):
    distributions = {key: distribution(domain) for key, domain in space.items()}
    return optuna.create_study(sampler=CurveSampler(space, distributions, [1, 3, 9], max_epochs, seed))


def ask(study, space=SPACE):
    return study.ask({key: distribution(domain) for key, domain in space.items()})


def test_first_proposals_fill_the_space_more_evenly_than_chance():
    space = {f"x{i}": Range(0.0, 1.0) for i in range(7)}
    spread = []
    for seed in range(5):
        trials = study(space, seed)
        points = np.array([list(ask(trials, space).params.values()) for _ in range(14)])
        spread.append(qmc.discrepancy(points) / qmc.discrepancy(np.random.default_rng(seed).random(points.shape)))
    assert np.median(spread) < 0.8


def run(trials, score, epochs_of, count, space=SPACE):
    """Proposals, each reported and ended as told."""
    for _ in range(count):
        trial = ask(trials, space)
        for epoch in range(1, epochs_of(trial.params) + 1):
            trial.report(score(trial.params, epoch), epoch)
        trials.tell(trial, state=TrialState.PRUNED)
    return [trial.params for trial in trials.trials]


def test_its_model_takes_one_thread_and_leaves_others_theirs(monkeypatch):
    """Where trials have all cores, more threads would wait for each other: some proposals took over a second."""
    taken = set()

    def threads():
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    fit = GaussianProcess.fit
    monkeypatch.setattr(GaussianProcess, "fit", lambda *given: taken.update(threads()) or fit(*given))
    with threadpool_limits(2, user_api="blas"):
        run(study(), lambda params, epoch: params["lr"], lambda params: 1, 20)
        assert (taken, threads()) == ({1}, {2})


def test_it_learns_from_stopped_trials_alone():
    def score(params, epoch):
        return abs(math.log10(params["lr"] / 1e-2)) + (params["kind"] != "b") + 1 / epoch

    found = run(study(), score, lambda params: 1, 40)
    late = found[20:]
    assert sum(params["kind"] == "b" for params in late) > len(late) / 2  # a third by chance
    assert np.median([abs(math.log10(params["lr"] / 1e-2)) for params in late]) < 0.4  # 0.8 by chance


def test_it_learns_that_those_behind_at_first_are_ahead_at_the_end():
    """Curves that cross: high rates are ahead at the first rung, low ones at the last epoch."""
    space = {"x": Range(0.0, 1.0)}

    def score(params, epoch):
        return abs(params["x"] - (0.9 if epoch < 9 else 0.1))

    def epochs(params):
        return 27 if round(100 * params["x"]) % 2 else 3

    found = [params["x"] for params in run(study(space), score, epochs, 40, space)]
    assert np.mean(np.abs(np.array(found[15:]) - 0.1) < 0.15) > 0.5  # a quarter by chance


def test_parameters_that_broke_a_rule_are_shunned():
    """The score tempts into a region where trainings drift."""
    space = {"x": Range(0.0, 1.0)}
    trials = study(space)
    for _ in range(30):
        trial = ask(trials, space)
        x = trial.params["x"]
        trial.report(1 - x, 3)
        if x > 0.6:
            trial.set_constraint("drifting", 1.0)
        trials.tell(trial, state=TrialState.PRUNED)
    late = [trial.params["x"] for trial in trials.trials[12:]]
    assert np.mean(np.array(late) <= 0.6) > 0.7
    assert np.median([x for x in late if x <= 0.6]) > 0.4


def test_no_proposal_comes_twice_even_at_a_corner():
    space = {"x": Range(0.0, 1.0), "n": Range(1, 3)}
    found = run(study(space), lambda params, epoch: params["x"] + params["n"], lambda params: 3, 30, space)
    assert len({tuple(params.values()) for params in found}) == 30


def test_trials_that_run_at_once_are_kept_apart():
    space = {name: Range(0.0, 1.0) for name in "xyz"}
    trials = study(space)
    run(trials, lambda params, epoch: sum((x - 0.3) ** 2 for x in params.values()), lambda params: 3, 12, space)
    at_once = np.array([list(ask(trials, space).params.values()) for _ in range(4)])
    assert pdist(at_once).min() > 0.02


@pytest.mark.parametrize("values", [[1.0, 1.0, 1.0], [math.inf, 1.0, math.inf], [1e300, 1.0, -1e300]])
def test_scores_that_say_little_do_no_harm(values):
    trials = study()
    run(trials, lambda params, epoch: values[params["layers"] % 3], lambda params: 3, 15)
    assert len(trials.trials) == 15


def test_a_search_of_one_epoch_and_one_choice():
    space = {"kind": Choices(("a",))}
    trials = study(space, max_epochs=1)
    found = run(trials, lambda params, epoch: 1.0, lambda params: 1, 6, space)
    assert found == [{"kind": "a"}] * 6


def test_many_observations_take_little_time(monkeypatch):
    monkeypatch.setattr(curves, "SPREAD_SHARE", 0.0)  # each proposal asks the model
    rng = np.random.default_rng(0)
    trials = study()
    for _ in range(1000):
        params = {key: domain.at(rng.random()) for key, domain in SPACE.items()}
        values = {epoch: rng.random() for epoch in (1, 3)}
        told = optuna.trial.create_trial(
            params=params, distributions=DISTRIBUTIONS, intermediate_values=values, state=TrialState.PRUNED
        )
        trials.add_trial(told)
    ask(trials)
    assert len(trials.sampler._process._known) <= 200
    fitted, before = trials.sampler._fitted, trials.sampler._process._log.copy()
    trials.add_trials(trials.trials[:300])
    ask(trials)
    assert trials.sampler._fitted > fitted  # with so many more, anew
    assert (trials.sampler._process._log != before).any()


def test_the_process_predicts_as_the_textbook_does():
    """Conditioning by the plain inverse (Rasmussen and Williams 2006, eq. 2.23-2.24), at its own hyperparameters."""
    rng = np.random.default_rng(1)
    x, new = rng.random((25, 3)), rng.random((7, 3))
    y = np.sin(4 * x[:, 0]) + x[:, 1]
    process = GaussianProcess(3)
    process.fit(x, y)
    *lengths, variance, noise = np.exp(process._log)

    def kernel(a, b):
        r = np.sqrt((((a[:, None] - b[None]) / lengths) ** 2).sum(-1))
        return variance * (1 + 5**0.5 * r + 5 / 3 * r**2) * np.exp(-(5**0.5) * r)

    inverse = np.linalg.inv(kernel(x, x) + (noise + 1e-6) * np.eye(25))
    mean = kernel(new, x) @ inverse @ y
    std = np.sqrt(np.diag(kernel(new, new) - kernel(new, x) @ inverse @ kernel(x, new)))
    found_mean, found_std = process.predict(new)
    np.testing.assert_allclose(found_mean, mean, atol=1e-8)
    np.testing.assert_allclose(found_std, std, atol=1e-6)
    assert np.abs(mean - np.sin(4 * new[:, 0]) - new[:, 1]).max() < 0.2
    assert lengths[2] > 2 * lengths[0]  # the third coordinate says nothing


def test_the_gradient_of_the_fit_is_that_of_its_loss():
    rng = np.random.default_rng(2)
    x, y = rng.random((12, 2)), rng.standard_normal(12)
    process, log = GaussianProcess(2), rng.normal(-1, 0.5, 4)
    squares = (x[:, None] - x[None]) ** 2
    _, gradient = process._loss(log, squares, y)
    step = 1e-6 * np.eye(4)
    numeric = [(process._loss(log + e, squares, y)[0] - process._loss(log - e, squares, y)[0]) / 2e-6 for e in step]
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5)


def test_expected_improvement_is_that_of_draws():
    gain, std = np.array([0.5, -1.0]), np.array([1.0, 2.0])
    draws = norm.rvs(gain, std, size=(400_000, 2), random_state=0)
    np.testing.assert_allclose(_expected_improvement(gain, std), np.maximum(draws, 0).mean(0), rtol=0.02)
