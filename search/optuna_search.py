"""Optuna behind Ray Tune: proposes configurations and tells Optuna truthfully how each trial came along and ended.

Ray's own `OptunaSearch` tells a trial that was stopped early as complete, with the score it had by then, and the
sampler takes it for a fully trained one. Here every report is told at its epoch, and of the ends:

| a trial that | is told as |
|---|---|
| ran to its last epoch | COMPLETE, worth its best epoch |
| the scheduler stopped, that stalled, or the end of the search cut off | PRUNED |
| broke a rule: diverged, drifting, collapsed, out of memory | PRUNED, a constraint named as the rule violated |
| failed for another reason: nothing is known of its parameters | FAIL |

With a second objective Optuna knows no reports, and a trial that was not complete has no values.

What Tune's trials reported is the truth; the study is derived from it, and made anew when a search is resumed.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.exceptions import StorageInternalError
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial
from ray.tune.search import Searcher
from sqlalchemy.exc import SQLAlchemyError

from search.objectives import SECOND, Both, both, of_trial
from search.samplers import distribution
from search.space import Space
from search.storage import JOURNAL
from search.verdict import HARMLESS

TUNE_ID = "tune_trial_id"
LEARNT_FROM = (TrialState.COMPLETE, TrialState.PRUNED)
# A database for the studies of many searches, in place of a journal in each result; it may hold a password.
STORAGE_VARIABLE = "OPTUNA_STORAGE"


@dataclass(frozen=True)
class PastTrial:
    """What is known of a trial of before: its reports, oldest first; `running` if it is to go on."""

    trial_id: str
    parameters: Mapping[str, Any]
    reports: Sequence[Mapping[str, Any]]
    running: bool
    failed: bool


class OptunaSearch(Searcher):
    """A Tune searcher that minimises `score`.

    Args:
        space: what each parameter is drawn from.
        sampler: makes what proposes, told how many trials have been drawn before.
        storage: where the study is kept, opened by `open_storage`.
        name: of the study; one of this name that is there already is replaced.
        baselines: parameters to try first.
        earlier: trials of other searches to learn from.
        second: objective beside the score, if any.
    """

    def __init__(
        self,
        space: Space,
        sampler: Callable[[int], BaseSampler],
        storage: BaseStorage,
        name: str,
        baselines: Sequence[Mapping[str, Any]] = (),
        earlier: Sequence[FrozenTrial] = (),
        second: str = "",
    ):
        super().__init__(metric="score", mode="min")
        self._second = second
        self._distributions = {key: distribution(domain) for key, domain in space.items()}
        self._sampler, self._storage, self._name = sampler, storage, name
        self._baselines, self._earlier = list(baselines), list(earlier)
        self.rebuild([])

    def rebuild(self, past: Sequence[PastTrial]) -> None:
        """Make the study anew of what is known of earlier trials; the baselines among them are not tried again."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if self._name in optuna.get_all_study_names(self._storage):
            optuna.delete_study(study_name=self._name, storage=self._storage)
        self._study = optuna.create_study(
            storage=self._storage,
            study_name=self._name,
            sampler=self._sampler(len(past)),
            directions=directions(self._second),
        )
        self._study.add_trials(self._earlier)
        self._running: dict[str, optuna.Trial] = {}
        self._reported: dict[str, list[Both]] = {}  # by running trials, where there are two objectives
        for trial in past:
            self._add(trial)
        for point in self._baselines[len(past) :]:
            self._study.enqueue_trial(dict(point))

    def _add(self, past: PastTrial) -> None:
        state = TrialState.RUNNING if past.running else ending(past.reports[-1] if past.reports else None, past.failed)
        scores = {report["epoch"]: report["score"] for report in past.reports if math.isfinite(report["score"])}
        pairs = [both(report, self._second) for report in past.reports] if self._second else []
        frozen = create_trial(
            state=state,
            values=self._values(state, scores, pairs),
            params=dict(past.parameters),
            distributions=self._distributions,
            intermediate_values={} if self._second else scores,
            user_attrs={TUNE_ID: past.trial_id},
            constraints=None if past.running else _violated(past.reports[-1] if past.reports else None),
        )
        trial_id = self._storage.create_new_trial(self._study._study_id, frozen)
        if past.running:
            self._running[past.trial_id] = optuna.Trial(self._study, trial_id)
            self._reported[past.trial_id] = pairs

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """Propose the parameters of a new trial, by dotted key."""
        trial = self._study.ask(self._distributions)
        trial.set_user_attr(TUNE_ID, trial_id)
        self._running[trial_id] = trial
        return trial.params

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tell Optuna the score at this epoch."""
        if trial_id not in self._running:
            return
        if self._second:
            self._reported.setdefault(trial_id, []).append(both(result, self._second))
        elif math.isfinite(result["score"]):
            optuna_id = self._running[trial_id]._trial_id
            self._storage.set_trial_intermediate_value(optuna_id, result["epoch"], result["score"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna how a trial ended."""
        if trial_id not in self._running:
            return
        state = ending(result, error)
        if result and state is not TrialState.FAIL:
            self.on_trial_result(trial_id, result)
        trial = self._running.pop(trial_id)
        for rule, excess in _violated(result).items():
            trial.set_constraint(rule, excess)
        scores = self._storage.get_trial(trial._trial_id).intermediate_values
        values = self._values(state, scores, self._reported.pop(trial_id, []))
        self._study.tell(trial.number, values if state is TrialState.COMPLETE else None, state)

    def settle(self) -> None:
        """At the end of a search, prune the trials that were cut off with it; Tune does not tell of them."""
        for trial_id, trial in self._running.items():
            reported = self._reported.get(trial_id) or self._storage.get_trial(trial._trial_id).intermediate_values
            self._study.tell(trial.number, state=TrialState.PRUNED if reported else TrialState.FAIL)
        self._running.clear()

    def _values(self, state: TrialState, scores: Mapping[int, float], pairs: Sequence[Both]) -> Sequence[float] | None:
        """What a trial is worth, for each objective."""
        if self._second:
            return of_trial(pairs, self._second) if state is TrialState.COMPLETE else None
        value = _value(state, scores)
        return None if value is None else [value]


