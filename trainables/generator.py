"""SeismoGen's generator (Wang, Trugman and Lin 2019, arXiv 1911.03966, figure 2).

Shapes: B batch, C channel or component (E, N, Z), T sample, Z latent.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.config import ModelConfig
from trainables.layers import SameConv1d

COMPONENTS = 3


class Upsampled(nn.Module):
    """A latent-sized vector (B, Z) spread over the signal's length: (B, C, T)."""

    def __init__(self, samples: int, channels: int, kernel: int):
        super().__init__()
        self.samples = samples
        self.deconv = nn.ConvTranspose1d(1, channels, kernel, stride=4)
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, vector_BZ: Tensor) -> Tensor:
        """Spread (B, Z) to (B, C, T)."""
        return self.norm(F.relu(F.interpolate(self.deconv(vector_BZ[:, None]), size=self.samples)))


class Pipeline(nn.Module):
    """One component of the signal, from the latent vector and the shared features of the label."""

    def __init__(self, samples: int, base_channels: int, kernel: int):
        super().__init__()
        width = 2 * base_channels
        self.noise = Upsampled(samples, base_channels, kernel)
        self.layers = nn.Sequential(
            SameConv1d(width, width, kernel),
            nn.ReLU(),
            nn.BatchNorm1d(width),
            SameConv1d(width, width, kernel),
            nn.ReLU(),
            nn.BatchNorm1d(width),
            SameConv1d(width, 1, kernel),
        )

    def forward(self, latent_BZ: Tensor, label_BCT: Tensor) -> Tensor:
        """Return one component, (B, 1, T)."""
        return self.layers(torch.cat([label_BCT, self.noise(latent_BZ)], dim=1))


class Generator(nn.Module):
    """Latent vectors and labels to three-component signals; the three pipelines share the latent and the label."""

    def __init__(self, config: ModelConfig, samples: int):
        super().__init__()
        self.latent_dim = config.latent_dim
        self.label = nn.Linear(1, config.latent_dim)
        self.label_features = Upsampled(samples, config.base_channels, config.kernel)
        self.pipelines = nn.ModuleList(
            Pipeline(samples, config.base_channels, config.kernel) for _ in range(COMPONENTS)
        )

    def forward(self, latent_BZ: Tensor, label_B1: Tensor) -> Tensor:
        """Generate signals (B, 3, T) in the order E, N, Z; the output is not bounded."""
        label_BCT = self.label_features(self.label(label_B1))
        return torch.cat([pipeline(latent_BZ, label_BCT) for pipeline in self.pipelines], dim=1)
