"""Joins space, searcher, trainable, scheduler and storage into one Ray Tune run."""

import os
import signal
from collections.abc import Sequence
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

from search.config import SearchConfig
from search.optuna_search import OptunaSearch
from search.schedulers import make_scheduler
from search.stoppers import drift_reason
from trainables.trainable import run_trial

EXPERIMENT = "tune"
JOURNAL = "optuna.journal"
# Ray's launcher leaves this file on the head of a cluster.
RAY_UP_MARK = Path("~/ray_bootstrap_config.yaml")
OBJECT_STORE_BYTES = 200 * 2**20


def start_ray() -> None:
    """Join the Ray cluster of this machine, or start one of this machine alone, quietly.

    A cluster is what `RAY_ADDRESS` names, or what `ray up` made of this machine. Another search's own Ray is none:
    it ends with that search.
    """
    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if "RAY_ADDRESS" in os.environ or RAY_UP_MARK.expanduser().exists():
        ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), **quiet)
    else:
        ray.init(address="local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **quiet)


class _Reconcile(tune.Callback):
    """Before the first proposal of a restored search, settles what Optuna alone remembers."""

    def __init__(self, searcher: OptunaSearch):
        self._searcher, self._settled = searcher, False

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Tune calls this before each of its steps."""
        if not self._settled:
            self._searcher.forget_unknown({trial.trial_id for trial in trials})
            self._settled = True


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
    searcher = OptunaSearch(config.domains, folder / JOURNAL, config.sampler, config.seed, config.baselines)
    results = JsonLoggerCallback()
    handler = signal.getsignal(signal.SIGINT)
    analysis = tune.run(
        _trainable(config, dataset),
        name=EXPERIMENT,
        storage_path=str(folder),
        search_alg=searcher,
        scheduler=make_scheduler(config.scheduler, config.training.max_epochs),
        num_samples=config.num_samples,
        max_concurrent_trials=config.resources.max_concurrent or None,
        time_budget_s=config.max_hours * 3600 or None,
        checkpoint_config=tune.CheckpointConfig(
            num_to_keep=2, checkpoint_score_attribute="score", checkpoint_score_order="min"
        ),
        callbacks=[_Reconcile(searcher), *callbacks, results],
        resume_config=tune.ResumeConfig() if resume else None,
        reuse_actors=True,
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


def _trainable(config: SearchConfig, dataset: Path) -> Any:
    resources = config.resources
    function = tune.with_parameters(
        run_trial,
        base=config.trial,
        dataset=dataset,
        stop_rule=partial(drift_reason, config=config.drift),
        threads=resources.cpus_per_trial,
        # Ray does not hide the GPUs from a trial that asked for none.
        device="cuda" if resources.gpus_per_trial else "cpu",
    )
    return tune.with_resources(function, {"cpu": resources.cpus_per_trial, "gpu": resources.gpus_per_trial})
