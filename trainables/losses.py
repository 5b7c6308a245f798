"""The losses of a Wasserstein GAN with gradient penalty (Gulrajani et al. 2017, arXiv 1704.00028).

Shapes: B batch, C component, T sample. A critic takes (B, C, T) signals with (B, 1) labels and returns (B,).
"""

from collections.abc import Callable

import torch
from torch import Tensor

Scorer = Callable[[Tensor, Tensor], Tensor]


def gradient_penalty(
    critic: Scorer, real_BCT: Tensor, fake_BCT: Tensor, label_B1: Tensor, rng: torch.Generator
) -> Tensor:
    """E[(‖∇D(x̂)‖₂ − 1)²], x̂ uniform on the lines between real and fake, the norm over all of one signal."""
    t = torch.rand(len(real_BCT), 1, 1, dtype=real_BCT.dtype, device=real_BCT.device, generator=rng)
    between = (t * real_BCT + (1 - t) * fake_BCT).requires_grad_()
    (slope,) = torch.autograd.grad(critic(between, label_B1).sum(), between, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()


def wasserstein_estimate(critic: Scorer, real_BCT: Tensor, fake_BCT: Tensor, label_B1: Tensor) -> Tensor:
    """E[D(real)] − E[D(fake)], which a critic maximises."""
    return critic(real_BCT, label_B1).mean() - critic(fake_BCT, label_B1).mean()


def generator_loss(critic: Scorer, fake_BCT: Tensor, label_B1: Tensor) -> Tensor:
    """−E[D(fake)]."""
    return -critic(fake_BCT, label_B1).mean()
