import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.config import StoppingConfig
from search.presets import preset
from search.stoppers import DIVERSITY, Reading, readings, stop_reason, theil_sen_slope

# Reports every ten generator steps, the first one within the grace.
CONFIG = StoppingConfig(
    drift_bound=5.0,
    diversity_bound=0.2,
    patience=3,
    stall_patience=4,
    grace_epochs=2,
    grace_generator_steps=20,
    interval_generator_steps=10,
)
ITACA, DEMO = preset("itaca").stopping, preset("demo").stopping
MINIMUM = "drift/minimum"
NAN, INF = float("nan"), float("inf")


def history(values, key=MINIMUM, steps=10):
    return [{"epoch": i, "generator_steps": i * steps, key: value} for i, value in enumerate(values, start=1)]


def decision(reports, config=CONFIG):
    """The name of the rule that stops a trial with these reports, or None."""
    reason = stop_reason(reports, config)
    return reason and reason.partition(":")[0]


def stopped(reports, config, every=1):
    """The rule that stops a trial, asked after every report as the training does, and after how many steps."""
    for count in range(1, len(reports) + 1, every):
        if rule := decision(reports[:count], config):
            return rule, reports[count - 1]["generator_steps"]
    return None, math.inf


@pytest.mark.parametrize(
    ("gaps", "stops"),
    [
        ([9, 9, 9, 9], True),  # far off, and staying there
        ([0, 9, 7, 8, 9], True),  # far off, and going away
        ([-9, -9, -7, -8, -9], True),  # the sign does not matter
        ([9, 6, -7, 8], True),
        ([20, 16, 12, 9, 7], False),  # far off, but closing: learning
        ([20, 16, 12, 12.5, 7], False),
        ([9, 9, 9, 9, 4], False),  # the last one within the bound
        ([9, 9, 4, 9, 9], False),  # one of the last three within the bound
        ([9, 9, 5, 9, 9], False),  # or at the bound
        ([9, 4, 9, 9, 9], True),
        ([0, 40, 20, 9, 9, 9], False),  # has come closer, and pauses
        ([0, 40, 20, 9, 10, 9, 11, 10], False),  # for longer than the patience
        ([0, 10, 7.5, 7.6, 7.7], False),
        ([0, 10, 8.5, 8.6, 8.7], True),  # hardly closer
        ([0, 12, 9, 10, 12, 11, 12], True),  # has come closer, and is as far again
        ([0, 12, 9, 15, 20, 30, 50], True),
        ([1, 1, 1, 1, 1], False),  # near
        ([9, 9, 9], False),  # only two reports past the grace
        ([9], False),
        ([], False),
        ([9, 9, 9, NAN], False),  # no evidence for a drift
        ([9, 9, 9, INF, -INF, NAN], False),
        ([9, 9, 9, NAN, 9], True),  # nor against one
        ([9, 9, 9, 9, NAN], True),
        ([NAN, NAN, 20, NAN, 16, NAN, 12], False),
        ([NAN] * 9, False),
    ],
)
def test_decisions_on_drift(gaps, stops):
    assert decision(history(gaps)) == ("drifting" if stops else None)


@pytest.mark.parametrize(
    ("untrained", "gaps", "stops"),
    [
        (16, [20, 20, 20, 20], False),  # 1.25 times what it was off untrained, and no more
        (-16, [20, 20, 20, 20], False),
        (16, [20, 20.1, 20.1, 20.1], True),
        (16, [20, 30, 40, 50], True),  # worse than untrained
        (3, [9, 9, 9, 9], True),  # nearer than that only the bound counts
        (NAN, [9, 9, 9, 9], True),  # nor where it is not known
        (INF, [9, 9, 9, 9], True),
    ],
)
def test_what_is_no_further_off_than_before_training_has_not_drifted(untrained, gaps, stops):
    reports = history(gaps)
    reports[0]["untrained/minimum"] = untrained
    reports[0]["untrained/mean"] = 1000  # another moment's is not this one's
    assert decision(reports) == ("drifting" if stops else None)


@pytest.mark.parametrize(
    ("diversities", "stops"),
    [
        ([0.9, 0.1, 0.1, 0.1], True),
        ([0.9, 0.15, 0.1, 0.05], True),
        ([0.0, 0.0, 0.0, 0.0], True),
        ([0.1, 0.05, 0.1, 0.15], False),  # recovering
        ([0.1, 0.1, 0.1, 0.2], False),  # at the bound
        ([0.1, 0.1, 0.3, 0.1], False),
        ([0.0, 0.01, 0.05, 0.11, 0.11, 0.11], True),  # has recovered some, but not enough
        ([0.0, 0.05, 0.15, 0.06, 0.05, 0.04], True),  # has recovered some, and lost it again
        ([0.9, 0.9, 0.9, 0.9], False),
        ([0.1, 0.1, 0.1], False),  # only two reports past the grace
        ([0.1, 0.1, NAN, 0.1], False),
        ([0.1, 0.1, NAN, 0.1, NAN, 0.1], True),
        ([], False),
    ],
)
def test_decisions_on_collapse(diversities, stops):
    assert decision(history(diversities, DIVERSITY)) == ("collapsed" if stops else None)


