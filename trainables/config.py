"""What one trial computes: frozen dataclasses, checked when built, read from and written to plain JSON."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar, get_origin, get_type_hints

T = TypeVar("T")

LATENT_RANGE = (100, 1000)
# What every random generator in use takes for a seed.
MAX_SEED = 2**31


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the generator and the critic; the defaults are the paper's (SeismoGen, arXiv 1911.03966).

    `base_channels` scales every layer of both networks; `kernel` is the generator's filter length in samples;
    `cutoff_hz` separates the critic's low and high band.
    """

    latent_dim: int = 400
    base_channels: int = 16
    kernel: int = 128
    cutoff_hz: float = 3.75

    def __post_init__(self) -> None:
        low, high = LATENT_RANGE
        _require("latent_dim", self.latent_dim, low <= self.latent_dim <= high, f"{low} to {high}")
        _require("base_channels", self.base_channels, self.base_channels >= 2, "at least 2")
        _require("kernel", self.kernel, self.kernel >= 2, "at least 2 samples")
        _require("cutoff_hz", self.cutoff_hz, self.cutoff_hz > 0, "a positive frequency")


@dataclass(frozen=True)
class TrainingConfig:
    """The WGAN-GP's own parameters (Gulrajani et al. 2017) and how long to train.

    `ema_half_life` is in windows seen by the critic: the age at which a weight counts half in the averaged
    generator.
    """

    batch_size: int = 32
    n_critic: int = 5
    penalty_weight: float = 10.0
    generator_lr: float = 1e-4
    critic_lr: float = 1e-4
    ema_half_life: float = 10_000.0
    max_epochs: int = 100

    def __post_init__(self) -> None:
        _require("batch_size", self.batch_size, self.batch_size >= 2, "at least 2 (batch normalisation)")
        for name in ("n_critic", "max_epochs"):
            _require(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in ("penalty_weight", "ema_half_life"):
            value = getattr(self, name)
            _require(name, value, value >= 0 and math.isfinite(value), "0 or more")
        for name in ("generator_lr", "critic_lr"):
            value = getattr(self, name)
            _require(name, value, 0 < value < math.inf, "a positive number")


@dataclass(frozen=True)
class EvaluationConfig:
    """How a generator is judged after each epoch: how many fakes, over how many random splits of real windows."""

    fakes: int = 512
    splits: int = 50

    def __post_init__(self) -> None:
        _require("fakes", self.fakes, self.fakes >= 2, "at least 2")
        _require("splits", self.splits, self.splits >= 10, "at least 10")


@dataclass(frozen=True)
class TrialConfig:
    """Everything that determines a trial but the data."""

    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        _require("seed", self.seed, 0 <= self.seed < MAX_SEED, f"0 to {MAX_SEED - 1}")


def _require(name: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {value}; expected {expected}")


def from_dict(cls: type[T], content: Mapping[str, Any], where: str = "") -> T:
    """Build a (nested) configuration dataclass from plain JSON content; missing keys take their defaults.

    Raises:
        ValueError: for an unknown key or a value of the wrong type, naming its dotted path.
    """
    hints = get_type_hints(cls)
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    for key in content:
        if key not in known:
            raise ValueError(f"unknown configuration key '{where}{key}'; known here: {', '.join(sorted(known))}")
    return cls(**{key: _convert(hints[key], value, f"{where}{key}") for key, value in content.items()})


def _convert(hint: Any, value: Any, path: str) -> Any:
    if is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ValueError(f"configuration key '{path}' is {value!r}; expected a group of keys")
        return from_dict(hint, value, where=f"{path}.")  # type: ignore[arg-type]
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if get_origin(hint) in (dict, list) and not isinstance(value, get_origin(hint)):
        raise ValueError(f"configuration key '{path}' is {value!r}; expected a {get_origin(hint).__name__}")
    if hint in (int, float, str) and (not isinstance(value, hint) or isinstance(value, bool)):
        raise ValueError(f"configuration key '{path}' is {value!r}; expected {hint.__name__}")
    return value


def with_values(config: T, values: Mapping[str, Any]) -> T:
    """Lay flat dotted keys, such as `training.batch_size`, over a configuration.

    Raises:
        ValueError: for an unknown key or a bad value.
    """
    content = asdict(config)  # type: ignore[call-overload]
    for path, value in values.items():
        *groups, name = path.split(".")
        target = content
        for group in groups:
            target = target.setdefault(group, {})
            if not isinstance(target, dict):
                raise ValueError(f"unknown configuration key '{path}'")
        target[name] = value
    return from_dict(type(config), content)


def flat(config: Any) -> dict[str, Any]:
    """A configuration as flat dotted keys, the inverse of `with_values`; dictionaries and lists are left whole."""
    content: dict[str, Any] = {}
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            content |= {f"{f.name}.{key}": inner for key, inner in flat(value).items()}
        else:
            content[f.name] = value
    return content
