"""Joins space, searcher, trainable, scheduler and storage into one Ray Tune run."""

import os
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
from ray.tune.logger import JsonLoggerCallback

from search.config import SearchConfig
from search.optuna_search import OptunaSearch
from search.schedulers import make_scheduler
from search.stoppers import drift_reason
from trainables.trainable import run_trial

EXPERIMENT = "tune"
JOURNAL = "optuna.journal"
OBJECT_STORE_BYTES = 200 * 2**20


def start_ray() -> None:
    """Join the Ray cluster this machine belongs to, or start one of this machine alone, quietly."""
    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        ray.init(address="auto", **quiet)
    except ConnectionError:
        ray.init(address="local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **quiet)


def run_search(
    config: SearchConfig, dataset: Path, folder: Path, callbacks: Sequence[tune.Callback], resume: bool
) -> ExperimentAnalysis:
    """Run a search whose state lies below `folder`, or go on with the one that lies there.

    Ctrl-C ends it early with its state saved; the analysis then holds trials that have not terminated.
    """
    searcher = _searcher(config, folder)
    if resume:
        searcher.forget_unknown({trial.trial_id for trial in ExperimentAnalysis(str(folder / EXPERIMENT)).trials})
    return tune.run(
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
        callbacks=[*callbacks, JsonLoggerCallback()],
        resume_config=tune.ResumeConfig() if resume else None,
        reuse_actors=True,
        raise_on_failed_trial=False,
        verbose=0,
    )


def _searcher(config: SearchConfig, folder: Path) -> OptunaSearch:
    return OptunaSearch(config.domains, folder / JOURNAL, config.sampler, config.seed, config.baselines)


def _trainable(config: SearchConfig, dataset: Path) -> Any:
    resources = config.resources
    function = tune.with_parameters(
        run_trial,
        base=config.trial,
        dataset=dataset,
        stop_rule=partial(drift_reason, config=config.drift),
        threads=resources.cpus_per_trial,
    )
    return tune.with_resources(function, {"cpu": resources.cpus_per_trial, "gpu": resources.gpus_per_trial})
