import itertools
import math
import statistics
from types import SimpleNamespace

import pytest
import torch

from trainables import judge as judging
from trainables import metrics
from trainables.batches import Windows
from trainables.config import with_values
from trainables.fidelity import Band, Fidelity, evenly
from trainables.score import misfit, score

BAND = Band(50.0, 0.5, 20.0)


class Judge(Fidelity):
    """Of windows that nothing else is asked of than to be an earthquake's."""

    def __call__(self, wave):
        return super().__call__(wave, torch.ones(len(wave), 1))


def windows(n, seed, events=20):
    """Z-scored coloured bursts: what real records look like to the metrics."""
    rng = torch.Generator().manual_seed(seed)
    spectrum = torch.fft.rfft(torch.randn(n, 3, 1000, generator=rng))
    spectrum = spectrum / (1 + torch.arange(501) / 50)
    time = torch.arange(1000) / 50.0
    wave = torch.fft.irfft(spectrum, n=1000) * (0.05 + time * torch.exp(-time / 2))
    return Windows(metrics.z_score(wave), torch.ones(n, 1), torch.arange(n) % events)


@pytest.fixture(scope="module")
def judge():
    return Judge(windows(200, 1), windows(80, 2), BAND, fakes=80, splits=50)


def test_real_against_real_scores_about_one(judge):
    scores = [judge(windows(80, seed).wave) for seed in range(3, 23)]
    for part in ("fidelity/log_psd", "fidelity/envelope"):
        assert 0.8 < statistics.median(s[part] for s in scores) < 1.25
    assert statistics.median(s["score"] for s in scores) < 1.25


@pytest.mark.parametrize(
    ("degrade", "part"),
    [
        (lambda x, k: x + 0.15 * k * torch.randn(x.shape, generator=torch.Generator().manual_seed(5)), "log_psd"),
        (lambda x, k: torch.roll(x, 100 * k, -1), "envelope"),
        (lambda x, k: torch.cumsum(x, -1) * 0.02 * k + x, "log_psd"),
    ],
)
def test_stronger_degradation_scores_worse(judge, degrade, part):
    real = windows(80, 3).wave
    scores = [judge(metrics.z_score(degrade(real, level))) for level in (0, 1, 2, 4)]
    assert all(worse["score"] > better["score"] for better, worse in itertools.pairwise(scores))
    parts = [s[f"fidelity/{part}"] for s in scores]
    assert parts == sorted(parts)


def test_a_drift_of_scale_fails_the_gate_though_the_shape_is_real(judge):
    real = windows(80, 3).wave
    right, doubled = judge(real), judge(2 * real)
    assert doubled["gate/normalisation"] == pytest.approx(math.log(2), abs=1e-3)
    assert doubled["score"] > 2 * right["score"]
    assert doubled["fidelity/log_psd"] == pytest.approx(right["fidelity/log_psd"], rel=1e-3)


def test_drifts_have_the_sign_and_unit_of_the_gap(judge):
    drifts = judge(windows(80, 3).wave * 1.5)
    assert drifts["drift/maximum"] > 5
    assert drifts["drift/minimum"] < -5
    assert drifts["drift/log_std"] == pytest.approx(math.log(1.5) / 0.02, rel=0.01)
    assert abs(drifts["drift/mean"]) < 0.1


PASSED = {"normalisation": 0.0, "slow_motion": 0.0, "coverage": 1.0, "diversity": 1.0}


FLOOR = {"low": 1.0, "median": 2.0, "high": 5.0}


@pytest.mark.parametrize(("part", "expected"), [(0.1, 0.0), (1.0, 0.0), (1.75, 0.5), (2.5, 1.0), (7.0, 4.0)])
def test_a_misfit_is_the_excess_over_the_floor_in_units_of_what_one_real_split_in_twenty_reaches(part, expected):
    assert misfit(part, FLOOR) == pytest.approx(expected)


def test_what_cannot_be_measured_is_no_good_fit():
    assert math.isnan(score([0.0, misfit(math.nan, FLOOR)], PASSED))


def test_splits_that_are_all_equal_do_not_make_a_misfit_infinite():
    assert misfit(1.1, dict.fromkeys(FLOOR, 2.0)) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("misfits", "expected"), [([0.0, 0.0], 1.0), ([0.0, 15**0.5], 2.0), ([0.75, 0.75], 1.25), ([999.0], 999.0005)]
)
def test_misfits_are_added_to_one_in_quadrature_and_averaged_geometrically(misfits, expected):
    assert score(misfits, PASSED) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("gate", "value", "factor"),
    [
        ("normalisation", 0.2, 1.0),
        ("normalisation", 0.6, 3.0),
        ("slow_motion", 1.0, 1.0),
        ("slow_motion", 2.5, 2.5),
        ("coverage", 1.2, 1.0),
        ("coverage", 0.5, 2.0),
        ("coverage", 0.0, 10.0),
        ("diversity", 0.85, 1.0),
        ("diversity", 0.4, 2.0),
        ("diversity", 0.0, 8.0),
    ],
)
def test_a_gate_costs_only_beyond_its_tolerance_and_in_proportion(gate, value, factor):
    assert score([3**0.5], PASSED | {gate: value}) == pytest.approx(2 * factor)


