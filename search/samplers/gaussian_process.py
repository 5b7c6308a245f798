"""Gaussian-process regression with a Matérn-5/2 kernel (Rasmussen and Williams 2006, chapters 2 and 5).

Shapes: N observation, M new point, D coordinate.
"""

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from scipy.linalg import LinAlgError, cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize
from threadpoolctl import ThreadpoolController

ROOT5 = np.sqrt(5.0)
JITTER = 1e-6
# Each hyperparameter's logarithm has a normal prior: length of every coordinate (of about 1 across), variance, noise.
LENGTH_PRIOR, VARIANCE_PRIOR, NOISE_PRIOR = (np.log(0.7), 0.8), (0.0, 1.0), (np.log(1e-2), 1.5)
LENGTH_BOUNDS, VARIANCE_BOUNDS, NOISE_BOUNDS = (-3.5, 3.0), (-4.0, 4.0), (-9.0, 1.0)
FIT_STEPS = 15
BLAS = ThreadpoolController()

Array = np.ndarray[Any, np.dtype[np.float64]]
Indices = np.ndarray[Any, np.dtype[np.int64]]


class GaussianProcess:
    """A regression of mean 0 on D coordinates; its hyperparameters are the most probable ones, found by gradient."""

    def __init__(self, coordinates: int):
        priors = np.array([*[LENGTH_PRIOR] * coordinates, VARIANCE_PRIOR, NOISE_PRIOR])
        self._prior_mean, self._prior_std = priors.T
        self._bounds = [*[LENGTH_BOUNDS] * coordinates, VARIANCE_BOUNDS, NOISE_BOUNDS]
        self._log = self._prior_mean.copy()

    def fit(self, x_ND: Array, y_N: Array) -> None:
        """Choose the hyperparameters, going on from those of the fit before, and condition on these observations."""
        squares = (x_ND[:, None] - x_ND[None]) ** 2
        options = {"maxiter": FIT_STEPS}
        found = minimize(
            self._loss, self._log, (squares, y_N), jac=True, method="L-BFGS-B", bounds=self._bounds, options=options
        )
        self._log = found.x
        self.condition(x_ND, y_N)

    def condition(self, x_ND: Array, y_N: Array) -> None:
        """Take these observations for what is known, hyperparameters unchanged."""
        variance, noise = np.exp(self._log[-2:])
        scaled = x_ND / np.exp(self._log[:-2])
        kernel = variance * _matern(_squares(scaled, scaled))[0]
        self._known = scaled
        self._factor = cholesky(kernel + (noise + JITTER) * np.eye(len(y_N)), lower=True)
        self._weights = cho_solve((self._factor, True), y_N)

    def predict(self, x_MD: Array) -> tuple[Array, Array]:
        """Mean and standard deviation at new points, without the noise of an observation."""
        variance = np.exp(self._log[-2])
        kernel_NM = variance * _matern(_squares(self._known, x_MD / np.exp(self._log[:-2])))[0]
        explained = solve_triangular(self._factor, kernel_NM, lower=True)
        left = np.maximum(variance - (explained**2).sum(0), 1e-9)
        return kernel_NM.T @ self._weights, np.sqrt(left)

    def _loss(self, log: Array, squares_NND: Array, y_N: Array) -> tuple[float, Array]:
        """Negative logarithm of the posterior of the hyperparameters, and its gradient."""
        inverse_square = np.exp(-2 * log[:-2])
        variance, noise = np.exp(log[-2:])
        correlation, slope = _matern(squares_NND @ inverse_square)
        try:
            factor = cholesky(variance * correlation + (noise + JITTER) * np.eye(len(y_N)), lower=True)
        except LinAlgError:
            return 1e10, np.zeros_like(log)
        inverse = cho_solve((factor, True), np.eye(len(y_N)))
        weights = inverse @ y_N
        outer = (inverse - np.outer(weights, weights)) / 2
        by_length = (outer * variance * slope).ravel() @ squares_NND.reshape(-1, len(inverse_square)) * inverse_square
        gradient = np.array([*by_length, variance * (outer * correlation).sum(), noise * np.trace(outer)])
        off = (log - self._prior_mean) / self._prior_std
        loss = y_N @ weights / 2 + np.log(np.diag(factor)).sum() + off @ off / 2
        return float(loss), gradient + off / self._prior_std


def one_thread() -> AbstractContextManager[Any]:
    """Have linear algebra take one thread: matrices of a thousand rows gain nothing by more.

    They would wait for cores that trials have, and sums would depend on how many there are.
    """
    return BLAS.limit(limits=1, user_api="blas")


def _squares(a_ND: Array, b_MD: Array) -> Array:
    """Squared distances (N, M)."""
    squares = (a_ND**2).sum(1)[:, None] + (b_MD**2).sum(1)[None] - 2 * a_ND @ b_MD.T
    return np.maximum(squares, 0.0)


def _matern(squares: Array) -> tuple[Array, Array]:
    """Matérn-5/2 correlation at squared scaled distances, and its slope.

    The slope is by the logarithm of a coordinate's length, over that coordinate's part of the squared distance.
    """
    distance = np.sqrt(squares)
    decay = np.exp(-ROOT5 * distance)
    return (1 + ROOT5 * distance + 5 / 3 * squares) * decay, 5 / 3 * (1 + ROOT5 * distance) * decay
