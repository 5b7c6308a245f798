"""What a search has found out: which parameters matter, how fast it got better, and how early scores foretell the last.

Scores of trials that were stopped early are not comparable with those of complete ones. So parameters are judged by the
score at the last epoch that almost all trials came to: the best up to there, as the best epoch is what is exported.
"""

import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, create_trial
from scipy.stats import spearmanr

from search.line_log import LOG, lines_of
from search.objectives import COVERAGE, REPORTED, Both, front, of_trial
from search.samplers import distribution
from search.space import Space
from search.trials import TrialRow
from search.verdict import failed

# PED-ANOVA asks which parameters a trial needs to be among the best: a tenth of them, and no fewer than five.
BEST_SHARE, FEWEST_BEST = 0.1, 5
# With fewer trials, five of them would not be the best but the better ones.
MIN_TRIALS = 20
# The share of trials that came to the epoch at which they are compared.
ALMOST_ALL = 0.9
# Shuffles of the scores, to see how important parameters seem by chance, and the share of these to be exceeded.
SHUFFLES, BEYOND = 100, 0.95
MIN_COMPLETE = 5


class Report(NamedTuple):
    """One report of a trial; `place` in the search's log, which is in the order of time; `seconds` of its epoch."""

    epoch: int
    score: float
    seconds: float
    place: int
    coverage: float = math.nan

    @classmethod
    def logged(cls, place: int, told: Mapping[str, Any]) -> "Report":
        """As the log holds it; coverage NaN where that does not know it."""
        return cls(told["epoch"], told["score"], told["seconds"], place, told.get(REPORTED[COVERAGE], math.nan))


Histories = Mapping[str, Sequence[Report]]


def histories(folder: Path, rows: Sequence[TrialRow]) -> dict[str, list[Report]]:
    """The reports of each of these trials, by its id; of an epoch that was trained twice, after a restore, the last.

    From the search's own log: after a kill Tune's lack some.
    """
    found: dict[str, dict[int, Report]] = {row.trial_id: {} for row in rows}
    for place, line in enumerate(lines_of(folder / LOG)):
        if "report" in line and line["trial"] in found:
            found[line["trial"]][line["report"]["epoch"]] = Report.logged(place, line["report"])
    return {trial_id: [told[epoch] for epoch in sorted(told)] for trial_id, told in found.items() if told}


def answers(rows: Sequence[TrialRow], reports: Histories, space: Space, second: str = "") -> dict[str, Any]:
    """All answers as plain JSON content; results/README.md says what each key means."""
    at = common_epoch(rows, reports)
    scores = comparable_scores(rows, reports, at)
    return {
        "common_epoch": at,
        "importance": importance(rows, scores, space),
        "history": {"by_trial": best_by_trial(rows), "by_seconds": best_by_seconds(reports)},
        "slices": slices(rows, scores, space),
        "rank_correlation": rank_correlation(rows, reports),
        **({"front": front(worth(rows, reports, second), second)} if second else {}),
    }


def worth(rows: Sequence[TrialRow], reports: Histories, second: str) -> dict[str, Both]:
    """Score and second objective of each complete trial."""
    found = {}
    for row in rows:
        if row.state == "complete" and row.trial_id in reports:
            pairs = (Both(r.score, r.coverage if second == COVERAGE else r.seconds) for r in reports[row.trial_id])
            if value := of_trial(pairs, second):
                found[row.trial_id] = value
    return found


def common_epoch(rows: Sequence[TrialRow], reports: Histories) -> int:
    """The last epoch that almost all trials came to; one that broke a rule or failed would not have come further."""
    lasting = [row.epochs for row in rows if row.state == "complete" or row.stop_reason.startswith("scheduler")]
    lasting = lasting or [row.epochs for row in rows if row.trial_id in reports]
    return int(np.quantile(lasting, 1 - ALMOST_ALL, method="lower")) if lasting else 0


def comparable_scores(rows: Sequence[TrialRow], reports: Histories, epoch: int) -> dict[str, float]:
    """The score of each trial at an epoch: infinite for one that broke a rule before, none for one that was cut off."""
    found = {}
    for row in rows:
        if row.epochs >= epoch or row.stop_reason.startswith("stalled"):
            found[row.trial_id] = best_until(reports.get(row.trial_id, ()), epoch)
        elif row.state == "stopped" and failed(row):
            found[row.trial_id] = math.inf
    return found


def best_until(reports: Sequence[Report], epoch: int) -> float:
    """The best score up to an epoch, infinite if there is none."""
    return min((report.score for report in reports if report.epoch <= epoch), default=math.inf)


