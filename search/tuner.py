"""Joins space, searcher, trainable, scheduler and storage into one Ray Tune run."""

import os
import signal
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

# Read by Ray when it is imported: no usage reports, no table of Tune's own, no loggers beside those named below.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")

import ray
from ray import tune
from ray.tune.analysis import ExperimentAnalysis
from ray.tune.experiment import Trial
from ray.tune.logger import JsonLoggerCallback

from search.config import ResourcesConfig, SearchConfig
from search.optuna_search import OptunaSearch
from search.schedulers import make_scheduler
from search.stoppers import stop_reason
from trainables.trainable import run_trial
from trainables.workers import check_shares

EXPERIMENT = "tune"
JOURNAL = "optuna.journal"
# Ray's launcher leaves this file on the head of a cluster.
RAY_UP_MARK = Path("~/ray_bootstrap_config.yaml")
OBJECT_STORE_BYTES = 200 * 2**20
BATCH_SIZE = "training.batch_size"


def start_ray(dashboard: bool = False) -> None:
    """Join the Ray cluster of this machine, or start one of this machine alone, quietly.

    A cluster is what `RAY_ADDRESS` names, or what `ray up` made of this machine. Another search's own Ray is none:
    it ends with that search. Where trials have several workers, Ray Train asks the dashboard which of them have ended,
    and would never give back the places of a trial that was stopped.
    """
    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if "RAY_ADDRESS" in os.environ or RAY_UP_MARK.expanduser().exists():
        ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), **quiet)
    else:
        ray.init(address="local", include_dashboard=dashboard, object_store_memory=OBJECT_STORE_BYTES, **quiet)


def trials_at_once(config: SearchConfig) -> int | None:
    """How many trials may run at once on the cluster; None leaves it to Tune.

    Tune counts what its trials take, but does not see the workers that a trial starts; they would wait for each other.

    Raises:
        ValueError: if the workers of a trial cannot share its batches or resources, or not one trial has room.
    """
    configured, workers = config.resources.max_concurrent or None, config.resources.workers_per_trial
    if workers == 1:
        return configured
    for size in config.domains[BATCH_SIZE].ends if BATCH_SIZE in config.space else (config.training.batch_size,):
        check_shares("batch_size", size, workers)
    cpus, gpus = _of_each_worker(config.resources)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    places = sum(_places(node, cpus, gpus) for node in nodes)
    if places < workers:
        raise ValueError(
            f"a trial has {workers} workers of {cpus} CPUs and {gpus:g} GPUs each, but the cluster has room for "
            f"{places}; choose fewer with --set resources.workers_per_trial=N, or fewer CPUs or GPUs for each"
        )
    return min(places // workers, configured or places)


def _places(node: Mapping[str, float], cpus: int, gpus: float) -> int:
    """How many workers have room on one machine."""
    cpu_places = int(node.get("CPU", 0) // cpus)
    return min(cpu_places, int(node.get("GPU", 0) // gpus)) if gpus else cpu_places


def _of_each_worker(resources: ResourcesConfig) -> tuple[int, float]:
    """CPUs and GPUs of each worker of a trial."""
    workers = resources.workers_per_trial
    check_shares("resources.cpus_per_trial", resources.cpus_per_trial, workers)
    check_shares("resources.gpus_per_trial", resources.gpus_per_trial, workers)
    return resources.cpus_per_trial // workers, resources.gpus_per_trial / workers


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


class _Reconcile(tune.Callback):
    """Before the first step of a restored search, settles what Optuna and the disk know better than Tune."""

    def __init__(self, searcher: OptunaSearch):
        self._searcher, self._settled = searcher, False

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Tune calls this before each of its steps."""
        if not self._settled:
            self._searcher.forget_unknown({trial.trial_id for trial in trials})
            self._settled = True
            for trial in trials:
                _show_folders(trial)


def _show_folders(trial: Trial) -> None:
    """Make the checkpoint folders that Tune expects of a restored trial and had itself deleted before it was killed.

    Tune saves its state after it deletes, and gives up a trial, or miscounts its checkpoints, for a missing folder; the
    trial finds the newest checkpoint beside an empty one.
    """
    manager: Any = trial.run_metadata.checkpoint_manager
    for result in [*manager.best_checkpoint_results, manager.latest_checkpoint_result]:
        if result is not None:
            Path(result.checkpoint.path).mkdir(parents=True, exist_ok=True)


def has_state(folder: Path) -> bool:
    """Whether Tune has saved anything to go on from; killed before its first snapshot, a search has nothing."""
    return any((folder / EXPERIMENT).glob("experiment_state-*.json"))


def run_search(
    config: SearchConfig, dataset: Path, folder: Path, callbacks: Sequence[tune.Callback], resume: bool
) -> tuple[ExperimentAnalysis, bool]:
    """Run a search whose state lies below `folder`, or go on with the one that lies there.

    Returns:
        Tune's records, and whether the search has finished; Ctrl-C ends it before, with its state saved.
    """
    at_once, workers = trials_at_once(config), config.resources.workers_per_trial
    searcher = _SharedBatches(workers, config.domains, folder / JOURNAL, config.sampler, config.seed, config.baselines)
    results = JsonLoggerCallback()
    handler = signal.getsignal(signal.SIGINT)
    analysis = tune.run(
        _trainable(config, dataset, folder / EXPERIMENT),
        name=EXPERIMENT,
        storage_path=str(folder),
        search_alg=searcher,
        scheduler=make_scheduler(config.scheduler, config.training.max_epochs),
        num_samples=config.num_samples,
        max_concurrent_trials=at_once,
        time_budget_s=config.max_hours * 3600 or None,
        # The last two, and no choice by score: what Tune saves of itself may name the last but one as the last.
        checkpoint_config=tune.CheckpointConfig(num_to_keep=2),
        callbacks=[_Reconcile(searcher), *callbacks, results],
        resume_config=tune.ResumeConfig() if resume else None,
        reuse_actors=workers == 1,
        raise_on_failed_trial=False,
        verbose=0,
    )
    # Tune answers Ctrl-C by saving its state and putting the old handler back; else its own is left behind.
    finished = signal.getsignal(signal.SIGINT) is not handler
    signal.signal(signal.SIGINT, handler)
    for trial in analysis.trials:  # Tune leaves the files of trials that it cut off open
        results.log_trial_end(trial)
    if finished:
        searcher.settle()
    return analysis, finished


def _trainable(config: SearchConfig, dataset: Path, runs: Path) -> Any:
    resources = config.resources
    cpus, gpus = _of_each_worker(resources)
    function = tune.with_parameters(
        run_trial,
        base=config.trial,
        dataset=dataset,
        stop_rule=partial(stop_reason, config=config.stopping),
        cpus=cpus,
        gpus=gpus,
        num_workers=resources.workers_per_trial,
        runs=runs,
    )
    # Several workers have places of their own; Tune wants the process that waits for them to take something: a byte.
    alone = resources.workers_per_trial == 1
    return tune.with_resources(function, {"cpu": cpus, "gpu": gpus} if alone else {"memory": 1})
