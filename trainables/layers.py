"""Layers that both networks are made of.

Shapes: G group (pipeline), B batch, C channel or component (E, N, Z), T sample.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from trainables import workers

SLOPE = 0.2


class FrequencySplit(nn.Module):
    """A signal's parts below and above a cut-off frequency; they add up to the signal.

    Frequencies are masked by their value in Hz, so the split does not depend on length or amplitude.
    """

    mask: Tensor

    def __init__(self, samples: int, fs_hz: float, cutoff_hz: float):
        super().__init__()
        if cutoff_hz >= fs_hz / 2:
            raise ValueError(f"cutoff_hz is {cutoff_hz}; expected less than the Nyquist frequency {fs_hz / 2} Hz")
        self.samples = samples
        mask = torch.fft.rfftfreq(samples, 1 / fs_hz, dtype=torch.float64) < cutoff_hz
        self.register_buffer("mask", mask.float(), persistent=False)

    def forward(self, x_BCT: Tensor) -> tuple[Tensor, Tensor]:
        """Return the low and the high part, each (B, C, T)."""
        low = torch.fft.irfft(torch.fft.rfft(x_BCT) * self.mask.to(x_BCT.dtype), n=self.samples)
        return low, x_BCT - low


class _Leak(torch.autograd.Function):
    """The gradient of a leaky rectifier: linear in it, and constant in the sign of what was rectified."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, rectified: Tensor) -> Tensor:
        ctx.save_for_backward(rectified)
        leaked: Tensor = torch.ops.aten.leaky_relu_backward(grad, rectified, SLOPE, True)
        return leaked

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (rectified,) = ctx.saved_tensors
        return _leak(grads[0], rectified), None


_leak: Callable[..., Tensor] = _Leak.apply


class _LeakyReLU(torch.autograd.Function):
    """Torch's own sends a second derivative of zeros through the whole network again; this one sends none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        rectified = F.leaky_relu(x, SLOPE)
        ctx.save_for_backward(rectified)
        return rectified

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (rectified,) = ctx.saved_tensors
        return _leak(grads[0], rectified)


_leaky_relu: Callable[..., Tensor] = _LeakyReLU.apply


def leaky_relu(x: Tensor) -> Tensor:
    """max(x, 0.2 x). Differentiable twice."""
    return _leaky_relu(x)


class RectifiedNorm(nn.Module):
    """Rectifier, then batch normalisation of every group's channels, over the batches of all workers together.

    A row may count several times: what is normalised before it is repeated has the statistics it has afterwards.
    `momentum` None means a plain average over all batches, as torch's own has it.
    """

    running_mean: Tensor
    running_var: Tensor
    EPS = 1e-5

    def __init__(self, groups: int, channels: int):
        super().__init__()
        self.momentum: float | None = 0.1
        self.weight = nn.Parameter(torch.ones(groups, channels))
        self.bias = nn.Parameter(torch.zeros(groups, channels))
        self.register_buffer("running_mean", torch.zeros(groups, channels))
        self.register_buffer("running_var", torch.ones(groups, channels))
        self.batches = 0

    def measure_anew(self) -> None:
        """Forget the running statistics; from here on they are a plain average over the batches to come."""
        self.running_mean.zero_()
        self.running_var.fill_(1)
        self.batches, self.momentum = 0, None

    def forward(self, x_GBTC: Tensor, repeat: "Repeat | None" = None) -> Tensor:
        """Rectify (G, B, T, C) in place, for the memory's sake, and normalise; rows count as often as they repeat."""
        rectified = F.relu(x_GBTC, inplace=True)
        if not self.training:
            scale = self.weight * (self.running_var + self.EPS).rsqrt()
            shift = self.bias - self.running_mean * scale
            return _scaled(rectified, scale, shift)
        counts, times = (None, x_GBTC.shape[2]) if repeat is None else (repeat.counts, repeat.samples)
        rows = workers.count() * x_GBTC.shape[1] * times
        norm = _normalise if torch.is_grad_enabled() else _normalised
        y_GBTC, mean, var = norm(rectified, self.weight, self.bias, counts, rows, self.EPS)
        self.batches += 1
        share = 1 / self.batches if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(var * (rows / (rows - 1)), share)
        return y_GBTC


def _normalised(x: Tensor, weight: Tensor, bias: Tensor, counts: Tensor | None, total: int, eps: float) -> Any:
    """What `_Normalise` computes, in place: without gradients nothing has to be kept."""
    mean, var, scale = _moments(x, weight, counts, total, eps)
    return _scaled(x, scale, bias - mean * scale, out=x), mean, var


