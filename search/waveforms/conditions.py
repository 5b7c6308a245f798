"""What a generator may be told of an earthquake beside its label, and what it saw of that in training."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from search.export.load import Records
from trainables.batches import CONDITION_COLUMNS, LEAST_DISTANCE_KM

# Training records that a waveform's scales and other conditions may come from where some are asked for.
NEAREST = 16
# Decimals of a limit of the training records, which is shown so and may be asked for as it is shown.
DECIMALS = 3
# What may be asked for: with which option, and what that is.
ASKED = {
    "magnitude": ("--magnitude", "magnitude of all earthquakes, for a model that was told magnitudes"),
    "distance_km": ("--distance", "epicentral distance of all records in km, for a model that was told distances"),
}


@dataclass(frozen=True)
class Condition:
    """A column of the networks' label: magnitude, epicentral distance in km or depth in km, standardised."""

    column: int
    logarithmic: bool
    mean: float
    std: float

    def values(self, label_NL: Tensor) -> Tensor:
        """Values (N,) in the condition's own unit, in float64."""
        value = label_NL[:, self.column].double() * self.std + self.mean
        return value.exp() if self.logarithmic else value

    def number(self, value: float) -> float:
        """What the networks are told of a value."""
        value = math.log(max(value, LEAST_DISTANCE_KM)) if self.logarithmic else value
        return (value - self.mean) / self.std


def conditions_of(config: Mapping[str, Any]) -> dict[str, Condition]:
    """The conditions of an exported `config.json`, by the names of the dataset's columns."""
    return {
        CONDITION_COLUMNS[name]: Condition(1 + place, name.startswith("log_"), **config["standards"][name])
        for place, name in enumerate(config["model"]["conditions"])
    }


def told(records: Records, conditions: Mapping[str, Condition], asked: Mapping[str, float]) -> Records:
    """The training records nearest to what is asked for, told exactly that and otherwise what they are.

    A strong earthquake has not a weak one's amplitudes: only records like it may lend their scales.

    Raises:
        ValueError: for what the model was not conditioned on, or a value outside the training records.
    """
    if not asked:
        return records
    for name, value in asked.items():
        _check(name, value, records, conditions)
    columns = [conditions[name].column for name in asked]
    numbers = torch.tensor([conditions[name].number(value) for name, value in asked.items()])
    away = (records.label[:, columns] - numbers).square().sum(1)
    near = records[away.argsort(stable=True)[:NEAREST]]
    label = near.label.clone()
    label[:, columns] = numbers
    return replace(near, label=label)


def _check(name: str, value: float, records: Records, conditions: Mapping[str, Condition]) -> None:
    option, _ = ASKED[name]
    if not records.label[:, 0].any():
        raise ValueError(f"{option} {value:g}: noise has none; leave {option} out")
    if name not in conditions:
        known = ", ".join(conditions) or "nothing but the label"
        raise ValueError(f"{option} {value:g}: the model was conditioned on {known}; leave {option} out")
    values = conditions[name].values(records.label)
    low, high = round(float(values.min()), DECIMALS), round(float(values.max()), DECIMALS)
    if not low <= value <= high:
        raise ValueError(f"{option} {value:g} is outside the training records; expected {low:g} to {high:g}")
