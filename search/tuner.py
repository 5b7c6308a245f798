"""Joins space, searcher, trainable, scheduler and storage into one Ray Tune run."""

import signal
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.analysis import ExperimentAnalysis
from ray.tune.experiment import Experiment, Trial
from ray.tune.logger import JsonLoggerCallback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from search.budget import Budget, TimeLimit
from search.cluster import BATCH_SIZE, expected_at_once, of_each_worker, trials_at_once
from search.config import SearchConfig
from search.internals import (
    ForgetMetrics,
    closing_files,
    deleting_aside,
    own_errors,
    recall_scores,
    save_state_sparingly,
    send_changes_alone,
)
from search.line_log import reports_by_trial
from search.optuna_search import OptunaSearch, PastTrial, earlier_trials, open_storage, telling_of_database
from search.plan import ANSWERS_FILE
from search.race import Race
from search.samplers import make_sampler
from search.schedulers import Asha, make_scheduler, rung_epochs
from search.stoppers import stop_reason
from search.storage import EXPERIMENT, JOURNAL, Place, on_this_machine, place
from search.trials import last_failure, trial_number
from search.tune_state import Proposals, TrialsKept, mend_state
from trainables.batches import PreparedDataset
from trainables.trainable import MAX_FAILURES, run_trial
from trainables.training import OUT_OF_MEMORY
from trainables.usage import GB

# A search whose trials fail ends when so many have, of so many that ended last.
MOST_FAILED, AMONG = 5, 10


class _SharedBatches(OptunaSearch):
    """Proposes batches that the workers of a trial can share: rounded down to a multiple of them.

    The ends of a range are such multiples, so none falls below it.
    """

    def __init__(self, workers: int, *arguments: Any):
        super().__init__(*arguments)
        self._workers = workers

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """Propose the parameters of a new trial, by dotted key."""
        parameters = super().suggest(trial_id)
        if BATCH_SIZE in parameters:
            parameters[BATCH_SIZE] -= parameters[BATCH_SIZE] % self._workers
        return parameters


class _Restored(tune.Callback):
    """Before a restored search goes on, tells searcher, scheduler and budget what its trials have reported.

    Tune's records of its trials are the truth. They hold the last report alone, and may be minutes old; the others are
    in the search's log.
    """

    def __init__(self, searcher: OptunaSearch | Race, scheduler: TrialScheduler, limit: TimeLimit, folder: Path):
        self._searcher, self._scheduler, self._limit, self._folder = searcher, scheduler, limit, folder
        self._told = False

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Tune calls this before each of its steps."""
        self._tell(trials)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Tune calls this at the end, without a step before it where every trial had ended."""
        self._tell(trials)

    def _tell(self, trials: Sequence[Trial]) -> None:
        if self._told:
            return
        self._told = True
        if not trials:  # Tune logs why, and would begin the search anew
            raise ValueError(f"{self._folder / EXPERIMENT} cannot be read, so the search cannot go on from it")
        logged = reports_by_trial(self._folder)
        past = {trial: _past(trial, logged.get(trial.trial_id, [])) for trial in sorted(trials, key=trial_number)}
        self._searcher.rebuild(list(past.values()))
        self._limit.replay(list(past.values()))
        for trial, known in past.items():
            _show_folders(trial)
            recall_scores(trial, [report["score"] for report in known.reports])
            if isinstance(self._scheduler, Asha):
                self._scheduler.replay(trial, known.reports)


class _RunAlone(tune.Callback):
    """Has a trial that ran out of memory beside others on a GPU go on with a whole one."""

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tune calls this when a trial has failed and is to go on from its last checkpoint."""
        request: Any = trial.placement_group_factory
        taken, failures = request.required_resources, Path(str(trial.error_file)).read_text(encoding="utf-8")
        if 0 < taken.get("GPU", 0) < 1 and OUT_OF_MEMORY in failures:
            trial.update_resources(tune.PlacementGroupFactory([{**taken, "GPU": 1.0}]))


class _TooManyFail(tune.Callback):
    """Ends a search when most of the trials that end fail: a machine on which all do would soon have had all of them.

    Raises:
        OSError: then.
    """

    def __init__(self) -> None:
        self._failed, self._why = deque[bool](maxlen=AMONG), ""

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tune calls this when a trial has ended well."""
        self._failed.append(False)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tune calls this when a trial has failed for good."""
        self._failed.append(True)
        self._why = last_failure(trial)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Tune calls this at the end of each of its steps, when the other callbacks have kept what is new."""
        if sum(self._failed) >= MOST_FAILED:
            raise OSError(
                f"{MOST_FAILED} of the last {len(self._failed)} trials have failed, the last one so: {self._why}. "
                "Mend, or end, the machine that it ran on, then go on with --resume"
            )


def _past(trial: Trial, logged: Sequence[Mapping[str, Any]]) -> PastTrial:
    """What a trial has reported, each epoch once; it goes on from its newest checkpoint and may report some again."""
    last = [trial.last_result] if "score" in (trial.last_result or {}) else []
    by_epoch = {report["epoch"]: report for report in (*logged, *last)}
    reports = [by_epoch[epoch] for epoch in sorted(by_epoch)]
    running = trial.status not in (Trial.TERMINATED, Trial.ERROR)
    return PastTrial(trial.trial_id, trial.config, reports, running, failed=trial.status == Trial.ERROR)


