"""How many trials run at once on a machine: what each of them takes, measured where they will run.

Memory decides how many have room. How many share a GPU is decided by their steps per second together: trials that only
take turns there gain nothing. Where NVIDIA's MPS runs on the machine, sharing is measured with it, and a GPU of one's
own without it.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch
from ray.tune.experiment import Trial
from rich.console import Console

from search.config import ResourcesConfig, SearchConfig
from search.probe import ShortTraining, largest, typical
from trainables.config import TrialConfig
from trainables.usage import GB

# What sharing a GPU has to gain in all, and each further trial over one fewer.
LEAST_GAIN, LEAST_STEP = 1.2, 1.05
# What a trial is given over what a few steps took: judging takes some, and checkpoints.
MARGIN = 1.2


@dataclass(frozen=True)
class Taken:
    """What several trainings at once took: each in GB of memory, all of a GPU as a share; and their steps a second."""

    memory_gb: float
    gpu_share: float
    steps_per_s: float


# So many trainings of a configuration at once, on one GPU if they use any.
Measure = Callable[[TrialConfig, int], Taken]


def pack(config: SearchConfig, dataset: Callable[[], Path], console: Console) -> ResourcesConfig:
    """What each trial takes, measured if the configuration leaves its memory open and it has one worker.

    `dataset` gives the folder of the prepared dataset on whichever machine it is called.
    """
    resources = config.resources
    if resources.memory_gb_per_trial or resources.workers_per_trial > 1:
        return resources
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    node = max(nodes, key=lambda node: (node.get("GPU", 0), node.get("CPU", 0)))
    with console.status("Measuring what a trial takes ..."):
        packed = packed_on(node, config, lambda trial, count: _take_steps(trial, dataset, resources, count))
    sharing = f", {int(1 / packed.gpus_per_trial)} share a GPU" if 0 < packed.gpus_per_trial < 1 else ""
    console.print(
        f"Each trial: up to {packed.memory_gb_per_trial:.1f} GB, CPUs: {packed.cpus_per_trial}{sharing}.",
        highlight=False,
    )
    return packed


def packed_on(node: Mapping[str, float], config: SearchConfig, measure: Measure) -> ResourcesConfig:
    """What each trial takes on such a node of Ray's.

    Memory is that of the largest configuration, but no more than there is; speed that of a typical one. A whole GPU for
    each trial is shared out if that pays, any other number of them is kept.
    """
    resources, cores, room_gb = config.resources, int(node["CPU"]), math.floor(1000 * node["memory"] / GB) / 1000
    alone = measure(largest(config), 1)
    memory_gb = min(round(MARGIN * alone.memory_gb, 3), room_gb)
    packed = replace(resources, memory_gb_per_trial=memory_gb)
    if not resources.gpus_per_trial:
        return replace(packed, cpus_per_trial=threads(cores, int(room_gb / memory_gb), resources.cpus_per_trial))
    if resources.gpus_per_trial != 1:
        return packed
    most = int(min(1 / (MARGIN * alone.gpu_share), min(room_gb / memory_gb, cores) / node["GPU"]))
    count = sharing(lambda count: measure(typical(config), count).steps_per_s, most)
    cpus = min(resources.cpus_per_trial, max(1, int(cores / node["GPU"]) // count))
    # Ray counts ten-thousandths of a GPU.
    return replace(packed, gpus_per_trial=math.floor(10_000 / count) / 10_000, cpus_per_trial=cpus)


def threads(cores: int, room: int, least: int) -> int:
    """CPUs for each trial on a machine with memory for so many: `least`, or more where some would be idle."""
    return max(least, cores // max(1, min(cores // least, room)))


def sharing(speed: Callable[[int], float], most: int) -> int:
    """How many trials are to share a GPU, from the speed of so many together; one more is tried while that pays."""
    count, together = 1, speed(1) if most > 1 else 0.0
    alone = together
    while count < most and (more := speed(count + 1)) > LEAST_STEP * together:
        count, together = count + 1, more
    return count if together >= LEAST_GAIN * alone else 1


def why_waiting(trials: Sequence[Trial], there: Mapping[str, float]) -> str:
    """What a waiting trial lacks on a cluster that has so much; empty if none waits, or its process is starting."""
    waiting = [trial for trial in trials if trial.status == Trial.PENDING]
    if not waiting:
        return ""
    taken = Counter[str]()
    for trial in trials:
        if trial.status == Trial.RUNNING:
            taken.update(_needs(trial))
    needs = _needs(waiting[0])
    lacking = [name for name, need in needs.items() if there.get(name, 0.0) - taken[name] < need]
    texts = [
        f"{name} ({_amount(name, taken[name])} of {_amount(name, there.get(name, 0.0))} taken)" for name in lacking
    ]
    return f"Waiting: no free {', '.join(texts)}." if texts else ""


def _needs(trial: Any) -> dict[str, float]:
    """What Tune asks Ray for to run a trial, by Ray's names."""
    return dict(trial.placement_group_factory.required_resources)


def _amount(name: str, value: float) -> str:
    return f"{value / GB:.1f} GB" if name == "memory" else f"{value:g}"


def _take_steps(trial: TrialConfig, dataset: Callable[[], Path], resources: ResourcesConfig, count: int) -> Taken:
    """Start so many short trainings as actors of Ray's and have them take steps at the same time."""
    gpus = math.floor(10_000 * min(1.0, resources.gpus_per_trial) / count) / 10_000
    actor: Any = ray.remote(ShortTraining).options(num_cpus=1, num_gpus=gpus)
    trainings = [actor.remote(trial, dataset, resources.cpus_per_trial, gpus) for _ in range(count)]
    try:
        per_s = _speed(trainings, trial.training.n_critic)
        memory = ray.get([training.memory.remote() for training in trainings])
    finally:
        for training in trainings:
            ray.kill(training)
    return Taken(max(gb for gb, _ in memory), max(share for _, share in memory), per_s)


def _speed(trainings: Sequence[Any], n_critic: int) -> float:
    """Steps a second of all together; 0 where there is not enough memory on the GPU."""
    try:
        ray.get([training.steps.remote(0) for training in trainings])  # until all have started
        speeds = ray.get([training.steps.remote() for training in trainings])
    except torch.OutOfMemoryError:
        return 0.0
    return float(sum(steps.critic_steps_per_s(n_critic) for steps in speeds))
