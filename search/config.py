"""The configuration of a search: frozen dataclasses, and what `--config` and `--set` lay over them."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from search.objectives import check_second
from search.space import Choices, Domain, domain_from_json, re_ranged
from trainables.config import EvaluationConfig, ModelConfig, TrainingConfig, TrialConfig, flat, from_dict, with_values

WANDB_MODES = ("auto", "online", "offline", "disabled")
SCHEDULERS = ("asha", "hyperband", "median", "none")
REFUSED_SCHEDULERS = {
    "pbt": "it changes parameters of running trials, and no one configuration would have earned the score",
    "bohb": "it pauses trials, and a paused trial gives up its process; sampler curves with asha does what it is for",
}
SAMPLERS = ("curves", "tpe", "random", "gp", "nsga2")
# These learn from complete trials alone.
COMPLETE_ONLY = ("gp", "nsga2")
UNSEARCHABLE = ("training.max_epochs", "model.components")


@dataclass(frozen=True)
class SchedulerConfig:
    """When a trial is stopped because others do better.

    `asha` is asynchronous successive halving (Li et al. 2018): at each rung one in `reduction_factor` goes on. The
    first rung is at `grace_epochs`, no rung before `grace_generator_steps`. With `brackets` above 1 trials are dealt
    out to so many, each of which begins a rung later; `hyperband` has one for each rung. `median` has a rung at every
    epoch, where the better half goes on. `none` stops no trial.
    """

    name: str = "asha"
    grace_epochs: int = 5
    grace_generator_steps: int = 0
    reduction_factor: int = 3
    brackets: int = 1

    def __post_init__(self) -> None:
        if self.name in REFUSED_SCHEDULERS:
            raise ValueError(f"scheduler.name is '{self.name}', which is not for this: {REFUSED_SCHEDULERS[self.name]}")
        _one_of("scheduler.name", self.name, SCHEDULERS)
        _at_least("scheduler.grace_epochs", self.grace_epochs, 1)
        _at_least("scheduler.grace_generator_steps", self.grace_generator_steps, 0)
        _at_least("scheduler.reduction_factor", self.reduction_factor, 2)
        _at_least("scheduler.brackets", self.brackets, 1)


@dataclass(frozen=True)
class StoppingConfig:
    """When a trial is stopped by its own history, whatever others do.

    `drift_bound` is in units of the spread of real windows' means. An untrained generator is some 40 off, a gated one
    70, which is no drift: the bound is raised to 1.25 times what a trial's own generator was off before training.
    `diversity_bound` is a share of the real windows' own. Both patiences count reports, of those within
    `interval_generator_steps` only one; `stall_patience` 0 lets trials stall. The grace asks for epochs and generator
    steps both.

    What a trial costs has limits too, 0 for none: `max_parameters` of both networks, `max_memory_gb` of its process
    (on a GPU, there), and `max_epoch_seconds` of its fastest epoch. Over one of them it is stopped at its first or
    second report, and the sampler ranks it behind all others.

    The same curve meets the same decision at any two batch sizes if the grace in epochs is over before that in steps
    and an epoch takes no more steps than the interval; where it takes more, decisions come later.
    """

    drift_bound: float = 50.0
    diversity_bound: float = 0.2
    patience: int = 20
    stall_patience: int = 50
    grace_epochs: int = 9
    grace_generator_steps: int = 200
    interval_generator_steps: int = 25
    max_parameters: int = 0
    max_memory_gb: float = 0.0
    max_epoch_seconds: float = 0.0

    def __post_init__(self) -> None:
        limits = ("max_parameters", "max_memory_gb", "max_epoch_seconds")
        bounds = ("drift_bound", "diversity_bound", "stall_patience", "grace_epochs", "grace_generator_steps")
        for name in (*bounds, *limits):
            _at_least(f"stopping.{name}", getattr(self, name), 0)
        _at_least("stopping.patience", self.patience, 2)
        if 0 < self.stall_patience < self.patience:
            raise ValueError(
                f"stopping.stall_patience is {self.stall_patience}; expected at least stopping.patience, "
                f"{self.patience}, or 0 to let trials stall"
            )
        _at_least("stopping.interval_generator_steps", self.interval_generator_steps, 1)


@dataclass(frozen=True)
class FinalistsConfig:
    """How many of the best configurations are trained again, and with how many other seeds; `count` 0 leaves it out.

    All are trained with one, the best two with the rest (`race.py`); with fewer than three nothing is told apart.
    """

    count: int = 4
    seeds: int = 3

    def __post_init__(self) -> None:
        if self.count != 0:
            _at_least("finalists.count", self.count, 2)
        _at_least("finalists.seeds", self.seeds, 3)


@dataclass(frozen=True)
class ResourcesConfig:
    """What each trial takes; `max_concurrent` 0 means as many trials at once as fit.

    The workers of a trial share its CPUs, its GPUs and each of its batches equally. `memory_gb_per_trial` 0 has the
    search measure it, and with it how many trials share a machine and a GPU (`packing.py`). `cost_per_hour` is that of
    all machines together, busy or not, in any currency; where machines come and go, that of all there may be.
    """

    workers_per_trial: int = 1
    cpus_per_trial: int = 1
    gpus_per_trial: float = 0.0
    memory_gb_per_trial: float = 0.0
    max_concurrent: int = 0
    cost_per_hour: float = 0.0

    def __post_init__(self) -> None:
        _at_least("resources.workers_per_trial", self.workers_per_trial, 1)
        _at_least("resources.cpus_per_trial", self.cpus_per_trial, 1)
        _at_least("resources.gpus_per_trial", self.gpus_per_trial, 0)
        if self.gpus_per_trial > 1 and self.gpus_per_trial % 1:
            raise ValueError(
                f"resources.gpus_per_trial is {self.gpus_per_trial}; expected a share of one or whole GPUs"
            )
        _at_least("resources.memory_gb_per_trial", self.memory_gb_per_trial, 0)
        _at_least("resources.max_concurrent", self.max_concurrent, 0)
        _at_least("resources.cost_per_hour", self.cost_per_hour, 0)


@dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases; `auto` is online with an account and offline without."""

    mode: str = "auto"
    project: str = "seismogen-search"

    def __post_init__(self) -> None:
        _one_of("wandb.mode", self.mode, WANDB_MODES)


