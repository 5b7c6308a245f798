"""Convolutions on channels-last signals, (B, T, C), differentiable twice at the price of a forward pass each.

Torch's own need three times as long for a gradient as for the result, on a CPU; and its second derivatives more.
Shapes: B batch, C channel, O output channel, K tap, T sample.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.precision import is_rounded, reduced

# Matrix products made together for a weight's gradient.
VIEWS = 16
# Samples in a row of a convolution to a single channel, and taps from which on it is done by rows.
ROW = 32
# A GPU's library has the faster weight gradient of fewer taps, and of channels that are no multiple of so many.
LONG, ALIGNED = 16, 8


class _Convolution(torch.autograd.Function):
    """Cross-correlation (B, T, C) with (O, K, C) plus (O,), of stride 1, so many zeros put at the left and right."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, left: int, right: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.sides, ctx.has_bias = (left, right), bias is not None
        ctx.set_materialize_grads(False)
        if len(weight) == 1 and weight.shape[1] >= ROW and x.device.type == "cpu" and x.dtype != torch.bfloat16:
            y = _by_rows(x, weight[0], left, x.shape[1] + left + right - weight.shape[1] + 1)
            return y if bias is None else y.add_(bias)
        # The kernels know equal sides only: what one has too many is cut off the result, which costs no copy.
        sides = max(left, right)
        y = F.conv2d(_as_image(x), _as_image(weight), bias, padding=(0, sides)).permute(0, 2, 3, 1).squeeze(1)
        return y[:, sides - left : y.shape[1] - (sides - right)]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        if grad is None:
            return None, None, None, None, None
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _transposed(grad, weight, *ctx.sides)
        if ctx.needs_input_grad[1]:
            grad_weight = _weight_gradient(x, grad, weight.shape[1], *ctx.sides)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            grad_bias = grad.sum((0, 1))
        return grad_x, grad_weight, grad_bias, None, None


_convolution: Callable[..., Tensor] = _Convolution.apply


