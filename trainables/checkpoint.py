"""All state of a training out, all state in."""

import os
from pathlib import Path
from typing import Any

import torch

from trainables.gan import Gan

FILE = "training.pt"


def save_checkpoint(folder: Path, gan: Gan) -> None:
    """Write a training's whole state into a folder, whole or not at all."""
    aside = folder / f".{FILE}.partial"
    torch.save(gan.state_dict(), aside)
    os.replace(aside, folder / FILE)


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """Read a training's state; no code in the file is run."""
    state: dict[str, Any] = torch.load(folder / FILE, weights_only=True, map_location="cpu")
    return state
