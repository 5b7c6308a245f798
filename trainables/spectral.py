"""Long convolutions by overlap-save, the transforms of the blocks being matrix products (Oppenheim & Schafer, ch. 8).

A block is so short that a dense transform costs less than a fast one, whose results would have to be re-ordered in
memory three times; and it needs nothing but products of matrices, which every device does at its peak. Of the fast one
the first step alone is taken, decimation in frequency (ibid., ch. 9): of a block of n samples the even frequencies are
a transform of the sum of its halves, and the odd ones of their difference, each of n/2 samples. The two never meet
before the result, to which both are added, so that all else is done for one parity after the other.

A half has n/2 real coefficients: of each frequency the real and the imaginary part lie together, a pair, and so do
the coefficients of frequencies 0 and n/2, which are real and both even.

Shapes: G group, B batch, T sample, C channel, O output channel, K tap, P parity of the frequency (even, odd),
N coefficient of a half, F pair of them.
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
PIECE = 64


def spectral_convolution(x_GBTC: Tensor, weight_GOCK: Tensor, bias_GO: Tensor) -> Tensor:
    """Each group's own convolution as long as its input, (G, B, T, O); an even kernel's extra zero goes to the right.

    Differentiable once. Without gradients a result of as many channels takes its input's place: to be given new memory
    for so large a tensor, page by page, takes a tenth as long as all the rest.
    """
    mixing, taps = _mixing(weight_GOCK), weight_GOCK.shape[3]
    if torch.is_grad_enabled() or weight_GOCK.shape[1] != x_GBTC.shape[3]:
        return _overlap_save(x_GBTC, mixing, bias_GO, taps)
    return _convolve(x_GBTC, mixing, bias_GO, taps, out=x_GBTC)


@cache
def block_length(taps: int, channels: int, outputs: int) -> int:
    """Samples a block for the fewest multiplications; a multiple of four, and at least twice the filter's length."""

    def cost(block: int) -> float:
        transforms = channels * block * block / 2 / (block - taps + 1) + outputs * block
        return transforms + 2 * channels * outputs * block / (block - taps + 1)

    return min((4 * math.ceil(share * taps / 4) for share in BLOCK_TAPS), key=cost)


