"""What the page about a search is made of, read off its folder: of one that still runs, what there is so far."""

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from search.answers import Report, answers, histories
from search.config import SearchConfig, parse, read_config
from search.export.load import BEST, CONFIG, FORMAT, METRICS, REMEDY
from search.finalists import SEED
from search.line_log import LOG, lines_of
from search.plan import ANSWERS_FILE, FINALISTS_FILE, SEARCH_FILE, TRIALS_FILE, data_of
from search.trials import COLUMNS, TrialRow, best_row


@dataclass
class Training:
    """One training: its parameters, a finalist's seed among them, and its reports by epoch."""

    parameters: dict[str, Any] = field(default_factory=dict)
    by_epoch: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def reports(self) -> list[dict[str, Any]]:
        """The reports in the order of their epochs."""
        return [self.by_epoch[epoch] for epoch in sorted(self.by_epoch)]


@dataclass(frozen=True)
class Result:
    """A search's folder: configuration, data and their fingerprint, trials, log; and once there, what its end wrote.

    `data` is the dataset on this machine, `data_name` what the user called it: a path, or a bucket's URL.
    """

    folder: Path
    config: SearchConfig
    data: Path
    data_name: str
    fingerprint: str
    score_version: int
    rows: tuple[TrialRow, ...]
    log: dict[str, Training]
    finalists: tuple[dict[str, str], ...]
    best: dict[str, Any] | None

    @property
    def name(self) -> str:
        """What the search is called."""
        return self.folder.resolve().name

    @cached_property
    def histories(self) -> dict[str, list[Report]]:
        """The reports of each trial of the search that has any."""
        return histories(self.folder, self.rows)

    @cached_property
    def answers(self) -> dict[str, Any]:
        """What the search has found out, reckoned anew as long as it runs."""
        file = self.folder / ANSWERS_FILE
        if file.is_file():
            return _json(file)
        return answers(self.rows, self.histories, self.config.domains, self.config.second_objective)

    @property
    def baselines(self) -> list[TrialRow]:
        """The trials of the configurations tuned by hand."""
        points = [point for point in self.config.baselines if point]
        return [row for row in self.rows if any(point.items() <= row.parameters.items() for point in points)]

    @property
    def leader(self) -> TrialRow | None:
        """The trial that won, or leads so far."""
        won = [row for row in self.rows if self.best and row.trial_id == self.best["trial_id"]]
        return won[0] if won else best_row(self.rows)

    @property
    def shown(self) -> Training | None:
        """The training whose losses are shown: the exported one's, or the leader's so far."""
        if self.best:
            wanted = {**self.best["parameters"], SEED: self.best["seed"]}
            trainings = (one for one in self.log.values() if {SEED: self.config.seed} | one.parameters == wanted)
            return next((one for one in trainings if one.by_epoch), None)
        return self.log.get(self.leader.trial_id) if self.leader else None

    def hours(self, seconds: Iterable[float]) -> float:
        """Hours of workers that trainings of so many seconds took."""
        return sum(seconds) * self.config.resources.workers_per_trial / 3600

    @property
    def searched_hours(self) -> float:
        """What the trials of the search took."""
        return self.hours(row.seconds for row in self.rows)

    @property
    def finalists_hours(self) -> float:
        """What the trainings of the finalists took."""
        return self.hours(float(row["seconds"]) for row in self.finalists)

    @property
    def saved_hours(self) -> float:
        """What trials would have taken besides, had no scheduler and no rule stopped them."""
        last = self.config.training.max_epochs
        return self.hours((last - row.epochs) * row.epoch_seconds for row in self.rows if _stopped_early(row))


def _stopped_early(row: TrialRow) -> bool:
    return row.state == "stopped" and not row.stop_reason.startswith("budget")


def read_result(folder: Path) -> Result:
    """Read a search's folder, whether it has ended or not.

    Raises:
        ValueError: no search there, or a damaged file of one.
    """
    file = folder / SEARCH_FILE
    if not file.is_file():
        raise ValueError(f"{file} does not exist; expected the folder of a search, such as results/demo-1")
    config, best = read_config(file), _exported(folder / BEST)
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        return Result(
            folder=folder,
            config=config,
            data=data_of(file),
            data_name=about["data"],
            fingerprint=about["dataset"],
            score_version=about.get("score_version", 1),
            rows=tuple(_row(row) for row in _table(folder / TRIALS_FILE)),
            log=_log(folder / LOG),
            finalists=tuple(_table(folder / FINALISTS_FILE)),
            best=best,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder} has a damaged file ({error!r}); expected what a search wrote") from error


def _exported(folder: Path) -> dict[str, Any] | None:
    """What the metrics of the export hold, None before there is one."""
    if not (folder / METRICS).is_file():
        return None
    found = _json(folder / CONFIG).get("format")
    if found != FORMAT:
        raise ValueError(f"{folder} has format {found}; this version reads {FORMAT}; {REMEDY}")
    return _json(folder / METRICS)


def _json(file: Path) -> dict[str, Any]:
    """What a file of a result holds.

    Raises:
        ValueError: if it is damaged, naming it.
    """
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}); {REMEDY}") from error


def _table(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def _row(told: dict[str, str]) -> TrialRow:
    epochs, seconds = int(told["epochs"]), float(told["seconds"])
    return TrialRow(
        trial_id=told["trial_id"],
        name=told["trial_id"],
        state=told["state"],
        stop_reason=told["stop_reason"],
        epochs=epochs,
        samples=int(told["samples"]),
        score=float(told["score"] or "nan"),
        seconds=seconds,
        epoch_seconds=seconds / max(1, epochs),
        parameters={key: parse(value) for key, value in told.items() if key not in COLUMNS and value},
    )


def _log(file: Path) -> dict[str, Training]:
    """The trainings by the id of their trial; of an epoch that was trained twice, after a restore, the last."""
    found: dict[str, Training] = {}
    for line in lines_of(file):
        training = found.setdefault(line["trial"], Training())
        if "report" in line:
            training.by_epoch[line["report"]["epoch"]] = line["report"]
        else:
            training.parameters = line["about"]["parameters"]
    return found


def hours_text(hours: float) -> str:
    """Hours as they are shown, less than two of them in minutes."""
    if hours < 2:
        return f"{60 * hours:.0f} min"
    return f"{hours:.3g} h" if hours < 100 else f"{hours:,.0f} h"