@dataclass(frozen=True)
class SearchConfig:
    """Everything that determines a search but the data.

    It ends after `num_samples` trials, `max_hours`, what `max_cost` pays for, or the first trial whose score comes down
    to `target_score`, whatever comes first; 0 means no limit, of score none that is good enough.
    A `second_objective` (`objectives.py`) is weighed against the score by the sampler; exported is the best score.
    `warm_start` names the result folders of earlier searches on the same data, whose trials the sampler learns from.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    space: dict[str, Any] = field(default_factory=dict)
    baselines: list[Any] = field(default_factory=list)
    warm_start: list[str] = field(default_factory=list)
    sampler: str = "curves"
    second_objective: str = ""
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    stopping: StoppingConfig = field(default_factory=StoppingConfig)
    finalists: FinalistsConfig = field(default_factory=FinalistsConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    num_samples: int = 100
    max_hours: float = 0.0
    max_cost: float = 0.0
    target_score: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        _at_least("num_samples", self.num_samples, 1)
        _at_least("max_hours", self.max_hours, 0)
        _at_least("max_cost", self.max_cost, 0)
        if self.max_cost and not self.resources.cost_per_hour:
            raise ValueError(
                f"max_cost is {self.max_cost:g}, but nothing says what an hour costs; add "
                "--set resources.cost_per_hour=PRICE"
            )
        _at_least("target_score", self.target_score, 0)
        _one_of("sampler", self.sampler, SAMPLERS)
        if self.sampler in COMPLETE_ONLY and self.scheduler.name != "none":
            raise ValueError(
                f"sampler {self.sampler} learns from complete trials alone, of which scheduler {self.scheduler.name} "
                "leaves few; add --set scheduler.name=none, or use another sampler"
            )
        check_second(self.second_objective, self.sampler, self.scheduler.name)
        for key, domain in self.domains.items():
            if key in UNSEARCHABLE or key.partition(".")[0] not in ("model", "training"):
                raise ValueError(f"{key} cannot be searched: scores would not be comparable; give it one value")
            for value in domain.ends:
                with_values(self.trial, {key: value})
        for point in self.baselines:
            if not isinstance(point, dict) or not point.keys() <= self.space.keys():
                raise ValueError(f"baseline {point} is none; expected values of searched parameters, by dotted key")
            with_values(self.trial, point)

    @property
    def trial(self) -> TrialConfig:
        """The configuration that sampled parameters are laid over."""
        return TrialConfig(self.model, self.training, self.evaluation, self.seed)

    @property
    def domains(self) -> dict[str, Domain]:
        """The space, a domain for each dotted key of the trial's configuration."""
        defaults = flat(self.trial)
        return {
            key: domain_from_json(key, content, real=isinstance(defaults.get(key), float))
            for key, content in self.space.items()
        }


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{name} is '{value}'; expected one of {', '.join(known)}")


