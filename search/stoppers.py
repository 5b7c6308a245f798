"""Rules that stop a trial by its own history: pure functions, so that each decision can be looked up in a table."""

from collections.abc import Sequence
from itertools import combinations
from statistics import median
from typing import Any

from search.config import DriftConfig

DRIFT = "drift/"


def drift_reason(history: Sequence[dict[str, Any]], config: DriftConfig) -> str | None:
    """Why a trial is to stop for drift, or None to go on.

    A moment drifts if it was further than the bound from the real one, and not coming closer (Theil-Sen slope of its
    distance 0 or more), over the last `patience` reports, all after the grace. A gap that closes is learning.
    """
    recent = history[-config.patience :]
    if len(recent) < config.patience or not all(_past_grace(report, config) for report in recent):
        return None
    for name in (key for key in recent[-1] if key.startswith(DRIFT)):
        gaps = [abs(report[name]) for report in recent]
        if min(gaps) > config.bound and theil_sen_slope(gaps) >= 0:
            return f"drift: {name.removeprefix(DRIFT)} off by {gaps[-1]:.1f} (bound {config.bound:g}), not closing"
    return None


def _past_grace(report: dict[str, Any], config: DriftConfig) -> bool:
    epochs, steps = report["epoch"], report["generator_steps"]
    return bool(epochs > config.grace_epochs and steps > config.grace_generator_steps)


def theil_sen_slope(values: Sequence[float]) -> float:
    """Median slope between all pairs of equally spaced values (Theil 1950, Sen 1968)."""
    return median((values[j] - values[i]) / (j - i) for i, j in combinations(range(len(values)), 2))
