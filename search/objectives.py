"""What a search may weigh against the score: a second objective, and which trials are the best of both.

`coverage` is the share of real records that have a generated one nearby, over that of other real records, at a trial's
best epoch; the score counts it too, but only where it falls short. `epoch_seconds` is what its fastest epoch took.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

COVERAGE, EPOCH_SECONDS = "coverage", "epoch_seconds"
# The direction in which each is better, as Optuna calls it.
SECOND: dict[str, Literal["minimize", "maximize"]] = {COVERAGE: "maximize", EPOCH_SECONDS: "minimize"}
# How a trial's reports call them.
REPORTED = {COVERAGE: "gate/coverage", EPOCH_SECONDS: "seconds"}


def check_second(second: str, sampler: str, scheduler: str) -> None:
    """Refuse an unknown second objective, or one with a sampler or scheduler that knows a single one; empty is none."""
    if second and second not in SECOND:
        raise ValueError(f"second_objective is '{second}'; expected one of {', '.join(SECOND)}")
    if second and (sampler == "curves" or scheduler != "none"):
        raise ValueError(
            f"second_objective {second} needs complete trials and a sampler of two objectives; add "
            "--set scheduler.name=none --set sampler=nsga2 (or tpe, gp, random)"
        )


class Both(NamedTuple):
    """Score and second objective of one report, or of a trial."""

    score: float
    second: float


def both(report: Mapping[str, Any], second: str) -> Both:
    """Of one report; NaN what it does not hold, as that of a trial that diverged."""
    return Both(report["score"], report.get(REPORTED[second], math.nan))


def of_trial(reports: Iterable[Both], second: str) -> Both | None:
    """Of a trial, from its reports; None if none has both."""
    whole = [report for report in reports if math.isfinite(report.score) and math.isfinite(report.second)]
    if not whole:
        return None
    best = min(whole)
    return best if second == COVERAGE else Both(best.score, min(report.second for report in whole))


def front(trials: Mapping[str, Both], second: str) -> list[str]:
    """The trials that no other is as good as in both and better than in one, lowest score first."""
    sign = -1 if SECOND[second] == "maximize" else 1
    found, least = [], math.inf
    for name, value in sorted(trials.items(), key=lambda one: (one[1].score, sign * one[1].second)):
        if sign * value.second < least:
            found.append(name)
            least = sign * value.second
    return found


def told(names: Sequence[str], trials: Mapping[str, Both], second: str) -> str:
    """The front as a line."""
    listed = ", ".join(f"{name} ({trials[name].score:.4g}, {trials[name].second:.3g})" for name in names)
    return f"No complete trial beats one of these in both score and {second.replace('_', ' ')}: {listed}"
