"""From a prepared dataset on disk to batches of windows.

Shapes: N window, C component (E, N, Z), T sample, B batch.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

LABELS = {"noise": 0.0, "earthquake": 1.0}


@dataclass(frozen=True)
class Windows:
    """Z-scored windows (N, 3, T) with their labels (N, 1), and from how many earthquakes they come."""

    wave: Tensor
    label: Tensor
    events: int


@dataclass(frozen=True)
class PreparedDataset:
    """A folder written by `data_prep/prepare.py`; its arrays stay on disk until they are read."""

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> "PreparedDataset":
        """Read the manifest of a prepared dataset."""
        return cls(folder, json.loads((folder / "manifest.json").read_text(encoding="utf-8")))

    @property
    def samples(self) -> int:
        """Samples in a window."""
        return int(self.manifest["samples"])

    @property
    def fs_hz(self) -> float:
        """Samples a second."""
        return float(self.manifest["fs_hz"])

    @property
    def usable_band_hz(self) -> tuple[float, float]:
        """Lowest and highest frequency to judge by."""
        return float(self.manifest["usable_low_hz"]), float(self.manifest["usable_high_hz"])

    @property
    def labels(self) -> list[str]:
        """The labels that the training windows carry."""
        return sorted(self._rows("train")["label"].unique())

    def count(self, name: str) -> int:
        """Windows in `train`, `val` or `test`."""
        return len(np.load(self.folder / f"{name}.npy", mmap_mode="r"))

    def part(self, name: str) -> Windows:
        """Windows of `train`, `val` or `test`, memory-mapped."""
        # Copy on write: torch wants writable memory, and nothing may be written to the dataset.
        wave = torch.from_numpy(np.load(self.folder / f"{name}.npy", mmap_mode="c"))
        rows = self._rows(name)
        label = torch.tensor([[LABELS[value]] for value in rows["label"]], dtype=torch.float32)
        return Windows(wave, label, rows.loc[rows["label"] == "earthquake", "event_id"].nunique())

    def _rows(self, name: str) -> Any:
        import pandas as pd  # here, so that training on tensors needs torch and numpy alone

        return pd.read_parquet(self.folder / f"{name}.parquet", columns=["label", "event_id"])


def epoch_order(n: int, batch_size: int, seed: int, epoch: int) -> Iterator[Tensor]:
    """Indices of each batch of one pass over n windows; the order depends on seed and epoch alone.

    The windows that do not fill a last batch are left to another epoch.
    """
    if batch_size > n:
        raise ValueError(f"batch_size is {batch_size} but there are only {n} training windows; choose a smaller one")
    order = torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(n))
    return iter(order[: n - n % batch_size].split(batch_size))
