"""The state that Tune saves of itself, which a search goes on from: that it is there in time, and whole."""

import json
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Experiment, Trial
from ray.tune.search import ConcurrencyLimiter, Searcher, SearchGenerator

from data_prep.files import write_text
from search.line_log import LineLog, lines_of
from search.storage import EXPERIMENT, JOURNAL, RUNS, Changes
from search.turn import Turn

STATES = "experiment_state-*.json"
# By name before any that Tune writes.
FIRST_STATE = "experiment_state-0.json"
KEPT = "kept_trials.jsonl"


class TrialsKept(tune.Callback):
    """Keeps a line of each trial, as Tune would save it, as soon as it starts and as it ends, before anyone is told.

    Tune saves the state of all its trials every ten seconds or so, and copies it to storage in the background, over the
    one before: after a kill or on a full disk that one may be late or cut off.

    Raises:
        OSError: if a line cannot be written, as on a full disk.
    """

    def __init__(self, folder: Path):
        self._path = folder / EXPERIMENT / KEPT
        self._news: list[Trial] = []

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tune calls this when a trial starts, or goes on."""
        self._news.append(trial)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tune calls this when a trial has ended well."""
        self._news.append(trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tune calls this when a trial has failed."""
        self._news.append(trial)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Tune calls this at the end of each of its steps, when a trial has the state that it was given in it."""
        if not self._news:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with closing(LineLog(self._path)) as log:
            for trial in self._news:
                log.write({"trial": trial.get_json_state()})
        self._news = []


class Sent(tune.Callback):
    """Sends logs to where they are kept as soon as a trial starts or ends, and the rest before Tune saves its state.

    So nothing that is kept there builds on what is not.

    Raises:
        ValueError: if another machine has gone on with the search.
    """

    def __init__(self, changes: Changes, turn: Turn):
        self._changes, self._turn, self._news = changes, turn, False

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tune calls this when a trial starts, or goes on."""
        self._news = True

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tune calls this when a trial has ended well."""
        self._news = True

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tune calls this when a trial has failed."""
        self._news = True

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Tune calls this at the end of each of its steps, when the other callbacks have written what is new."""
        self._turn.check()
        if self._news:
            self._changes.send_logs()
            self._news = False

    def get_state(self) -> None:
        """Tune calls this when it saves its state; there is nothing to save of this."""
        self._changes.send(left_out=(RUNS, JOURNAL))


class Proposals(SearchGenerator):
    """Has a searcher propose the trials of an experiment, at most so many at once, None for no such limit.

    Of a search that has `ended` nothing more is proposed, whatever is left of its budget.

    Tune saves how many have been proposed, and which of them run, in a file beside its trials'. After a kill or a full
    disk that one may be cut off or disagree with them, and trials or places for them would be lost: nothing is saved,
    and both are counted from the trials instead.
    """

    def __init__(self, searcher: Searcher, at_once: int | None, experiment: Experiment, ended: bool):
        super().__init__(ConcurrencyLimiter(searcher, at_once) if at_once else searcher)
        self._of, self._finished = experiment, ended

    def save_to_dir(self, dirpath: str, session_str: str) -> None:  # type: ignore[override]  # as Ray does itself
        """Tune calls this when it saves its state."""

    def has_checkpoint(self, dirpath: str) -> bool:
        """Tune asks this when a search is resumed."""
        return True

    def restore_from_dir(self, dirpath: str) -> None:
        """Tune calls this when a search is resumed, with what it has saved in `dirpath`."""
        trials = _read(max(Path(dirpath).glob(STATES)))
        self.add_configurations([self._of])
        self._counter = len(trials)
        if isinstance(self.searcher, ConcurrencyLimiter):
            self.searcher.live_trials = {trial_id for trial_id, kept in trials.items() if not _has_ended(kept)}


# What Tune saves of a trial: its fields as JSON, and its records.
Kept = tuple[str, str]


def has_state(folder: Path) -> bool:
    """Whether there is a state to go on from: killed before its first trial was kept, a search has none."""
    return bool(_known(folder / EXPERIMENT))


def mend_state(folder: Path) -> Path:
    """Write what is known of the trials as the state that Tune goes on from, the last by name; its path."""
    experiment = folder / EXPERIMENT
    state = {
        "trial_data": list(_known(experiment).values()),
        # Of the process before, Tune wants these; all else is as in a new one.
        "runner_data": {"_session_str": "", "_start_time": 0.0},
    }
    file = max(experiment.glob(STATES), default=experiment / FIRST_STATE)
    write_text(file, json.dumps(state))
    return file


def _known(experiment: Path) -> dict[str, Kept]:
    """Each trial as it was last known: as Tune last saved it, but as it was kept if it had ended or was not there."""
    kept = _by_id(line["trial"] for line in lines_of(experiment / KEPT))
    saved: dict[str, Kept] = {}
    for state in sorted(experiment.glob(STATES)):
        saved |= _read(state)
    return kept | saved | {trial_id: trial for trial_id, trial in kept.items() if _has_ended(trial)}


def _read(state: Path) -> dict[str, Kept]:
    """The trials of a state by their ids; none of one that is cut off."""
    try:
        return _by_id(json.loads(state.read_text(encoding="utf-8"))["trial_data"])
    except json.JSONDecodeError:
        return {}


def _by_id(trials: Iterable[Kept]) -> dict[str, Kept]:
    return {json.loads(fields)["trial_id"]: (fields, records) for fields, records in trials}


def _has_ended(trial: Kept) -> bool:
    return json.loads(trial[0])["status"] in (Trial.TERMINATED, Trial.ERROR)
