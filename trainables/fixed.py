"""Convolutions of a generator whose weights change no more: the same without gradients, in double precision fast.

Overlap-save, as in `spectral.py`, with two differences. Half of the transform's multiplications are saved by the first
step of a fast one: even frequencies see the sum of a block's halves alone, odd ones their difference (decimation in
frequency; Oppenheim & Schafer, ch. 9). And the blocks of all groups are transformed by one product of matrices, which
on a CPU is faster than several at a time, above all in double precision. To a single channel a convolution is cheaper
as it stands, as a product with a matrix that holds the filter many times. All operations are among those that ONNX
knows.

Shapes: G group, B batch, T sample, C channel, O output channel, K tap, N coefficient of a block, F pair of them.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.convolution import ROW, row_filters
from trainables.gated import GatedConvolution
from trainables.generator import LongConvolution

# Samples of a block in taps: for the fewest operations.
BLOCK_TAPS = 2


def fix(network: nn.Module) -> None:
    """Replace every convolution of a generator that is a module by what computes it with the weights it has now."""
    for name, layer in list(network.named_children()):
        if isinstance(layer, LongConvolution):
            single = layer.weight.shape[1] == 1
            setattr(network, name, _Rows(layer) if single else _Blocks(layer.weight.detach(), layer.bias.detach()))
        elif isinstance(layer, GatedConvolution):
            setattr(network, name, _Gated(layer))
        else:
            fix(layer)


class _Blocks(nn.Module):
    """A convolution by the spectra of blocks."""

    analysis: Tensor
    mixing: Tensor
    synthesis: Tensor
    bias: Tensor

    def __init__(self, weight_GOCK: Tensor, bias_GO: Tensor):
        super().__init__()
        self.taps = weight_GOCK.shape[3]
        self.half_block = 2 * math.ceil(BLOCK_TAPS * self.taps / 4)
        self.step = 2 * self.half_block - self.taps + 1
        transform, inverse = _transform(self.half_block)
        halves = transform[:, : self.half_block].unflatten(0, (2, -1))
        self.register_buffer("analysis", halves.to(weight_GOCK))
        self.register_buffer("mixing", _mixing(weight_GOCK, transform))
        self.register_buffer("synthesis", inverse[: self.step].to(weight_GOCK))
        self.register_buffer("bias", bias_GO)

    def forward(self, x_GBTC: Tensor) -> Tensor:
        """Convolve (G, B, T, C) to (G, B, T, O)."""
        (groups, batch, samples, channels), outputs = x_GBTC.shape, self.bias.shape[1]
        block, half = 2 * self.half_block, self.half_block
        blocks = _windows(x_GBTC, self.taps, block, self.step).permute(4, 0, 1, 2, 3)
        low, high = blocks.reshape(block, -1).split(half)
        spectrum = torch.cat([self.analysis[0] @ (low + high), self.analysis[1] @ (low - high)])
        pairs = spectrum.view(half, 2, groups, -1, channels).permute(0, 2, 3, 1, 4).flatten(3).flatten(0, 1)
        mixed = torch.bmm(pairs, self.mixing).view(half, groups, -1, 2, outputs).permute(0, 3, 1, 2, 4)
        y = (self.synthesis @ mixed.reshape(block, -1)).view(self.step, groups, batch, -1, outputs)
        return y.permute(1, 2, 3, 0, 4).flatten(2, 3)[:, :, :samples] + self.bias[:, None, None]


def _windows(x_GBTC: Tensor, taps: int, length: int, step: int) -> Tensor:
    """Overlapping windows of the signals, zeros around these: a view, (G, B, windows, C, length)."""
    left, count = (taps - 1) // 2, -(-x_GBTC.shape[2] // step)
    right = (count - 1) * step + length - left - x_GBTC.shape[2]
    return F.pad(x_GBTC, (0, 0, left, right)).unfold(2, length, step)


def _transform(half: int) -> tuple[Tensor, Tensor]:
    """Fourier transform of a real block as a matrix (N, N), and its inverse, in float64.

    Its rows are real and negative imaginary parts in turn, of all even frequencies and then of all odd ones; the
    imaginary part of frequency 0 makes room for the highest frequency.
    """
    block = 2 * half
    frequency = torch.cat([torch.arange(0, half, 2), torch.arange(1, half, 2)])[:, None]
    # The phase is reduced to one turn in integers, so that it is exact.
    phase = (frequency * torch.arange(block) % block).double() * (2 * math.pi / block)
    transform = torch.stack([phase.cos(), -phase.sin()], dim=1).flatten(0, 1)
    transform[1] = 1 - 2 * (torch.arange(block) % 2).double()
    scale = torch.full((block, 1), 2 / block, dtype=torch.float64)
    scale[:2] = 1 / block
    return transform, (transform * scale).T


def _mixing(weight_GOCK: Tensor, transform: Tensor) -> Tensor:
    """What multiplies the pairs of all channels at each frequency, (F G, 2 C, 2 O): the filters' conjugate spectra."""
    spectrum = weight_GOCK.double() @ transform[:, : weight_GOCK.shape[3]].T
    re, im = spectrum.unflatten(3, (-1, 2)).permute(4, 0, 3, 2, 1)  # each (G, F, C, O)
    mixing = torch.stack([torch.cat([re, -im], dim=3), torch.cat([im, re], dim=3)], dim=2)
    zero = torch.zeros_like(re[:, 0])
    mixing[:, 0] = torch.stack([torch.cat([re[:, 0], zero], dim=2), torch.cat([zero, im[:, 0]], dim=2)], dim=1)
    return mixing.flatten(2, 3).transpose(0, 1).flatten(0, 1).to(weight_GOCK.dtype)


class _Gated(nn.Module):
    """A convolution times the sigmoid of another; without a stride, as generators have them."""

    def __init__(self, layer: GatedConvolution):
        super().__init__()
        self.both = _Blocks(layer.weight.detach()[None], layer.bias.detach()[None])

    def forward(self, x_BTC: Tensor) -> Tensor:
        """(B, T, C) to (B, T, O)."""
        value, gate = self.both(x_BTC[None])[0].chunk(2, dim=2)
        return value * gate.sigmoid()


class _Rows(nn.Module):
    """A convolution to a single channel: `ROW` samples of it are a row of a product of matrices."""

    filters: Tensor
    bias: Tensor

    def __init__(self, layer: LongConvolution):
        super().__init__()
        filters = torch.stack([row_filters(weight.T).transpose(0, 1) for weight in layer.weight.detach()[:, 0]])
        self.taps, self.seen = layer.weight.shape[3], filters.shape[2]
        self.register_buffer("filters", filters.flatten(1, 2))
        self.register_buffer("bias", layer.bias.detach())

    def forward(self, x_GBTC: Tensor) -> Tensor:
        """Convolve (G, B, T, C) to (G, B, T, 1)."""
        windows = _windows(x_GBTC, self.taps, self.seen, ROW)
        y = windows.flatten(3).flatten(1, 2) @ self.filters + self.bias[:, None]
        return y.unflatten(1, (x_GBTC.shape[1], -1)).flatten(2)[:, :, : x_GBTC.shape[2], None]
