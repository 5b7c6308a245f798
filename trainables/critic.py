"""SeismoGen's critic (Wang, Trugman and Lin 2019, arXiv 1911.03966, figure 3).

There is no normalisation anywhere: the gradient penalty is defined for each sample on its own.
Shapes: B batch, C channel or component (E, N, Z), T sample.
"""

import itertools

import torch
from torch import Tensor, nn

from trainables.config import ModelConfig
from trainables.generator import COMPONENTS
from trainables.layers import FrequencySplit, SameConv1d

KERNEL = 16
STRIDE = 3
SLOPE = 0.2
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
        self.low, self.high = _band_branch(2 * base), _band_branch(2 * base)
        self.label = nn.Linear(1, samples // 2)
        self.label_branch = nn.Sequential(SameConv1d(1, 2 * base, KERNEL), nn.LeakyReLU(SLOPE))
        self.head = _head([6 * base, 3 * base, 2 * base, 3 * base // 2])

    def forward(self, wave_BCT: Tensor, label_B1: Tensor) -> Tensor:
        """Score signals (B, 3, T) given their labels: (B,), higher means more like real ones."""
        low, high = self.split(wave_BCT)
        label = self.label_branch(self.label(label_B1)[:, None])
        return self.head(torch.cat([self.low(low), self.high(high), label], dim=1)).mean((1, 2))


def _band_branch(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(COMPONENTS, width, KERNEL, stride=2, padding=KERNEL // 2 - 1),
        nn.LeakyReLU(SLOPE),
        SameConv1d(width, width, KERNEL),
        nn.LeakyReLU(SLOPE),
    )


def _head(widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Conv1d(before, after, KERNEL, stride=STRIDE), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)
