"""Rules that stop a trial early: pure functions of its reports, so that each decision can be looked up in a table.

An epoch holds many generator steps in small batches and few in large ones. So that the same course of learning meets
the same decision whatever its batches, the rules count in generator steps: of the reports within an interval of them
they read the first. What is missing or not finite is evidence neither for nor against, and is passed over. Divergence
has no rule here: the training loop cannot go on after it, and gives the reason itself.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from operator import neg
from statistics import median
from typing import Any, NamedTuple

from search.config import StoppingConfig

DRIFT = "drift/"
DIVERSITY = "gate/diversity"
UNTRAINED = "untrained/"
# Of two gaps, one is well below another if it is less than this share of it.
WELL_BELOW = 0.8

History = Sequence[Mapping[str, Any]]


class Reading(NamedTuple):
    """What a metric was after so many generator steps."""

    steps: int
    value: float


def stop_reason(history: History, config: StoppingConfig) -> str | None:
    """Why a trial is to stop after these reports, oldest first, as `rule: numbers`; None to go on."""
    reasons = (rule(history, config) for rule in (over_limit, drifting, collapsed, stalled))
    return next(filter(None, reasons), None)


def over_limit(history: History, config: StoppingConfig) -> str | None:
    """The trial costs more than it may: an epoch's time is that of the fastest, as the first has more to do."""
    last = history[-1] if history else {}
    fastest = min((report.get("seconds", 0.0) for report in history[1:]), default=0.0)
    for spent, limit, unit in (
        (last.get("parameters", 0), config.max_parameters, "parameters"),
        (last.get("memory_gb", 0.0), config.max_memory_gb, "GB"),
        (fastest, config.max_epoch_seconds, "s an epoch"),
    ):
        if 0 < limit < spent:
            return f"over limit: {spent:.3g} {unit} (at most {limit:g})"
    return None


def drifting(history: History, config: StoppingConfig) -> str | None:
    """A moment stays further from the real one than the bound, and comes no closer; a gap that closes is learning.

    The bound is never below what the trial's own generator was off before training, and some more: one that is no
    further than where it began has not drifted.
    """
    for moment, gaps in _gaps(history, config).items():
        recent, bound = _last(gaps, config.patience), _bound(history, moment, config)
        if _stuck_above(bound, recent) and not _has_closed(gaps, recent):
            gap = f"{moment} off by {recent[-1].value:.1f} (bound {bound:.3g})"
            return f"drifting: {gap}, not closing over {_span(recent)}"
    return None


def collapsed(history: History, config: StoppingConfig) -> str | None:
    """Generated windows stay closer to each other than the bound allows, and do not spread again."""
    recent = _last(readings(history, DIVERSITY, config, neg), config.patience)
    if not _stuck_above(-config.diversity_bound, recent):
        return None
    diversity = f"diversity {-recent[-1].value:.2f} of the real ones' (bound {config.diversity_bound:g})"
    return f"collapsed: {diversity}, not recovering over {_span(recent)}"


def stalled(history: History, config: StoppingConfig) -> str | None:
    """The score has not been better for long and does not fall, and no gap is closing: nothing is learnt."""
    scores = readings(history, "score", config)
    recent = _last(scores, config.stall_patience)
    earlier = scores[: len(scores) - len(recent)]
    if not recent or not earlier or _least(recent) < _least(earlier) or theil_sen_slope(recent) < 0:
        return None
    windows = (_last(gaps, config.stall_patience) for gaps in _gaps(history, config).values())
    if any(_closing(config.drift_bound, gaps) for gaps in windows):
        return None
    return f"stalled: score {recent[-1].value:.2f}, not below {_least(earlier):.2f} again over {_span(recent)}"


def readings(
    history: History, key: str, config: StoppingConfig, measure: Callable[[float], float] = float
) -> list[Reading]:
    """A metric after the grace: the first finite value in each interval of generator steps, as `measure` takes it."""
    first: dict[int, Reading] = {}
    for report in history:
        if _past_grace(report, config) and math.isfinite(value := report.get(key, math.nan)):
            steps = report["generator_steps"]
            first.setdefault(steps // config.interval_generator_steps, Reading(steps, measure(value)))
    return list(first.values())


def theil_sen_slope(points: Sequence[Reading]) -> float:
    """Median slope between all pairs of readings (Theil 1950, Sen 1968)."""
    return median((b.value - a.value) / (b.steps - a.steps) for a, b in combinations(points, 2))


def _past_grace(report: Mapping[str, Any], config: StoppingConfig) -> bool:
    enough_steps = report["generator_steps"] >= config.grace_generator_steps
    return bool(enough_steps and report["epoch"] >= config.grace_epochs)


def _gaps(history: History, config: StoppingConfig) -> dict[str, list[Reading]]:
    """Distance of each moment from the real one, by the moment's name."""
    keys = dict.fromkeys(key for report in history for key in report if key.startswith(DRIFT))
    return {key.removeprefix(DRIFT): readings(history, key, config, abs) for key in keys}


def _bound(history: History, moment: str, config: StoppingConfig) -> float:
    """What a gap of this moment has to exceed to be a drift."""
    untrained = abs(history[0].get(UNTRAINED + moment, 0.0))
    return max(config.drift_bound, untrained / WELL_BELOW) if math.isfinite(untrained) else config.drift_bound


def _last(points: list[Reading], count: int) -> list[Reading]:
    """The last so many readings; none if there are fewer."""
    return points[-count:] if 0 < count <= len(points) else []


def _stuck_above(bound: float, recent: list[Reading]) -> bool:
    return bool(recent) and _least(recent) > bound and theil_sen_slope(recent) >= 0


def _has_closed(gaps: list[Reading], recent: list[Reading]) -> bool:
    """Whether the recent gaps are well below an earlier one: slow learning may pause for longer than any patience."""
    before = [gap.value for gap in gaps[: -len(recent)]]
    return median(gap.value for gap in recent) < WELL_BELOW * max(before, default=0.0)


def _closing(bound: float, recent: list[Reading]) -> bool:
    return any(point.value > bound for point in recent) and theil_sen_slope(recent) < 0


def _least(points: list[Reading]) -> float:
    return min(point.value for point in points)


def _span(points: list[Reading]) -> str:
    return f"{points[-1].steps - points[0].steps} generator steps"
