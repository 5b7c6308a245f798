"""Optuna behind Ray Tune: proposes configurations and tells Optuna truthfully how each trial ended.

Unlike Ray's own `OptunaSearch`, a trial that was stopped early is told as PRUNED, a failed one as FAIL, and the study
lives in a journal file that outlasts the process: a restored search goes on with the same study.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher

from search.space import Choices, Domain, Space

STUDY = "search"
TUNE_ID = "tune_trial_id"


class OptunaSearch(Searcher):
    """A Tune searcher that minimises `score`."""

    def __init__(
        self,
        space: Space,
        journal: Path,
        sampler: str,
        seed: int,
        baselines: Sequence[Mapping[str, Any]] = (),
    ):
        super().__init__(metric="score", mode="min")
        self._distributions = {key: distribution(domain) for key, domain in space.items()}
        self._journal, self._sampler, self._seed = journal, sampler, seed
        self._study = self._open_study()
        for point in baselines:
            self._study.enqueue_trial(dict(point), skip_if_exists=True)

    def _open_study(self) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            self._storage = JournalStorage(JournalFileBackend(str(self._journal)))
        except (ValueError, KeyError) as error:
            raise ValueError(f"{self._journal} is damaged ({error}); start another search") from error
        study = optuna.create_study(storage=self._storage, study_name=STUDY, direction="minimize", load_if_exists=True)
        # A restored search must not draw again what it drew at its start.
        study.sampler = make_sampler(self._sampler, self._seed + len(study.trials))
        return study

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """Propose the parameters of a new trial, by dotted key."""
        trial = self._study.ask(self._distributions)
        trial.set_user_attr(TUNE_ID, trial_id)
        return trial.params

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tell Optuna the score at this epoch."""
        trial = self._find(trial_id)
        if trial is not None and math.isfinite(result["score"]):
            self._storage.set_trial_intermediate_value(trial._trial_id, result["epoch"], result["score"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna how a trial ended."""
        trial = self._find(trial_id)
        if trial is None:
            return
        state = ending(result, error)
        if state is not TrialState.FAIL and result is not None:
            self.on_trial_result(trial_id, result)
        self._study.tell(trial.number, self._value(trial, state), state=state)

    def _value(self, trial: FrozenTrial, state: TrialState) -> float | None:
        """The best score of a complete trial: the epoch that is exported is the best one, not the last."""
        if state is not TrialState.COMPLETE:
            return None
        return min(self._storage.get_trial(trial._trial_id).intermediate_values.values())

    def _find(self, trial_id: str) -> FrozenTrial | None:
        """The Optuna trial of a Tune trial that is still running for Optuna.

        A search killed between two of Tune's snapshots may report again what the journal already holds as ended.
        """
        for trial in reversed(self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))):
            if trial.user_attrs.get(TUNE_ID) == trial_id:
                return trial
        return None

    def forget_unknown(self, known: set[str]) -> None:
        """Fail the trials that Optuna holds as running but a restored Tune has never heard of."""
        for trial in self._study.get_trials(states=(TrialState.RUNNING,)):
            if trial.user_attrs.get(TUNE_ID) not in known:
                self._study.tell(trial.number, state=TrialState.FAIL)

    def settle(self) -> None:
        """At the end of a search, prune the trials that were cut off with it; Tune does not tell of them."""
        for trial in self._study.get_trials(states=(TrialState.RUNNING,)):
            self._study.tell(trial.number, state=TrialState.PRUNED if trial.intermediate_values else TrialState.FAIL)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to write: the journal is the state. Tune wants the file to exist."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Open the journal again."""
        self._study = self._open_study()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_study", "_storage")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._study = self._open_study()


def distribution(domain: Domain) -> BaseDistribution:
    """A domain in Optuna's terms."""
    if isinstance(domain, Choices):
        return CategoricalDistribution(domain.choices)
    if isinstance(domain.low, int) and isinstance(domain.high, int):
        return IntDistribution(domain.low, domain.high, log=domain.log)
    return FloatDistribution(domain.low, domain.high, log=domain.log)


def make_sampler(name: str, seed: int) -> BaseSampler:
    """A sampler by name: `tpe` models parameters jointly and keeps parallel trials apart."""
    if name == "random":
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=5)


def ending(result: Mapping[str, Any] | None, error: bool) -> TrialState:
    """How Optuna is told of a trial's end.

    Only a trial that ran to its last epoch is COMPLETE: the score of one stopped early is not comparable.
    """
    if error or not result or "score" not in result:
        return TrialState.FAIL
    complete = result["last_epoch"] and not result["stop_reason"] and math.isfinite(result["score"])
    return TrialState.COMPLETE if complete else TrialState.PRUNED
