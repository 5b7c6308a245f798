"""What is known of each trial, read off Tune's own records: one row a trial, for the screen and for `trials.csv`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from ray.tune.experiment import Trial

from data_prep.files import written_whole

OUT_OF_TIME = "budget: time is up"
# How Ray begins to say that it lost an actor.
GONE = "The actor died"
COLUMNS = ("trial_id", "state", "stop_reason", "epochs", "samples", "score", "seconds")


@dataclass(frozen=True)
class TrialRow:
    """One trial: `score` is its best so far (NaN before the first), `epoch_seconds` what its last epoch took.

    `name` is what it is called on the screen.
    """

    trial_id: str
    name: str
    state: str
    stop_reason: str
    epochs: int
    samples: int
    score: float
    seconds: float
    epoch_seconds: float
    parameters: dict[str, Any]

    @property
    def ended(self) -> bool:
        """Whether nothing more is to come of this trial."""
        return self.state in ("complete", "stopped", "failed")


def trial_rows(trials: Sequence[Trial], cut_off: str = OUT_OF_TIME) -> list[TrialRow]:
    """A row for each of Tune's trials, in the order of their creation; `cut_off` is why a search ended before them."""
    return [_row(trial, cut_off) for trial in sorted(trials, key=trial_number)]


def last_failure(trial: Trial) -> str:
    """Why a trial failed last, in a line: its process gone, or the error that it ended with."""
    failures = Path(str(trial.error_file)).read_text(encoding="utf-8")
    _, *lines = failures.rpartition("Failure # ")[2].strip().splitlines()
    if not lines:
        return "no reason was given"
    return "its process has died, or its machine is lost" if lines[0].startswith(GONE) else lines[-1]


def error_file(trial: Trial) -> str:
    """Where all that is known of a trial's failures is kept."""
    storage: Any = trial.storage
    return f"{storage.trial_fs_path}/{Path(str(trial.error_file)).name}"


def trial_number(trial: Trial) -> int:
    """Which trial of the search this is: Tune's tag begins with it. A restored search lists its trials anew."""
    return int(trial.experiment_tag.partition("_")[0])


def _row(trial: Trial, cut_off: str) -> TrialRow:
    last = trial.last_result or {}
    state, reason = _state(trial.status, last, cut_off)
    return TrialRow(
        trial_id=trial.trial_id,
        name=trial.trial_id,
        state=state,
        stop_reason=reason,
        epochs=last.get("epoch", 0),
        samples=last.get("samples", 0),
        score=trial.metric_analysis.get("score", {}).get("min", math.nan),
        seconds=round(last.get("time_total_s", 0.0), 1),
        epoch_seconds=last.get("seconds", 0.0),
        parameters=dict(trial.config),
    )


def _state(status: str, last: dict[str, Any], cut_off: str) -> tuple[str, str]:
    """State and stop reason from Tune's status and the last result."""
    if status == Trial.ERROR:
        return "failed", "error"
    if status != Trial.TERMINATED:
        return ("running" if status == Trial.RUNNING else "waiting"), ""
    if last.get("stop_reason"):
        return "stopped", last["stop_reason"]
    if last.get("last_epoch"):
        return "complete", ""
    # Tune marks the last result of a trial that its scheduler stops, not of one cut off with the whole search.
    return "stopped", "scheduler: others did better" if last.get("done") else cut_off


def best_row(rows: Sequence[TrialRow]) -> TrialRow | None:
    """The row with the lowest score, if any has one."""
    scored = [row for row in rows if math.isfinite(row.score)]
    return min(scored, key=lambda row: row.score, default=None)


def write_trials(rows: Sequence[TrialRow], file: Path) -> None:
    """Write `trials.csv`: the columns above, then one for each parameter."""
    table = pd.DataFrame([{name: getattr(row, name) for name in COLUMNS} | row.parameters for row in rows])
    with written_whole(file) as aside:
        table.to_csv(aside, index=False)


def score_text(score: float) -> str:
    """A score as it is shown: far from 1, decimals mean nothing."""
    return f"{score:.2f}" if score < 100 else f"{score:,.0f}"