def _by_rows(x_BTC: Tensor, weight_KC: Tensor, left: int, steps: int) -> Tensor:
    """Convolution to a single channel, (B, steps, 1), which torch's kernels do at a tenth of a CPU's peak.

    Each row of a product of matrices is so many samples of the result, and its matrix holds the filter as many times.
    A row's samples see its own inputs and those of the next rows, each of which is a product of its own: no input is
    copied twice.
    """
    (taps, channels), batch = weight_KC.shape, len(x_BTC)
    length = -(-(steps + taps - 1) // ROW) * ROW
    filters = row_filters(weight_KC).reshape(-1, ROW * channels, ROW)
    inputs = spaced(x_BTC, left, length, (len(filters) - 1) * ROW).view(-1, ROW * channels)
    rows = batch * length // ROW
    y = inputs[:rows] @ filters[0]
    for place in range(1, len(filters)):
        y.addmm_(inputs[place : place + rows], filters[place])
    return y.view(batch, length, 1)[:, :steps]


def row_filters(weight_KC: Tensor) -> Tensor:
    """A filter once for each of the `ROW` results of a row, at what that one sees: (samples seen, C, ROW).

    The samples are whole rows: the row's own and as many of the next ones as its last result sees any of.
    """
    samples = (1 - (1 - len(weight_KC)) // ROW) * ROW
    return F.pad(weight_KC, (0, 0, ROW - 1, samples - len(weight_KC))).unfold(0, ROW, 1).flip(2)


def _transposed(grad_BTO: Tensor, weight_OKC: Tensor, left: int, right: int) -> Tensor:
    """The transposed convolution, which is a convolution with the weights in reverse."""
    others = weight_OKC.shape[1] - 1
    return _convolution(grad_BTO, weight_OKC.flip(1).transpose(0, 2), None, others - left, others - right)


class _WeightGradient(torch.autograd.Function):
    """Gradient of `_Convolution` with respect to its weight, (O, K, C), bilinear in its arguments.

    Windows of K samples that start K apart lie in memory one after another: the matrix of them is a view, and there
    are K such views.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, grad: Tensor, taps: int, left: int, right: int) -> Tensor:
        ctx.save_for_backward(x, grad)
        ctx.sides = left, right
        batch, steps, outputs = grad.shape
        channels = x.shape[2]
        if x.device.type == "cuda" and (taps < LONG or channels % ALIGNED):
            return _library_weight_gradient(x, grad, taps, left, right)
        length = -(-(steps + taps - 1) // taps) * taps
        rows = batch * length // taps
        seen = spaced(x, left, length, taps).as_strided((taps, rows, taps * channels), (channels, taps * channels, 1))
        grads = spaced(grad, 0, length, 0).as_strided((taps, outputs, rows), (outputs, 1, taps * outputs))
        # A few views at once: each gives a whole weight, and a long filter has many.
        pairs = zip(grads.split(VIEWS), seen.split(VIEWS), strict=True)
        return torch.stack([torch.bmm(*pair).sum(0) for pair in pairs]).sum(0).view(outputs, taps, channels)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, grad = ctx.saved_tensors
        (direction,) = grads
        return _transposed(grad, direction, *ctx.sides), _convolution(x, direction, None, *ctx.sides), None, None, None


_weight_gradient: Callable[..., Tensor] = _WeightGradient.apply


def _library_weight_gradient(x_BTC: Tensor, grad_BTO: Tensor, taps: int, left: int, right: int) -> Tensor:
    """The same by torch's own kernels, which know equal sides only: a gradient of zero stands for what was cut off."""
    sides = max(left, right)
    image, grad = _as_image(x_BTC), _as_image(F.pad(grad_BTO, (0, 0, sides - left, sides - right)))
    weight = _as_image(x_BTC.new_empty(grad_BTO.shape[2], taps, x_BTC.shape[2]))
    gradient: Tensor = torch.ops.aten.convolution_backward(
        grad, image, weight, None, (1, 1), (0, sides), (1, 1), False, (0, 0), 1, (False, True, False)
    )[1]
    return gradient.permute(0, 2, 3, 1).squeeze(1)


def spaced(x_BTC: Tensor, left: int, length: int, more: int) -> Tensor:
    """The signals of a batch one after another, (B · length + more, C), zeros before and after each."""
    batch, steps, channels = x_BTC.shape
    spaced = x_BTC.new_empty(batch * length + more, channels)
    spaced[batch * length :] = 0
    signals = spaced[: batch * length].view(batch, length, channels)
    signals[:, :left], signals[:, left + steps :] = 0, 0
    signals[:, left : left + steps] = x_BTC
    return spaced


def _as_image(x_BTC: Tensor) -> Tensor:
    """The same memory as an image (B, C, 1, T) in channels-last format; where that is slow, a copy in the other.

    cuDNN has kernels for channels-last signals in float32 that take a hundred times as long as others; none such where
    its products are rounded.
    """
    image = x_BTC.contiguous().unsqueeze(1).permute(0, 3, 1, 2)
    exact = x_BTC.device.type == "cuda" and x_BTC.dtype == torch.float32 and not is_rounded()
    return image.contiguous() if exact else image


def convolve(x_BTC: Tensor, weight_OCK: Tensor, bias_O: Tensor | None, stride: int = 1) -> Tensor:
    """Convolution without padding: (B, T, C) to (B, T', O), in the precision in use. Differentiable twice.

    A stride is folded into the channels: `stride` samples of C channels are one sample of `stride` · C. It costs a copy
    of the signals unless they have `unfolded` samples too many or too few.
    """
    x_BTC, weight_OCK, bias_O = reduced(x_BTC), reduced(weight_OCK), reduced(bias_O)
    taps = weight_OCK.shape[2]
    weight = weight_OCK.transpose(1, 2)
    if stride > 1:
        folded = -(-taps // stride)
        weight = F.pad(weight, (0, 0, 0, folded * stride - taps)).reshape(len(weight), folded, -1)
        missing = unfolded(x_BTC.shape[1], taps, stride)
        x_BTC = F.pad(x_BTC, (0, 0, 0, missing)) if missing else x_BTC
        x_BTC = x_BTC.reshape(len(x_BTC), -1, stride * x_BTC.shape[2])
    return _convolution(x_BTC, weight, bias_O, 0, 0)


def unfolded(steps: int, taps: int, stride: int) -> int:
    """Samples that signals lack (negative: have too many of) for their convolution with a stride to be folded.

    What they hold does not matter, as no tap sees them.
    """
    return ((steps - taps) // stride - taps // -stride) * stride - steps


def convolve_same(x_BTC: Tensor, weight_OCK: Tensor, bias_O: Tensor | None, more: int = 0) -> Tensor:
    """Convolution whose output is as long as its input, or `more`, in the precision in use. Differentiable twice.

    An even kernel's extra zero goes to the right.
    """
    x_BTC, weight_OCK, bias_O = reduced(x_BTC), reduced(weight_OCK), reduced(bias_O)
    others = weight_OCK.shape[2] - 1
    return _convolution(x_BTC, weight_OCK.transpose(1, 2), bias_O, others // 2, others - others // 2 + more)