def test_gates_are_wider_and_coverage_is_skipped_where_windows_are_few():
    gates = {"normalisation": 0.6, "slow_motion": 2.0, "coverage": 0.1, "diversity": 0.5}
    assert score([0.0], gates, resolvable=False) == pytest.approx(1.5)


def test_two_judges_of_the_same_windows_give_the_same_score():
    wave = windows(80, 3).wave
    judges = [Judge(windows(50, 1), windows(60, 2), BAND, 80, 50) for _ in range(2)]
    assert judges[0](wave) == judges[1](wave)


@pytest.mark.parametrize(("n", "events", "resolvable"), [(60, 12, True), (40, 12, False), (60, 9, False)])
def test_too_few_windows_or_events_are_told(n, events, resolvable):
    judge = Judge(windows(60, 1), windows(n, 2, events), BAND, 64, 20)
    assert judge.resolvable is resolvable


def test_windows_of_noise_do_not_help_to_resolve_a_score():
    quakes = windows(60, 2)
    noise = torch.where(torch.arange(60) < 40, quakes.event, -1)
    judge = Judge(windows(60, 1), Windows(quakes.wave, quakes.label, noise), BAND, 64, 20)
    assert not judge.resolvable


def test_floors_come_with_their_band(judge):
    for floor in judge.floors.values():
        assert 0 < floor["low"] < floor["median"] < floor["high"]


def test_fewer_than_four_validation_windows_are_refused():
    with pytest.raises(ValueError, match="only 3 windows to judge by; expected at least 4"):
        Judge(windows(60, 1), windows(3, 2), BAND, 64, 20)


def test_more_validation_windows_than_fakes_are_compared_in_equal_numbers():
    judge = Judge(windows(60, 1), windows(80, 2), BAND, 20, 50)
    assert 0.7 < judge(windows(20, 3).wave)["fidelity/log_psd"] < 1.4


@pytest.mark.parametrize(("count", "n"), [(64, 201), (512, 1000), (100, 188), (128, 129)])
def test_windows_to_judge_by_are_taken_from_all_of_a_part_and_not_from_its_beginning(count, n):
    quakes = torch.arange(n) < 0.46 * n  # as they are stored: noise comes last
    for first in (0, count):
        taken = evenly(count, n, first)
        assert len(set(taken.tolist())) == count
        assert quakes[taken].float().mean() == pytest.approx(0.46, abs=0.02)


def test_few_windows_are_all_taken_in_turn():
    assert evenly(7, 3).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert evenly(4, 3, first=7).tolist() == [1, 2, 0, 1]


def test_a_judge_of_many_windows_generates_for_labels_like_theirs(trial_config, monkeypatch):
    part = Windows(torch.randn(400, 3, 64), (torch.arange(400) < 180).float()[:, None], torch.arange(400))
    for name in ("Fidelity", "file_beside"):
        monkeypatch.setattr(judging, name, lambda *_: None)
    dataset = SimpleNamespace(fs_hz=50.0, usable_band_hz=(0.1, 20.0))
    judge = judging.Judge(with_values(trial_config, {"evaluation.fakes": 100}), dataset, part, part)
    assert judge._label.mean() == pytest.approx(0.45, abs=0.01)
    assert judge._settling_label.mean() == pytest.approx(0.45, abs=0.01)


@pytest.mark.parametrize(("largest", "told"), [(20, True), (30, False)])
def test_floors_between_earthquakes_are_told_only_where_none_is_in_both(largest, told):
    val = windows(60, 2)
    event = torch.cat([torch.zeros(largest, dtype=torch.long), 1 + torch.arange(60 - largest) % 12])
    judge = Judge(windows(60, 1), Windows(val.wave, val.label, event), BAND, 64, 20)
    assert bool(judge.event_disjoint) is told


def conditioned(n, seed, heeds=True):
    """Bursts under a first condition of which they get longer, if they heed it; the second is not to be heeded."""
    rng = torch.Generator().manual_seed(seed)
    asked = torch.randn(n, 2, generator=rng)
    length = asked[:, 0] if heeds else torch.randn(n, generator=rng)
    time = torch.arange(1000) / 50.0
    wave = torch.randn(n, 3, 1000, generator=rng) * torch.exp(-time / (2 + length.clamp(-1.5, 3)[:, None, None]))
    return Windows(metrics.z_score(wave), torch.cat([torch.ones(n, 1), asked], dim=1), torch.arange(n) % 20)


@pytest.fixture(scope="module")
def asking():
    return Fidelity(conditioned(200, 1), conditioned(120, 2), BAND, fakes=120, splits=50)


def test_windows_that_heed_their_conditions_are_told_from_those_that_heed_none(asking):
    heeding, heedless = (conditioned(120, 3, heeds) for heeds in (True, False))
    right, wrong = (asking(each.wave, each.label) for each in (heeding, heedless))
    assert right["fidelity/conditions"] < 2
    assert wrong["fidelity/conditions"] > 3
    assert wrong["score"] > 1.1 * right["score"]


def test_what_is_made_for_another_s_conditions_fails_by_these_alone(asking):
    made = conditioned(120, 3)
    right, wrong = asking(made.wave, made.label), asking(made.wave, made.label.roll(1, 0))
    changed = {name for name in right if right[name] != wrong[name]}
    assert changed == {"score", "fidelity/conditions"}


def test_where_all_windows_are_asked_for_alike_there_is_nothing_to_heed(judge):
    assert "fidelity/conditions" not in judge(windows(80, 3).wave)
