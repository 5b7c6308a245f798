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
from trainables.graphs import Launch, Replayed, at_once, uses_graphs
from trainables.losses import generator_loss, gradient_penalty, wasserstein_estimate
from trainables.methods import choose_methods, methods_of, use_methods
from trainables.networks import make_critic, make_generator
from trainables.precision import check_precision, computing_in
from trainables.tally import Tally

BETAS = (0.5, 0.9)
COUNTERS = ("epoch", "critic_steps", "generator_steps", "samples")
# The averaged generator forgets its untrained start: its half-life is at most this share of the windows seen.
EMA_RAMP_UP = 0.1


class Gan:
    """Both networks, their optimisers, the averaged generator and every counter and random state of a training.

    Several workers each hold one: they see equal shares of each batch and draw the same random numbers, so that they
    compute what one worker with the whole batch would.

    A step needs nothing back from the device, so that it may run ahead of it: what it tells is read from the `tally`. A
    step whose loss or gradient is not finite is not taken, nor is any after it.

    Raises:
        ValueError: if the device cannot compute as the configuration says.
    """

    def __init__(self, config: TrialConfig, samples: int, fs_hz: float, device: torch.device):
        check_precision(config.training, device)
        self.config, self.device = config, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.generator = make_generator(config.model, samples).to(device)
            self.critic = make_critic(config.model, samples, fs_hz).to(device)
        self.averaged = copy.deepcopy(self.generator).requires_grad_(False)
        self.tally = Tally(device)
        self.generator_optimiser = self._adam(self.generator)
        self.critic_optimiser = self._adam(self.critic)
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

    def critic_step(self, real_BCT: Tensor, label_BL: Tensor) -> None:
        """Train the critic once on real and generated signals; the generator gets no gradient."""
        self._launch_critic(self._train_critic, real_BCT, label_BL, self._rate(self.config.training.critic_lr))
        self.critic_steps += 1
        self.samples += len(real_BCT) * workers.count()

    def generator_step(self, label_BL: Tensor) -> None:
        """Train the generator once and let the averaged one follow."""
        seen = self.config.training.batch_size * self.config.training.n_critic
        half_life = min(self.config.training.ema_half_life, EMA_RAMP_UP * self.samples)
        keep = 0.5 ** (seen / half_life) if half_life > 0 else 0.0
        rate = self._rate(self.config.training.generator_lr)
        self._launch_generator(self._train_generator, label_BL, rate, 1 - keep)
        self.generator_steps += 1

    def _rate(self, lr: float) -> float:
        """A learning rate after the windows seen so far."""
        half_life = self.config.training.lr_half_life
        return lr * 0.5 ** (self.samples / half_life) if half_life else lr

    def _train_critic(self, real_BCT: Tensor, label_BL: Tensor, lr: float | Tensor) -> None:
        """What the device does in a step of the critic; numbers that change from step to step are arguments."""
        batch = len(real_BCT) * workers.count()
        latent_BZ, share_B = self.latent(batch), torch.rand(batch, device=self.device, generator=self.rng)
        with computing_in(self.config.training.precision):
            with torch.no_grad():
                fake_BCT = self.generator(workers.share(latent_BZ), label_BL)
            critic = self.critic.given(label_BL)
            distance = wasserstein_estimate(critic, real_BCT, fake_BCT)
            penalty = gradient_penalty(critic, real_BCT, fake_BCT, workers.share(share_B).to(real_BCT.dtype))
            loss = self.config.training.penalty_weight * penalty - distance
            self._descend("critic", loss, self.critic, self.critic_optimiser, lr)
        self.tally.add(critic_distance=distance, penalty=penalty)

    def _train_generator(self, label_BL: Tensor, lr: float | Tensor, follow: float | Tensor) -> None:
        """What the device does in a step of the generator; `follow` is how far the averaged one comes after it."""
        latent_BZ = self.latent(len(label_BL) * workers.count())
        self.critic.requires_grad_(False)
        with computing_in(self.config.training.precision):
            fake_BCT = self.generator(workers.share(latent_BZ), label_BL)
            loss = generator_loss(self.critic.given(label_BL), fake_BCT)
            self._descend("generator", loss, self.generator, self.generator_optimiser, lr)
        self.critic.requires_grad_(True)
        self.tally.add(generator=loss)
        with torch.no_grad():
            for average, weight in zip(self.averaged.parameters(), self.generator.parameters(), strict=True):
                average.lerp_(weight, follow)

    def _descend(
        self, name: str, loss: Tensor, network: nn.Module, optimiser: torch.optim.Optimizer, lr: float | Tensor
    ) -> None:
        """One optimiser step down the loss, which the optimiser leaves out if anything is not finite."""
        optimiser.zero_grad()
        loss.backward()
        workers.average_gradients(network.parameters())
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        self.tally.watch(name, torch.stack([workers.total(loss.detach().clone()), nn.utils.get_total_norm(gradients)]))
        # A rate that is on the device is one that a graph is to be told anew each time.
        optimiser.param_groups[0] |= {"lr": lr, "capturable": isinstance(lr, Tensor)}
        optimiser.step()

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
        self._launch_critic: Launch = at_once
        self._launch_generator: Launch = at_once
        if uses_graphs(self.config.training, self.device):
            pool = torch.cuda.graph_pool_handle()
            self._launch_critic, self._launch_generator = Replayed(self.rng, pool), Replayed(self.rng, pool)

    def _adam(self, network: nn.Module) -> torch.optim.Adam:
        optimiser = torch.optim.Adam(network.parameters(), betas=BETAS, fused=True)
        optimiser.found_inf = self.tally.halted  # type: ignore[attr-defined]
        return optimiser

    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        return {
            "generator": self.generator,
            "critic": self.critic,
            "averaged": self.averaged,
            "generator_optimiser": self.generator_optimiser,
            "critic_optimiser": self.critic_optimiser,
        }
