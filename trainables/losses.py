"""The losses of a Wasserstein GAN with gradient penalty (Gulrajani et al. 2017, arXiv 1704.00028).

Shapes: B batch, C component, T sample. A critic takes signals (B, C, T) and returns (B,).
"""

from collections.abc import Callable

import torch
from torch import Tensor

Scorer = Callable[[Tensor], Tensor]


def gradient_penalty(critic: Scorer, real_BCT: Tensor, fake_BCT: Tensor, share_B: Tensor) -> Tensor:
    """E[(‖∇D(x̂)‖₂ − 1)²], x̂ = share · real + (1 − share) · fake, the norm over all of one signal."""
    between = torch.lerp(fake_BCT, real_BCT, share_B[:, None, None]).requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()


def wasserstein_estimate(critic: Scorer, real_BCT: Tensor, fake_BCT: Tensor) -> Tensor:
    """E[D(real)] − E[D(fake)], which a critic maximises; one pass for both."""
    real_B, fake_B = critic(torch.cat([real_BCT, fake_BCT])).chunk(2)
    return real_B.mean() - fake_B.mean()


def generator_loss(critic: Scorer, fake_BCT: Tensor) -> Tensor:
    """−E[D(fake)]."""
    return -critic(fake_BCT).mean()
