"""The folder `best/` of a generator that was never trained, for tests and benchmarks of what is done with one."""

from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from data_prep.files import write_json
from search.export.load import BEST, CONFIG, FORMAT, RECORDS, WEIGHTS, write_sums
from trainables.config import ModelConfig, TrialConfig
from trainables.networks import AnyGenerator, make_generator

Standards = dict[str, dict[str, float]]


def write_untrained(
    result: Path,
    model: ModelConfig,
    samples: int,
    fs_hz: float,
    records: dict[str, tuple[Tensor, Tensor]],
    standards: Standards | None = None,
) -> AnyGenerator:
    """Export a generator of random weights, which is returned in evaluation mode.

    `records` holds label and conditions (N, L) and scales (N, C) of the training records of each label.
    """
    folder = result / BEST
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    generator = make_generator(model, samples).eval()
    save_file(generator.state_dict(), folder / WEIGHTS)
    labels = {f"{name}.label": told for name, (told, _) in records.items()}
    save_file(labels | {f"{name}.scale": scale for name, (_, scale) in records.items()}, folder / RECORDS)
    head = {"format": FORMAT, "samples": samples, "fs_hz": fs_hz, "labels": sorted(records)}
    write_json(folder / CONFIG, {**head, "standards": standards or {}, **asdict(TrialConfig(model))})
    write_sums(folder)
    return generator
