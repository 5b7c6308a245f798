"""The WGAN-GP training loop. It knows nothing of Ray: what to do with each report is handed to it.

Shapes: B batch, C component (E, N, Z), T sample, L label and conditions.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import torch

from trainables import workers
from trainables.batches import PreparedDataset, Windows, epoch_order
from trainables.config import TrainingConfig, TrialConfig
from trainables.fidelity import MIN_JUDGED
from trainables.gan import COUNTERS, Gan
from trainables.judge import Judge
from trainables.networks import make_critic
from trainables.precision import computing_in
from trainables.tally import DivergedError
from trainables.usage import peak_gb

Report = Callable[[dict[str, Any], Gan], None]
# From the metrics of every report so far to the reason to stop here, or None to go on.
StopRule = Callable[[list[dict[str, Any]]], str | None]
# How the reason begins why a training stopped that did not fit in memory.
OUT_OF_MEMORY = "out of memory"
CPU_ALLOCATOR = "DefaultCPUAllocator: "


def train(
    config: TrialConfig,
    dataset: PreparedDataset,
    report: Report,
    stop_rule: StopRule,
    state: dict[str, Any] | None = None,
    device: torch.device | None = None,
) -> None:
    """Train a WGAN-GP, reporting after each epoch; goes on from `state` where one is given.

    Several workers all call it; the first one judges and decides for all.

    The report's metrics hold the score and its parts, the losses' means over the epoch, the counters, `parameters` of
    both networks, `memory_gb` (the process's peak so far; on a GPU its peak there), the seconds this epoch took,
    `last_epoch`, and `stop_reason`: empty, or why this report is the last before that. The first also holds the drifts
    of the generator before training, under `untrained/`. A training that diverges, or runs out of memory, reports an
    infinite score.

    Raises:
        ValueError: if the configuration does not fit the data.
    """
    device = device or torch.device("cpu")
    train_part, val_part = (_to(dataset.part(name, config.model), device) for name in ("train", "val"))
    gan = Gan(config, dataset.samples, dataset.fs_hz, device)
    if state is not None:
        gan.load_state_dict(state)
    judge = Judge(config, dataset, train_part, val_part)
    stopped = gan.history and gan.history[-1]["stop_reason"]
    while not stopped and gan.epoch < config.training.max_epochs:
        with computing_in("float32"):  # all but the steps: scores are to be comparable
            metrics = _one_epoch(gan, train_part, judge)
        gan.history.append(metrics)
        metrics["stop_reason"] = metrics["stop_reason"] or workers.from_first(stop_rule(gan.history)) or ""
        stopped = metrics["stop_reason"]
        report(dict(metrics), gan)


def check_fit(config: TrialConfig, dataset: PreparedDataset) -> None:
    """Refuse a configuration that cannot be trained on a dataset, without training.

    Raises:
        ValueError: saying what does not fit.
    """
    training = config.training
    epoch_order(dataset.count("train"), training.batch_size, config.seed, 0)
    label = dataset.part("train", config.model).label
    _check_pretraining(training, int((label[:, 0] == 0).sum()))
    if config.model.kernel > dataset.samples:
        raise ValueError(f"kernel is {config.model.kernel}; expected no more than a window's {dataset.samples} samples")
    for name in ("val", "test"):
        if dataset.count(name) < MIN_JUDGED:
            raise ValueError(
                f"{dataset.folder / name}.npy has {dataset.count(name)} windows; expected {MIN_JUDGED} to judge by"
            )
        if not dataset.part(name).events:
            raise ValueError(f"{dataset.folder / name}.npy has no earthquake; expected some to judge by: split it anew")
    with torch.device("meta"):
        make_critic(config.model, dataset.samples, dataset.fs_hz)


def _check_pretraining(training: TrainingConfig, noise: int) -> None:
    if training.pretrain_epochs and noise < training.batch_size:
        raise ValueError(
            f"pretrain_epochs is {training.pretrain_epochs} but there are {noise} training windows of noise; expected "
            f"a batch of {training.batch_size} at least: prepare the data with --noise, or set pretrain_epochs to 0"
        )
    if training.pretrain_epochs >= training.max_epochs:
        raise ValueError(
            f"pretrain_epochs is {training.pretrain_epochs} of max_epochs {training.max_epochs}; "
            "expected fewer, or the generator is never trained"
        )


def _one_epoch(gan: Gan, windows: Windows, judge: Judge) -> dict[str, Any]:
    start = time.perf_counter()
    try:
        untrained = _untrained(gan, judge) if gan.epoch == 0 else {}
        losses = train_epoch(gan, windows)
        judge.settle(gan.averaged)
        scores = workers.from_first(judge.score(gan.averaged) if workers.rank() == 0 else {})
        metrics: dict[str, Any] = {"stop_reason": "", **losses, **scores, **untrained}
        if not math.isfinite(metrics["score"]):
            raise DivergedError("non-finite score")
    except DivergedError as error:
        metrics = {"stop_reason": f"diverged: {error}", "score": float("inf")}
    except (MemoryError, RuntimeError) as error:
        # Of several workers the others wait for this one, and only its end will tell them.
        if workers.count() > 1 or not _is_lack_of_memory(error):
            raise
        what = str(error).rpartition(CPU_ALLOCATOR)[2].partition(". ")[0]
        metrics = {"stop_reason": f"{OUT_OF_MEMORY}: {what}", "score": float("inf")}
    gan.epoch += 1
    counters = {name: getattr(gan, name) for name in COUNTERS}
    counters["last_epoch"] = gan.epoch >= gan.config.training.max_epochs
    spent = {"memory_gb": peak_gb(gan.device), "seconds": time.perf_counter() - start}
    return {**metrics, **counters, "parameters": gan.parameter_count, **spent}


def _is_lack_of_memory(error: MemoryError | RuntimeError) -> bool:
    """Whether memory ran out; on a CPU torch has no class of errors for it."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or f"{CPU_ALLOCATOR}can't allocate" in str(error)


def _untrained(gan: Gan, judge: Judge) -> dict[str, float]:
    judge.settle(gan.averaged)
    drifts = workers.from_first(judge.drifts(gan.averaged) if workers.rank() == 0 else {})
    return {f"untrained/{name}": value for name, value in drifts.items()}


def train_epoch(gan: Gan, windows: Windows) -> dict[str, float]:
    """One pass of the critic over the windows, a generator step after every `n_critic` batches; mean losses.

    A pass of pre-training is over the noise alone, and takes no generator steps.

    Raises:
        DivergedError: at its end, for a loss or gradient that is not finite; no step was taken from there on.
    """
    training = gan.config.training
    pretraining = gan.epoch < training.pretrain_epochs
    if pretraining:
        windows = _noise(windows)
    batches = torch.stack(list(epoch_order(len(windows.wave), training.batch_size, gan.config.seed, gan.epoch)))
    gan.generator.train()
    for index in batches.to(gan.device):  # at once: each copy would wait for the device
        mine = workers.share(index)
        label = windows.label[mine]
        gan.critic_step(windows.wave[mine], label)
        if gan.critic_steps % training.n_critic == 0 and not pretraining:
            gan.generator_step(label)
    return gan.tally.read()


def _noise(windows: Windows) -> Windows:
    rows = windows.label[:, 0] == 0
    return Windows(windows.wave[rows], windows.label[rows], windows.event[rows])


def _to(windows: Windows, device: torch.device) -> Windows:
    """On the device, and in torch's default type, which the networks are made in."""
    dtype = torch.get_default_dtype()
    return Windows(windows.wave.to(device, dtype), windows.label.to(device, dtype), windows.event.to(device))
