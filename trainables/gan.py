"""Both networks, how each is trained by one step, and everything that a training remembers.

Shapes: B batch (all workers' windows together, or one worker's share), C component (E, N, Z), T sample, Z latent,
L label and conditions.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from trainables import workers
from trainables.config import TrialConfig
from trainables.losses import generator_loss, gradient_penalty, wasserstein_estimate
from trainables.methods import choose_methods, methods_of, use_methods
from trainables.networks import make_critic, make_generator

BETAS = (0.5, 0.9)
COUNTERS = ("epoch", "critic_steps", "generator_steps", "samples")
# The averaged generator forgets its untrained start: its half-life is at most this share of the windows seen.
EMA_RAMP_UP = 0.1


class DivergedError(ArithmeticError):
    """A loss or gradient is no longer finite; training cannot go on."""


class Gan:
    """Both networks, their optimisers, the averaged generator and every counter and random state of a training.

    Several workers each hold one: they see equal shares of each batch and draw the same random numbers, so that they
    compute what one worker with the whole batch would.
    """

    def __init__(self, config: TrialConfig, samples: int, fs_hz: float, device: torch.device):
        self.config, self.device = config, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.generator = make_generator(config.model, samples).to(device)
            self.critic = make_critic(config.model, samples, fs_hz).to(device)
        self.averaged = copy.deepcopy(self.generator).requires_grad_(False)
        self.generator_optimiser = _adam(self.generator)
        self.critic_optimiser = _adam(self.critic)
        self.rng = torch.Generator(device).manual_seed(config.seed)
        self.epoch = self.critic_steps = self.generator_steps = self.samples = 0
        self.history: list[dict[str, Any]] = []
        self._use(choose_methods(self.generator, config.training, samples))

    @property
    def parameter_count(self) -> int:
        """Of both networks."""
        return sum(p.numel() for network in (self.generator, self.critic) for p in network.parameters())

    def latent(self, count: int) -> Tensor:
        """Draw latent vectors (count, Z)."""
        return torch.randn(count, self.config.model.latent_dim, device=self.device, generator=self.rng)

    def critic_step(self, real_BCT: Tensor, label_BL: Tensor) -> dict[str, float]:
        """Train the critic once on real and generated signals; the generator gets no gradient.

        Raises:
            DivergedError: for a loss or gradient that is not finite, before the step is taken.
        """
        batch = len(real_BCT) * workers.count()
        latent_BZ, share_B = self.latent(batch), torch.rand(batch, device=self.device, generator=self.rng)
        with torch.no_grad():
            fake_BCT = self.generator(workers.share(latent_BZ), label_BL)
        critic = self.critic.given(label_BL)
        distance = wasserstein_estimate(critic, real_BCT, fake_BCT)
        penalty = gradient_penalty(critic, real_BCT, fake_BCT, workers.share(share_B).to(real_BCT.dtype))
        loss = self.config.training.penalty_weight * penalty - distance
        self._descend(loss, self.critic, self.critic_optimiser, self.config.training.critic_lr)
        self.critic_steps += 1
        self.samples += batch
        return _values({"loss/critic_distance": distance, "loss/penalty": penalty})

    def generator_step(self, label_BL: Tensor) -> dict[str, float]:
        """Train the generator once and let the averaged one follow.

        Raises:
            DivergedError: for a loss or gradient that is not finite, before the step is taken.
        """
        latent_BZ = self.latent(len(label_BL) * workers.count())
        self.critic.requires_grad_(False)
        fake_BCT = self.generator(workers.share(latent_BZ), label_BL)
        loss = generator_loss(self.critic.given(label_BL), fake_BCT)
        self._descend(loss, self.generator, self.generator_optimiser, self.config.training.generator_lr)
        self.critic.requires_grad_(True)
        self.generator_steps += 1
        self._average()
        return _values({"loss/generator": loss})

    def _descend(self, loss: Tensor, network: nn.Module, optimiser: torch.optim.Optimizer, lr: float) -> None:
        """One optimiser step down the loss, refused before it is taken if anything is not finite."""
        optimiser.zero_grad()
        loss.backward()
        workers.average_gradients(network.parameters())
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        checked = torch.stack([workers.total(loss.detach().clone()), nn.utils.get_total_norm(gradients)])
        if not torch.isfinite(checked).all():
            which = "critic" if network is self.critic else "generator"
            raise DivergedError(f"non-finite {which} loss or gradient")
        half_life = self.config.training.lr_half_life
        optimiser.param_groups[0]["lr"] = lr * 0.5 ** (self.samples / half_life) if half_life else lr
        optimiser.step()

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
        kept = {"counters": counters, "methods": methods_of(self.generator), "history": self.history}
        return {**parts, "rng": self.rng.get_state(), **kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state written by `state_dict`."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.rng.set_state(state["rng"])
        for name in COUNTERS:
            setattr(self, name, state["counters"][name])
        self.history = state["history"]
        self._use(state["methods"])

    def _use(self, methods: list[str]) -> None:
        for network in (self.generator, self.averaged):
            use_methods(network, methods)

    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        return {
            "generator": self.generator,
            "critic": self.critic,
            "averaged": self.averaged,
            "generator_optimiser": self.generator_optimiser,
            "critic_optimiser": self.critic_optimiser,
        }


def _adam(network: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), betas=BETAS, fused=True)


def _values(losses: dict[str, Tensor]) -> dict[str, float]:
    """Means over all workers."""
    means = workers.total(torch.stack([loss.detach() for loss in losses.values()])) / workers.count()
    return dict(zip(losses, means.tolist(), strict=True))
