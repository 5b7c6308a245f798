"""SeismoGen's critic (Wang, Trugman and Lin 2019, arXiv 1911.03966, figure 3).

There is no normalisation anywhere: the gradient penalty is defined for each sample on its own.
Shapes: B batch, C channel or component (E, N, Z), T sample, L label and conditions.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.config import ModelConfig
from trainables.convolution import convolve, convolve_same, unfolded
from trainables.layers import FrequencySplit, leaky_relu
from trainables.losses import Scorer

KERNEL = 16
STRIDE = 3
# Three unpadded convolutions of stride 3 after one of stride 2 leave at least one value from here on.
MIN_SAMPLES = 392


class Critic(nn.Module):
    """Signals and labels to one score each; low and high frequencies have branches of their own."""

    def __init__(self, config: ModelConfig, samples: int, fs_hz: float):
        super().__init__()
        if samples < MIN_SAMPLES:
            raise ValueError(f"windows of {samples} samples are too short; expected at least {MIN_SAMPLES}")
        base = config.base_channels
        self.split = FrequencySplit(samples, fs_hz, config.cutoff_hz)
        self.low, self.high = (BandBranch(len(config.components), 2 * base) for _ in range(2))
        self.label = nn.Linear(config.label_dim, samples // 2)
        self.label_branch = nn.Conv1d(1, 2 * base, KERNEL)
        widths = [6 * base, 3 * base, 2 * base, 3 * base // 2]
        self.first, self.second, self.third = (nn.Conv1d(*pair, KERNEL) for pair in itertools.pairwise(widths))

    def forward(self, wave_BCT: Tensor, label_BL: Tensor) -> Tensor:
        """Score signals (B, C, T) given their labels: (B,), higher means more like real ones."""
        return self.given(label_BL)(wave_BCT)

    def given(self, label_BL: Tensor) -> Scorer:
        """Look at labels once, and score batches of signals that have them, (B, C, T), or several such together."""
        branch, first, signals = self.label_branch, self.first, 2 * self.low.width
        label = leaky_relu(convolve_same(self.label(label_BL)[..., None], branch.weight, branch.bias))
        # A convolution is a sum over channels: those of the label are the same for real, generated and mixed signals.
        label = convolve(label, first.weight[:, signals:], first.bias, STRIDE)

        def score(wave_BCT: Tensor) -> Tensor:
            low, high = (band.transpose(1, 2) for band in self.split(wave_BCT))
            x = leaky_relu(torch.cat([self.low(low), self.high(high)], dim=2))
            x = convolve(x, first.weight[:, :signals], None, STRIDE)
            x = leaky_relu((x.view(-1, *label.shape) + label).flatten(0, 1))
            for layer in (self.second, self.third):
                x = leaky_relu(convolve(x, layer.weight, layer.bias, STRIDE))
            return x.mean((1, 2), dtype=wave_BCT.dtype)

        return score


class BandBranch(nn.Module):
    """Features of one frequency band at half the sampling rate, before they are rectified."""

    def __init__(self, components: int, width: int):
        super().__init__()
        self.width = width
        self.first, self.second = nn.Conv1d(components, width, KERNEL), nn.Conv1d(width, width, KERNEL)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """(B, T, components) to (B, T // 2, C), and what the next layer's stride needs to be folded."""
        sides = KERNEL // 2 - 1
        x_BTC = F.pad(x_BTC, (0, 0, sides, sides))
        x_BTC = leaky_relu(convolve(x_BTC, self.first.weight, self.first.bias, stride=2))
        more = unfolded(x_BTC.shape[1], KERNEL, STRIDE)
        return convolve_same(x_BTC, self.second.weight, self.second.bias, more)