def _show_folders(trial: Trial) -> None:
    """Make the checkpoint folders that Tune expects of a restored trial and had itself deleted before it was killed.

    Tune saves its state after it deletes, and gives up a trial, or miscounts its checkpoints, for a missing folder; the
    trial finds the newest checkpoint beside an empty one.
    """
    manager: Any = trial.run_metadata.checkpoint_manager
    for result in [*manager.best_checkpoint_results, manager.latest_checkpoint_result]:
        if result is not None:
            result.checkpoint.filesystem.create_dir(result.checkpoint.path)


@telling_of_database()
def run_search(
    config: SearchConfig, dataset: Path | Place, folder: Path | Place, callbacks: Sequence[tune.Callback], resume: bool
) -> tuple[ExperimentAnalysis, bool]:
    """Run a search whose state is kept below `folder`, or go on with the one that is kept there.

    Returns:
        Tune's records, and whether the search has finished; Ctrl-C ends it before, with its state saved.
    """
    workers = config.resources.workers_per_trial
    space, max_epochs = config.domains, config.training.max_epochs
    rungs = rung_epochs(config.scheduler, max_epochs)
    sampler = partial(make_sampler, config.sampler, space, rungs, max_epochs, config.seed)
    here = place(folder).here
    second = config.second_objective
    storage, earlier = open_storage(here / JOURNAL), earlier_trials(config.warm_start, space, second)
    searcher = _SharedBatches(workers, space, sampler, storage, here.name, config.baselines, earlier, second)
    windows = PreparedDataset.open(on_this_machine(place(dataset))).count("train")
    scheduler = make_scheduler(config.scheduler, max_epochs, windows, config.seed)
    limit = Budget(config, expected_at_once(config))
    analysis, finished = _run(
        config, dataset, folder, callbacks, resume, searcher, scheduler, config.num_samples, limit
    )
    if finished:
        searcher.settle()
    return analysis, finished


def run_finalists(
    config: SearchConfig,
    dataset: Path | Place,
    folder: Path | Place,
    callbacks: Sequence[tune.Callback],
    resume: bool,
    race: Race,
    limit: TimeLimit,
) -> tuple[ExperimentAnalysis, bool]:
    """Train the finalists, each to its last epoch unless a rule stops it, as `run_search` trains others."""
    return _run(config, dataset, folder, callbacks, resume, race, FIFOScheduler(), race.trainings, limit)


def _run(
    config: SearchConfig,
    dataset: Path | Place,
    folder: Path | Place,
    callbacks: Sequence[tune.Callback],
    resume: bool,
    searcher: OptunaSearch | Race,
    scheduler: TrialScheduler,
    num_samples: int,
    limit: TimeLimit,
) -> tuple[ExperimentAnalysis, bool]:
    results, kept = JsonLoggerCallback(), place(folder)
    if resume:
        (kept / EXPERIMENT / mend_state(kept.here).name).send()
    restored = [_Restored(searcher, scheduler, limit, kept.here)] if resume else []
    handler = signal.getsignal(signal.SIGINT)
    experiment = Experiment(
        EXPERIMENT,
        _trainable(config, place(dataset), kept / EXPERIMENT),
        storage_path=kept.path,
        storage_filesystem=kept.filesystem,
        num_samples=num_samples,
        stop=limit,
        # The last two, and no choice by score: what Tune saves of itself may name the last but one as the last.
        checkpoint_config=tune.CheckpointConfig(num_to_keep=2),
        max_failures=MAX_FAILURES,
    )
    send_changes_alone(experiment, kept / EXPERIMENT)
    save_state_sparingly()
    with deleting_aside(kept), closing_files(results), own_errors():
        analysis = tune.run(
            experiment,  # type: ignore[arg-type]  # as documented
            search_alg=Proposals(searcher, trials_at_once(config), experiment, (kept.here / ANSWERS_FILE).is_file()),
            scheduler=scheduler,
            callbacks=[
                *(*restored, TrialsKept(kept.here), _RunAlone()),
                *(*callbacks, results, ForgetMetrics(), _TooManyFail()),
            ],
            resume_config=tune.ResumeConfig() if resume else None,
            reuse_actors=config.resources.workers_per_trial == 1,
            raise_on_failed_trial=False,
            verbose=0,
        )
    # Tune answers Ctrl-C by saving its state and putting the old handler back; else its own is left behind.
    finished = signal.getsignal(signal.SIGINT) is not handler
    signal.signal(signal.SIGINT, handler)
    return analysis, finished


def _trainable(config: SearchConfig, dataset: Place, runs: Place) -> Any:
    resources = config.resources
    cpus, gpus = of_each_worker(resources)
    function = tune.with_parameters(
        run_trial,
        base=config.trial,
        dataset=partial(on_this_machine, dataset),
        stop_rule=partial(stop_reason, config=config.stopping),
        cpus=cpus,
        gpus=gpus,
        num_workers=resources.workers_per_trial,
        filesystem=runs.filesystem,
        runs=runs.path,
    )
    if resources.workers_per_trial > 1:
        # They have places of their own; Tune wants the process that waits for them to take something: a byte.
        return tune.with_resources(function, {"memory": 1})
    return tune.with_resources(function, {"cpu": cpus, "gpu": gpus, "memory": resources.memory_gb_per_trial * GB})
