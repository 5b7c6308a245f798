import importlib
import itertools
import json
import math
import statistics
import sys
from pathlib import Path

import pytest
import scipy.stats
import torch

from trainables import finalist_metrics, metrics
from trainables.fidelity import Band
from trainables.finalist_metrics import classifier_auc, closer_look, envelope_dtw, memorisation, soft_dtw

sys.path.append(str(Path(__file__).parent / "bench"))
degradations = importlib.import_module("degradations")

BAND = Band(50.0, 0.5, 20.0)


def windows(n, seed):
    """Z-scored coloured bursts: what real records look like to the metrics."""
    rng = torch.Generator().manual_seed(seed)
    spectrum = torch.fft.rfft(torch.randn(n, 3, 1000, generator=rng)) / (1 + torch.arange(501) / 50)
    time = torch.arange(1000) / 50.0
    length = 1 + 2 * torch.rand(n, 1, 1, generator=rng)
    return metrics.z_score(torch.fft.irfft(spectrum, n=1000) * (0.05 + time * torch.exp(-time / length)))


def noise(like, seed=0):
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))


def copies(train, n, seed=0):
    """Some of the training windows, with one per cent of noise."""
    some = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:n]]
    return metrics.z_score(some + 0.01 * noise(some, seed))


def plain_soft_dtw(cost, gamma):
    """The recursion as Cuturi and Blondel have it, cell by cell."""
    points, others = cost.shape
    table = [[math.inf] * (others + 1) for _ in range(points + 1)]
    table[0][0] = 0.0
    for i in range(1, points + 1):
        for j in range(1, others + 1):
            ways = table[i - 1][j], table[i][j - 1], table[i - 1][j - 1]
            least = min(ways)
            soft = gamma * math.log(sum(math.exp((least - way) / gamma) for way in ways)) if gamma else 0.0
            table[i][j] = float(cost[i - 1, j - 1]) + least - soft
    return table[points][others]


