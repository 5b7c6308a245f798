"""Convolutions on channels-last signals, (B, T, C), differentiable twice at the price of a forward pass each.

Torch's own need three times as long for a gradient as for the result, on a CPU; and its second derivatives more.
Shapes: B batch, C channel, O output channel, K tap, T sample.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class _Convolution(torch.autograd.Function):
    """Cross-correlation (B, T, C) with (O, K, C) plus (O,), of stride 1, zeros on both sides."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding, ctx.has_bias = padding, bias is not None
        ctx.set_materialize_grads(False)
        image = F.conv2d(_as_image(x), _as_image(weight), bias, padding=(0, padding))
        return image.permute(0, 2, 3, 1).squeeze(1)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        if grad is None:
            return None, None, None, None
        x, weight = ctx.saved_tensors
        taps = weight.shape[1]
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _convolution(grad, _reversed(weight), None, taps - 1 - ctx.padding)
        if ctx.needs_input_grad[1]:
            grad_weight = _weight_gradient(x, grad, taps, ctx.padding)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            grad_bias = grad.sum((0, 1))
        return grad_x, grad_weight, grad_bias, None


_convolution: Callable[..., Tensor] = _Convolution.apply


class _WeightGradient(torch.autograd.Function):
    """Gradient of `_Convolution` with respect to its weight, (O, K, C), bilinear in its arguments."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grad: Tensor, taps: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, grad)
        ctx.taps, ctx.padding = taps, padding
        return _sum_of_products(x, grad, taps, padding)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, grad = ctx.saved_tensors
        (direction,) = grads
        grad_x = _convolution(grad, _reversed(direction), None, ctx.taps - 1 - ctx.padding)
        return grad_x, _convolution(x, direction, None, ctx.padding), None, None


_weight_gradient: Callable[..., Tensor] = _WeightGradient.apply


def _sum_of_products(x: Tensor, grad: Tensor, taps: int, padding: int) -> Tensor:
    """Sum over batch and time of every output's gradient times what its taps saw, as `taps` matrix products.

    Windows of `taps` samples that start `taps` apart lie in memory one after another, so the matrix of them is a view.
    """
    batch, steps, outputs = grad.shape
    channels = x.shape[2]
    length = -(-(steps + taps - 1) // taps) * taps
    grad = F.pad(grad, (0, 0, 0, length - steps))
    x = F.pad(x, (0, 0, padding, length - padding - x.shape[1]))
    x = F.pad(x.reshape(-1), (0, taps * channels))
    rows = batch * length // taps
    weight = grad.new_zeros(outputs, taps * channels)
    for shift in range(taps):
        seen = x.as_strided((rows, taps * channels), (taps * channels, 1), shift * channels)
        weight.addmm_(grad.as_strided((rows, outputs), (taps * outputs, 1), shift * outputs).T, seen)
    return weight.view(outputs, taps, channels)


def _as_image(x_BTC: Tensor) -> Tensor:
    """The same memory as an image (B, C, 1, T) in channels-last format."""
    return x_BTC.contiguous().unsqueeze(1).permute(0, 3, 1, 2)


def _reversed(weight_OKC: Tensor) -> Tensor:
    """The weight of the transposed convolution, (C, K, O)."""
    return weight_OKC.flip(1).transpose(0, 2)


def convolve(x_BTC: Tensor, weight_OCK: Tensor, bias_O: Tensor | None, stride: int = 1) -> Tensor:
    """Convolution without padding: (B, T, C) to (B, T', O). Differentiable twice.

    A stride is folded into the channels: `stride` samples of C channels are one sample of `stride` · C.
    """
    taps, steps = weight_OCK.shape[2], (x_BTC.shape[1] - weight_OCK.shape[2]) // stride + 1
    weight = weight_OCK.transpose(1, 2)
    if stride > 1:
        folded = -(-taps // stride)
        weight = F.pad(weight, (0, 0, 0, folded * stride - taps)).reshape(len(weight), folded, -1)
        x_BTC = F.pad(x_BTC, (0, 0, 0, (steps + folded - 1) * stride - x_BTC.shape[1]))
        x_BTC = x_BTC.reshape(len(x_BTC), steps + folded - 1, -1)
    return _convolution(x_BTC, weight, bias_O, 0)


def convolve_same(x_BTC: Tensor, weight_OCK: Tensor, bias_O: Tensor | None) -> Tensor:
    """Convolution whose output is as long as its input; an even kernel's extra zero goes to the right."""
    taps = weight_OCK.shape[2]
    y_BTO: Tensor = _convolution(x_BTC, weight_OCK.transpose(1, 2), bias_O, taps // 2)
    return y_BTO[:, 1:] if taps % 2 == 0 else y_BTO
