"""WGAN-GP on SeismoGen as a textbook has it: the reference for exactness and speed. Nothing here is clever.

Direct convolutions, three pipelines one after another, three passes of the critic, gradients by autograd alone.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

COMPONENTS = 3
KERNEL, STRIDE, SLOPE = 16, 3, 0.2


class Features(nn.Module):
    """A latent-sized vector (B, Z) to features (B, C, T)."""

    def __init__(self, samples: int, channels: int, kernel: int):
        super().__init__()
        self.samples = samples
        self.deconv = nn.ConvTranspose1d(1, channels, kernel, stride=4)
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, vector: Tensor) -> Tensor:
        return self.norm(F.relu(stretch(self.deconv(vector[:, None]), self.samples)))


def stretch(x: Tensor, samples: int) -> Tensor:
    """`F.interpolate` as it is in the default precision, also for a copy of a network in another one.

    Where the ratio of the two lengths makes it a close call (524 to 400), torch's own takes another neighbour in
    float64 than in float32; and its gradient in float64 is that of yet other neighbours than its result's.
    """
    position = torch.arange(x.shape[2], dtype=torch.get_default_dtype(), device=x.device)[None, None]
    return x.index_select(2, F.interpolate(position, size=samples)[0, 0].long())


class Pipeline(nn.Module):
    """One component of the signal."""

    def __init__(self, samples: int, base: int, kernel: int):
        super().__init__()
        width = 2 * base
        self.features = Features(samples, base, kernel)
        self.sides = ((kernel - 1) // 2, kernel // 2)
        self.convs = nn.ModuleList(nn.Conv1d(width, out, kernel) for out in (width, width, 1))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(2))

    def forward(self, latent: Tensor, label: Tensor) -> Tensor:
        x = torch.cat([label, self.features(latent)], dim=1)
        for conv, norm in zip(self.convs, self.norms, strict=False):
            x = norm(F.relu(conv(F.pad(x, self.sides))))
        return self.convs[-1](F.pad(x, self.sides))


class PlainGenerator(nn.Module):
    """Latent vectors (B, Z) and labels (B, L) to signals (B, 3, T)."""

    def __init__(self, samples: int, latent_dim: int, base: int = 16, kernel: int = 128, labels: int = 1):
        super().__init__()
        self.label = nn.Linear(labels, latent_dim)
        self.label_features = Features(samples, base, kernel)
        self.pipelines = nn.ModuleList(Pipeline(samples, base, kernel) for _ in range(COMPONENTS))

    def forward(self, latent: Tensor, label: Tensor) -> Tensor:
        features = self.label_features(self.label(label))
        return torch.cat([pipeline(latent, features) for pipeline in self.pipelines], dim=1)


class PlainCritic(nn.Module):
    """Signals (B, 3, T) and labels (B, L) to scores (B,)."""

    def __init__(self, samples: int, fs_hz: float, cutoff_hz: float, base: int = 16, labels: int = 1):
        super().__init__()
        width = 2 * base
        self.samples = samples
        self.low, self.high = self._branch(width), self._branch(width)
        self.label, self.label_conv = nn.Linear(labels, samples // 2), nn.Conv1d(1, width, KERNEL)
        widths = [6 * base, 3 * base, 2 * base, 3 * base // 2]
        self.head = nn.ModuleList(nn.Conv1d(a, b, KERNEL, stride=STRIDE) for a, b in itertools.pairwise(widths))
        mask = torch.fft.rfftfreq(samples, 1 / fs_hz, dtype=torch.float64) < cutoff_hz
        self.register_buffer("mask", mask.double(), persistent=False)

    @staticmethod
    def _branch(width: int) -> nn.ModuleList:
        return nn.ModuleList(
            [nn.Conv1d(COMPONENTS, width, KERNEL, stride=2, padding=7), nn.Conv1d(width, width, KERNEL)]
        )

    def forward(self, wave: Tensor, label: Tensor) -> Tensor:
        low = torch.fft.irfft(torch.fft.rfft(wave) * self.mask.to(wave.dtype), n=self.samples)
        features = []
        for (first, second), band in ((self.low, low), (self.high, wave - low)):
            x = F.leaky_relu(first(band), SLOPE)
            features.append(F.leaky_relu(second(F.pad(x, (7, 8))), SLOPE))
        features.append(F.leaky_relu(self.label_conv(F.pad(self.label(label)[:, None], (7, 8))), SLOPE))
        x = torch.cat(features, dim=1)
        for conv in self.head:
            x = F.leaky_relu(conv(x), SLOPE)
        return x.mean((1, 2))


class PlainGan:
    """Both networks and their optimisers, trained by the textbook."""

    def __init__(self, generator: PlainGenerator, critic: PlainCritic, lrs: tuple[float, float], weight: float = 10.0):
        self.generator, self.critic, self.penalty_weight = generator, critic, weight
        self.generator_optimiser = torch.optim.Adam(generator.parameters(), lr=lrs[0], betas=(0.5, 0.9))
        self.critic_optimiser = torch.optim.Adam(critic.parameters(), lr=lrs[1], betas=(0.5, 0.9))

    def critic_step(self, real: Tensor, label: Tensor, latent: Tensor, share: Tensor) -> Tensor:
        """One step of the critic; returns its loss."""
        with torch.no_grad():
            fake = self.generator(latent, label)
        between = (share[:, None, None] * real + (1 - share[:, None, None]) * fake).requires_grad_()
        (slope,) = torch.autograd.grad(self.critic(between, label).sum(), between, create_graph=True)
        penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
        loss = self.critic(fake, label).mean() - self.critic(real, label).mean() + self.penalty_weight * penalty
        self.critic_optimiser.zero_grad()
        loss.backward()
        self.critic_optimiser.step()
        return loss.detach()

    def generator_step(self, label: Tensor, latent: Tensor) -> Tensor:
        """One step of the generator; returns its loss."""
        loss = -self.critic(self.generator(latent, label), label).mean()
        self.generator_optimiser.zero_grad()
        loss.backward()
        self.generator_optimiser.step()
        return loss.detach()
