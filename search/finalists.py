"""The best configurations of a search, to be trained again with other seeds.

The lowest score of a search is partly luck: one seed, the luckiest of many. So the configurations that promise most by
the scores of all (`curve_model.py`) are trained again, to the last epoch, each with the same few seeds that the search
did not use. `race.py` says in what order, `verdict.py` which won.
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

from data_prep.files import write_json, written_whole
from search.config import SearchConfig
from search.samplers.curve_model import expected_scores
from search.trials import TrialRow, trial_rows
from search.verdict import Verdict, compare, counted_score, failed
from trainables.config import MAX_SEED

SEED = "seed"
# So many finalists are trained with all of the seeds.
LAST = 2
CHOICE_FILE = "finalists.json"


@dataclass(frozen=True)
class Finalists:
    """The trials of a search whose configurations are trained again, most promising first, and the seeds.

    `expected` is by trial the score that the search lets expect of its configuration; all are trained with the first
    `first_seeds` of the seeds.
    """

    chosen: tuple[TrialRow, ...]
    expected: Mapping[str, float]
    seeds: tuple[int, ...]
    first_seeds: int

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
        scores = ((str(self.origin(row.parameters)), row.parameters[SEED], counted_score(row)) for row in rows)
        return compare(self.expected, scores)

    def trained_as(self, winner: str, trials: Sequence[Trial]) -> list[Trial]:
        """Of the trials, those of the winner's configuration that have not failed."""
        sound = {row.trial_id for row in trial_rows(trials) if not failed(row)}
        return [t for t in trials if t.trial_id in sound and self.origin(t.config) == winner]


def seeds_of_all(count: int, seeds: int, at_once: int) -> int:
    """With how many seeds all of `count` finalists are trained: one, or more if there is room for all at once."""
    return min(seeds, max(1, at_once // count))


def stages(count: int, seeds: int, at_once: int) -> tuple[int, int]:
    """How many trainings the two stages of their race have; between fewer than two there is none."""
    if count < 2:
        return 0, 0
    first = seeds_of_all(count, seeds, at_once)
    return count * first, LAST * (seeds - first)


def choose(rows: Sequence[TrialRow], config: SearchConfig, at_once: int) -> Finalists | None:
    """The trials of a search that promise most, each configuration once; None where there is no choice to make."""
    sound = sorted((row for row in rows if math.isfinite(row.score) and not failed(row)), key=lambda row: row.score)
    if not sound:
        return None
    scores = expected_scores(sound, config.domains, config.training.max_epochs)
    promising = (sound[i] for i in np.argsort(scores, kind="stable"))
    chosen = tuple(islice(_distinct(promising), config.finalists.count))
    expected = {row.trial_id: float(score) for row, score in zip(sound, scores, strict=True) if row in chosen}
    seeds = tuple((config.seed + number) % MAX_SEED for number in range(1, config.finalists.seeds + 1))
    if len(chosen) < 2:
        return None
    return Finalists(chosen, expected, seeds, seeds_of_all(len(chosen), len(seeds), at_once))


def choose_once(rows: Sequence[TrialRow], config: SearchConfig, at_once: int, file: Path) -> Finalists | None:
    """What an interrupted search had chosen and kept in `file`, or `choose`, kept there.

    A resumed search may run on another processor, whose rounding would have the model rank close ones otherwise, and on
    more of them.
    """
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if "expected" in kept:  # files of former versions say less
        known = {row.trial_id: row for row in rows}
        chosen = tuple(known[trial_id] for trial_id in kept["expected"])
        return Finalists(chosen, kept["expected"], tuple(kept["seeds"]), kept["first_seeds"])
    finalists = choose(rows, config, at_once)
    if finalists:
        expected = {row.trial_id: finalists.expected[row.trial_id] for row in finalists.chosen}
        write_json(file, {"expected": expected, "seeds": finalists.seeds, "first_seeds": finalists.first_seeds})
    return finalists


def _distinct(rows: Iterable[TrialRow]) -> Iterator[TrialRow]:
    """Of the rows of each configuration the first."""
    seen: list[Mapping[str, Any]] = []
    for row in rows:
        if row.parameters not in seen:
            seen.append(row.parameters)
            yield row