@pytest.mark.parametrize(
    ("scores", "stops"),
    [
        ([9, 3, 4, 4, 4, 4], True),
        ([9, 3, 3, 3, 3, 3], True),  # as good is not better
        ([9, 3, 4, 5, 6, 7], True),
        ([9, 3, 4, 4, 4], False),  # the best is among the last four
        ([1, 3, 4, 4, 4], False),  # the grace does not count
        ([9, 3, 4, 4, 4, 2.9], False),  # better
        ([9, 3, 7, 6, 5, 4], False),  # no better yet, but falling
        ([9, 3, 4, NAN, INF, 4, 4], False),
        ([9, 3, 4, NAN, INF, 4, 4, 4], True),
        ([9] + [NAN] * 9, False),
        ([], False),
    ],
)
def test_decisions_on_stalling(scores, stops):
    reports = history(scores, "score")
    assert decision(reports) == ("stalled" if stops else None)
    assert decision(reports, replace(CONFIG, stall_patience=0)) is None


@pytest.mark.parametrize(
    ("gaps", "stops"),
    [
        ([9, 9, 8, 7, 6.9, 6], False),  # far off and closing
        ([9, 9, 8, 5, 4, 3], False),  # now within the bound
        ([1, 4, 3, 2, 1, 1], True),  # what happens within the bound is no sign of learning
        ([1, 1, 9, 1, 1, 9], True),  # no trend
    ],
)
def test_a_trial_whose_gap_closes_does_not_stall_though_its_score_does(gaps, stops):
    reports = [{**report, MINIMUM: gap} for report, gap in zip(history([3] * 6, "score"), gaps, strict=True)]
    assert decision(reports) == ("stalled" if stops else None)


@pytest.mark.parametrize(("epoch", "steps", "counts"), [(2, 20, True), (1, 20, False), (2, 19, False), (9, 99, True)])
def test_the_grace_is_over_when_epochs_and_generator_steps_both_are(epoch, steps, counts):
    reports = [{"epoch": epoch, "generator_steps": steps, "score": 7.0}]
    assert readings(reports, "score", CONFIG) == ([Reading(steps, 7.0)] if counts else [])


def test_of_reports_within_the_interval_the_first_finite_one_counts():
    reports = history([9, 8, 7, NAN, 5, 4, 3, 2], "score", steps=6)
    found = readings(reports, "score", replace(CONFIG, grace_epochs=0, grace_generator_steps=0))
    assert found == [(6, 9), (12, 8), (30, 5), (42, 3)]


@pytest.mark.parametrize(
    ("reports", "reason"),
    [
        ([{"parameters": 11}], "over limit: 11 parameters (at most 10)"),
        ([{"parameters": 10, "memory_gb": 2.0}], None),  # at the limit
        ([{"memory_gb": 2.5}], "over limit: 2.5 GB (at most 2)"),
        ([{"seconds": 9.0}], None),  # the first epoch has more to do than others
        ([{"seconds": 9.0}, {"seconds": 4.0}], "over limit: 4 s an epoch (at most 3)"),
        ([{"seconds": 9.0}, {"seconds": 2.0}, {"seconds": 4.0}], None),  # it can be fast enough
    ],
)
def test_what_a_trial_costs_has_limits(reports, reason):
    reports = [{"epoch": 1, "generator_steps": 1, **report} for report in reports]
    limits = replace(CONFIG, max_parameters=10, max_memory_gb=2.0, max_epoch_seconds=3.0)
    assert stop_reason(reports, limits) == reason
    assert stop_reason(reports, CONFIG) is None


@pytest.mark.parametrize("name", ["minimum", "maximum", "mean", "log_std", "skewness", "log_kurtosis"])
def test_every_moment_is_watched_and_named(name):
    reason = stop_reason(history([7] * 5, f"drift/{name}"), CONFIG)
    assert reason == f"drifting: {name} off by 7.0 (bound 5), not closing over 20 generator steps"


def test_the_reason_names_the_bound_that_was_raised():
    reports = history([40] * 5)
    reports[0]["untrained/minimum"] = 16
    assert "minimum off by 40.0 (bound 20)" in stop_reason(reports, CONFIG)


