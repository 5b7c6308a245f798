"""Searches in simulated time: the methods that benchmarks compare, and what their trials report, one after the other.

The searcher and the scheduler of this project are those that search/run.py uses.
"""

import heapq
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import numpy as np
import optuna
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search.optuna import OptunaSearch as RaysOptunaSearch

from search.config import SchedulerConfig
from search.optuna_search import OptunaSearch
from search.samplers import distribution, make_sampler
from search.schedulers import make_scheduler, rung_epochs
from search.space import Space

OURS = "ours"

Parameters = dict[str, Any]


class Course(NamedTuple):
    """A training by epoch: its score, and seconds, samples and generator steps since its start; each (epochs,).

    It ends where the score is not finite.
    """

    score: np.ndarray
    seconds: np.ndarray
    samples: np.ndarray
    generator_steps: np.ndarray


class Report(NamedTuple):
    """At a moment of a search, a trial has come to an epoch (counted from 1) of its course."""

    time_s: float
    trial: str
    parameters: Parameters
    course: Course
    epoch: int


class Method(Protocol):
    """A search: it proposes trials, hears of each epoch and says whether to stop."""

    def propose(self) -> tuple[str, Parameters]:
        """A name for a new trial, and its parameters."""

    def report(self, name: str, result: dict[str, Any]) -> bool:
        """Hear of an epoch, of the last one too; True to stop."""


class TuneMethod:
    """A searcher and a scheduler of Ray Tune's kind, told what Tune would tell them."""

    def __init__(self, searcher: Any, scheduler: Any):
        self._searcher, self._scheduler = searcher, scheduler
        self._trials: dict[str, Any] = {}

    def propose(self) -> tuple[str, Parameters]:
        number = len(self._trials) + 1
        name = f"trial{number}"
        trial = SimpleNamespace(trial_id=name, experiment_tag=f"{number}_", config=self._searcher.suggest(name))
        self._trials[name] = trial
        self._scheduler.on_trial_add(None, trial)
        return name, trial.config

    def report(self, name: str, result: dict[str, Any]) -> bool:
        trial = self._trials[name]
        stop = result["done"] or self._scheduler.on_trial_result(None, trial, result) == "STOP"
        if stop:
            self._scheduler.on_trial_complete(None, trial, result)
            self._searcher.on_trial_complete(name, result)
        else:
            self._searcher.on_trial_result(name, result)
        return bool(stop)


class OptunaMethod:
    """Optuna alone, as its own documentation uses it."""

    def __init__(self, space: Space, pruner: optuna.pruners.BasePruner, seed: int):
        # Hyperband's pruner deals trials out by the study's name.
        self._study = optuna.create_study(
            study_name=f"search {seed}", sampler=optuna.samplers.TPESampler(seed=seed), pruner=pruner
        )
        self._distributions = _distributions(space)
        self._trials: dict[str, optuna.Trial] = {}

    def propose(self) -> tuple[str, Parameters]:
        trial = self._study.ask(self._distributions)
        self._trials[str(trial.number)] = trial
        return str(trial.number), trial.params

    def report(self, name: str, result: dict[str, Any]) -> bool:
        trial = self._trials[name]
        trial.report(result["score"], result["epoch"])
        if result["done"]:
            self._study.tell(trial, result["score"])
        elif trial.should_prune():
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            return True
        return bool(result["done"])


@dataclass(frozen=True)
class Setting:
    """What a search is told: where to draw from, how to halve, epochs of a full training, windows of an epoch."""

    space: Space
    scheduler: SchedulerConfig
    epochs: int
    windows: int

    def methods(self) -> dict[str, Callable[[int], Method]]:
        """What is compared, by name: each makes a search from a seed."""
        return {
            OURS: lambda seed: self._ours("curves", seed),
            "random, our ASHA": lambda seed: self._ours("random", seed),
            "TPE, our ASHA": lambda seed: self._ours("tpe", seed),
            "Ray's OptunaSearch and ASHA": self._rays,
            "Optuna, Hyperband": lambda seed: OptunaMethod(self.space, self._hyperband(), seed),
            "Optuna, median": lambda seed: OptunaMethod(self.space, optuna.pruners.MedianPruner(), seed),
            "Optuna, no pruning": lambda seed: OptunaMethod(self.space, optuna.pruners.NopPruner(), seed),
            "random, no pruning": lambda seed: TuneMethod(self._searcher("random", seed), FIFOScheduler()),
        }

    def _ours(self, sampler: str, seed: int) -> TuneMethod:
        scheduler = make_scheduler(self.scheduler, self.epochs, self.windows, seed)
        return TuneMethod(self._searcher(sampler, seed), scheduler)

    def _searcher(self, sampler: str, seed: int) -> OptunaSearch:
        rungs = rung_epochs(self.scheduler, self.epochs)
        make = partial(make_sampler, sampler, self.space, rungs, self.epochs, seed)
        return OptunaSearch(self.space, make, optuna.storages.InMemoryStorage(), "search")

    def _rays(self, seed: int) -> TuneMethod:
        searcher = RaysOptunaSearch(_distributions(self.space), metric="score", mode="min", seed=seed)
        return TuneMethod(searcher, ASHAScheduler("epoch", "score", "min", max_t=self.epochs))

    def _hyperband(self) -> optuna.pruners.BasePruner:
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=self.epochs, reduction_factor=3)


def _distributions(space: Space) -> dict[str, optuna.distributions.BaseDistribution]:
    return {key: distribution(domain) for key, domain in space.items()}


def simulate(method: Method, train: Callable[[Parameters], Course], workers: int) -> Iterator[Report]:
    """Reports of a search's trials in the order of time, without an end; each of the workers has one trial at a time.

    The method hears of a report when the next one is asked for.
    """
    queue: list[tuple[float, int, int, Any]] = []

    def start(worker: int, now_s: float) -> None:
        name, parameters = method.propose()
        course = train(parameters)
        heapq.heappush(queue, (now_s + course.seconds[0], worker, 0, (name, parameters, course, now_s)))

    for worker in range(workers):
        start(worker, 0.0)
    while True:
        now_s, worker, epoch, trial = heapq.heappop(queue)
        name, parameters, course, began_s = trial
        yield Report(now_s, name, parameters, course, epoch + 1)
        if method.report(name, _result(course, epoch)):
            start(worker, now_s)
        else:
            heapq.heappush(queue, (began_s + course.seconds[epoch + 1], worker, epoch + 1, trial))


def _result(course: Course, epoch: int) -> dict[str, Any]:
    done, score = epoch + 1, float(course.score[epoch])
    reason, last = "" if math.isfinite(score) else "diverged: non-finite score", done == len(course.score)
    counts = {"samples": course.samples[epoch], "generator_steps": course.generator_steps[epoch]}
    ended = {"last_epoch": last, "stop_reason": reason, "done": last or bool(reason)}
    seconds = course.seconds[epoch] / done
    return {"score": score, "seconds": seconds, "epoch": done, "training_iteration": done, **counts, **ended}
