"""Short trainings that measure what a trial takes, and what a search would take by that."""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from search.config import SchedulerConfig, SearchConfig
from search.finalists import stages
from search.space import Choices, Domain
from trainables import mps
from trainables.batches import PreparedDataset
from trainables.config import TrialConfig, with_values
from trainables.gan import Gan
from trainables.usage import peak_gb

PROBE_S = 3.0


@dataclass(frozen=True)
class Steps:
    """Seconds of one step of each network."""

    critic_s: float
    generator_s: float

    def critic_steps_per_s(self, n_critic: int) -> float:
        """Speed of a training, its generator's steps included."""
        return 1 / (self.critic_s + self.generator_s / n_critic)


class ShortTraining:
    """A training that takes as many steps as it is asked for, in this process or as an actor of Ray's.

    `dataset` gives the folder of the prepared dataset on whichever machine it is called; `gpus` is its share of one.
    """

    def __init__(self, config: TrialConfig, dataset: Callable[[], Path], threads: int, gpus: float):
        torch.set_num_threads(threads)
        if gpus >= 1:
            mps.leave()
        self._device = torch.device("cuda" if gpus else "cpu")
        prepared, batch = PreparedDataset.open(dataset()), config.training.batch_size
        windows = prepared.part("train", config.model)
        self._wave, self._label = (part[:batch].to(self._device) for part in (windows.wave, windows.label))
        self._gan = Gan(config, prepared.samples, prepared.fs_hz, self._device)

    def steps(self, seconds: float = PROBE_S) -> Steps:
        """Time steps of each network, for about so long but at least one."""
        critic_s = self._median_s(lambda: self._gan.critic_step(self._wave, self._label), seconds / 2)
        return Steps(critic_s, self._median_s(lambda: self._gan.generator_step(self._label), seconds / 2))

    def _median_s(self, step: Callable[[], None], seconds: float) -> float:
        """Without the first, which takes longer, if there is another."""
        times: list[float] = []
        while not times or sum(times) < seconds:
            start = time.perf_counter()
            step()
            if self._device.type == "cuda":  # which is still at it
                torch.cuda.synchronize(self._device)
            times.append(time.perf_counter() - start)
        return statistics.median(times[1:] or times)

    def memory(self) -> tuple[float, float]:
        """Peak memory of the process in GB, and the share of its GPU that is taken, by whatever process; 0 without."""
        taken = 0.0
        if self._device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self._device)
            taken = 1 - free / total
        return peak_gb(torch.device("cpu")), taken


def typical(config: SearchConfig) -> TrialConfig:
    """The configuration in the middle of the space."""
    return with_values(config.trial, {key: _middle(domain) for key, domain in config.domains.items()})


def largest(config: SearchConfig) -> TrialConfig:
    """The configuration at the upper end of every range, and with the largest of all choices, the last of texts."""
    return with_values(config.trial, {key: _largest(domain) for key, domain in config.domains.items()})


def _largest(domain: Domain) -> Any:
    texts = any(isinstance(value, str) for value in domain.ends)
    return domain.ends[-1] if texts else max(domain.ends)


def _middle(domain: Domain) -> Any:
    if isinstance(domain, Choices):
        return domain.choices[len(domain.choices) // 2]
    middle = (domain.low * domain.high) ** 0.5 if domain.log else (domain.low + domain.high) / 2
    return round(middle) if isinstance(domain.low, int) else middle


def expected_epochs(scheduler: SchedulerConfig, max_epochs: int) -> float:
    """Epochs of a trial on average, if at each rung one of every `reduction_factor` trials goes on."""
    if scheduler.name != "asha":  # what the others leave is not known beforehand: at most that
        return max_epochs
    epochs, rung, share = 0.0, min(scheduler.grace_epochs, max_epochs), 1.0
    epochs += rung
    while rung < max_epochs:
        share /= scheduler.reduction_factor
        following = min(rung * scheduler.reduction_factor, max_epochs)
        epochs, rung = epochs + share * (following - rung), following
    return epochs


@dataclass(frozen=True)
class Estimate:
    """What a search would take: seconds of an epoch without judging and saving, epochs in all, trials at once."""

    epoch_s: float
    epochs: float
    at_once: int

    @property
    def hours(self) -> float:
        """Of the whole search."""
        return self.epoch_s * self.epochs / self.at_once / 3600


def estimate(config: SearchConfig, data: Path) -> Estimate:
    """Train a typical configuration for a few steps here, as a trial of the search would."""
    resources, trial = config.resources, typical(config)
    gpus = resources.gpus_per_trial * torch.cuda.is_available()
    cpus = resources.cpus_per_trial if gpus or not resources.gpus_per_trial else resources.workers_per_trial
    places = torch.cuda.device_count() / gpus if gpus else (os.cpu_count() or 1) / cpus
    per_s = ShortTraining(trial, lambda: data, cpus, gpus).steps().critic_steps_per_s(trial.training.n_critic)
    batches = PreparedDataset.open(data).count("train") // trial.training.batch_size
    at_once = max(1, min(int(places), resources.max_concurrent or int(places)))
    return Estimate(batches / per_s, all_epochs(config, at_once), at_once)


def all_epochs(config: SearchConfig, at_once: int) -> float:
    """Of all trials and of the finalists, which are trained in full."""
    full = sum(stages(min(config.finalists.count, config.num_samples), config.finalists.seeds, at_once))
    max_epochs = config.training.max_epochs
    return config.num_samples * expected_epochs(config.scheduler, max_epochs) + full * max_epochs


def say_how_long(config: SearchConfig, data: Path, console: Console) -> None:
    """Print how long the search would take on this machine, and what that supposes."""
    with console.status("Training for a few steps ..."):
        found = estimate(config, data)
    hours, cost_per_hour = found.hours, config.resources.cost_per_hour
    cost = f", at a cost of {hours * cost_per_hour:.2f}," if cost_per_hour else ""
    duration = f"{hours:.1f} hours" if hours >= 1 else f"{max(1, round(60 * hours))} minutes"
    average = expected_epochs(config.scheduler, config.training.max_epochs)
    stopping = (
        f", if trials are stopped after {average:.0f} epochs on average" if config.scheduler.name == "asha" else ""
    )
    console.print(
        f"About {duration}{cost} with {found.at_once} at once, on this machine{stopping}: an epoch of a typical trial "
        f"takes {found.epoch_s:.3g} s and its judging some more, which is not counted.",
        highlight=False,
    )
