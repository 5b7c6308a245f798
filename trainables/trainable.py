"""The Ray Train wrapping: the training loop as a function that Tune runs. No other file here knows of Ray.

One worker trains inside the trial's own process through Ray Train's local mode; what it reports goes straight to
Tune, which owns the checkpoints. Several workers are processes of a Ray Train run that the trial starts: it owns the
checkpoints, and hands the first worker's metrics on to Tune.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.train
import torch
from pyarrow.fs import FileSelector, FileSystem
from ray import tune
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from trainables import mps, workers
from trainables.batches import PreparedDataset
from trainables.checkpoint import FILE, best_epoch, load_first, save_checkpoint
from trainables.config import TrialConfig, with_values
from trainables.gan import Gan
from trainables.training import OUT_OF_MEMORY, Report, StopRule, train
from trainables.usage import Usage, forget_peak

# How often a trial goes on from its last checkpoint after its process, or one of its workers, died.
MAX_FAILURES = 3
# How often, a minute each, workers wait for room: on a cluster that has shrunk for good they would for ever.
MAX_WAITS = 30
# Ray Train takes up one report each time it looks; by default every 2 s, which a short epoch would wait for.
LOOK_S = "0.2"


def run_trial(
    parameters: dict[str, Any],
    *,
    base: TrialConfig,
    dataset: Callable[[], Path],
    stop_rule: StopRule,
    cpus: int,
    gpus: float,
    num_workers: int,
    filesystem: FileSystem,
    runs: str,
) -> None:
    """Train one configuration: sampled dotted parameters laid over `base`.

    `dataset` gives the folder of the prepared dataset on whichever machine it is called. Each of `num_workers` has so
    many CPUs and GPUs of its own. Several of them keep their checkpoints in a folder of `runs`, on a file system, that
    has the trial's id for a name.

    Raises:
        ValueError: if the configuration does not fit the data or the number of workers.
    """
    config = with_values(base, parameters)
    workers.check_shares("batch_size", config.training.batch_size, num_workers)

    def train_here() -> None:
        torch.set_num_threads(cpus)
        # Ray does not hide the GPUs from a trial that asked for none, and makes a worker's own its current device.
        device = torch.device("cuda" if gpus else "cpu")
        shared = 0 < (own := own_gpus(gpus)) < 1
        if own >= 1:
            mps.leave()
        if shared:
            torch.cuda.set_per_process_memory_fraction(own)
        forget_peak(device)
        state, warning = _last_state()
        report = _reporter(state, warning, Usage(device, _steps(state)), shared)
        train(config, PreparedDataset.open(dataset()), report, stop_rule, state, device)

    if num_workers == 1:
        TorchTrainer(train_here, scaling_config=ScalingConfig(num_workers=0)).fit()
        return
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", LOOK_S)
    TorchTrainer(
        train_here,
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=num_workers, use_gpu=gpus > 0, resources_per_worker={"CPU": cpus, "GPU": gpus}
        ),
        run_config=_run_config(filesystem, runs),
    ).fit()


def own_gpus(asked: float) -> float:
    """What one worker has: more than it asked for where Tune runs it again alone; several ask for themselves."""
    if workers.count() > 1:
        return asked
    return float(tune.get_context().get_trial_resources().required_resources.get("GPU", 0.0))


def _run_config(filesystem: FileSystem, runs: str) -> RunConfig:
    """A restored trial finds its checkpoints again, because its id names the run."""
    return RunConfig(
        name=tune.get_context().get_trial_id(),
        storage_path=runs,
        storage_filesystem=filesystem,
        callbacks=[TuneReportCallback()],  # type: ignore[list-item]
        failure_config=FailureConfig(
            max_failures=MAX_FAILURES,
            controller_failure_limit=MAX_WAITS,  # type: ignore[call-arg]
        ),
        checkpoint_config=CheckpointConfig(num_to_keep=2),
    )


def _session() -> Any:
    """What a worker reports to and gets its checkpoint from: the run of several workers, or else Tune."""
    return ray.train if workers.count() > 1 else tune


def _reporter(state: dict[str, Any] | None, warning: str, usage: Usage, shared: bool) -> Report:
    """All workers report; the first one's checkpoint is everyone's.

    Every checkpoint holds the best epoch so far, at first that of `state`; the first report carries the warning. On a
    shared GPU a training without memory is no answer: it fails, and Tune runs it again alone.
    """
    best, warnings = state and state["best"], iter([warning])

    def report(metrics: dict[str, Any], gan: Gan) -> None:
        nonlocal best
        if shared and metrics["stop_reason"].startswith(OUT_OF_MEMORY):
            raise torch.OutOfMemoryError(metrics["stop_reason"])
        best = best_epoch(best, gan)
        told = {**metrics, "best_score": best["history"][-1]["score"], "warning": next(warnings, "")}
        told |= usage(gan, metrics["seconds"])
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if workers.rank() == 0:
                save_checkpoint(Path(folder), gan, best)
                checkpoint = _session().Checkpoint.from_directory(folder)
            _session().report(told, checkpoint=checkpoint)

    return report


def _steps(state: dict[str, Any] | None) -> int:
    """Steps of both networks that a state has behind it."""
    return state["counters"]["critic_steps"] + state["counters"]["generator_steps"] if state else 0


def _last_state() -> tuple[dict[str, Any] | None, str]:
    """The state to go on from, None to start anew; and a warning where it is not that of the last checkpoint.

    Where the last checkpoint is damaged, the one before it is taken, or any that is whole. That costs time alone: a
    training that repeats epochs comes to the same numbers.
    """
    checkpoint = _session().get_checkpoint()
    if checkpoint is None:
        return None, ""
    last, filesystem = Path(checkpoint.path), checkpoint.filesystem
    files = filesystem.get_file_info(FileSelector(last.parent.as_posix(), recursive=True))
    others = sorted({Path(file.path).parent for file in files if file.base_name == FILE} - {last}, reverse=True)
    others.sort(key=lambda folder: folder > last)  # a killed run may have left some that its records do not know yet
    state, damage = load_first([last, *others], filesystem)
    where = f"went on from epoch {state['counters']['epoch']}" if state else "no other is whole: started anew"
    return state, "; ".join([*damage, where]) if damage else ""
