"""The WGAN-GP training loop. It knows nothing of Ray: what to do with each report is handed to it.

Shapes: B batch, C component (E, N, Z), T sample, Z latent.
"""

import copy
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from trainables.batches import PreparedDataset, Windows, epoch_order
from trainables.config import TrialConfig
from trainables.critic import Critic
from trainables.fidelity import MIN_JUDGED, Band, Fidelity
from trainables.generator import Generator
from trainables.layers import RectifiedNorm
from trainables.losses import generator_loss, gradient_penalty, wasserstein_estimate

BETAS = (0.5, 0.9)
# Fakes generated together when judging: bounds memory, does not change the result.
GENERATE_BATCH = 64
MIN_FAKES = 64
# Latent vectors that batch normalisation is measured with, in equal batches, apart from those that are judged.
SETTLING = 2 * GENERATE_BATCH
# The averaged generator forgets its untrained start: its half-life is at most this share of the windows seen.
EMA_RAMP_UP = 0.1


class DivergedError(ArithmeticError):
    """A loss or gradient is no longer finite; training cannot go on."""


class Gan:
    """Both networks, their optimisers, the averaged generator and every counter and random state of a training."""

    def __init__(self, config: TrialConfig, samples: int, fs_hz: float, device: torch.device):
        self.config, self.device = config, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.generator = Generator(config.model, samples).to(device)
            self.critic = Critic(config.model, samples, fs_hz).to(device)
        self.averaged = copy.deepcopy(self.generator).requires_grad_(False)
        self.generator_optimiser = _adam(self.generator, config.training.generator_lr)
        self.critic_optimiser = _adam(self.critic, config.training.critic_lr)
        self.rng = torch.Generator(device).manual_seed(config.seed)
        self.epoch = self.critic_steps = self.generator_steps = self.samples = 0
        self.history: list[dict[str, Any]] = []

    def latent(self, count: int) -> Tensor:
        """Draw latent vectors (count, Z)."""
        return torch.randn(count, self.config.model.latent_dim, device=self.device, generator=self.rng)

    def critic_step(self, real_BCT: Tensor, label_BL: Tensor) -> dict[str, float]:
        """Train the critic once on real and generated signals; the generator gets no gradient."""
        latent_BZ = self.latent(len(real_BCT))
        share_B = torch.rand(len(real_BCT), dtype=real_BCT.dtype, device=self.device, generator=self.rng)
        with torch.no_grad():
            fake_BCT = self.generator(latent_BZ, label_BL)
        critic = self.critic.given(label_BL)
        distance = wasserstein_estimate(critic, real_BCT, fake_BCT)
        penalty = gradient_penalty(critic, real_BCT, fake_BCT, share_B)
        loss = self.config.training.penalty_weight * penalty - distance
        _descend(loss, self.critic, self.critic_optimiser)
        self.critic_steps += 1
        self.samples += len(real_BCT)
        return {"loss/critic_distance": distance.item(), "loss/penalty": penalty.item()}

    def generator_step(self, label_BL: Tensor) -> dict[str, float]:
        """Train the generator once and let the averaged one follow."""
        self.critic.requires_grad_(False)
        fake_BCT = self.generator(self.latent(len(label_BL)), label_BL)
        loss = generator_loss(self.critic.given(label_BL), fake_BCT)
        _descend(loss, self.generator, self.generator_optimiser)
        self.critic.requires_grad_(True)
        self.generator_steps += 1
        self._average()
        return {"loss/generator": loss.item()}

    def _average(self) -> None:
        seen = self.config.training.batch_size * self.config.training.n_critic
        half_life = min(self.config.training.ema_half_life, EMA_RAMP_UP * self.samples)
        keep = 0.5 ** (seen / half_life) if half_life > 0 else 0.0
        with torch.no_grad():
            for average, weight in zip(self.averaged.parameters(), self.generator.parameters(), strict=True):
                average.lerp_(weight, 1 - keep)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a training needs to go on as if it had never stopped."""
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        counters = {name: getattr(self, name) for name in COUNTERS}
        return {**parts, "rng": self.rng.get_state(), "counters": counters, "history": self.history}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state written by `state_dict`."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.rng.set_state(state["rng"])
        for name in COUNTERS:
            setattr(self, name, state["counters"][name])
        self.history = state["history"]

    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        return {
            "generator": self.generator,
            "critic": self.critic,
            "averaged": self.averaged,
            "generator_optimiser": self.generator_optimiser,
            "critic_optimiser": self.critic_optimiser,
        }


COUNTERS = ("epoch", "critic_steps", "generator_steps", "samples")
Report = Callable[[dict[str, Any], Gan], None]
# From the metrics of every report so far to the reason to stop here, or None to go on.
StopRule = Callable[[list[dict[str, Any]]], str | None]


def train(
    config: TrialConfig,
    dataset: PreparedDataset,
    report: Report,
    stop_rule: StopRule,
    state: dict[str, Any] | None = None,
    device: torch.device | None = None,
) -> None:
    """Train a WGAN-GP, reporting after each epoch; goes on from `state` where one is given.

    The report's metrics hold the score and its parts, the losses' means over the epoch, the counters, the seconds
    this epoch took, `last_epoch`, and `stop_reason`: empty, or why this report is the last before that. A training
    that diverges reports an infinite score.

    Raises:
        ValueError: if the configuration does not fit the data.
    """
    device = device or torch.device("cpu")
    train_part, val_part = _to(dataset.part("train"), device), _to(dataset.part("val"), device)
    gan = Gan(config, dataset.samples, dataset.fs_hz, device)
    if state is not None:
        gan.load_state_dict(state)
    judge = Judge(config, dataset, train_part, val_part)
    stopped = gan.history and gan.history[-1]["stop_reason"]
    while not stopped and gan.epoch < config.training.max_epochs:
        metrics = _one_epoch(gan, train_part, judge)
        gan.history.append(metrics)
        stopped = metrics["stop_reason"] = metrics["stop_reason"] or stop_rule(gan.history) or ""
        report(dict(metrics), gan)


def check_fit(config: TrialConfig, dataset: PreparedDataset) -> None:
    """Refuse a configuration that cannot be trained on a dataset, without training.

    Raises:
        ValueError: saying what does not fit.
    """
    epoch_order(dataset.count("train"), config.training.batch_size, config.seed, 0)
    for name in ("val", "test"):
        if dataset.count(name) < MIN_JUDGED:
            raise ValueError(
                f"{dataset.folder / name}.npy has {dataset.count(name)} windows; expected {MIN_JUDGED} to judge by"
            )
    with torch.device("meta"):
        Critic(config.model, dataset.samples, dataset.fs_hz)


def _one_epoch(gan: Gan, windows: Windows, judge: "Judge") -> dict[str, Any]:
    start = time.perf_counter()
    try:
        losses = train_epoch(gan, windows)
        judge.settle(gan.averaged)
        metrics: dict[str, Any] = {"stop_reason": "", **losses, **judge.score(gan.averaged)}
        if not math.isfinite(metrics["score"]):
            raise DivergedError("non-finite score")
    except DivergedError as error:
        metrics = {"stop_reason": f"diverged: {error}", "score": float("inf")}
    gan.epoch += 1
    counters = {name: getattr(gan, name) for name in COUNTERS}
    counters["last_epoch"] = gan.epoch >= gan.config.training.max_epochs
    return {**metrics, **counters, "seconds": time.perf_counter() - start}


def train_epoch(gan: Gan, windows: Windows) -> dict[str, float]:
    """One pass of the critic over the windows, a generator step after every `n_critic` batches; mean losses."""
    training = gan.config.training
    history: dict[str, list[float]] = {}
    gan.generator.train()
    for index in epoch_order(len(windows.wave), training.batch_size, gan.config.seed, gan.epoch):
        label = windows.label[index]
        losses = gan.critic_step(windows.wave[index], label)
        if gan.critic_steps % training.n_critic == 0:
            losses |= gan.generator_step(label)
        for name, value in losses.items():
            history.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in history.items()}


class Judge:
    """Scores a generator on the validation part, always from the same latent vectors and labels."""

    def __init__(self, config: TrialConfig, dataset: PreparedDataset, train_part: Windows, val_part: Windows):
        band = Band(dataset.fs_hz, *dataset.usable_band_hz)
        # More fakes than there are windows to compare them with would cost time and tell nothing.
        count, device = min(config.evaluation.fakes, max(MIN_FAKES, len(val_part.wave))), val_part.label.device
        self.fidelity = Fidelity(train_part, val_part, band, count, config.evaluation.splits, config.seed)
        rng = torch.Generator(device).manual_seed(config.seed)
        latent = torch.randn(count + SETTLING, config.model.latent_dim, device=device, generator=rng)
        label = val_part.label[torch.arange(count + SETTLING, device=device) % len(val_part.label)]
        self._latent, self._settling_latent = latent[:count], latent[count:]
        self._label, self._settling_label = label[:count], label[count:]

    def settle(self, generator: Generator) -> None:
        """Give a generator the batch statistics of its weights as they are now."""
        settle_batch_norm(generator, self._settling_latent, self._settling_label)

    def score(self, generator: Generator) -> dict[str, float]:
        """Score a generator as it is; lower is better."""
        return self.fidelity(generate(generator, self._latent, self._label))


@torch.no_grad()
def generate(generator: Generator, latent_BZ: Tensor, label_B1: Tensor) -> Tensor:
    """Signals (B, 3, T) from a generator in evaluation mode, a few at a time."""
    generator.eval()
    batches = zip(latent_BZ.split(GENERATE_BATCH), label_B1.split(GENERATE_BATCH), strict=True)
    return torch.cat([generator(latent, label) for latent, label in batches])


@torch.no_grad()
def settle_batch_norm(generator: Generator, latent_BZ: Tensor, label_B1: Tensor) -> None:
    """Measure the statistics that batch normalisation uses in evaluation mode for the weights as they are now.

    Averaged weights never ran in training, so the running statistics copied along would belong to other weights.
    """
    for module in generator.modules():
        if isinstance(module, RectifiedNorm):
            module.measure_anew()
    generator.train()
    for latent, label in zip(latent_BZ.split(GENERATE_BATCH), label_B1.split(GENERATE_BATCH), strict=True):
        generator(latent, label)
    generator.eval()


def _adam(network: nn.Module, lr: float) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), lr=lr, betas=BETAS, fused=True)


def _descend(loss: Tensor, network: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """One optimiser step down the loss, refused before it is taken if anything is not finite."""
    optimiser.zero_grad()
    loss.backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    if not torch.isfinite(torch.stack([loss.detach(), nn.utils.get_total_norm(gradients)])).all():
        raise DivergedError(f"non-finite {type(network).__name__.lower()} loss or gradient")
    optimiser.step()


def _to(windows: Windows, device: torch.device) -> Windows:
    return Windows(windows.wave.to(device), windows.label.to(device), windows.events)