@cache
def _analysis(block: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Fourier transforms of the halves' sum and of their difference as matrices, (P, N, T)."""
    sample, frequency = torch.arange(block // 2), torch.arange(block // 2).view(-1, 2).T[..., None]
    # The phase is reduced to one turn in integers, so that it is exact.
    phase = (frequency * sample % block).double() * (2 * math.pi / block)
    pairs = torch.stack([phase.cos(), -phase.sin()], dim=2)
    pairs[0, 0, 1] = 1 - 2 * (sample % 2).double()  # of frequency n/2
    return pairs.flatten(1, 2).to(dtype).to(device)


@cache
def _synthesis(block: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What each parity's coefficients add to the block, (P, T, N): the inverse of what `_analysis` is a part of."""
    scale = torch.full((2, block // 2, 1), 2 / block, dtype=torch.float64)
    scale[0, :2] = 1 / block
    even, odd = (_analysis(block, torch.float64, torch.device("cpu")) * scale).mT
    # In the second half even frequencies are what they are in the first, odd ones the opposite.
    return torch.stack([torch.cat([even, even]), torch.cat([odd, -odd])]).to(dtype).to(device)


def _mixing(weight_GOCK: Tensor) -> Tensor:
    """What multiplies the pairs of all channels at each frequency, (G, P, F, 2 C, 2 O): the filters' conjugate spectra.

    A filter ends within the first half of a block.
    """
    groups, outputs, channels, taps = weight_GOCK.shape
    block = block_length(taps, channels, outputs)
    analysis = _analysis(block, weight_GOCK.dtype, weight_GOCK.device)[..., :taps].flatten(0, 1)
    spectrum = (weight_GOCK.reshape(-1, taps) @ analysis.T).view(groups, outputs, channels, 2, block // 4, 2)
    re, im = spectrum.permute(5, 0, 3, 4, 2, 1)  # each (G, P, F, C, O)
    pairs = torch.cat([torch.cat([re, -im], dim=-1), torch.cat([im, re], dim=-1)], dim=-2)
    zero = torch.zeros_like(re[:, 0, 0])
    ends = torch.cat([torch.cat([re[:, 0, 0], zero], dim=-1), torch.cat([zero, im[:, 0, 0]], dim=-1)], dim=-2)
    even = torch.cat([ends[:, None], pairs[:, 0, 1:]], dim=1)
    return torch.stack([even, pairs[:, 1]], dim=1)


class _OverlapSave(torch.autograd.Function):
    """Blocks of the input, transformed, mixed, transformed back; a few windows at a time, so that memory stays small.

    The signals of a batch are laid one after another with zeros between, so that blocks start at equal distances and
    all of them are one view of the same memory.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, mixing: Tensor, bias: Tensor, taps: int) -> Tensor:
        ctx.save_for_backward(x, mixing)
        ctx.taps = taps
        return _convolve(x, mixing, bias, taps, out=x.new_empty(*x.shape[:3], bias.shape[1]))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        x, mixing = ctx.saved_tensors
        (grad,) = grads
        block = 4 * mixing.shape[2]
        grad_x, grad_mixing = x.new_empty(x.shape), torch.zeros_like(mixing)
        grad_bias = mixing.new_zeros(len(mixing), mixing.shape[4] // 2)
        for group, windows in _pieces(x, ctx.taps, block):
            pulled = _pulled_back(grad[group, windows], ctx.taps, block)
            grad_bias[group] += block * pulled[0][:, 0].sum(0)
            halves = []
            for parity, seen in enumerate(_spectra(x[group, windows], ctx.taps, block)):
                grad_mixing[group, parity].baddbmm_(_pairs(seen).mT, _pairs(pulled[parity]))
                halves.append(_mixed(pulled[parity], mixing[group, parity].mT))
            grad_x[group, windows] = _overlap_added(halves, ctx.taps, x.shape[2])
        return grad_x, grad_mixing, grad_bias, None


_overlap_save: Callable[..., Tensor] = _OverlapSave.apply


def _convolve(x_GBTC: Tensor, mixing: Tensor, bias_GO: Tensor, taps: int, out: Tensor) -> Tensor:
    for group, windows in _pieces(x_GBTC, taps, 4 * mixing.shape[2]):
        out[group, windows] = _convolved(x_GBTC[group, windows], mixing[group], bias_GO[group], taps)
    return out


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
    block, steps = 4 * mixing.shape[1], x_BTC.shape[1]
    synthesis = _synthesis(block, x_BTC.dtype, x_BTC.device)[:, : block - taps + 1]
    even, odd = (_mixed(*both) for both in zip(_spectra(x_BTC, taps, block), mixing, strict=True))
    even[:, 0] += block * bias_O  # a constant is its mean's coefficient alone
    y = torch.bmm(_repeated(synthesis[0], even), even)
    y.baddbmm_(_repeated(synthesis[1], odd), odd)
    return y.view(len(x_BTC), -1, len(bias_O))[:, :steps]


def _pulled_back(grad_BTO: Tensor, taps: int, block: int) -> list[Tensor]:
    """Gradient with respect to the mixed coefficients of all blocks, (blocks, N, O) for each parity."""
    (steps, outputs), step = grad_BTO.shape[1:], block - taps + 1
    length = _count(steps, taps, block) * step
    blocks = F.pad(grad_BTO, (0, 0, 0, length - steps)).view(-1, step, outputs)
    synthesis = _synthesis(block, grad_BTO.dtype, grad_BTO.device)[:, :step]
    return [torch.bmm(_repeated(half.T, blocks), blocks) for half in synthesis]


def _spectra(x_BTC: Tensor, taps: int, block: int) -> Iterator[Tensor]:
    """Coefficients of all blocks of some windows, (blocks, N, C), of the even frequencies and then of the odd ones."""
    (batch, steps, channels), step = x_BTC.shape, block - taps + 1
    count = _count(steps, taps, block)
    padded = spaced(x_BTC, (taps - 1) // 2, count * step, taps - 1)
    shape, strides = (batch * count, 2, block // 2), (step * channels, block // 2 * channels)
    first, second = padded.as_strided((*shape, channels), (*strides, channels, 1)).unbind(1)
    for fold, analysis in zip((torch.add, torch.sub), _analysis(block, x_BTC.dtype, x_BTC.device), strict=True):
        folded = fold(first, second)
        yield torch.bmm(_repeated(analysis, folded), folded)


def _overlap_added(halves: list[Tensor], taps: int, steps: int) -> Tensor:
    """Gradient with respect to windows (B, T, C), from those with respect to each parity's coefficients."""
    block, channels = 2 * halves[0].shape[1], halves[0].shape[2]
    step = block - taps + 1
    analysis = _analysis(block, halves[0].dtype, halves[0].device)
    even, odd = (torch.bmm(_repeated(a.T, half), half) for a, half in zip(analysis, halves, strict=True))
    blocks = torch.cat([even + odd, even - odd], dim=1).view(-1, _count(steps, taps, block), block, channels)
    added = blocks[:, :, :step].clone()
    added[:, 1:, : taps - 1] += blocks[:, :-1, step:]
    left = (taps - 1) // 2
    return added.flatten(1, 2)[:, left : left + steps]


def _repeated(matrix: Tensor, blocks: Tensor) -> Tensor:
    """The same matrix for every block."""
    return matrix.expand(len(blocks), -1, -1)


def _pairs(spectrum: Tensor) -> Tensor:
    """(blocks, N, C) seen as (F, blocks, 2 C)."""
    blocks, coefficients, channels = spectrum.shape
    return spectrum.view(blocks, coefficients // 2, 2 * channels).transpose(0, 1)


def _mixed(spectrum: Tensor, mixing: Tensor) -> Tensor:
    """The pairs of every block multiplied by the filters', (blocks, N, O).

    Copied afterwards, as a product into that order would be one of single matrices, each waiting for the one before.
    """
    mixed = torch.bmm(_pairs(spectrum), mixing).transpose(0, 1)
    return mixed.reshape(len(spectrum), spectrum.shape[1], -1)
