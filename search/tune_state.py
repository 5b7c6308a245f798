"""The state that Tune saves of itself, which a search goes on from: that it is there in time, and whole."""

import json
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search import ConcurrencyLimiter, Searcher, SearchGenerator

from data_prep.files import write_text

EXPERIMENT = "tune"
STATES = "experiment_state-*.json"
KEPT = "kept_state.json"


class StateKept(tune.Callback):
    """Keeps a second copy of Tune's state as soon as a trial has ended, written whole and before anyone is told.

    Tune itself copies its state to storage in the background, over the one before: after a kill or on a full disk that
    one may be late or cut off.

    Raises:
        OSError: if it cannot be written, as on a full disk.
    """

    def __init__(self, folder: Path):
        self._folder, self._ended = folder / EXPERIMENT, False

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tune calls this when a trial has ended well."""
        self._ended = True

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tune calls this when a trial has failed."""
        self._ended = True

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Tune calls this at the end of each of its steps; `schedulers.RunAll` has it save its state before."""
        if not self._ended:
            return
        self._ended = False
        storage: Any = trials[0].storage
        staged = _newest(Path(storage.experiment_driver_staging_path))
        write_text(self._folder / KEPT, staged.read_text(encoding="utf-8"))


class Proposals(SearchGenerator):
    """Has a searcher propose a search's trials, at most so many at once, None for no such limit.

    Tune saves how many have been proposed, and which of them run, in a file beside its trials'. After a kill or a full
    disk the two may not agree, and trials or places for them would be lost: both are counted from the trials instead.
    """

    def __init__(self, searcher: Searcher, at_once: int | None):
        super().__init__(ConcurrencyLimiter(searcher, at_once) if at_once else searcher)

    def restore_from_dir(self, dirpath: str) -> None:
        """Tune calls this when a search is resumed, with what it has saved in `dirpath`."""
        super().restore_from_dir(dirpath)
        trials = _trials(_newest(Path(dirpath)))
        self._counter = len(trials)
        if isinstance(self.searcher, ConcurrencyLimiter):
            self.searcher.live_trials = {trial["trial_id"] for trial in trials if not _has_ended(trial)}


def has_state(folder: Path) -> bool:
    """Whether there is a state to go on from: killed before Tune's first, or in the midst of it, a search has none."""
    experiment = folder / EXPERIMENT
    return any(experiment.glob(STATES)) and ((experiment / KEPT).is_file() or _ended(_newest(experiment)) is not None)


def mend_state(folder: Path) -> None:
    """Put the kept copy in place of a state that is cut off, or older."""
    newest, kept = _newest(folder / EXPERIMENT), folder / EXPERIMENT / KEPT
    if kept.is_file() and (_ended(newest) or 0) < (_ended(kept) or 0):
        write_text(newest, kept.read_text(encoding="utf-8"))


def _newest(experiment: Path) -> Path:
    """Tune goes on from the last of these by name; each process that works on a search begins another."""
    return max(experiment.glob(STATES))


def _ended(state: Path) -> int | None:
    """How many trials had ended; None of a state that is cut off."""
    try:
        return sum(_has_ended(trial) for trial in _trials(state))
    except json.JSONDecodeError:
        return None


def _trials(state: Path) -> list[dict[str, Any]]:
    """What Tune keeps of each trial.

    Raises:
        json.JSONDecodeError: if the state is cut off.
    """
    return [json.loads(of_trial) for of_trial, _ in json.loads(state.read_text(encoding="utf-8"))["trial_data"]]


def _has_ended(trial: dict[str, Any]) -> bool:
    return trial["status"] in (Trial.TERMINATED, Trial.ERROR)