def costs(points, others, pairs=5, seed=0):
    return torch.rand(points, others, pairs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_copies_of_training_windows_are_flagged():
    train, held = windows(100, 1), windows(40, 2)
    found = memorisation(train, held, copies(train, 40), BAND)
    assert found["closer"] == 1.0
    assert found["p"] < 1e-10
    assert found["ratio"] < 0.05
    assert found["memorised"] == 1


def test_copies_at_another_scale_are_flagged_too():
    train = windows(60, 1)
    look = closer_look(train, windows(16, 2), 3 * copies(train, 16), BAND, seed=0)
    assert look["finalist/memorisation_ratio"] < 0.05


def test_held_out_windows_are_not_flagged():
    train = windows(100, 1)
    draws = [memorisation(train, windows(40, 2 * s), windows(40, 2 * s + 1), BAND) for s in range(1, 21)]
    assert not any(found["memorised"] for found in draws)
    assert min(found["p"] for found in draws) > 1e-3
    assert 0.45 < statistics.mean(found["closer"] for found in draws) < 0.55
    assert all(0.8 < found["ratio"] < 1.25 for found in draws)


def test_typical_windows_are_closer_than_rare_ones_without_being_copies():
    train = windows(100, 1)
    rare = torch.roll(windows(60, 2), 150, -1)
    found = memorisation(train, rare, windows(60, 3), BAND)
    assert found["p"] < 1e-3
    assert found["ratio"] > 0.5
    assert found["memorised"] == 0


def test_the_share_of_closer_windows_and_its_p_are_those_of_mann_whitney(monkeypatch):
    real, fake = torch.tensor([1.0, 2.0, 2.0, 5.0, 7.0]), torch.tensor([2.0, 0.5, 1.0, 3.0])
    monkeypatch.setattr(finalist_metrics, "_nearest", lambda one, train: real if len(one) == 5 else fake)
    found = memorisation(windows(6, 1), windows(5, 2), windows(4, 3), BAND)
    pairs = [1.0 if f < r else 0.5 if f == r else 0.0 for f, r in itertools.product(fake, real)]
    assert found["closer"] == pytest.approx(statistics.mean(pairs))
    expected = scipy.stats.mannwhitneyu(fake, real, alternative="less", method="asymptotic")
    assert found["p"] == pytest.approx(expected.pvalue)
    assert found["ratio"] == pytest.approx(1 / 2)  # torch's median is the lower one


def test_windows_that_are_all_training_windows_are_no_evidence():
    train = windows(20, 1)
    found = memorisation(train, train[:10], train[10:], BAND)
    assert (found["closer"], found["p"], found["memorised"]) == (0.5, 1.0, 0.0)


def test_a_nearest_distance_is_exact_however_small():
    train = 1000 + torch.rand(40, 50, generator=torch.Generator().manual_seed(0))
    one = train[:33] + 0.001
    assert torch.allclose(finalist_metrics._nearest(one, train), (one - train[:33]).norm(dim=1), rtol=1e-3)


def test_the_classifier_guesses_between_real_windows():
    aucs = [classifier_auc(windows(64, 2 * seed + 1), windows(64, 2 * seed + 2), seed) for seed in range(4)]
    assert 0.4 < statistics.mean(aucs) < 0.6
    assert all(0.3 < auc < 0.7 for auc in aucs)


@pytest.mark.parametrize(("fakes", "least"), [(64, 0.99), (20, 0.99)])
def test_the_classifier_knows_white_noise(fakes, least):
    real = windows(64, 1)
    assert classifier_auc(real, metrics.z_score(noise(real[:fakes])), seed=0) > least


def test_the_classifier_leaves_the_global_random_numbers_alone():
    before = torch.get_rng_state()
    classifier_auc(windows(8, 1), windows(8, 2), seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_classifier_takes_windows_shorter_than_its_reach():
    assert 0 <= classifier_auc(windows(8, 1)[..., :20], windows(8, 2)[..., :20], seed=0) <= 1


@pytest.mark.parametrize("gamma", [0.0, 0.01, 0.1, 1.0])
@pytest.mark.parametrize(("points", "others"), [(1, 1), (1, 6), (6, 1), (7, 7), (9, 4), (4, 9)])
def test_soft_dtw_is_that_of_two_plain_loops(points, others, gamma):
    cost = costs(points, others)
    expected = [plain_soft_dtw(each, gamma) for each in cost.unbind(-1)]
    assert soft_dtw(cost, gamma).tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_soft_dtw_comes_to_exact_dtw_as_gamma_goes_to_nothing():
    cost = costs(12, 10)
    exact = soft_dtw(cost, 0.0)
    gaps = [(exact - soft_dtw(cost, gamma)).max().item() for gamma in (1.0, 0.1, 0.01, 0.001)]
    assert gaps == sorted(gaps, reverse=True)
    assert 0 <= gaps[-1] < 1e-2


def test_soft_dtw_is_symmetric():
    cost = costs(12, 10)
    assert torch.allclose(soft_dtw(cost, 0.1), soft_dtw(cost.transpose(0, 1), 0.1))


def test_the_alignment_goes_from_corner_to_corner_and_never_back():
    cost = costs(12, 10, pairs=3).requires_grad_()
    soft_dtw(cost, 1e-4).sum().backward()
    assert torch.isfinite(cost.grad).all()
    for alignment in cost.grad.unbind(-1):
        path = (alignment > 0.5).nonzero().tolist()  # sorted by row, then by column
        assert (path[0], path[-1]) == ([0, 0], [11, 9])
        steps = {(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(path)}
        assert steps <= {(0, 1), (1, 0), (1, 1)}


def test_windows_stretched_in_time_are_aligned_and_reversed_ones_are_not():
    time = torch.linspace(0, 1, 100)
    burst = torch.exp(-(((time - 0.3) / 0.1) ** 2)) + 0.5 * torch.exp(-(((time - 0.6) / 0.05) ** 2))
    stretched, turned = burst[(100 * time**1.3).long().clamp_max(99)], burst.flip(0)
    cost = torch.stack([(burst[:, None] - other).square() for other in (stretched, turned)], dim=-1)
    near, far = soft_dtw(cost, 0.0).tolist()
    assert near < 0.05 * far


def test_real_windows_are_as_far_from_real_ones_as_from_each_other_and_noise_is_not():
    real = windows(30, 1)
    assert 0.8 < envelope_dtw(real, windows(30, 2), seed=0) < 1.25
    assert envelope_dtw(real, metrics.z_score(noise(real)), seed=0) > 2
    assert envelope_dtw(real, real, seed=0) == pytest.approx(0, abs=1e-3)


def test_distances_between_envelopes_do_not_depend_on_how_many_are_looked_at_together(monkeypatch):
    real, fake = windows(20, 1), windows(12, 2)
    before = envelope_dtw(real, fake, seed=0)
    monkeypatch.setattr(finalist_metrics, "PAIRS", 7)
    assert envelope_dtw(real, fake, seed=0) == pytest.approx(before, rel=1e-5)


def test_the_same_seed_gives_the_same_numbers(monkeypatch):
    monkeypatch.setattr(finalist_metrics, "COMPARED", 12)
    train, real, fake = windows(40, 1), windows(20, 2), windows(20, 3)
    first, second = (closer_look(train, real, fake, BAND, seed=3) for _ in range(2))
    other = closer_look(train, real, fake, BAND, seed=4)
    assert first == second
    for name in ("finalist/classifier_auc", "finalist/soft_dtw"):
        assert first[name] != other[name]
    assert all(math.isfinite(value) for value in first.values())
    assert json.dumps(first)


@pytest.mark.parametrize(
    ("train", "real", "fake", "message"),
    [
        (20, 1, 20, "only 1 real windows to compare; expected at least 2"),
        (20, 20, 1, "only 1 generated windows to compare; expected at least 2"),
        (0, 20, 20, "no training windows to compare with; expected at least 1"),
    ],
)
def test_too_few_windows_are_refused(train, real, fake, message):
    with pytest.raises(ValueError, match=message):
        closer_look(windows(20, 1)[:train], windows(20, 2)[:real], windows(20, 3)[:fake], BAND, seed=0)


def test_two_windows_of_each_are_enough():
    look = closer_look(windows(1, 1), windows(2, 2), windows(2, 3), BAND, seed=0)
    assert all(math.isfinite(value) for value in look.values())


@pytest.mark.slow
def test_of_real_records_copies_are_flagged_and_held_out_ones_are_not(real_data):
    band = Band(real_data.fs_hz, *real_data.usable_band_hz)
    for seed in range(5):
        train, real, held = (part.wave for part in degradations.thirds(real_data, seed))
        assert memorisation(train, real, held, band)["memorised"] == 0
        assert memorisation(train, real, copies(train, len(held), seed), band)["memorised"] == 1


@pytest.mark.slow
def test_the_classifier_tells_real_records_from_stationary_noise_of_their_spectrum(real_data, monkeypatch):
    monkeypatch.setattr(finalist_metrics, "STEPS", 100)
    band = Band(real_data.fs_hz, *real_data.usable_band_hz)
    _, real, held = (part.wave for part in degradations.thirds(real_data, 3))
    assert classifier_auc(real, degradations.mean_spectrum_noise(held, band), seed=0) > 0.95
