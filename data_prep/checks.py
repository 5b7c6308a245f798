"""Checks of a record's samples: what no ground motion draws is refused with its reason.

Shapes: C component (E, N, Z), T sample. Samples are accelerations in cm/s².
"""

from math import isfinite

import numpy as np


class UnusableError(Exception):
    """A record that cannot become a window: `kind` in a word or two, and the reason."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind, self.reason = kind, reason


SHORTEST_S = 10.0
MOST_CM_S2 = 1e5  # 100 g, 25 times the strongest ground motion on record
_CLIPPED = 5  # samples in a row at the extreme
_STRAIGHT = 5e-7  # second difference of a straight line, of a component's range
_STRAIGHT_S = 0.3
_NEAR_S = 0.1
_ROUNDING, _DEAD = 1e-6, 1e-3


def check(wave_CT: np.ndarray, fs_hz: float, most: float = MOST_CM_S2) -> None:
    """Raise `UnusableError` for a record that is too short or has a component that no ground motion draws.

    `most` is the largest amplitude to be believed; another than the default where the unit is not cm/s².
    """
    if wave_CT.shape[1] < SHORTEST_S * fs_hz:
        raise UnusableError("too short", f"{wave_CT.shape[1] / fs_hz:.1f} s, at least {SHORTEST_S:g} s needed")
    for name, wave_T in zip("ENZ", wave_CT, strict=True):
        low, high = float(wave_T.min()), float(wave_T.max())
        if not (isfinite(low) and isfinite(high)):
            raise UnusableError("not finite", f"{name} holds NaN or infinity")
        if (reached := max(high, -low)) > most:
            raise UnusableError("amplitude", f"{name} reaches {reached:.3g}, no earthquake {most:g} cm/s²; which unit?")
        if low == high:
            raise UnusableError("constant", f"{name} never changes")
        if (run := max(_longest(wave_T == low), _longest(wave_T == high))) >= _CLIPPED:
            raise UnusableError("clipped", f"{name} stays at its extreme for {run} samples")
        if (drawn_s := _straight_s(wave_T, high - low, fs_hz)) >= 1:
            raise UnusableError("straight line", f"{name} is drawn with straight lines for {drawn_s:.1f} s")


def check_detrended(wave_CT: np.ndarray, largest_C: np.ndarray, fs_hz: float) -> None:
    """Raise `UnusableError` for a detrended record with a dead component, or one with a spike in it.

    Dead: nothing is left of it but rounding (`largest_C` is what it reached before), or a thousandth of another. Spike:
    no ground motion peaks six times higher in one direction than, within a second of it, in both others.
    """
    size_CT = np.abs(wave_CT)
    peak_C = size_CT.max(axis=1)
    for name, peak, largest in zip("ENZ", peak_C, largest_C, strict=True):
        if peak <= _ROUNDING * largest or peak < _DEAD * peak_C.max():
            raise UnusableError("constant", f"{name} moves {peak:.2g} cm/s² at most, another {peak_C.max():.2g}")
    for component, peak in enumerate(size_CT.argmax(axis=1)):
        around = size_CT[:, max(0, peak - round(fs_hz)) : peak + round(fs_hz)].max(axis=1)
        highest = around[component]
        around[component] = 0
        if highest > 6 * around.max():
            where = f"{'ENZ'[component]} peaks at {highest:.3g} cm/s² {peak / fs_hz:.1f} s in"
            raise UnusableError("glitch", f"{where}, the others near it at {around.max():.3g} at most")


def _longest(mask_T: np.ndarray) -> int:
    """Samples in the longest run of true ones; not counted where there are fewer than clipping takes."""
    return int(np.diff(_runs(mask_T)).max()) if np.count_nonzero(mask_T) >= _CLIPPED else 0


def _straight_s(wave_T: np.ndarray, span: float, fs_hz: float) -> float:
    """Seconds of straight lines of 0.3 s or more drawn between two corners, as over missing samples.

    A quiet stretch is nearly straight too, but no corner ends it: within 0.1 s of both ends the second difference
    must be 20 times the line's. A level line is the noise of a coarse digitiser, unless its corners are large.
    """
    limit, near, seconds = _STRAIGHT * span, max(1, round(_NEAR_S * fs_hz)), 0.0
    step = max(1, int(_STRAIGHT_S * fs_hz / 2))
    here_and_there = _bend(wave_T[:-2:step], wave_T[1:-1:step], wave_T[2::step]) < limit
    if not (here_and_there[1:] & here_and_there[:-1]).any():  # a line that is long enough holds two in a row
        return seconds
    bend = _bend(wave_T[:-2], wave_T[1:-1], wave_T[2:])
    for begin, end in _runs(bend < limit):
        if end - begin >= _STRAIGHT_S * fs_hz and begin > 0 and end < bend.size:
            corner = min(bend[max(0, begin - near) : begin].max(), bend[end : end + near].max())
            sloped = abs(wave_T[end] - wave_T[begin + 1]) > 10 * limit
            seconds += (end - begin) / fs_hz if corner > (20 * limit if sloped else 0.01 * span) else 0
    return seconds


def _bend(before_T: np.ndarray, wave_T: np.ndarray, after_T: np.ndarray) -> np.ndarray:
    """Absolute second difference."""
    return np.abs((after_T - wave_T) - (wave_T - before_T))


def _runs(mask_T: np.ndarray) -> np.ndarray:
    """Begin and end (exclusive) of each run of true values, (N, 2)."""
    edges = np.diff(np.concatenate([[0], mask_T.astype(np.int8), [0]]))
    return np.stack([np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)], axis=1)
