"""The Ray cluster that a search runs on: joined or started, waited for, and what of a search has room on it."""

import atexit
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

# Read by Ray: no usage reports, no table of Tune's own, no loggers beside those named in `tuner.py`, no tracebacks of
# trials that fail, which the progress tells of in a line each.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")

import ray
import torch
import yaml
from ray.autoscaler.sdk import request_resources
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console
from rich.markup import escape

from search.config import ResourcesConfig, SearchConfig
from search.storage import Place
from trainables import mps
from trainables.usage import GB
from trainables.workers import check_shares

# Ray's launcher leaves this file on the head of a cluster, KubeRay this variable in its pods.
RAY_UP_MARK = Path("~/ray_bootstrap_config.yaml")
KUBERAY_MARK = "RAY_USAGE_STATS_KUBERAY_IN_USE"
OBJECT_STORE_BYTES = 200 * 2**20
BATCH_SIZE = "training.batch_size"
# How long a machine may take to be rented, set up and joined; and how often it is looked for.
MOST_WAIT_S, LOOK_S = 1800.0, 2.0
# How long what one machine has written may take to be seen by another: file systems on a network remember for a while.
SEEN_WITHIN_S = 10.0


def start_ray(resources: ResourcesConfig, console: Console) -> None:
    """Join the Ray cluster of this machine, or start one of this machine alone, quietly.

    A cluster is what `RAY_ADDRESS` names, or what `ray up` made of this machine. Another search's own Ray is none:
    it ends with that search, as does what lets trials share a GPU. Where trials have several workers, Ray Train asks
    the dashboard which of them have ended, and would never give back the places of a trial that was stopped.
    """
    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if "RAY_ADDRESS" in os.environ or RAY_UP_MARK.expanduser().exists():
        ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), **quiet)
    else:
        if resources.gpus_per_trial and torch.cuda.is_available() and (trouble := mps.start()):
            console.print(
                f"[yellow]No MPS:[/] trials that share a GPU take turns ({escape(trouble)}).", highlight=False
            )
        dashboard = resources.workers_per_trial > 1
        ray.init(address="local", include_dashboard=dashboard, object_store_memory=OBJECT_STORE_BYTES, **quiet)
        atexit.register(ray.shutdown)  # before what its processes share a GPU by


def fitting(config: SearchConfig, console: Console) -> ResourcesConfig:
    """What a trial takes on the cluster there is; waits for a machine with room for it where machines come on demand.

    Elsewhere, without any GPU, trials run on CPUs, and the user is told.

    Raises:
        ValueError: if no machine has room for a trial, or none comes.
    """
    resources = config.resources
    if _grows():
        _wait_for_room(config, console)
    if resources.gpus_per_trial and not ray.cluster_resources().get("GPU"):
        console.print("[yellow]No GPU found:[/] trials run on the CPU, many times slower.", highlight=False)
        resources = replace(resources, gpus_per_trial=0.0, cpus_per_trial=resources.workers_per_trial)
    for name, key, unit in (("CPU", "cpus", 1), ("GPU", "gpus", 1), ("memory", "memory_gb", GB)):
        asked = getattr(resources, f"{key}_per_trial")
        most = max(node["Resources"].get(name, 0) for node in _nodes()) / unit
        if asked > most and resources.workers_per_trial == 1:
            key = f"resources.{key}_per_trial"
            raise ValueError(
                f"{key} is {asked:g}, but no machine has more than {most:g}; choose fewer with --set {key}=N"
            )
    if resources.workers_per_trial == 1 and not _all_places(resources):
        raise ValueError(
            f"a trial takes {resources.cpus_per_trial} CPUs, {resources.gpus_per_trial:g} GPUs and "
            f"{resources.memory_gb_per_trial:g} GB, which machines have, but none has all of them; choose fewer with "
            "--set resources.cpus_per_trial=N, gpus_per_trial or memory_gb_per_trial"
        )
    return resources


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _grows() -> bool:
    """Whether machines come on demand, the first of them perhaps with the first trial."""
    return RAY_UP_MARK.expanduser().exists() or KUBERAY_MARK in os.environ


def _most_machines() -> int:
    """How many machines with trials there may be where `ray up` made the cluster; elsewhere nothing says so: one."""
    mark = RAY_UP_MARK.expanduser()
    return int(yaml.safe_load(mark.read_text(encoding="utf-8"))["max_workers"]) if mark.exists() else 1


