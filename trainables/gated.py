"""A second pair of networks: gated one-dimensional convolutions (Li et al. 2020, IGARSS; Dauphin et al. 2017).

Every layer is a convolution times the sigmoid of another one. How many there are and how wide is ours, in proportion
to `base_channels`. There is no normalisation: the gates keep the scale, and the penalty wants none in the critic.
Shapes: B batch, C channel or component, T sample, Z latent, L label and conditions.
"""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.config import ModelConfig
from trainables.convolution import convolve, convolve_same
from trainables.layers import uniform
from trainables.losses import Scorer

# Each of so many stages has this factor between its sampling rates.
STAGES, FACTOR = 4, 4
CRITIC_KERNEL = 16
# What the critic's last stage must be left of a window.
MIN_SAMPLES = FACTOR**STAGES
# A filter of the generator spans as much of SeismoGen's, which has no slower stages to see far with.
KERNEL_SHARE = 8


class GatedConvolution(nn.Module):
    """Convolution times the sigmoid of another; a stride shortens the signal, without one it keeps its length."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1):
        super().__init__()
        # A gate is a half at the start: twice the weights' usual spread keeps the signal's.
        bound = 2 * math.sqrt(3 / (inputs * kernel))
        self.weight, self.bias = uniform(bound, 2 * outputs, inputs, kernel), uniform(0, 2 * outputs)
        self.stride = stride

    def forward(self, x_BTC: Tensor) -> Tensor:
        """(B, T, C) to (B, T // stride, C)."""
        if self.stride == 1:
            both = convolve_same(x_BTC, self.weight, self.bias)
        else:
            missing = self.weight.shape[2] - self.stride
            x_BTC = F.pad(x_BTC, (0, 0, missing // 2, missing - missing // 2))
            both = convolve(x_BTC, self.weight, self.bias, self.stride)
        value, gate = both.chunk(2, dim=2)
        return value * gate.sigmoid()


class GatedGenerator(nn.Module):
    """Latent vectors and labels to signals, from slow to fast: each stage has four times the sampling rate before."""

    def __init__(self, config: ModelConfig, samples: int):
        super().__init__()
        self.latent_dim, self.samples, self.width = config.latent_dim, samples, 4 * config.base_channels
        kernel = max(FACTOR, config.kernel // KERNEL_SHARE)
        start = math.ceil(samples / FACTOR**STAGES)
        self.first = nn.Linear(config.latent_dim + config.label_dim, start * self.width)
        self.stages = nn.ModuleList(GatedConvolution(self.width, self.width, kernel) for _ in range(STAGES))
        bound = 1 / math.sqrt(self.width * kernel)
        self.weight = uniform(bound, len(config.components), self.width, kernel)
        self.bias = uniform(bound, len(config.components))

    def forward(self, latent_BZ: Tensor, label_BL: Tensor) -> Tensor:
        """Generate signals (B, C, T); the output is not bounded."""
        x_BTC = self.first(torch.cat([latent_BZ, label_BL], dim=1)).unflatten(1, (-1, self.width))
        for stage in self.stages:
            x_BTC = stage(x_BTC.repeat_interleave(FACTOR, dim=1))
        return convolve_same(x_BTC[:, : self.samples], self.weight, self.bias).transpose(1, 2).to(latent_BZ.dtype)


class GatedCritic(nn.Module):
    """Signals and labels to one score each, from fast to slow."""

    def __init__(self, config: ModelConfig, samples: int, fs_hz: float):
        super().__init__()
        if samples < MIN_SAMPLES:
            raise ValueError(f"windows of {samples} samples are too short; expected at least {MIN_SAMPLES}")
        width = 2 * config.base_channels
        widths = [len(config.components) + config.label_dim, width, 2 * width, 2 * width, 2 * width]
        self.stages = nn.Sequential(
            *(GatedConvolution(*pair, CRITIC_KERNEL, FACTOR) for pair in itertools.pairwise(widths))
        )
        self.last = nn.Linear(2 * width, 1)

    def forward(self, wave_BCT: Tensor, label_BL: Tensor) -> Tensor:
        """Score signals (B, C, T) given their labels: (B,), higher means more like real ones."""
        return self.given(label_BL)(wave_BCT)

    def given(self, label_BL: Tensor) -> Scorer:
        """Score batches of signals that have these labels, (B, C, T), or several such together."""

        def score(wave_BCT: Tensor) -> Tensor:
            label = label_BL.repeat(len(wave_BCT) // len(label_BL), 1)
            label_BTL = label[:, None].expand(-1, wave_BCT.shape[2], -1)
            features = self.stages(torch.cat([wave_BCT.transpose(1, 2), label_BTL], dim=2))
            return self.last(features.mean(1, dtype=wave_BCT.dtype))[:, 0]

        return score