def _moments(x: Tensor, weight: Tensor, counts: Tensor | None, total: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and what normalises, each (G, C)."""
    mean = workers.total(_sums(_pieces(x), counts)) / total
    squares = ((piece - mean[:, None, None]).square_() for piece in _pieces(x))
    var = workers.total(_sums(squares, counts)) / total
    return mean, var, weight * (var + eps).rsqrt()


class _Normalise(torch.autograd.Function):
    """Training-mode batch normalisation; keeps its input alone, as the rectifier before it does."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, counts: Tensor | None, total: int, eps: float
    ) -> Any:
        mean, var, scale = _moments(x, weight, counts, total, eps)
        ctx.save_for_backward(x, mean, var, scale, counts)
        ctx.total, ctx.eps = total, eps
        ctx.mark_non_differentiable(mean, var)
        return _scaled(x, scale, bias - mean * scale), mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        x, mean, var, scale, counts = ctx.saved_tensors
        grad, spread = grads[0], (var + ctx.eps).rsqrt()
        pieces = zip(_pieces(grad), _pieces(x), strict=True)
        grad_bias = _sums(_pieces(grad))
        grad_weight = spread * _sums((piece - mean[:, None, None]).mul_(g) for g, piece in pieces)
        mean_bias, mean_weight = workers.total(torch.stack([grad_bias, grad_weight])) / ctx.total
        slope = -scale * spread * mean_weight
        grad_x = _scaled(x, slope, -scale * mean_bias - slope * mean)
        if counts is not None:
            grad_x *= counts[:, None]
        return grad_x.addcmul_(grad, scale[:, None, None]), grad_weight, grad_bias, None, None, None


_normalise: Callable[..., Any] = _Normalise.apply


def _pieces(x_GBTC: Tensor) -> Iterable[Tensor]:
    """What is summed together: on a CPU each window, which then stays in the cache, and on a GPU all of them."""
    return x_GBTC.split(1, dim=1) if x_GBTC.device.type == "cpu" else (x_GBTC,)


def _sums(pieces_GBTC: Iterable[Tensor], counts_T: Tensor | None = None) -> Tensor:
    """Sums over windows and time, (G, C), of rows that count so many times.

    Not a product with a row of ones: that adds sample by sample, and what is left of a gradient's many cancelling terms
    would be twenty times as far off.
    """
    if counts_T is not None:
        pieces_GBTC = (piece * counts_T[:, None] for piece in pieces_GBTC)
    return torch.stack([piece.sum((1, 2)) for piece in pieces_GBTC]).sum(0)


def _scaled(x_GBTC: Tensor, scale_GC: Tensor, shift_GC: Tensor, out: Tensor | None = None) -> Tensor:
    return torch.addcmul(shift_GC[:, None, None], x_GBTC, scale_GC[:, None, None], out=out)


class Repeat(nn.Module):
    """Stretch (or thin) a sequence of `steps` to `samples` by its nearest neighbour, as `interpolate` does."""

    index: Tensor
    counts: Tensor

    def __init__(self, steps: int, samples: int):
        super().__init__()
        self.samples = samples
        # In the networks' own precision: in another, torch picks other neighbours here and there.
        position = torch.arange(steps, dtype=torch.get_default_dtype())[None, None]
        index = F.interpolate(position, size=samples)[0, 0].long()
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("counts", torch.bincount(index, minlength=steps), persistent=False)
        # A number of the host's: to ask a device for it each time would be to wait for the device.
        self.most = int(self.counts.max())

    def forward(self, x_GBTC: Tensor) -> Tensor:
        """(G, B, T, C) to (G, B, samples, C)."""
        return _repeat(x_GBTC, self.index, self.counts, self.most)


class _Repeat(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, counts: Tensor, most: int) -> Tensor:
        ctx.save_for_backward(counts)
        ctx.most = most
        return x.index_select(2, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        (counts,) = ctx.saved_tensors
        ends = counts.cumsum(0)
        # Torch adds at an index row by row; a row's few copies lie together and are gathered.
        gathered = grads[0].new_zeros(())
        for copy in range(ctx.most):
            place = (ends - counts + copy).clamp_max(grads[0].shape[2] - 1)
            gathered = gathered + grads[0].index_select(2, place) * (copy < counts)[:, None]
        return gathered, None, None, None


_repeat: Callable[..., Tensor] = _Repeat.apply


def uniform(bound: float, *shape: int) -> nn.Parameter:
    """A parameter that starts within ±bound, as those of torch's own layers do."""
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
