"""The folder `best/` of a result: what is in it, and how to load it. Needs torch and numpy, and nothing of Ray."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from data_prep.files import sha256, write_text
from trainables.config import ModelConfig, from_dict
from trainables.networks import AnyGenerator, make_generator

BEST = "best"
CONFIG, WEIGHTS, PROGRAM, RECORDS = "config.json", "generator.safetensors", "generator.onnx", "records.safetensors"
METRICS, DATASET, ENVIRONMENT, CARD = "metrics.json", "dataset.json", "environment.json", "README.md"
CHECKSUMS = "SHA256SUMS"
# Format of the folder; a later one that differs gets the next number.
FORMAT = 4
REMEDY = "export it again with search/run.py --name NAME --resume"


def load_best(result: Path) -> tuple[AnyGenerator, dict[str, Any]]:
    """The exported generator of a result folder in evaluation mode, and its `config.json`.

    Raises:
        ValueError: if the folder has no complete export, one of another format, or one whose files have changed since.
    """
    folder = result / BEST
    config = _read_config(folder / CONFIG)
    _check_sums(folder)
    generator = make_generator(from_dict(ModelConfig, config["model"]), config["samples"])
    generator.load_state_dict(load_file(folder / WEIGHTS))
    return generator.eval(), config


def _read_config(file: Path) -> dict[str, Any]:
    _check_exists(file)
    try:
        config = dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}); {REMEDY}") from error
    if config.get("format") != FORMAT:
        raise ValueError(f"{file} has format {config.get('format')}; this version reads {FORMAT}; {REMEDY}")
    return config


def _check_exists(file: Path) -> None:
    if not file.is_file():
        raise ValueError(f"{file} does not exist; expected the folder of a finished search, results/NAME")


def write_sums(folder: Path) -> None:
    """Write the checksums of all files of a folder as `sha256sum -c SHA256SUMS` reads them there."""
    files = sorted(folder.iterdir())
    write_text(folder / CHECKSUMS, "".join(f"{sha256(file)}  {file.name}\n" for file in files))


def _check_sums(folder: Path) -> None:
    """Compare every file that was exported with its checksum.

    Raises:
        ValueError: for one that is missing or differs.
    """
    _check_exists(folder / CHECKSUMS)
    listed = (folder / CHECKSUMS).read_bytes().decode(errors="replace")
    for line in listed.removesuffix("\n").split("\n"):
        digest, _, name = line.partition("  ")
        _check_exists(folder / name)
        if sha256(folder / name) != digest:
            raise ValueError(f"{folder / name} differs from its checksum; {REMEDY}")


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
