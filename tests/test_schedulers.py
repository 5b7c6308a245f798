import math
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from ray.tune.schedulers import FIFOScheduler

from search.config import SchedulerConfig
from search.schedulers import Asha, make_scheduler, recent_score, rung_epochs

NAN, INF = math.nan, math.inf


def trial(name, number=1):
    return SimpleNamespace(trial_id=name, experiment_tag=f"{number}_")


def report(score, epoch, samples=None, generator_steps=100):
    return {"score": score, "epoch": epoch, "samples": samples or 10 * epoch, "generator_steps": generator_steps}


def asha(**kwargs):
    return Asha([10, 30, 90], generator_steps=0, reduction_factor=3, **kwargs)


def decisions(scheduler, reports):
    """Names that are stopped, of reports (name, score, epoch)."""
    stopped = []
    for name, score, epoch in reports:
        if scheduler.on_trial_result(None, trial(name), report(score, epoch)) == "STOP":
            stopped.append(name)
    return stopped


@pytest.mark.parametrize(
    ("reports", "stopped"),
    [
        ([("a", 5, 1)], []),  # the first at a rung goes on
        ([("a", 5, 1), ("b", 6, 1)], ["b"]),
        ([("a", 5, 1), ("b", 4, 1)], []),
        ([("a", 5, 1), ("b", 5, 1)], []),  # equally good
        ([("a", 1, 1), ("b", 2, 1), ("c", 3, 1), ("d", 1.5, 1)], ["b", "c"]),
        ([("a", 5, 1), ("a", 9, 2), ("b", 4, 1), ("b", 9, 2)], []),  # between rungs nobody is judged
        ([("a", 1, 1), ("a", 1, 2), ("a", 1, 3), ("b", 0.5, 1), ("b", 2, 2), ("b", 2, 3)], ["b"]),
        ([("a", NAN, 1)], ["a"]),
        ([("a", INF, 1)], ["a"]),
        ([("a", 5, 1), ("b", NAN, 1), ("c", INF, 1), ("d", 4.9, 1)], ["b", "c"]),  # not finite: not among the others
    ],
)
def test_decisions(reports, stopped):
    assert decisions(asha(), reports) == stopped


def test_rungs_ask_for_samples_not_epochs():
    """Epochs of half as many samples reach the first rung at the second."""
    scheduler = asha()
    scheduler.on_trial_result(None, trial("a"), report(1.0, 1))
    assert scheduler.on_trial_result(None, trial("b"), report(9.0, 1, samples=5)) == "CONTINUE"
    assert scheduler.on_trial_result(None, trial("b"), report(9.0, 2, samples=10)) == "STOP"


def test_no_rung_before_enough_generator_steps():
    scheduler = Asha([10, 30], generator_steps=50, reduction_factor=3)
    scheduler.on_trial_result(None, trial("a"), report(1.0, 1, generator_steps=50))
    assert scheduler.on_trial_result(None, trial("b"), report(9.0, 2, generator_steps=49)) == "CONTINUE"
    assert scheduler.on_trial_result(None, trial("b"), report(9.0, 2, generator_steps=50)) == "STOP"


def test_a_single_spike_does_not_stop_a_trial():
    better = [("b", 4, 1), ("b", 4, 2), ("b", 400, 3)]
    assert decisions(asha(), [("a", 5, 1), ("a", 5, 2), ("a", 5, 3), *better]) == []
    assert recent_score([4, 4, 400]) == 4
    assert recent_score([9, 9, 9, 1, 1]) == 1


def test_the_last_report_of_a_trial_counts_at_its_rung():
    scheduler = asha()
    scheduler.on_trial_complete(MagicMock(), trial("a"), report(1.0, 1))
    assert decisions(scheduler, [("b", 2, 1)]) == ["b"]
    scheduler.on_trial_complete(MagicMock(), trial("c"), {})  # one that has never reported


def test_replaying_what_was_reported_restores_the_rungs():
    """A search cut off after any number of reports decides as if it had not been, also where reports come again."""
    scores = {"a": [9, 5, 4, 3], "b": [8, 7, 6, 5], "c": [7, 9, 1, 1], "d": [6, 2, 8, 2], "e": [9, 9, 9, 9]}
    reports = [(name, scores[name][epoch - 1], epoch) for epoch in (1, 2, 3, 4) for name in scores]
    whole = asha()
    expected = [whole.on_trial_result(None, trial(n), report(s, e)) for n, s, e in reports]
    for cut in range(len(reports)):
        restored = asha()
        for name in scores:
            restored.replay(trial(name), [report(s, e) for n, s, e in reports[:cut] if n == name])
        for again, (name, score, epoch) in enumerate(reports[max(0, cut - 2) :], start=max(0, cut - 2)):
            decision = restored.on_trial_result(None, trial(name), report(score, epoch))
            if again >= cut:
                assert decision == expected[again]


def test_brackets_begin_later_and_are_the_same_for_a_seed():
    def first_rungs(seed):
        scheduler, levels = asha(brackets=3, seed=seed), []
        for number in range(1, 61):
            others = asha(brackets=3, seed=seed)
            one = trial("x", number)
            reached = [epoch for epoch in (1, 3, 9) if _records(others, one, epoch)]
            levels.append(reached[0])
            assert scheduler._bracket(one) == others._bracket(one)
        return levels

    levels = first_rungs(0)
    assert levels == first_rungs(0) != first_rungs(1)
    assert levels.count(1) > levels.count(3) > levels.count(9) > 0


def _records(scheduler, one, epoch):
    scheduler.on_trial_result(None, one, report(1.0, epoch))
    return any(one.trial_id in rung for bracket in scheduler._rungs for rung in bracket)


@pytest.mark.parametrize(
    ("grace", "max_epochs", "rungs"),
    [(3, 52, [3, 9, 27]), (20, 200, [20, 60, 180]), (4, 12, [4]), (4, 4, [4]), (9, 3, [3])],
)
def test_rungs_of_a_preset(grace, max_epochs, rungs):
    config = SchedulerConfig(grace_epochs=grace)
    assert rung_epochs(config, max_epochs) == rungs
    assert make_scheduler(config, max_epochs, 480, 0)._levels == [480 * epoch for epoch in rungs]


def test_hyperband_has_a_bracket_for_each_rung():
    assert make_scheduler(SchedulerConfig(name="hyperband", grace_epochs=3), 52, 480, 0)._brackets == 3


def test_the_median_rule_stops_the_worse_half_at_any_epoch_past_the_grace():
    scheduler = make_scheduler(SchedulerConfig(name="median", grace_epochs=2), 9, 10, 0)
    early = [("a", 1, 1), ("b", 9, 1)]
    assert decisions(scheduler, early) == []
    assert decisions(scheduler, [("a", 1, 3), ("b", 2, 3), ("c", 1.4, 3), ("d", 1.6, 3)]) == ["b", "d"]
    assert decisions(scheduler, [("a", 1, 8), ("e", 0.5, 8), ("f", 0.7, 8)]) == []


def test_no_scheduler():
    assert type(make_scheduler(SchedulerConfig(name="none"), 10, 480, 0)) is FIFOScheduler
