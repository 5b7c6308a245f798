"""A frozen embedding of waveforms, to compare sets of them where no single measure would: nothing in it is trained.

Each feature is the share of a window's samples at which a convolution with a small fixed kernel exceeds a threshold, as
in MiniRocket (Dempster et al. 2021, arXiv 2012.08791): kernels of nine taps, three of them 2 and six -1, dilated from
the band's highest frequency to the window's length; thresholds are quantiles over real windows.
Shapes: N window, C component, T sample, K kernel, D feature.
"""

import itertools

import numpy as np
import torch
from torch import Tensor

TAPS, HIGH_TAPS = 9, 3
DILATIONS = 6
# Places in a window at which a convolution is looked at, at most: more would cost time and tell little.
PLACES = 512
# Real windows that units are taken from, at most; for thresholds the first few of them do.
FITTED = 256
# Dimensions in which distances between windows are measured: nearest neighbours mean little in more.
DIRECTIONS = 64
CHUNK = 32
# The same for every trial, whatever its seed: their scores are compared.
SEED = 0
# A share that hardly varies among real windows is measured in this unit, or a speck of noise would outweigh all else.
LEAST_SPREAD = 0.02


class Embedding:
    """Maps z-scored windows (N, C, T) to features (N, D), each in units of its spread over real windows."""

    def __init__(self, real_NCT: Tensor, fs_hz: float, high_hz: float):
        rng = torch.Generator().manual_seed(SEED)
        components, samples = real_NCT.shape[1:]
        fitted = real_NCT[torch.randperm(len(real_NCT), generator=rng)[:FITTED]]
        self._dilations = _dilations(samples, fs_hz, high_hz)
        self._weights = [_kernels(components, rng).to(real_NCT) for _ in self._dilations]
        quantiles = torch.rand(len(self._dilations), len(self._weights[0]), generator=rng)
        self._thresholds = [self._threshold(fitted, number, share) for number, share in enumerate(quantiles)]
        shares = self._shares(fitted)
        self._std, self._mean = torch.std_mean(shares, dim=0, correction=0)
        self._std = self._std.clamp_min(LEAST_SPREAD)
        self._directions = torch.randn(shares.shape[1], DIRECTIONS, generator=rng).to(shares) / DIRECTIONS**0.5

    def __call__(self, wave_NCT: Tensor) -> Tensor:
        """Features (N, D) of windows, which are looked at a few at a time."""
        return (self._shares(wave_NCT) - self._mean) / self._std

    def projected(self, features_ND: Tensor) -> Tensor:
        """Features along 64 random directions, (N, 64), which keep distances about as they are.

        Directions fitted to real windows would suit these better than any others, held-out ones included.
        """
        return features_ND @ self._directions

    def _shares(self, wave_NCT: Tensor) -> Tensor:
        return torch.cat([self._chunk_shares(chunk) for chunk in wave_NCT.split(CHUNK)])

    def _chunk_shares(self, wave_NCT: Tensor) -> Tensor:
        numbers = range(len(self._dilations))
        above = [self._convolved(wave_NCT, number) > self._thresholds[number] for number in numbers]
        return torch.cat([each.float().mean(1) for each in above], dim=1)

    def _convolved(self, wave_NCT: Tensor, number: int) -> Tensor:
        """Every kernel of one dilation at up to 512 places of each window, (N, T', K)."""
        reach = (TAPS - 1) * self._dilations[number]
        stride = -(-wave_NCT.shape[-1] // PLACES)
        seen = wave_NCT.unfold(2, reach + 1, stride)[..., :: self._dilations[number]]
        return seen.transpose(1, 2).flatten(2) @ self._weights[number].flatten(1).T

    def _threshold(self, real_NCT: Tensor, number: int, share_K: Tensor) -> Tensor:
        """For each kernel the value that this share of what it gives on some real windows stays below, (K,)."""
        values = self._convolved(real_NCT[:CHUNK], number).flatten(0, 1)
        ordered = torch.from_numpy(np.sort(values.cpu().numpy(), axis=0))  # torch's own takes twenty times as long
        place = (share_K * (len(ordered) - 1)).long()
        return ordered.gather(0, place[None])[0].to(values.device)


def _kernels(components: int, rng: torch.Generator) -> Tensor:
    """All 84 kernels, each on a random choice of components: (K, C, 9)."""
    places = torch.tensor(list(itertools.combinations(range(TAPS), HIGH_TAPS)))
    kernels = torch.full((len(places), TAPS), -1.0).scatter_(1, places, 2.0)
    chosen = torch.rand(len(places), components, generator=rng) < 0.5
    chosen[~chosen.any(1), torch.randint(components, (), generator=rng)] = True
    return kernels[:, None] * chosen[..., None]


def _dilations(samples: int, fs_hz: float, high_hz: float) -> list[int]:
    """Samples between taps: from half a period of the highest frequency to half the window's length in all."""
    least, most = fs_hz / (2 * high_hz), samples / 2 / (TAPS - 1)
    return sorted({max(1, round(least * (most / least) ** (number / (DILATIONS - 1)))) for number in range(DILATIONS)})
