"""Coordinates of a model of score by parameters and epoch, and what such a model makes of a search's scores."""

import math
from collections.abc import Sequence

import numpy as np

from search.samplers.gaussian_process import Array, GaussianProcess, Indices, one_thread
from search.space import Choices, Space
from search.trials import TrialRow

# More would take minutes, and gigabytes: time grows with their cube, memory with their square.
MAX_ROWS = 1000


def coordinates(space: Space, shares_NP: Array, depth_N: Array) -> Array:
    """A coordinate for each range, one for each choice (any two choices are at distance 1), and the depth."""
    columns = []
    for domain, share_N in zip(space.values(), shares_NP.T, strict=False):
        if isinstance(domain, Choices):
            number = np.minimum((share_N * len(domain.choices)).astype(int), len(domain.choices) - 1)
            columns.append(np.eye(len(domain.choices))[number] / math.sqrt(2))
        else:
            columns.append(share_N[:, None])
    return np.hstack([*columns, depth_N[:, None]])


def depth(epoch: int, max_epochs: int) -> float:
    """How far into a training an epoch is, from 0 to 1: curves flatten, so in logarithms."""
    return math.log1p(epoch) / math.log1p(max_epochs)


def expected_scores(rows: Sequence[TrialRow], space: Space, max_epochs: int) -> Array:
    """What each trial's configuration may come to with another seed after its last epoch, by the scores of all.

    The lowest of many scores is partly luck. A Gaussian process of log score by parameters and epoch tells how much:
    neighbours that did badly, or seeds that scatter, speak against a single low score. All scores must be finite. Of
    thousands of rows it is told half so many with the lowest scores, and others evenly from all ranks.
    """
    shares = np.array([[domain.share(row.parameters[key]) for key, domain in space.items()] for row in rows])
    reached = np.array([depth(row.epochs, max_epochs) for row in rows])
    log_score = np.log([row.score for row in rows])
    center, spread = log_score.mean(), log_score.std() or 1.0
    at_rows = coordinates(space, shares, reached)
    process = GaussianProcess(at_rows.shape[1])
    told = _told(log_score)
    with one_thread():
        process.fit(at_rows[told], (log_score[told] - center) / spread)
        expected = process.predict(coordinates(space, shares, np.ones(len(rows))))[0]
    return np.asarray(np.exp(center + spread * expected))


def _told(scores: Array) -> Indices:
    """Which rows a model is told of; all of few."""
    if len(scores) <= MAX_ROWS:
        return np.arange(len(scores))
    order, half = np.argsort(scores, kind="stable"), MAX_ROWS // 2
    return np.concatenate([order[:half], order[np.linspace(half, len(order) - 1, MAX_ROWS - half).astype(int)]])
