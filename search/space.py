"""The space that a search draws parameters from: a domain for each dotted key of the trial's configuration."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; integers where both bounds are; `log` draws their logarithm."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        for end in (self.low, self.high):
            if isinstance(end, bool) or not isinstance(end, int | float):
                raise ValueError(f"{end!r} is no end of a range; expected a number")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"range from {self.low} to {self.high}; expected a low end below a high end")
        if self.log and self.low <= 0:
            raise ValueError(f"logarithmic range from {self.low}; expected a positive low end")

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values to check a configuration with."""
        return self.low, self.high

    def at(self, share: float) -> Any:
        """The value so far along the range, from 0 to 1; each integer takes an equal part."""
        low, high = self._edges
        value = low * (high / low) ** share if self.log else low + (high - low) * share
        return min(max(type(self.low)(round(value) if self._whole else value), self.low), self.high)

    def share(self, value: float) -> float:
        """How far along the range a value is, from 0 to 1."""
        low, high = self._edges
        return math.log(value / low) / math.log(high / low) if self.log else (value - low) / (high - low)

    @property
    def _whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def _edges(self) -> tuple[float, float]:
        return (self.low - 0.5, self.high + 0.5) if self._whole else (self.low, self.high)

    def __contains__(self, value: Any) -> bool:
        return bool(self.low <= value <= self.high)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}{', logarithmic' if self.log else ''}"


@dataclass(frozen=True)
class Choices:
    """One of a few values, without an order."""

    choices: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.choices:
            raise ValueError("choices are empty; expected at least one value")
        if not all(isinstance(choice, bool | int | float | str) for choice in self.choices):
            raise ValueError(f"choices are {list(self.choices)}; expected numbers or texts")

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values to check a configuration with."""
        return self.choices

    def at(self, share: float) -> Any:
        """The choice whose equal part of the way from 0 to 1 this is."""
        return self.choices[min(int(share * len(self.choices)), len(self.choices) - 1)]

    def share(self, value: Any) -> float:
        """The middle of a choice's part."""
        return (self.choices.index(value) + 0.5) / len(self.choices)

    def __contains__(self, value: Any) -> bool:
        return value in self.choices

    def __str__(self) -> str:
        return " or ".join(str(choice) for choice in self.choices)


def shown(value: Any, digits: int = 4) -> str:
    """A value of the configuration as text, numbers to so many digits."""
    if isinstance(value, tuple):
        return f"[{', '.join(shown(item, digits) for item in value)}]"
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


Domain = Range | Choices
Space = Mapping[str, Domain]


def domain_from_json(key: str, content: Any, real: bool) -> Domain:
    """Read `{"low": …, "high": …, "log": …}` or `{"choices": […]}`; `real` makes whole ends of a range real numbers.

    Raises:
        ValueError: for anything else, naming the key.
    """
    try:
        if "choices" in content:
            return Choices(tuple(content["choices"]))
        domain = Range(**content)
        return replace(domain, low=float(domain.low), high=float(domain.high)) if real else domain
    except (TypeError, ValueError) as error:
        raise ValueError(
            f'space of {key} is {content}: {error}; expected {{"low": …, "high": …}} or {{"choices": […]}}'
        ) from error


def re_ranged(key: str, values: list[Any], before: Domain | None) -> Domain:
    """A domain from the list given to `--set`: new ends for what was a range, else the choices themselves."""
    if isinstance(before, Range):
        if len(values) != 2:
            raise ValueError(f"{key} is a range; expected its two ends, [low, high], but found {values}")
        return Range(values[0], values[1], before.log)
    return Choices(tuple(values))
