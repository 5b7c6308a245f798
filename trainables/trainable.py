"""The Ray Train wrapping: the training loop as a function that Tune runs. No other file here knows of Ray.

One worker trains inside the trial's own process through Ray Train's local mode; what it reports goes straight to
Tune, which owns the checkpoints.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer

from trainables.batches import PreparedDataset
from trainables.checkpoint import load_checkpoint, save_checkpoint
from trainables.config import TrialConfig, with_values
from trainables.gan import Gan
from trainables.training import StopRule, train


def run_trial(
    parameters: dict[str, Any], *, base: TrialConfig, dataset: Path, stop_rule: StopRule, threads: int, device: str
) -> None:
    """Train one configuration: sampled dotted parameters laid over `base`, on a prepared dataset.

    `threads` is the number of CPU threads that PyTorch may use, `device` the kind of device: `cpu` or `cuda`.
    """
    torch.set_num_threads(threads)
    config = with_values(base, parameters)

    def train_here() -> None:
        train(config, PreparedDataset.open(dataset), _report, stop_rule, _last_state(), torch.device(device))

    TorchTrainer(train_here, scaling_config=ScalingConfig(num_workers=0)).fit()


def _report(metrics: dict[str, Any], gan: Gan) -> None:
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder), gan)
        tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))


def _last_state() -> dict[str, Any] | None:
    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return load_checkpoint(Path(folder))
