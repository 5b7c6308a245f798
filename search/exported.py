"""The folder `best/` of a result: what is in it, and how to load it. Needs torch and numpy, and nothing of Ray."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from data_prep.files import sha256
from trainables.config import ModelConfig, from_dict
from trainables.networks import AnyGenerator, make_generator

BEST = "best"
CONFIG, WEIGHTS, METRICS, RECORDS, CARD = (
    "config.json",
    "generator.safetensors",
    "metrics.json",
    "records.safetensors",
    "README.md",
)
# Format of the folder; a later one that differs gets the next number.
FORMAT = 3
REMEDY = "export it again with search/run.py --name NAME --resume"


def load_best(result: Path) -> tuple[AnyGenerator, dict[str, Any]]:
    """The exported generator of a result folder in evaluation mode, and its `config.json`.

    Raises:
        ValueError: if the folder has no complete export, or one whose files have changed since.
    """
    folder = result / BEST
    for name in (CONFIG, WEIGHTS, RECORDS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} does not exist; expected the folder of a finished search, results/NAME")
    config = _read_config(folder / CONFIG)
    for name in (WEIGHTS, RECORDS):
        if sha256(folder / name) != config["sha256"][name]:
            raise ValueError(f"{folder / name} differs from its checksum; {REMEDY}")
    generator = make_generator(from_dict(ModelConfig, config["model"]), config["samples"])
    generator.load_state_dict(load_file(folder / WEIGHTS))
    return generator.eval(), config


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        kept = {**config, "sha256": None}
        intact = config["sha256"][CONFIG] == fingerprint(kept)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}); {REMEDY}") from error
    if config.get("format") != FORMAT:
        raise ValueError(f"{file} has format {config.get('format')}; this version reads {FORMAT}")
    if not intact:
        raise ValueError(f"{file} differs from its checksum; {REMEDY}")
    return dict(config)


def fingerprint(content: dict[str, Any]) -> str:
    """SHA-256 of plain JSON content, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Records:
    """What a waveform takes from one training record: label and conditions (N, L), scales in cm/s² (N, C).

    `number` (N,) counts the training records of the label from 0, in the order of `train.parquet`.
    """

    label: Tensor
    scale: Tensor
    number: Tensor

    def __getitem__(self, places: Tensor | slice) -> "Records":
        return Records(self.label[places], self.scale[places], self.number[places])


def load_records(result: Path, label: str, scaled: bool) -> Records:
    """The training records of a label; if they are to scale waveforms, only those of known unit.

    Raises:
        ValueError: the unit of no training record of that label was known.
    """
    kept = load_file(result / BEST / RECORDS)
    labels = kept[f"{label}.label"]
    records = Records(labels, kept[f"{label}.scale"], torch.arange(len(labels)))
    if not scaled:
        return records
    known = records.scale.isfinite().all(1)
    if not known.any():
        raise ValueError(f"{result}: its training records of {label} have no known unit; generate them normalised")
    return records[known]