def test_reasons_begin_with_the_rule_and_give_its_numbers():
    collapsed, stalled = history([0.04] * 4, DIVERSITY), history([9, 3, 4, 4, 4, 4], "score")
    assert stop_reason(collapsed, CONFIG) == (
        "collapsed: diversity 0.04 of the real ones' (bound 0.2), not recovering over 20 generator steps"
    )
    assert stop_reason(stalled, CONFIG) == "stalled: score 4.00, not below 3.00 again over 30 generator steps"


def test_rules_are_asked_in_order():
    both = [{**report, DIVERSITY: 0.0} for report in history([9] * 4)]
    assert decision(both) == "drifting"


def test_the_slope_is_not_moved_by_one_outlier():
    def slope(values):
        return theil_sen_slope([Reading(10 * i, value) for i, value in enumerate(values)])

    assert slope([1, 2, 3, 4, 5]) == 0.1
    assert slope([1, 2, 99, 4, 5]) == 0.1
    assert slope([3, 3, 3]) == 0


def noise(rng, steps, scale):
    """Wiggles of a generator averaged over time: smooth between every 25 generator steps."""
    grid = np.arange(0, 3001, 25)
    return np.interp(steps, grid, scale * rng.standard_normal(len(grid)))


def healthy(steps, rng):
    """Everything at once comes nearer, the score with a fifth of noise."""
    fall = np.exp(-np.array(steps) / 200)
    return {
        "score": (5 + 300 * fall) * np.exp(noise(rng, steps, 0.2)),
        MINIMUM: 5 + 60 * fall + noise(rng, steps, 4),
        "drift/log_std": -3 - 90 * fall + noise(rng, steps, 4),
        DIVERSITY: 0.8 - 0.5 * fall + noise(rng, steps, 0.1),
    }


def planted_drift(steps, rng):
    return healthy(steps, rng) | {MINIMUM: 70 + 0.05 * (steps - 800).clip(0) + noise(rng, steps, 4)}


def late_drift(steps, rng):
    return healthy(steps, rng) | {MINIMUM: 8 + 0.1 * (steps - 900).clip(0) + noise(rng, steps, 4)}


def slow_learner(steps, rng):
    """Its gaps close from twice the bound and more to below it in 2,600 steps; its score tells nothing yet."""
    return {
        "score": 80 * np.exp(noise(rng, steps, 0.1)),
        MINIMUM: 140 - steps / 28 + noise(rng, steps, 3.0),
        "drift/maximum": -100 * np.exp(-steps / 2500) + noise(rng, steps, 1.0),
    }


def collapse(steps, rng):
    return healthy(steps, rng) | {DIVERSITY: 0.05 + 0.8 * np.exp(-steps / 150) * np.exp(noise(rng, steps, 0.1))}


def stall(steps, rng):
    """Best after some 500 steps, then slowly worse."""
    score = 20 + 300 * np.exp(-steps / 80) + steps / 100
    return healthy(steps, rng) | {"score": score * np.exp(noise(rng, steps, 0.1))}