def _at_least(name: str, value: float, least: float) -> None:
    if not least <= value < math.inf:
        raise ValueError(f"{name} is {value}; expected at least {least:g}")


def domain_json(domain: Domain) -> dict[str, Any]:
    """A domain as the space of a configuration holds it."""
    return {"choices": list(domain.choices)} if isinstance(domain, Choices) else asdict(domain)


def read_config(file: Path) -> SearchConfig:
    """Read a configuration from JSON, such as an earlier result's `search.json`; missing keys take their defaults.

    Raises:
        ValueError: if the file is not such a configuration.
    """
    if not file.is_file():
        raise ValueError(f"configuration {file} does not exist; expected a JSON file such as results/NAME/search.json")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return from_dict(SearchConfig, content.get("config", content))
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"configuration {file}: {error}") from error


def with_settings(config: SearchConfig, settings: Sequence[str]) -> SearchConfig:
    """Lay `KEY=VALUE` texts over a configuration, in order.

    A single value for a parameter of the space fixes it; a list gives a range its two ends, or lists the choices.
    What is a list itself, such as `model.conditions`, takes it whole.

    Raises:
        ValueError: for a text without `=`, an unknown key or a bad value.
    """
    values: dict[str, Any] = {}
    for text in settings:
        key, found, value = text.partition("=")
        if not found:
            raise ValueError(f"--set {text}: expected KEY=VALUE, such as --set model.base_channels=8")
        config = _with_setting(config, values, key.strip(), parse(value))
    return with_values(config, values)  # at once: what goes only with another value may come before it


def _with_setting(config: SearchConfig, values: dict[str, Any], key: str, value: Any) -> SearchConfig:
    """One setting; a single value is kept in `values`. A baseline's that the space no longer holds is the sampler's."""
    values.pop(key, None)
    holds_list = isinstance(flat(config).get(key), tuple | list)
    if isinstance(value, list) and not holds_list:
        domain = re_ranged(key, value, config.domains.get(key))
        baselines = [
            {name: held for name, held in point.items() if name != key or held in domain} for point in config.baselines
        ]
        return replace(config, space={**config.space, key: domain_json(domain)}, baselines=baselines)
    if key in ("space", "baselines"):
        return with_values(config, {key: value})
    space = {name: domain for name, domain in config.space.items() if name != key}
    baselines = [{name: held for name, held in point.items() if name != key} for point in config.baselines]
    values[key] = value
    return replace(config, space=space, baselines=baselines)


def parse(text: str) -> Any:
    """A value as JSON, or where it is none the text itself; words in brackets, `[a, b]`, need no quotation marks."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        words = re.fullmatch(r"\[([^\[\]]*)\]", text.strip())
        return [parse(word.strip()) for word in words[1].split(",")] if words else text


def resolved(config: SearchConfig, about: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept as `search.json`: the resolved configuration and what it was run on."""
    return {**about, "config": asdict(config)}
