"""SeismoGen's generator (Wang, Trugman and Lin 2019, arXiv 1911.03966, figure 2).

The three pipelines are one computation, a group each; signals are channels-last inside.
Shapes: G group (pipeline), B batch, C channel or component (E, N, Z), T sample, Z latent, L label and conditions.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.config import ModelConfig
from trainables.convolution import convolve_same
from trainables.layers import RectifiedNorm, Repeat, uniform
from trainables.spectral import spectral_convolution

STRIDE = 4


class Spread(nn.Module):
    """A latent-sized vector (B, Z) spread over the signal's length, (G, B, T, C): transposed convolution of stride 4.

    Its output is rectified and normalised before it is stretched, which is the same and touches fewer samples.
    """

    def __init__(self, groups: int, size: int, samples: int, channels: int, kernel: int):
        super().__init__()
        bound = 1 / math.sqrt(channels * kernel)
        self.weight, self.bias = uniform(bound, groups, channels, kernel), uniform(bound, groups, channels)
        self.norm = RectifiedNorm(groups, channels)
        self.repeat = Repeat(STRIDE * (size - 1) + kernel, samples)

    def forward(self, vector_BZ: Tensor) -> Tensor:
        """Spread (B, Z) to (G, B, T, C)."""
        groups, channels, kernel = self.weight.shape
        # Not len(): a batch is to stay of any size when the network is exported.
        batch, taps = vector_BZ.shape[0], -(-kernel // STRIDE)
        # Output 4 i + p sees the vector through taps p, p + 4, …: one product of matrices for all phases p.
        phases = F.pad(self.weight, (0, taps * STRIDE - kernel)).view(groups, channels, taps, STRIDE)
        seen = F.pad(vector_BZ, (taps - 1, taps - 1)).unfold(1, taps, 1).flip(2)
        spread = seen.flatten(0, 1) @ phases.permute(0, 2, 3, 1).reshape(groups, taps, -1)
        spread = spread.view(groups, batch, -1, channels)[:, :, : len(self.repeat.counts)]
        y_GBTC: Tensor = self.repeat(self.norm(spread + self.bias[:, None, None], self.repeat))
        return y_GBTC


class LongConvolution(nn.Module):
    """A convolution as long as its input, for each group its own; `method` says how it is computed, not what."""

    def __init__(self, groups: int, inputs: int, outputs: int, kernel: int):
        super().__init__()
        bound = 1 / math.sqrt(inputs * kernel)
        self.weight, self.bias = uniform(bound, groups, outputs, inputs, kernel), uniform(bound, groups, outputs)
        self.method = "spectral"

    def forward(self, x_GBTC: Tensor) -> Tensor:
        """Convolve (G, B, T, C) to (G, B, T, O); without gradients the result may take the input's place."""
        return METHODS[self.method](x_GBTC, self.weight, self.bias).to(x_GBTC.dtype)


def _direct_convolution(x_GBTC: Tensor, weight_GOCK: Tensor, bias_GO: Tensor) -> Tensor:
    return torch.stack([convolve_same(*group) for group in zip(x_GBTC, weight_GOCK, bias_GO, strict=True)])


METHODS = {"direct": _direct_convolution, "spectral": spectral_convolution}


class Generator(nn.Module):
    """Latent vectors and labels to three-component signals; the pipelines share the latent and the label."""

    def __init__(self, config: ModelConfig, samples: int):
        super().__init__()
        base, kernel, latent = config.base_channels, config.kernel, config.latent_dim
        self.latent_dim, self.components = latent, len(config.components)
        self.label = nn.Linear(config.label_dim, latent)
        self.label_features = Spread(1, latent, samples, base, kernel)
        self.noise_features = Spread(self.components, latent, samples, base, kernel)
        self.layers = nn.Sequential(
            LongConvolution(self.components, 2 * base, 2 * base, kernel),
            RectifiedNorm(self.components, 2 * base),
            LongConvolution(self.components, 2 * base, 2 * base, kernel),
            RectifiedNorm(self.components, 2 * base),
            LongConvolution(self.components, 2 * base, 1, kernel),
        )

    def forward(self, latent_BZ: Tensor, label_BL: Tensor) -> Tensor:
        """Generate signals (B, C, T); the output is not bounded."""
        label_GBTC = self.label_features(self.label(label_BL)).expand(self.components, -1, -1, -1)
        wave_GBT1 = self.layers(torch.cat([label_GBTC, self.noise_features(latent_BZ)], dim=3))
        return wave_GBT1[..., 0].transpose(0, 1)
