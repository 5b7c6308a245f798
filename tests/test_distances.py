import itertools
import math

import numpy as np
import ot
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchmetrics.image.kid import poly_mmd

from trainables import metrics


def features(n=40, dimensions=6, seed=0, shift=0.0):
    return torch.randn(n, dimensions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def test_the_distance_of_two_gaussians_is_known():
    zero, one = torch.zeros(4), torch.ones(4)
    assert metrics.frechet_diagonal(zero, one, zero, one).item() == 0
    assert metrics.frechet_diagonal(zero, one, 2 * one, 4 * one).item() == 4 + 9


def test_wasserstein_equals_scipy_s_and_pot_s():
    a, b = (torch.stack([features(seed=seed + k, shift=0.3 * k) for seed in range(3)]) for k in (0, 1))
    found = metrics.wasserstein(a, b)
    assert found.shape == (3, 6)
    for split, dimension in itertools.product(range(3), range(6)):
        pair = a[split, :, dimension].numpy(), b[split, :, dimension].numpy()
        assert found[split, dimension] == pytest.approx(scipy.stats.wasserstein_distance(*pair), rel=1e-6)
        assert found[split, dimension] == pytest.approx(ot.wasserstein_1d(*pair, p=1), rel=1e-6)


def test_wasserstein_of_projections_averages_to_pot_s_sliced_distance():
    a, b, directions = features(), features(seed=1, shift=0.2), features(6, 30, seed=2)
    directions /= directions.norm(dim=0)
    expected = ot.sliced_wasserstein_distance(a.numpy(), b.numpy(), projections=directions.numpy(), p=1)
    assert metrics.wasserstein(a @ directions, b @ directions).mean() == pytest.approx(expected, rel=1e-6)


VALUES = arrays(np.float64, st.tuples(st.integers(1, 12), st.just(2)), elements=st.floats(-1e3, 1e3))


@settings(deadline=None)
@given(VALUES, st.floats(-1e3, 1e3), st.randoms(use_true_random=False))
def test_wasserstein_is_zero_on_itself_and_the_shift_of_a_translation(values, shift, random):
    a = torch.from_numpy(values)
    shuffled = a[random.sample(range(len(a)), len(a))]
    assert (metrics.wasserstein(a, shuffled) == 0).all()
    np.testing.assert_allclose(metrics.wasserstein(a, shuffled + shift), abs(shift), atol=1e-9)


@settings(deadline=None)
@given(st.integers(1, 12).flatmap(lambda n: arrays(np.float64, (3, n, 2), elements=st.floats(-1e3, 1e3))))
def test_wasserstein_is_symmetric_and_obeys_the_triangle_inequality(values):
    a, b, c = torch.from_numpy(values)
    torch.testing.assert_close(metrics.wasserstein(a, b), metrics.wasserstein(b, a), rtol=0, atol=0)
    assert (metrics.wasserstein(a, c) <= metrics.wasserstein(a, b) + metrics.wasserstein(b, c) + 1e-9).all()


def kernels(a, b):
    return (metrics.polynomial_kernel(*pair) for pair in ((a, a), (a, b), (b, b)))


def test_the_kernel_without_its_diagonal_gives_torchmetrics_kid():
    a, b = features(), features(seed=1, shift=0.2)
    n = len(a)
    within, between, other = kernels(a, b)
    unbiased = sum((each.sum() - each.diagonal().sum()) / (n * (n - 1)) for each in (within, other))
    assert (unbiased - 2 * between.mean()).item() == pytest.approx(poly_mmd(a, b).item(), rel=1e-6)


def test_mmd_equals_a_double_loop():
    a, b = features(8), features(8, seed=1, shift=0.3)

    def kernel(x, y):
        return (float(sum(p * q for p, q in zip(x, y, strict=True))) / 6 + 1) ** 3

    pairs = ((a, a, 1), (b, b, 1), (a, b, -2))
    expected = sum(sign * sum(kernel(x, y) for x in one for y in other) / 64 for one, other, sign in pairs)
    found = metrics.mmd(*(each[None] for each in kernels(a, b)))
    assert found.shape == (1,)
    assert found.item() == pytest.approx(expected, rel=1e-9)


@settings(deadline=None)
@given(st.integers(1, 8).flatmap(lambda n: arrays(np.float64, (2, n, 3), elements=st.floats(-10, 10))))
def test_mmd_is_never_negative_and_zero_on_the_same_values(values):
    a, b = torch.from_numpy(values)
    assert metrics.mmd(*kernels(a, b)) >= -1e-6
    assert metrics.mmd(*kernels(a, a.flip(0))).item() == pytest.approx(0, abs=1e-6)


def plain_density_coverage(real, fake, k):
    """Naeem et al. 2020, equations 3 and 4, one pair after another."""
    radii = [sorted(math.dist(x, y) for j, y in enumerate(real) if j != i)[k - 1] for i, x in enumerate(real)]
    inside = [[math.dist(x, y) < radius for y in fake] for x, radius in zip(real, radii, strict=True)]
    return sum(map(sum, inside)) / (k * len(fake)), sum(map(any, inside)) / len(real)


@pytest.mark.parametrize("shift", [0.0, 0.7, 2.0, 30.0])
def test_density_and_coverage_equal_a_plain_count(shift):
    splits = [(features(30, 3, seed=seed), features(30, 3, seed=seed + 9, shift=shift)) for seed in range(3)]
    within = torch.stack([torch.cdist(real, real) for real, _ in splits])
    between = torch.stack([torch.cdist(real, fake) for real, fake in splits])
    found = torch.stack(metrics.density_coverage(within, between), dim=1)
    expected = [plain_density_coverage(real.tolist(), fake.tolist(), 5) for real, fake in splits]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


def test_coverage_sees_a_class_that_is_missing_and_density_one_that_is_crowded():
    real = torch.cat([features(20, 3), features(20, 3, seed=1, shift=50)])
    fake = features(40, 3, seed=2)
    density, coverage = metrics.density_coverage(torch.cdist(real, real)[None], torch.cdist(real, fake)[None])
    assert coverage.item() <= 0.5
    assert density.item() > 0.5


def test_fewer_windows_than_neighbours_have_smaller_balls():
    real = torch.tensor([[0.0], [1.0], [3.0]])
    density, coverage = metrics.density_coverage(torch.cdist(real, real)[None], torch.zeros(1, 3, 3))
    assert (density.item(), coverage.item()) == (1.5, 1.0)


def test_the_nearest_neighbour_is_another_window():
    assert metrics.nearest(torch.tensor([[0.0], [1.0], [3.0], [3.5]])) == pytest.approx((1 + 1 + 0.5 + 0.5) / 4)
    assert metrics.nearest(torch.ones(3, 4)) == 0
    crowd = features(100, 8)
    expected = np.mean([sorted(math.dist(x, y) for y in crowd.tolist())[1] for x in crowd.tolist()])
    assert metrics.nearest(crowd) == pytest.approx(expected, rel=1e-6)


def test_copies_have_no_distance_however_many_they_are():
    different = features(40, 500).float()
    assert metrics.nearest(different[:1].repeat(40, 1)) < 1e-3 * metrics.nearest(different)