def directions(second: str) -> list[Literal["minimize", "maximize"]]:
    """Optuna's, of the score and of a second objective if there is one."""
    return ["minimize", *([SECOND[second]] if second else [])]


def open_storage(journal: Path) -> BaseStorage:
    """Where a study is kept: the database that OPTUNA_STORAGE names, or a new journal in place of an earlier one."""
    if database := _database():
        return database
    journal.unlink(missing_ok=True)
    return JournalStorage(JournalFileBackend(str(journal)))


def _database() -> RDBStorage | None:
    """The database that OPTUNA_STORAGE names, if it names one.

    Raises:
        ValueError: if that cannot be opened; it does not say its URL, which may hold a password.
    """
    url = os.environ.get(STORAGE_VARIABLE)
    try:
        return RDBStorage(url) if url else None
    except (ImportError, SQLAlchemyError) as error:
        raise ValueError(
            f"{STORAGE_VARIABLE} names a database that cannot be opened ({type(error).__name__}); check that its "
            "address is right, that it runs, and that Python has its driver"
        ) from None


@contextmanager
def telling_of_database() -> Iterator[None]:
    """Have the end of a database that OPTUNA_STORAGE names told as that of a full disk is.

    Raises:
        OSError: if it does not answer; it does not say its URL, which may hold a password.
    """
    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        raise OSError(
            f"{STORAGE_VARIABLE} names a database that does not answer ({type(error.__cause__ or error).__name__}); "
            "see to it that it runs, then go on with --resume"
        ) from error


def check_new(name: str) -> None:
    """Refuse a name that another search's study has in the database that OPTUNA_STORAGE names: it would be replaced.

    Raises:
        ValueError: then.
    """
    if (database := _database()) and name in optuna.get_all_study_names(database):
        raise ValueError(f"{STORAGE_VARIABLE} names a database that has a study {name} already; choose another --name")


def earlier_trials(results: Sequence[str], space: Space, second: str = "") -> list[FrozenTrial]:
    """The ended trials of earlier searches, named by their result folders, of the same parameters within the space.

    Raises:
        ValueError: for a folder without a study of Optuna's, or of a search for other objectives.
    """
    found: list[FrozenTrial] = []
    for result in map(Path, results):
        study = _study_of(result)
        if [direction.name.lower() for direction in study.directions] != directions(second):
            raise ValueError(f"warm_start: {result} was a search for other objectives; leave it out")
        found += [trial for trial in study.get_trials(states=LEARNT_FROM) if _is_of(trial, space)]
    for trial in found:  # Optuna takes no other choices, or scale, of a parameter within a study
        trial.distributions = {key: distribution(domain) for key, domain in space.items()}
    return found


def _study_of(result: Path) -> optuna.Study:
    journal = result / JOURNAL
    if journal.is_file():
        storage = JournalStorage(JournalFileBackend(str(journal)))
        (name,) = optuna.get_all_study_names(storage)
        return optuna.load_study(study_name=name, storage=storage)
    if (database := _database()) and result.name in optuna.get_all_study_names(database):
        return optuna.load_study(study_name=result.name, storage=database)
    raise ValueError(f"warm_start: {journal} does not exist; expected the result of an earlier search")


def _is_of(trial: FrozenTrial, space: Space) -> bool:
    same = trial.params.keys() == space.keys()
    return same and all(trial.params[key] in domain for key, domain in space.items())


def ending(result: Mapping[str, Any] | None, error: bool) -> TrialState:
    """How Optuna is told of a trial's end.

    Only a trial that ran to its last epoch is COMPLETE: the score of one stopped early is not comparable.
    """
    if error or not result or "score" not in result:
        return TrialState.FAIL
    complete = result["last_epoch"] and not result["stop_reason"] and math.isfinite(result["score"])
    return TrialState.COMPLETE if complete else TrialState.PRUNED


def _value(state: TrialState, scores: Mapping[int, float]) -> float | None:
    """What a trial is worth: its best epoch, which would be exported; Optuna takes the last one of a pruned trial."""
    if state is TrialState.COMPLETE:
        return min(scores.values())
    return scores[max(scores)] if state is TrialState.PRUNED and scores else None


def _violated(result: Mapping[str, Any] | None) -> dict[str, float]:
    """The rule that a trial broke, as a constraint that is violated: samplers rank it behind all others."""
    rule = (result or {}).get("stop_reason", "").partition(":")[0]
    return {rule: 1.0} if rule and rule not in HARMLESS else {}
