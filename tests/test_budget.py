"""What ends a whole search: time, cost, or a score that is good enough."""

import math
from dataclasses import replace

import pandas as pd
import pytest
from optuna.trial import TrialState
from ray.tune.experiment import Trial

from search.budget import Budget, ended_by, limit_hours, seconds_needed
from search.config import with_settings
from search.optuna_search import PastTrial
from search.presets import preset
from tests.test_progress import trial
from tests.test_search import search, study

CONFIG = preset("demo")


def limited(**values):
    """The demo's configuration with such budgets, at a price of 4 an hour."""
    return replace(CONFIG, resources=replace(CONFIG.resources, cost_per_hour=4.0), **values)


@pytest.mark.parametrize(
    ("values", "hours"),
    [({}, math.inf), ({"max_hours": 3.0}, 3), ({"max_cost": 8.0}, 2), ({"max_cost": 8.0, "max_hours": 1.0}, 1)],
)
def test_cost_is_time(values, hours):
    assert limit_hours(limited(**values)) == hours


def test_a_cost_without_a_price_is_refused():
    with pytest.raises(ValueError, match=r"max_cost is 20, but .* add --set resources.cost_per_hour=PRICE"):
        with_settings(CONFIG, ["max_cost=20"])
    with_settings(CONFIG, ["resources.cost_per_hour=2.5", "max_cost=20"])


@pytest.mark.parametrize("key", ["max_cost", "target_score", "resources.cost_per_hour"])
def test_a_budget_below_zero_is_refused(key):
    with pytest.raises(ValueError, match=f"{key} is -1.*; expected at least 0"):
        with_settings(CONFIG, [f"{key}=-1"])


@pytest.mark.parametrize(
    ("found", "at_once", "expected_s"),
    [
        ([(1.0, 2.0)], 1, 0),  # no choice to make
        # A race of the four best, then of two; the slowest of them counts.
        ([(1.0, 2.0), (2.0, 3.0), (3.0, 1.0), (4.0, 1.0), (9.0, 50.0)], 1, 8 * 12 * 3.0),
        ([(1.0, 2.0), (2.0, 3.0), (3.0, 1.0)], 2, 4 * 12 * 3.0),  # three and four trainings, two at once
        ([(1.0, 2.0), (2.0, 3.0)], 6, 1 * 12 * 3.0),  # all six at once
        ([(1.0, 200.0), (2.0, 3.0)], 1, 3600),  # half of two hours at most
    ],
)
def test_time_is_kept_for_the_finalists(found, at_once, expected_s):
    assert seconds_needed(found, replace(CONFIG, max_hours=2.0), at_once) == expected_s


def test_a_search_of_limited_time_ends_while_its_finalists_have_time(monkeypatch):
    now_s = 0.0
    monkeypatch.setattr("ray.tune.stopper.timeout.time.time", lambda: 1e9 + now_s)
    budget = Budget(replace(CONFIG, max_hours=1.0), at_once=2)
    for trial_id, score in (("a", 5.0), ("b", math.inf), ("c", 7.0)):
        assert not budget(trial_id, {"score": score, "seconds": 10.0})
    stopped = {}
    for now_s in (0.0, 3200.0, 3300.0):
        stopped[now_s] = budget.stop_all()
    assert stopped == {0.0: False, 3200.0: False, 3300.0: True}  # three rounds of 12 epochs of 10 s are kept


@pytest.mark.parametrize(
    ("target", "scores", "ends"),
    [
        (0.0, [5.0, 0.1], False),  # none is good enough
        (2.0, [5.0, 2.1], False),
        (2.0, [5.0, 2.0], False),  # its checkpoint is still to be saved
        (2.0, [5.0, 2.0, 2.0], True),
        (2.0, [1.0, 5.0], True),  # whatever the trial reports after
        (2.0, [1.0, math.nan], True),
        (2.0, [math.nan, -math.inf], False),
        (2.0, [], False),
    ],
)
def test_a_search_ends_at_its_target_score(target, scores, ends):
    budget = Budget(limited(target_score=target), at_once=2)
    for score in scores:
        assert not budget("a", {"score": score, "seconds": 1.0})
    assert budget.stop_all() is ends


def past(trial_id, *scores, seconds, running=False):
    """The first epoch took all the seconds but one an epoch."""
    reports = [{"score": score, "seconds": 1.0} for score in scores]
    reports[0]["seconds"] += seconds - len(scores)
    return PastTrial(trial_id, {}, reports, running, failed=False)


@pytest.mark.parametrize(
    ("hours", "target", "ends"),
    [
        (1.0, 0.0, False),
        (0.8, 0.0, True),  # the trials have taken 3,000 s, two at once
        (1.0, 3.0, True),
        (0.0, 3.0, True),
        (0.0, 2.0, False),  # the one that came to the target goes on: its checkpoint may be lacking
    ],
)
def test_a_resumed_search_goes_on_with_what_is_left(hours, target, ends):
    budget = Budget(limited(max_hours=hours, target_score=target), at_once=2)
    trials = [past("a", 5.0, 3.0, seconds=2000.0), past("b", 4.0, 2.0, seconds=4000.0, running=True)]
    budget.replay([*trials, PastTrial("c", {}, [], running=True, failed=False)])
    assert budget.stop_all() is ends


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"max_hours": 1.0}, "budget: time is up"),
        ({"max_cost": 8.0}, "budget: cost is used up"),
        ({"max_cost": 8.0, "max_hours": 2.0}, "budget: time is up"),
        ({"max_cost": 8.0, "max_hours": 3.0}, "budget: cost is used up"),
        ({"max_cost": 8.0, "target_score": 2.9}, "budget: cost is used up"),
        ({"max_cost": 8.0, "target_score": 3.0}, "budget: target score reached"),
    ],
)
def test_the_budget_that_ended_a_search_has_a_name(values, reason):
    assert ended_by(limited(**values), [trial(1, Trial.TERMINATED, score=5.0, best=3.0, epoch=2), trial(2)]) == reason


@pytest.mark.all
def test_at_its_target_score_a_search_ends_well(cluster, prepared, tmp_path):
    arguments = ["--num-samples", "50", "--max-epochs", "1000", "--name", "x", "--set", "target_score=1e9"]
    arguments += ["--set", "finalists.count=0"]
    folder, _, finished = search(tmp_path, prepared, *arguments)
    assert finished
    assert (folder / "best" / "generator.safetensors").is_file()
    table = pd.read_csv(folder / "trials.csv")
    assert set(table["stop_reason"]) == {"budget: target score reached"}
    assert {one.state for one in study(folder).trials} <= {TrialState.PRUNED, TrialState.FAIL}
