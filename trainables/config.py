"""What one trial computes: frozen dataclasses, checked when built, read from and written to plain JSON."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")

LATENT_RANGE = (100, 1000)
ARCHITECTURES = ("seismogen", "gated")
COMPONENTS = "ENZ"
CONDITIONS = ("magnitude", "log_distance", "depth")
CONVOLUTIONS = ("measured", "direct", "spectral")
PRECISIONS = ("float32", "tf32", "bf16")
# What every random generator in use takes for a seed.
MAX_SEED = 2**31


@dataclass(frozen=True)
class ModelConfig:
    """Kind and sizes of the generator and the critic; the defaults are the paper's (SeismoGen, arXiv 1911.03966).

    `base_channels` scales every layer of both networks; `kernel` is the generator's filter length in samples;
    `cutoff_hz` separates SeismoGen's critic's low and high band. `components` are those to learn, `conditions` what of
    an earthquake is told to both networks beside the label.
    """

    architecture: str = "seismogen"
    components: str = "ENZ"
    conditions: tuple[str, ...] = ()
    latent_dim: int = 400
    base_channels: int = 16
    kernel: int = 128
    cutoff_hz: float = 3.75

    def __post_init__(self) -> None:
        _require("architecture", self.architecture, self.architecture in ARCHITECTURES, " or ".join(ARCHITECTURES))
        chosen = [letter for letter in COMPONENTS if letter in self.components]
        in_order = chosen and list(self.components) == chosen
        _require("components", self.components, in_order, f"some of {COMPONENTS}, in this order")
        known = len(set(self.conditions)) == len(self.conditions) and set(self.conditions) <= set(CONDITIONS)
        _require("conditions", list(self.conditions), known, f"some of {', '.join(CONDITIONS)}")
        low, high = LATENT_RANGE
        _require("latent_dim", self.latent_dim, low <= self.latent_dim <= high, f"{low} to {high}")
        _require("base_channels", self.base_channels, self.base_channels >= 2, "at least 2")
        _require("kernel", self.kernel, self.kernel >= 2, "at least 2 samples")
        _require("cutoff_hz", self.cutoff_hz, self.cutoff_hz > 0, "a positive frequency")

    @property
    def label_dim(self) -> int:
        """Numbers that tell a network what to generate or judge: the label and the conditions."""
        return 1 + len(self.conditions)


@dataclass(frozen=True)
class TrainingConfig:
    """The WGAN-GP's own parameters (Gulrajani et al. 2017) and how long to train.

    Half-lives are in windows seen by the critic. `ema_half_life`: the age at which a weight counts half in the averaged
    generator; `lr_half_life`: both learning rates halve in that time, 0 keeps them. During `pretrain_epochs` the critic
    alone is trained, on the noise windows.

    The last three say how something is computed, not what: long convolutions `direct`, `spectral`, or whichever is
    measured to be faster; convolutions in `float32`, in `tf32`, which rounds what a GPU multiplies and elsewhere is
    float32, or, faster and rougher still, in `bf16`; and `cuda_graphs`, where one worker has a GPU, launches steps as a
    whole instead of kernel by kernel.
    """

    batch_size: int = 32
    n_critic: int = 5
    penalty_weight: float = 10.0
    generator_lr: float = 1e-4
    critic_lr: float = 1e-4
    ema_half_life: float = 10_000.0
    lr_half_life: float = 0.0
    pretrain_epochs: int = 0
    max_epochs: int = 100
    convolution: str = "measured"
    precision: str = "tf32"
    cuda_graphs: bool = True

    def __post_init__(self) -> None:
        _require("batch_size", self.batch_size, self.batch_size >= 2, "at least 2 (batch normalisation)")
        for name in ("n_critic", "max_epochs"):
            _require(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        _require("pretrain_epochs", self.pretrain_epochs, self.pretrain_epochs >= 0, "0 or more")
        _require("convolution", self.convolution, self.convolution in CONVOLUTIONS, " or ".join(CONVOLUTIONS))
        _require("precision", self.precision, self.precision in PRECISIONS, " or ".join(PRECISIONS))
        for name in ("penalty_weight", "ema_half_life", "lr_half_life"):
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


def _require(name: str, value: object, holds: object, expected: str) -> None:
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
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"configuration key '{path}' is {value!r}; expected a list in brackets, [a, b]")
        return tuple(_convert(get_args(hint)[0], item, path) for item in value)
    if get_origin(hint) in (dict, list) and not isinstance(value, get_origin(hint)):
        raise ValueError(f"configuration key '{path}' is {value!r}; expected a {get_origin(hint).__name__}")
    if hint in (int, float, str, bool) and (not isinstance(value, hint) or isinstance(value, bool) != (hint is bool)):
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
