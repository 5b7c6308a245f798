"""Layers that both networks are made of.

Shapes: B batch, C channel or component (E, N, Z), T sample.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SameConv1d(nn.Conv1d):
    """Convolution whose output is as long as its input.

    An even kernel cannot be centred: its extra zero goes to the right.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int):
        super().__init__(in_channels, out_channels, kernel)
        self.sides = ((kernel - 1) // 2, kernel // 2)

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Convolve (B, C, T) to (B, C', T)."""
        return super().forward(F.pad(x_BCT, self.sides))


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
        mask = torch.fft.rfftfreq(samples, 1 / fs_hz) < cutoff_hz
        self.register_buffer("mask", mask.float(), persistent=False)

    def forward(self, x_BCT: Tensor) -> tuple[Tensor, Tensor]:
        """Return the low and the high part, each (B, C, T)."""
        low = torch.fft.irfft(torch.fft.rfft(x_BCT) * self.mask.to(x_BCT.dtype), n=self.samples)
        return low, x_BCT - low