def batch_reports(curve, batch_size, epochs, seed, n_critic=5):
    """Reports of ITACA's 1,038 training windows in batches of that size; noise belongs to the curve."""
    batches = np.arange(1, epochs + 1) * (1038 // batch_size)
    steps = batches // n_critic
    metrics = curve(steps, np.random.default_rng(seed))
    counters = {"epoch": range(1, epochs + 1), "generator_steps": steps.tolist()}
    columns = {**counters, **{key: values.tolist() for key, values in metrics.items()}}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


CURVES = {
    planted_drift: "drifting",
    late_drift: "drifting",
    collapse: "collapsed",
    stall: "stalled",
    slow_learner: None,
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.__name__)
def test_the_same_curve_meets_the_same_decision_at_batch_16_and_128(curve, seed):
    small, large = batch_reports(curve, 16, 200, seed), batch_reports(curve, 128, 1600, seed)
    rule, steps = stopped(small, ITACA)
    large_rule, large_steps = stopped(large, ITACA, every=5)
    assert rule == large_rule == CURVES[curve]
    assert rule is None or abs(steps - large_steps) <= 4 * ITACA.interval_generator_steps


@pytest.mark.parametrize("n_critic", [3, 5])
@pytest.mark.parametrize("seed", range(20))
def test_a_healthy_run_of_60_epochs_is_never_stopped(seed, n_critic):
    assert stopped(batch_reports(healthy, 16, 60, seed, n_critic), ITACA) == (None, math.inf)


def test_in_the_whole_space_of_itaca_generator_steps_decide():
    """What the same decision at any two batch sizes rests on; smaller batches or n_critic take more steps an epoch."""
    domains = preset("itaca").domains
    most = 1038 / domains["training.batch_size"].low / domains["training.n_critic"].low
    assert most <= ITACA.interval_generator_steps
    assert most * ITACA.grace_epochs <= ITACA.grace_generator_steps


METRICS = (MINIMUM, DIVERSITY, "score")
VALUES = st.fixed_dictionaries(
    {MINIMUM: st.sampled_from([1, 8, 9]), DIVERSITY: st.sampled_from([0, 0.1, 1]), "score": st.sampled_from([1, 2, 3])}
)


@settings(deadline=None)
@given(st.data(), st.lists(VALUES, max_size=12), st.sampled_from([2, 5, 10]))
def test_reporting_more_often_changes_no_decision(data, values, times):
    """Whatever the reports between say."""
    config = replace(CONFIG, grace_epochs=0)
    often = [
        {"epoch": times * i + j, "generator_steps": 10 * i + 10 * j // times, **(data.draw(VALUES) if j else value)}
        for i, value in enumerate(values)
        for j in range(times)
    ]
    assert stopped(often[::times], config) == stopped(often, config)


@settings(deadline=None)
@given(st.lists(st.tuples(VALUES, st.booleans()), max_size=20))
def test_reports_without_finite_values_change_no_decision(rows):
    reports = [
        {"epoch": i, "generator_steps": 10 * i, **(dict.fromkeys(METRICS, NAN) if empty else value)}
        for i, (value, empty) in enumerate(rows)
    ]
    told = [report for report in reports if report["score"] == report["score"]]
    assert stop_reason(reports, CONFIG) == stop_reason(told, CONFIG)


@settings(deadline=None)
@given(
    st.floats(0.01, 10),
    st.lists(st.floats(-2.99, 2.99), min_size=ITACA.patience, max_size=60),
)
def test_a_closing_gap_is_never_a_drift_under_noise_of_three_times_what_it_closes_by(closing, noise):
    """Between two reports, that is. Of 190 pairs of 20 reports, the 105 that are six or more apart show it."""
    gaps = [closing * (100 - i + shift) for i, shift in enumerate(noise)]
    config = replace(ITACA, drift_bound=0.0, stall_patience=0, grace_epochs=0, grace_generator_steps=0)
    assert stopped(history([*gaps], steps=25), config) == (None, math.inf)


# Two of `tests/bench/live_runs.py`, every 60 generator steps.
PAUSES = {
    "16 times too loud, minimum": [263, 189, 148, 111, 84, 70, 65, 64, 61, 62, 69, 72, 74, 62, 45, 32, 21, 14, 8, 4],
    "16 times too loud, maximum": [246, 166, 120, 91, 64, 49, 45, 52, 65, 76, 76, 69, 58, 49, 36, 23, 14, 5, 0, 3],
    "20 times too loud, minimum": [266, 171, 118, 98, 98, 63, 77, 93, 83, 75, 66, 55, 44, 37, 36, 32, 30, 28, 29, 32],
    "20 times too loud, maximum": [240, 142, 87, 76, 87, 125, 119, 83, 58, 38, 24, 22, 28, 28, 25, 26, 24, 18, 15, 13],
}


@pytest.mark.parametrize("gaps", PAUSES.values(), ids=PAUSES.keys())
def test_a_slow_learner_that_pauses_far_off_is_stopped_only_if_it_goes_away(gaps):
    assert stopped(history(gaps, steps=60), DEMO) == (None, math.inf)
    gone_away = [*gaps[:6], *(gaps[5] * 1.3**i for i in range(1, 14))]
    assert stopped(history(gone_away, steps=60), DEMO)[0] == "drifting"


def recorded():
    """Settings and reports of each training on record, by `tests/bench/histories.py`; a missing value has no key."""
    content = json.loads((Path(__file__).parent / "golden" / "histories.json").read_text())
    for training in content:
        columns = training["reports"]
        rows = zip(*columns.values(), strict=True)
        reports = [{key: value for key, value in zip(columns, row, strict=True) if value is not None} for row in rows]
        yield training["settings"], reports


# The preset's rules, and such as decide sooner and on stalling too.
@pytest.mark.parametrize("config", [DEMO, replace(DEMO, interval_generator_steps=30, patience=8, stall_patience=8)])
def test_recorded_trainings_whose_score_got_better_after_the_grace_are_never_stopped(config):
    healthy = 0
    for tried, reports in recorded():
        scores = [reading.value for reading in readings(reports, "score", replace(config, interval_generator_steps=1))]
        if median(scores[-3:]) < median(scores[:3]):
            healthy += 1
            assert stopped(reports, config) == (None, math.inf), tried
    assert healthy >= 12


def test_recorded_generators_that_ran_away_are_stopped_as_drifting():
    ran_away = [reports for _, reports in recorded() if abs(reports[-1][MINIMUM]) > 300]
    assert len(ran_away) == 3
    assert [stopped(reports, DEMO)[0] for reports in ran_away] == ["drifting"] * 3
