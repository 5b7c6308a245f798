"""Distances between features of chosen real windows and of chosen others, for many choices at once.

Each takes real features (N, D) and a choice of windows for each split (S, n), then others (M, D) and theirs (S, n), and
returns (S,). Shapes: N, M window, n chosen window, S split, D feature.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from trainables import metrics

Distance = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def frechet(real_ND: Tensor, one_Sn: Tensor, other_MD: Tensor, other_Sn: Tensor) -> Tensor:
    """Squared, of Gaussians whose features vary by themselves."""
    return metrics.frechet_diagonal(*_statistics(real_ND, one_Sn), *_statistics(other_MD, other_Sn))


def _statistics(features_ND: Tensor, index_Sn: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and std (S, D) of each choice of windows, as products of matrices."""
    chosen = _shares(features_ND, index_Sn)
    middle = features_ND.mean(0)
    mean = chosen @ (features_ND - middle)
    square = chosen @ (features_ND - middle).square()
    return mean + middle, (square - mean.square()).clamp_min(0).sqrt()


def _shares(features_ND: Tensor, index_Sn: Tensor) -> Tensor:
    """What each window counts in the mean of each choice, (S, N)."""
    chosen = features_ND.new_zeros(len(index_Sn), len(features_ND))
    return chosen.scatter_(1, index_Sn.to(features_ND.device), 1 / index_Sn.shape[1])


def association(count: int, real_ND: Tensor, one_Sn: Tensor, other_MD: Tensor, other_Sn: Tensor) -> Tensor:
    """Mean squared difference of how features go with the conditions, which are the last `count` columns.

    It is their covariance in units of both's spread over real windows, a correlation where these are alike: what a
    Fréchet distance of features and conditions joined sees and one of features alone does not (DeVries et al. 2019,
    arXiv 1907.08175).
    """
    std, mean = torch.std_mean(real_ND, dim=0, correction=0)
    both = ((real_ND, one_Sn), (other_MD, other_Sn))
    one, other = (_covariances((x - mean) / std.clamp_min(metrics.EPS), index, count) for x, index in both)
    return (one - other).square().mean((1, 2))


def _covariances(features_ND: Tensor, index_Sn: Tensor, count: int) -> Tensor:
    """Of all features with the last `count` ones, for each choice of windows: (S, D - count, count)."""
    chosen = _shares(features_ND, index_Sn)
    feature, condition = features_ND[:, :-count], features_ND[:, -count:]
    products = chosen @ torch.einsum("nd,nl->ndl", feature, condition).flatten(1)
    means = torch.einsum("sd,sl->sdl", chosen @ feature, chosen @ condition)
    return products.view_as(means) - means


def wasserstein(real_ND: Tensor, one_Sn: Tensor, other_MD: Tensor, other_Sn: Tensor) -> Tensor:
    """Averaged over features, each in units of its spread over real windows."""
    unit = real_ND.std(0, correction=0).clamp_min(metrics.EPS)
    return (metrics.wasserstein(real_ND[one_Sn], other_MD[other_Sn]) / unit).mean(-1)


def mmd(real_ND: Tensor, one_Sn: Tensor, other_MD: Tensor, other_Sn: Tensor) -> Tensor:
    """Squared maximum mean discrepancy by a polynomial kernel."""
    pairs = (
        (real_ND, one_Sn, real_ND, one_Sn),
        (real_ND, one_Sn, other_MD, other_Sn),
        (other_MD, other_Sn, other_MD, other_Sn),
    )
    kernels = [picked(metrics.polynomial_kernel(a, b), i, j) for a, i, b, j in pairs]
    return metrics.mmd(*kernels)


def picked(matrix: Tensor, rows_Sn: Tensor, columns_Sn: Tensor) -> Tensor:
    """Of a matrix the chosen rows and columns for each split, (S, n, n)."""
    return matrix[rows_Sn[:, :, None], columns_Sn[:, None, :]]
