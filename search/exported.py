"""The folder `best/` of a result: what is in it, and how to load it. Needs torch and numpy, and nothing of Ray."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from trainables.config import ModelConfig, from_dict
from trainables.generator import Generator

BEST = "best"
CONFIG, WEIGHTS, METRICS, SCALES, CARD = (
    "config.json",
    "generator.safetensors",
    "metrics.json",
    "scales.npy",
    "README.md",
)
# Format of the folder; a later one that differs gets the next number.
FORMAT = 1


def load_best(result: Path) -> tuple[Generator, dict[str, Any]]:
    """The exported generator of a result folder in evaluation mode, and its `config.json`.

    Raises:
        ValueError: if the folder has no complete export.
    """
    folder = result / BEST
    for name in (CONFIG, WEIGHTS, SCALES):
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} does not exist; expected the folder of a finished search, results/NAME")
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if config["format"] != FORMAT:
        raise ValueError(f"{folder / CONFIG} has format {config['format']}; this version reads {FORMAT}")
    generator = Generator(from_dict(ModelConfig, config["model"]), config["samples"])
    generator.load_state_dict(load_file(folder / WEIGHTS))
    return generator.eval(), config


def load_scales(result: Path) -> torch.Tensor:
    """Standard deviations in cm/s² to scale waveforms with, (N, 3)."""
    return torch.from_numpy(np.load(result / BEST / SCALES, allow_pickle=False))
