"""The best configurations of a search, to be trained again with other seeds.

The lowest score of a search is partly luck: one seed, the luckiest of many. So the configurations that promise most by
the scores of all (`curve_model.py`) are trained again, to the last epoch, each with the same few seeds that the search
did not use; `verdict.py` says which won.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from data_prep.files import write_json, written_whole
from search.config import SearchConfig
from search.optuna_search import PastTrial
from search.samplers.curve_model import expected_scores
from search.trials import TrialRow, trial_rows
from search.verdict import Verdict, compare, counted_score, failed
from trainables.config import MAX_SEED

SEED = "seed"
CHOICE_FILE = "finalists.json"


@dataclass(frozen=True)
class Finalists:
    """The trials of a search whose configurations are trained again, best first, and the seeds."""

    chosen: tuple[TrialRow, ...]
    seeds: tuple[int, ...]

    def points(self) -> list[dict[str, Any]]:
        """Parameters and seed of each training; with one seed all configurations before any with the next."""
        return [{**row.parameters, SEED: seed} for seed in self.seeds for row in self.chosen]

    def origin(self, parameters: Mapping[str, Any]) -> str | None:
        """The chosen trial that has these parameters, with whatever seed."""
        own = {key: value for key, value in parameters.items() if key != SEED}
        return next((row.trial_id for row in self.chosen if row.parameters == own), None)

    def rows(self, trials: Sequence[Trial]) -> list[TrialRow]:
        """A row for each training, named after its chosen trial and its seed."""
        return [
            replace(row, name=f"{self.origin(row.parameters)} seed {row.parameters[SEED]}")
            for row in trial_rows(trials)
        ]

    def write(self, rows: Sequence[TrialRow], file: Path) -> None:
        """Write `finalists.csv`: a row a training."""
        columns = ("state", "stop_reason", "epochs", "seconds")
        content = [
            {"trial_id": self.origin(row.parameters), SEED: row.parameters[SEED], "score": counted_score(row)}
            | {name: getattr(row, name) for name in columns}
            for row in rows
        ]
        with written_whole(file) as aside:
            pd.DataFrame(content).to_csv(aside, index=False)

    def verdict(self, rows: Sequence[TrialRow]) -> Verdict | None:
        """What the trainings say; None if not one has come to its end."""
        return compare((str(self.origin(row.parameters)), row.parameters[SEED], row) for row in rows)

    def trained_as(self, winner: str, trials: Sequence[Trial]) -> list[Trial]:
        """Of the trials, those of the winner's configuration that have not failed."""
        sound = {row.trial_id for row in trial_rows(trials) if not failed(row)}
        return [t for t in trials if t.trial_id in sound and self.origin(t.config) == winner]


def choose(rows: Sequence[TrialRow], config: SearchConfig) -> Finalists | None:
    """The trials of a search that promise most, each configuration once; None where there is no choice to make."""
    sound = sorted((row for row in rows if math.isfinite(row.score) and not failed(row)), key=lambda row: row.score)
    if sound:
        expected = expected_scores(sound, config.domains, config.training.max_epochs)
        sound = [sound[i] for i in np.argsort(expected, kind="stable")]
    chosen = tuple(islice(_distinct(sound), config.finalists.count))
    seeds = tuple((config.seed + number) % MAX_SEED for number in range(1, config.finalists.seeds + 1))
    return Finalists(chosen, seeds) if len(chosen) > 1 else None


def choose_once(rows: Sequence[TrialRow], config: SearchConfig, file: Path) -> Finalists | None:
    """What an interrupted search had chosen and kept in `file`, or `choose`, kept there.

    A resumed search may run on another processor, whose rounding would have the model rank close ones otherwise.
    """
    if file.is_file():
        kept, known = json.loads(file.read_text(encoding="utf-8")), {row.trial_id: row for row in rows}
        return Finalists(tuple(known[trial_id] for trial_id in kept["trials"]), tuple(kept["seeds"]))
    finalists = choose(rows, config)
    if finalists:
        write_json(file, {"trials": [row.trial_id for row in finalists.chosen], "seeds": finalists.seeds})
    return finalists


def _distinct(rows: Iterable[TrialRow]) -> Iterator[TrialRow]:
    """Of the rows of each configuration the first."""
    seen: list[Mapping[str, Any]] = []
    for row in rows:
        if row.parameters not in seen:
            seen.append(row.parameters)
            yield row


class Listed(Searcher):
    """Proposes to Tune what it is given, one after the other."""

    def __init__(self, points: Sequence[dict[str, Any]]):
        super().__init__(metric="score", mode="min")
        self._points = list(points)
        self._given: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Any:
        """The first that no trial has, or that there are no more."""
        left = set(range(len(self._points))) - set(self._given.values())
        if not left:
            return self.FINISHED
        self._given[trial_id] = min(left)
        return self._points[self._given[trial_id]]

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing is learnt from a trial."""

    def rebuild(self, past: Sequence[PastTrial]) -> None:
        """Propose what no trial of a restored search has been given.

        Raises:
            ValueError: if one has been given what is not in the list.
        """
        self._given = {}
        for trial in past:
            if trial.parameters not in self._points:
                raise ValueError(
                    f"trial {trial.trial_id} of finalists/ is of a configuration that {CHOICE_FILE} does not name; "
                    "remove both to choose and train anew"
                )
            self._given[trial.trial_id] = self._points.index(dict(trial.parameters))
