"""Long convolutions by overlap-save, the transforms of the blocks being matrix products (Oppenheim & Schafer, ch. 8).

A block is so short that a dense transform costs less than a fast one, whose results would have to be re-ordered in
memory three times; and it needs nothing but products of matrices, which every device does at its peak.

A real block of n samples has n real Fourier coefficients: first those of frequencies 0 and n/2, then the real and
imaginary parts of the others in turn, so that a frequency's pair lies together.

Shapes: G group, B batch, T sample, C channel, O output channel, K tap, N coefficient of a block, F pair of them.
"""

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from trainables.convolution import spaced

# Lengths of a block, in taps of the filter, that are weighed against each other.
BLOCK_TAPS = (2, 2.5, 3, 4, 6, 8)
# Blocks transformed together on a CPU: enough for the processor, few enough for its cache. A GPU takes all at once.
PIECE = 128


def spectral_convolution(x_GBTC: Tensor, weight_GOCK: Tensor, bias_GO: Tensor) -> Tensor:
    """Each group's own convolution as long as its input, (G, B, T, O); an even kernel's extra zero goes to the right.

    Differentiable once.
    """
    return _overlap_save(x_GBTC, _mixing(weight_GOCK), bias_GO, weight_GOCK.shape[3])


@cache
def block_length(taps: int, channels: int, outputs: int) -> int:
    """Samples a block for the fewest multiplications; even, and at least twice the filter's length."""

    def cost(block: int) -> float:
        transforms = channels * block * block / (block - taps + 1) + outputs * block
        return transforms + 2 * channels * outputs * block / (block - taps + 1)

    return min((2 * math.ceil(share * taps / 2) for share in BLOCK_TAPS), key=cost)


