"""The terminal while a search runs: one live table, or a line a trial where the output is not a terminal."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.tune import Callback
from ray.tune.experiment import Trial
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from search.packing import why_waiting
from search.trials import TrialRow, best_row, error_file, last_failure, score_text, trial_rows, write_trials

MAX_ROWS = 20
# No more often than so, and of the search's time no more than one part in so many.
REFRESH_S, SHARE = 0.5, 20
STATE_STYLES = {"running": "cyan", "complete": "green", "stopped": "yellow", "failed": "red", "waiting": "dim"}


class Progress(Callback):
    """Follows a search for Tune: shows its trials and keeps `trials.csv` up to date."""

    def __init__(
        self,
        console: Console,
        file: Path,
        num_samples: int,
        max_epochs: int,
        rows: Callable[[Sequence[Trial]], list[TrialRow]] = trial_rows,
        write: Callable[[Sequence[TrialRow], Path], None] = write_trials,
    ):
        self._console, self._file = console, file
        self._rows, self._write = rows, write
        self._num_samples, self._max_epochs = num_samples, max_epochs
        self._news: set[str] = set()
        self._due_s = -math.inf
        self._live = Live(console=console, refresh_per_second=4, transient=False) if console.is_terminal else None

    def __enter__(self) -> "Progress":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Tune calls this after each of its events."""
        start_s = time.monotonic()
        if start_s >= self._due_s:
            self.show(trials)
            end_s = time.monotonic()
            self._due_s = end_s + max(REFRESH_S, (SHARE - 1) * (end_s - start_s))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Tune calls this at each report; what a trial warns of is shown at once."""
        if result.get("warning"):
            self._warn(f"Trial {trial.trial_id}: {result['warning']}")

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tune calls this when a trial has ended well."""
        self._news.add(trial.trial_id)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tune calls this when a trial has failed and is to go on from its last checkpoint."""
        epoch = (trial.last_result or {}).get("epoch", 0)
        self._warn(f"Trial {trial.trial_id}: {last_failure(trial)}; it goes on from epoch {epoch}.")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tune calls this when a trial has failed for good."""
        self._news.add(trial.trial_id)
        self._warn(f"Trial {trial.trial_id} has failed: {last_failure(trial)}. More in {error_file(trial)}.")

    def _warn(self, text: str) -> None:
        self._console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)

    def show(self, trials: Sequence[Trial]) -> None:
        """Draw the trials as they are now, and write `trials.csv` if one more has ended."""
        rows = self._rows(trials)
        if self._live:
            self._live.update(self._picture(rows, why_waiting(trials, ray.cluster_resources())))
        news = [row for row in rows if row.ended and row.trial_id in self._news]
        if news:
            self._news -= {row.trial_id for row in news}
            self._write(rows, self._file)
            if not self._live:
                self._announce(news, rows)

    def _announce(self, news: list[TrialRow], rows: list[TrialRow]) -> None:
        best, before = best_row(rows), sum(row.ended for row in rows) - len(news)
        best_score = score_text(best.score) if best else "none"
        for ended, row in enumerate(news, before + 1):
            self._console.print(
                f"{ended:3d} of {self._num_samples} ended: trial {row.name} {row.state} at epoch {row.epochs}, "
                f"{_score(row)}{f' ({row.stop_reason})' if row.stop_reason else ''}; "
                f"best so far {best_score}; about {_clock(self._seconds_left(rows))} left",
                highlight=False,
            )

    def _picture(self, rows: list[TrialRow], waiting: str) -> Group:
        best = best_row(rows)
        table = Table()
        for name in ("trial", "state", "epoch", "score", "time left"):
            table.add_column(name, justify="left" if name in ("trial", "state") else "right")
        shown = _most_telling(rows)
        for row in shown:
            table.add_row(*self._cells(row, row is best), style="bold" if row is best else None)
        hidden = len(rows) - len(shown)
        notes = [f"{hidden} more trials in {self._file.name}."] if hidden else []
        notes += [waiting] if waiting else []
        if sum(row.ended for row in rows) < self._num_samples:
            notes.append("Ctrl-C stops; the search can be resumed.")
        return Group(self._summary(rows, best), table, *(f"[dim]{note}[/]" for note in notes))

    def _summary(self, rows: list[TrialRow], best: TrialRow | None) -> str:
        ended = sum(row.ended for row in rows)
        found = f"best so far {score_text(best.score)} (trial {best.name})" if best else "no score yet"
        left = "" if ended >= self._num_samples else f" · about {_clock(self._seconds_left(rows))} left"
        return f"{ended} of {self._num_samples} trials ended · {found}{left}"

    def _cells(self, row: TrialRow, is_best: bool) -> list[str]:
        reason = f" ({row.stop_reason.partition(':')[0]})" if row.stop_reason else ""
        left = (self._max_epochs - row.epochs) * row.epoch_seconds
        return [
            row.name,
            f"[{STATE_STYLES[row.state]}]{row.state}{reason}[/]",
            f"{row.epochs}/{self._max_epochs}",
            ("★ " if is_best else "") + (score_text(row.score) if math.isfinite(row.score) else "–"),
            "" if row.ended else (f"≤ {_clock(left)}" if row.epochs else "–"),
        ]

    def _seconds_left(self, rows: list[TrialRow]) -> float:
        """Running trials to their last epoch, and those to come as long as the ended ones took on average."""
        ended = [row.seconds for row in rows if row.ended]
        running = [row for row in rows if row.state == "running" and row.epochs]
        if not ended and not running:
            return math.nan
        full = [row.epoch_seconds * self._max_epochs for row in running]
        average = sum(ended) / len(ended) if ended else sum(full) / len(full)
        rest = sum(row.epoch_seconds * (self._max_epochs - row.epochs) for row in running)
        to_come = self._num_samples - len(ended) - len(running)
        return (rest + average * to_come) / max(1, len(running))


def _most_telling(rows: list[TrialRow]) -> list[TrialRow]:
    """The rows to show: all of few trials; of many those that run and the best of the others."""
    if len(rows) <= MAX_ROWS:
        return rows
    by_rank = sorted(rows, key=lambda row: (row.state != "running", row.score if row.score == row.score else math.inf))
    chosen = {row.trial_id for row in by_rank[:MAX_ROWS]}
    return [row for row in rows if row.trial_id in chosen]


def _score(row: TrialRow) -> str:
    return f"score {score_text(row.score)}" if math.isfinite(row.score) else "no score"


def _clock(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    if not math.isfinite(seconds):
        return "time unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