def importance(rows: Sequence[TrialRow], scores: Mapping[str, float], space: Space) -> dict[str, Any]:
    """PED-ANOVA (Watanabe, Bansal and Hutter 2023) at the common epoch: what it takes to be among the best trials.

    Returns:
        The number of trials, and either `why` there are no figures, or for each parameter its `share` of all
        importance, and whether it is `clear`: more than shuffled scores would give it 19 times in 20.
    """
    inside = [row for row in rows if row.trial_id in scores and _is_inside(row, space)]
    scored = sum(math.isfinite(scores[row.trial_id]) for row in inside)
    if not space or scored < MIN_TRIALS:
        return {"trials": scored, "why": f"{MIN_TRIALS} trials with a score are needed to say which parameters matter"}
    # Trials that broke a rule are the worst, and stay in: what they have in common counts against it.
    values = np.array([min(scores[row.trial_id], sys.float_info.max) for row in inside])
    study, best_share = _study(inside, space), max(BEST_SHARE * scored, FEWEST_BEST) / len(inside)
    found = _ped_anova(study, values, best_share)
    rng = np.random.default_rng(0)
    chance = [_ped_anova(study, rng.permutation(values), best_share) for _ in range(SHUFFLES)]
    total = sum(found.values()) or 1.0
    return {
        "trials": len(inside),
        "parameters": {
            key: {
                "share": value / total,
                "clear": bool(value > np.quantile([shuffled[key] for shuffled in chance], BEYOND)),
            }
            for key, value in found.items()
        },
    }


def _is_inside(row: TrialRow, space: Space) -> bool:
    """Whether the sampler could have proposed a trial; a baseline may lie elsewhere."""
    return all(row.parameters[key] in domain for key, domain in space.items())


def _study(rows: Sequence[TrialRow], space: Space) -> optuna.Study:
    """A study of nothing but these trials' parameters; the search's own holds scores of unequal epochs."""
    distributions = {key: distribution(domain) for key, domain in space.items()}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    study.add_trials(
        [
            create_trial(params={key: row.parameters[key] for key in space}, distributions=distributions, value=0.0)
            for row in rows
        ]
    )
    return study


def _ped_anova(study: optuna.Study, values: np.ndarray, best_share: float) -> dict[str, float]:
    def value_of(trial: FrozenTrial) -> float:
        return float(values[trial.number])

    evaluator = PedAnovaImportanceEvaluator(target_quantile=best_share)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*to achieve low `target` values")  # which is what is wanted
        return evaluator.evaluate(study, target=value_of)


def best_by_trial(rows: Sequence[TrialRow]) -> list[float | None]:
    """The best score after each trial, in the order of their beginning; null before the first."""
    return [_finite(best) for best in accumulate((_or_infinite(row.score) for row in rows), min)]


def best_by_seconds(reports: Histories) -> list[tuple[float, float]]:
    """Seconds of training, of all trials together, and the best score by then, at each improvement."""
    spent, best, found = 0.0, math.inf, []
    for report in sorted((each for history in reports.values() for each in history), key=lambda each: each.place):
        spent += report.seconds
        if report.score < best:
            best = report.score
            found.append((round(spent, 1), best))
    return found


def slices(rows: Sequence[TrialRow], scores: Mapping[str, float], space: Space) -> dict[str, list[list[Any]]]:
    """For each parameter, its value and the score at the common epoch of each trial; null for one that broke a rule."""
    compared = [(row.parameters, _finite(scores[row.trial_id])) for row in rows if row.trial_id in scores]
    return {key: [[parameters[key], score] for parameters, score in compared] for key in space}


def rank_correlation(rows: Sequence[TrialRow], reports: Histories) -> dict[str, Any]:
    """Spearman's correlation of the best score up to each epoch with the final one, over complete trials.

    The scheduler has stopped the worst, so that over all trials it would be higher.
    """
    complete = [reports[row.trial_id] for row in rows if row.state == "complete" and row.trial_id in reports]
    if len(complete) < MIN_COMPLETE:
        return {"trials": len(complete), "why": f"{MIN_COMPLETE} complete trials are needed"}
    last = min(history[-1].epoch for history in complete)
    final = [best_until(history, last) for history in complete]
    early = {epoch: [best_until(history, epoch) for history in complete] for epoch in range(1, last)}
    return {"trials": len(complete), "epochs": {str(epoch): _spearman(each, final) for epoch, each in early.items()}}


def _spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """None where all scores of an epoch are equal and have no ranks."""
    if len(set(one)) == 1 or len(set(other)) == 1:
        return None
    return float(spearmanr(one, other).statistic)


def _or_infinite(score: float) -> float:
    return math.inf if math.isnan(score) else score


def _finite(score: float) -> float | None:
    return score if math.isfinite(score) else None


def what_matters(found: Mapping[str, Any]) -> str:
    """The parameters whose importance is clear, as one line; empty if there are none."""
    clear = [
        f"{key.partition('.')[2]} {100 * one['share']:.0f} %"
        for key, one in found["importance"].get("parameters", {}).items()
        if one["clear"]
    ]
    return f"What mattered most, by its share of importance: {', '.join(clear)}" if clear else ""
