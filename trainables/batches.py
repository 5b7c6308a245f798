"""From a prepared dataset on disk to batches of windows.

Shapes: N window, C component (E, N, Z), T sample, B batch, L label and conditions.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.config import COMPONENTS, ModelConfig

LABELS = {"noise": 0.0, "earthquake": 1.0}
# Columns of a window's row that the conditions are made of.
CONDITION_COLUMNS = {"magnitude": "magnitude", "log_distance": "distance_km", "depth": "depth_km"}
# A distance below this has this one's logarithm.
LEAST_DISTANCE_KM = 1.0
# A condition that varies less than this is constant, and only rounding makes it vary.
LEAST_SPREAD = 1e-6
# Windows verified together.
CHUNK = 256


@dataclass(frozen=True)
class Windows:
    """Z-scored windows (N, C, T), their labels and conditions (N, L), and a number for each one's earthquake (N,).

    The first column of the label is 1 for an earthquake and 0 for noise, whose number is -1.
    """

    wave: Tensor
    label: Tensor
    event: Tensor

    @property
    def events(self) -> int:
        """Earthquakes that the windows come from."""
        return len(self.event[self.event >= 0].unique())

    @property
    def earthquakes(self) -> int:
        """Windows of earthquakes."""
        return int((self.event >= 0).sum())


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

    def verify(self) -> None:
        """Read every sample once.

        Raises:
            ValueError: for one that is no finite number: a network trained on it would be lost.
        """
        for name in ("train", "val", "test"):
            wave = np.load(self.folder / f"{name}.npy", mmap_mode="r")
            for start in range(0, len(wave), CHUNK):
                sound = np.isfinite(wave[start : start + CHUNK]).all(axis=(1, 2))
                if not sound.all():
                    raise ValueError(
                        f"{self.folder / name}.npy: window {start + int(sound.argmin())} holds a sample that is no "
                        "finite number; prepare the dataset again"
                    )

    def count(self, name: str) -> int:
        """Windows in `train`, `val` or `test`."""
        return len(np.load(self.folder / f"{name}.npy", mmap_mode="r"))

    def part(self, name: str, model: ModelConfig | None = None) -> Windows:
        """Windows of `train`, `val` or `test` as a model takes them, memory-mapped.

        Raises:
            ValueError: for a condition that no earthquake of the training part has.
        """
        model = model or ModelConfig()
        # Copy on write: torch wants writable memory, and nothing may be written to the dataset.
        wave = torch.from_numpy(np.load(self.folder / f"{name}.npy", mmap_mode="c"))
        rows = self._rows(name, model.conditions)
        label = self.label(rows, model.conditions)
        event = rows["event_id"].where(rows["label"] == "earthquake").factorize()[0]
        return Windows(wave[:, _places(model.components)], label, torch.from_numpy(event))

    def label(self, rows: Any, conditions: tuple[str, ...]) -> Tensor:
        """Labels and conditions (N, L) of a table of windows, each condition in units of the training part's spread.

        Noise and unknown values have a condition of 0, which is the training part's mean.
        """
        quake = rows["label"].map(LABELS).to_numpy(np.float64)
        columns = [quake]
        for name, (mean, std) in self.standards(conditions).items():
            columns.append(np.nan_to_num((_condition(rows, name) - mean) / std) * quake)
        return torch.tensor(np.stack(columns, axis=1), dtype=torch.float32)

    def standards(self, conditions: tuple[str, ...]) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation of each condition over the training part's earthquakes.

        Raises:
            ValueError: for a condition that none of them has.
        """
        train = self._rows("train", conditions)
        quakes, standards = train[train["label"] == "earthquake"], {}
        for name in conditions:
            known = _condition(quakes, name)
            if not np.isfinite(known).any():
                raise ValueError(
                    f"no earthquake of {self.folder}/train.parquet has a {name}; leave it out of model.conditions"
                )
            spread = float(np.nanstd(known))
            standards[name] = float(np.nanmean(known)), spread if spread > LEAST_SPREAD else 1.0
        return standards

    def _rows(self, name: str, conditions: tuple[str, ...] = ()) -> Any:
        import pandas as pd  # here, so that training on tensors needs torch and numpy alone

        columns = ["label", "event_id", *(CONDITION_COLUMNS[name] for name in conditions)]
        # A column that the table lacks is as good as one that is unknown everywhere.
        return pd.read_parquet(self.folder / f"{name}.parquet").reindex(columns=columns)


def _places(components: str) -> slice:
    """Where components lie among all three: evenly spaced, whichever they are, so a slice leaves the file mapped."""
    places = [COMPONENTS.index(letter) for letter in components]
    step = places[1] - places[0] if len(places) > 1 else 1
    return slice(places[0], places[-1] + 1, step)


def _condition(rows: Any, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    value = rows[CONDITION_COLUMNS[name]].to_numpy(np.float64)
    return np.log(np.maximum(value, LEAST_DISTANCE_KM)) if name == "log_distance" else value


def epoch_order(n: int, batch_size: int, seed: int, epoch: int) -> Iterator[Tensor]:
    """Indices of each batch of one pass over n windows; the order depends on seed and epoch alone.

    The windows that do not fill a last batch are left to another epoch.
    """
    if batch_size > n:
        raise ValueError(f"batch_size is {batch_size} but there are only {n} training windows; choose a smaller one")
    order = torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(n))
    return iter(order[: n - n % batch_size].split(batch_size))