@cache
def _analysis(block: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Fourier transform of a real block as a matrix, (N, T)."""
    sample, frequency = torch.arange(block), torch.arange(block // 2)[:, None]
    # The phase is reduced to one turn in integers, so that it is exact.
    phase = (frequency * sample % block).double() * (2 * math.pi / block)
    pairs = torch.stack([phase.cos(), -phase.sin()], dim=1)
    pairs[0, 1] = 1 - 2 * (sample % 2).double()
    return pairs.reshape(block, block).to(dtype).to(device)


@cache
def _synthesis(block: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Inverse of `_analysis`, (T, N)."""
    scale = torch.full((block, 1), 2 / block, dtype=torch.float64)
    scale[:2] = 1 / block
    return (_analysis(block, torch.float64, torch.device("cpu")) * scale).T.to(dtype).to(device)


def _mixing(weight_GOCK: Tensor) -> Tensor:
    """What multiplies the pairs of all channels at each frequency, (G, F, 2 C, 2 O): the filters' conjugate spectra."""
    groups, outputs, channels, taps = weight_GOCK.shape
    block = block_length(taps, channels, outputs)
    analysis = _analysis(block, weight_GOCK.dtype, weight_GOCK.device)[:, :taps]
    spectrum = (weight_GOCK.reshape(-1, taps) @ analysis.T).view(groups, outputs, channels, block // 2, 2)
    re, im = spectrum.permute(4, 0, 3, 2, 1)  # each (G, F, C, O)
    pairs = torch.stack([torch.cat([re, -im], dim=-1), torch.cat([im, re], dim=-1)], dim=2)
    zero = torch.zeros_like(re[:, :1])
    ends = torch.stack([torch.cat([re[:, :1], zero], dim=-1), torch.cat([zero, im[:, :1]], dim=-1)], dim=2)
    return torch.cat([ends, pairs[:, 1:]], dim=1).flatten(2, 3)


class _OverlapSave(torch.autograd.Function):
    """Blocks of the input, transformed, mixed, transformed back; a few windows at a time, so that memory stays small.

    The signals of a batch are laid one after another with zeros between, so that blocks start at equal distances and
    all of them are one view of the same memory.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, mixing: Tensor, bias: Tensor, taps: int) -> Tensor:
        ctx.save_for_backward(x, mixing)
        ctx.taps = taps
        y = x.new_empty(*x.shape[:3], bias.shape[1])
        for group, windows in _pieces(x, taps, 2 * mixing.shape[1]):
            y[group, windows] = _convolved(x[group, windows], mixing[group], bias[group], taps)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        x, mixing = ctx.saved_tensors
        (grad,) = grads
        grad_x, grad_mixing = x.new_empty(x.shape), torch.zeros_like(mixing)
        grad_bias = mixing.new_zeros(len(mixing), mixing.shape[3] // 2)
        for group, windows in _pieces(x, ctx.taps, 2 * mixing.shape[1]):
            pulled = _pulled_back(grad[group, windows], ctx.taps, 2 * mixing.shape[1])
            grad_bias[group] += 2 * mixing.shape[1] * pulled[:, 0].sum(0)
            spectrum = _spectrum(x[group, windows], ctx.taps, 2 * mixing.shape[1])
            grad_mixing[group].baddbmm_(_pairs(spectrum).transpose(1, 2), _pairs(pulled))
            _mix(pulled, mixing[group].transpose(1, 2), spectrum)
            grad_x[group, windows] = _overlap_added(spectrum, ctx.taps, *x.shape[2:])
        return grad_x, grad_mixing, grad_bias, None


_overlap_save: Callable[..., Tensor] = _OverlapSave.apply


def _pieces(x_GBTC: Tensor, taps: int, block: int) -> Iterator[tuple[int, slice]]:
    """Each group's windows, some at a time."""
    groups, batch, steps, _ = x_GBTC.shape
    size = max(1, PIECE // _count(steps, taps, block)) if x_GBTC.device.type == "cpu" else batch
    for group in range(groups):
        for start in range(0, batch, size):
            yield group, slice(start, start + size)


def _count(steps: int, taps: int, block: int) -> int:
    """Blocks of a signal, with zeros enough that no block's result sees the next signal."""
    return math.ceil((steps + taps - 1) / (block - taps + 1))


def _convolved(x_BTC: Tensor, mixing: Tensor, bias_O: Tensor, taps: int) -> Tensor:
    """Convolution of some windows, (B, T, O)."""
    block, steps = 2 * len(mixing), x_BTC.shape[1]
    spectrum = _spectrum(x_BTC, taps, block)
    mixed = spectrum.new_empty(*spectrum.shape[:2], len(bias_O))
    _mix(spectrum, mixing, mixed)
    mixed[:, 0] += block * bias_O  # a constant is its mean's coefficient alone
    synthesis = _synthesis(block, x_BTC.dtype, x_BTC.device)[: block - taps + 1]
    y = torch.bmm(synthesis.expand(len(mixed), -1, -1), mixed)
    return y.view(len(x_BTC), -1, len(bias_O))[:, :steps]


def _pulled_back(grad_BTO: Tensor, taps: int, block: int) -> Tensor:
    """Gradient with respect to the mixed coefficients of all blocks, (blocks, N, O)."""
    (steps, outputs), step = grad_BTO.shape[1:], block - taps + 1
    length = _count(steps, taps, block) * step
    blocks = F.pad(grad_BTO, (0, 0, 0, length - steps)).view(-1, step, outputs)
    synthesis = _synthesis(block, grad_BTO.dtype, grad_BTO.device)[:step]
    return torch.bmm(synthesis.T.expand(len(blocks), -1, -1), blocks)


def _spectrum(x_BTC: Tensor, taps: int, block: int) -> Tensor:
    """Coefficients of all blocks of some windows, (blocks, N, C)."""
    (batch, steps, channels), step = x_BTC.shape, block - taps + 1
    count = _count(steps, taps, block)
    padded = spaced(x_BTC, (taps - 1) // 2, count * step, taps - 1)
    blocks = padded.as_strided((batch * count, block, channels), (step * channels, channels, 1))
    return torch.bmm(_analysis(block, x_BTC.dtype, x_BTC.device).expand(batch * count, -1, -1), blocks)


def _overlap_added(spectrum: Tensor, taps: int, steps: int, channels: int) -> Tensor:
    """Gradient with respect to windows (B, T, C), from that with respect to their coefficients."""
    block, step = spectrum.shape[1], spectrum.shape[1] - taps + 1
    analysis = _analysis(block, spectrum.dtype, spectrum.device)
    blocks = torch.bmm(analysis.T.expand(len(spectrum), -1, -1), spectrum)
    blocks = blocks.view(-1, _count(steps, taps, block), block, channels)
    added = blocks[:, :, :step].clone()
    added[:, 1:, : taps - 1] += blocks[:, :-1, step:]
    left = (taps - 1) // 2
    return added.flatten(1, 2)[:, left : left + steps]


def _pairs(spectrum: Tensor) -> Tensor:
    """(blocks, N, C) seen as (F, blocks, 2 C)."""
    blocks, coefficients, channels = spectrum.shape
    return spectrum.view(blocks, coefficients // 2, 2 * channels).transpose(0, 1)


def _mix(spectrum: Tensor, mixing: Tensor, out: Tensor) -> None:
    """Multiply the pairs of every block by the filters'."""
    torch.bmm(_pairs(spectrum), mixing, out=_pairs(out))