def _wait_for_room(config: SearchConfig, console: Console) -> None:
    """Ask for room for a worker of as many trials as there may be machines, and wait until there is for one.

    Trials ask for themselves, too, but one after the other: the next is proposed when the one before has room.
    """
    resources = config.resources
    if _all_places(resources):
        return
    cpus, gpus = of_each_worker(resources)
    at_once = min(config.num_samples, resources.max_concurrent or config.num_samples)
    bundle = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
    # No more than can be: asked for too many, Ray's autoscaler starts none.
    request_resources(bundles=[bundle] * max(1, min(at_once * resources.workers_per_trial, _most_machines())))
    # Not as a status, which is shown on terminals alone.
    console.print(f"Waiting for a machine with {cpus} CPUs and {gpus:g} GPUs to come up ...", highlight=False)
    end_s = time.monotonic() + MOST_WAIT_S
    try:
        while not _all_places(resources):
            if time.monotonic() > end_s:
                raise ValueError(
                    f"no machine with {cpus} CPUs and {gpus:g} GPUs came up within {MOST_WAIT_S / 60:.0f} minutes; "
                    "see why in /tmp/ray/session_latest/logs/monitor* on the head: quota, capacity, a bad set-up"
                )
            time.sleep(LOOK_S)
    finally:
        request_resources(bundles=[])  # else idle machines would stay; those asked for come all the same


def check_shared(folder: Place) -> None:
    """Refuse a folder that other machines of the cluster do not see: their trials could not save there.

    Raises:
        ValueError: naming the first machine that does not see it.
    """
    folder.filesystem.create_dir(folder.path)
    token = folder / f".{uuid.uuid4().hex}"
    token.filesystem.open_output_stream(token.path).close()
    try:
        check_seen(token)
    finally:
        token.filesystem.delete_file(token.path)


def check_seen(file: Place) -> None:
    """Refuse a file that other machines of the cluster do not see.

    Raises:
        ValueError: naming the first machine that does not see it.
    """
    for node in _nodes():
        if node["NodeID"] != _own_node() and (trouble := _unseen_on(node["NodeID"], file)):
            raise ValueError(
                f"{file} is not seen on machine {node['NodeManagerAddress']} of the cluster ({trouble}); put results "
                "and data where all machines reach them: in a bucket (s3://...), or on NFS, EFS, Lustre"
            )


def _own_node() -> str:
    return str(ray.get_runtime_context().get_node_id())


def _unseen_on(node_id: str, file: Place) -> str:
    strategy = NodeAffinitySchedulingStrategy(node_id=node_id, soft=False)
    task = ray.remote(num_cpus=0)(_unseen).options(scheduling_strategy=strategy)
    return str(ray.get(task.remote(file, SEEN_WITHIN_S)))


def _unseen(file: Place, within_s: float) -> str:
    """Why a file does not come into sight; empty if it does."""
    end_s = time.monotonic() + within_s
    try:
        while not file.exists():
            if time.monotonic() > end_s:
                return "no such file"
            time.sleep(0.2)
    except OSError as error:  # such as no right to read
        return str(error)
    return ""


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
    places = _all_places(config.resources)
    if places < workers:
        cpus, gpus = of_each_worker(config.resources)
        raise ValueError(
            f"a trial has {workers} workers of {cpus} CPUs and {gpus:g} GPUs each, but the cluster has room for "
            f"{places}; choose fewer with --set resources.workers_per_trial=N, or fewer CPUs or GPUs for each"
        )
    return min(places // workers, configured or places)


def expected_at_once(config: SearchConfig) -> int:
    """How many trials will run at once on the cluster as it is now."""
    places = max(1, _all_places(config.resources) // config.resources.workers_per_trial)
    return min(trials_at_once(config) or places, places)


def _all_places(resources: ResourcesConfig) -> int:
    """How many workers have room on the cluster."""
    memory_gb = resources.memory_gb_per_trial if resources.workers_per_trial == 1 else 0.0
    return sum(_places(node["Resources"], *of_each_worker(resources), memory_gb) for node in _nodes())


def _places(node: Mapping[str, float], cpus: int, gpus: float, memory_gb: float) -> int:
    """How many workers have room on one machine."""
    takes = {"CPU": cpus, "GPU": gpus, "memory": memory_gb * GB}
    return min(int(node.get(name, 0) // amount) for name, amount in takes.items() if amount)


def of_each_worker(resources: ResourcesConfig) -> tuple[int, float]:
    """CPUs and GPUs of each worker of a trial."""
    workers = resources.workers_per_trial
    check_shares("resources.cpus_per_trial", resources.cpus_per_trial, workers)
    check_shares("resources.gpus_per_trial", resources.gpus_per_trial, workers)
    return resources.cpus_per_trial // workers, resources.gpus_per_trial / workers
