"""A small, well-known detector of earthquakes, trained and tested on earthquakes mixed with noise.

ConvNetQuake: eight convolutions of 32 channels, each halving the time, and a linear layer (Perol, Gharbi and Denolle
2018, Science Advances 4, e1700578). It shows whether generated records help, so nothing in it is to be tuned.
Shapes: N window, B batch, C component (E, N, Z), T sample, F frequency. Windows are z-scored.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.metrics import moments, z_score

LAYERS, CHANNELS, TAPS, STRIDE = 8, 32, 3, 2
# The same number of steps, of batches half earthquakes and half noise, whatever it learns from.
STEPS, HALF, RATE, DECAY = 300, 16, 1e-3, 1e-3
# Power of an earthquake over that of the noise it is mixed with, over the whole window.
SNR_DB = (-5.0, 15.0)
# Classical augmentation: time runs so much faster or slower, and so many octaves of the band are taken from either end.
STRETCH, OCTAVES, ORDER = 1.25, 2.0, 4
CHUNK = 64

# Gives so many windows (B, C, T), other ones at each call.
Draw = Callable[[int], Tensor]


class Detector(nn.Module):
    """Says of windows (B, C, T) how likely each holds an earthquake, as logits (B,)."""

    def __init__(self, components: int, samples: int, rng: torch.Generator):
        super().__init__()
        widths = [components, *[CHANNELS] * LAYERS]
        # In two dimensions, of which one is 1, as channels can come last there: two thirds of the time.
        convolutions = [nn.Conv2d(of, to, (1, TAPS), (1, STRIDE), (0, TAPS // 2)) for of, to in pairwise(widths)]
        left = -(-samples // STRIDE**LAYERS)
        layers = [layer for convolution in convolutions for layer in (convolution, nn.ReLU())]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(CHANNELS * left, 1))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.kaiming_uniform_(parameter, nonlinearity="relu", generator=rng)
            else:
                nn.init.zeros_(parameter)

    def forward(self, wave_BCT: Tensor) -> Tensor:
        """Logits (B,)."""
        return self.layers(wave_BCT[:, :, None].to(memory_format=torch.channels_last))[:, 0]


def train_detector(earthquakes: Sequence[Draw], noise: Draw, seed: int) -> Callable[[Tensor], Tensor]:
    """Train a detector; returns what gives its logits (N,) of windows (N, C, T).

    The earthquakes of a batch come from all their sources in equal parts.
    """
    share = HALF // len(earthquakes)
    target = (torch.arange(2 * HALF) < HALF).float()
    _, components, samples = noise(1).shape
    detector = Detector(components, samples, torch.Generator().manual_seed(seed))
    optimizer = torch.optim.Adam(detector.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, STEPS)
    for _ in range(STEPS):
        batch = torch.cat([*(draw(share) for draw in earthquakes), noise(HALF)])
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(detector(batch), target).backward()
        optimizer.step()
        schedule.step()
    return torch.no_grad()(lambda wave_NCT: torch.cat([detector(some) for some in wave_NCT.split(CHUNK)]))


def drawn(wave_NCT: Tensor, rng: torch.Generator) -> Draw:
    """Windows drawn at random, as they are."""
    return lambda count: wave_NCT[_places(wave_NCT, count, rng)]


def drawn_anew(
    wave_NCT: Tensor, noise_NCT: Tensor, fs_hz: float, band_hz: tuple[float, float], rng: torch.Generator
) -> Draw:
    """Earthquakes drawn at random, each time augmented and mixed with other noise."""
    earthquakes = drawn(wave_NCT, rng)
    return lambda count: mixed(augmented(earthquakes(count), fs_hz, band_hz, rng), noise_NCT, rng)


def mixed(wave_NCT: Tensor, noise_NCT: Tensor, rng: torch.Generator) -> Tensor:
    """Each earthquake with some noise, at a ratio drawn evenly in decibels; every component is z-scored again."""
    low, high = SNR_DB
    snr_db = low + (high - low) * torch.rand(len(wave_NCT), 1, 1, generator=rng)
    chosen = noise_NCT[_places(noise_NCT, len(wave_NCT), rng)]
    return z_score(wave_NCT * 10 ** (snr_db / 20) + chosen)


def augmented(wave_BCT: Tensor, fs_hz: float, band_hz: tuple[float, float], rng: torch.Generator) -> Tensor:
    """Classical augmentation: polarity of each component, time stretched or shrunk, a narrower band."""
    batch, components, _ = wave_BCT.shape
    sign = 2.0 * torch.randint(2, (batch, components, 1), generator=rng) - 1
    speed = STRETCH ** (2 * torch.rand(batch, 1, generator=rng) - 1)
    low_hz = band_hz[0] * 2 ** (OCTAVES * torch.rand(batch, 1, 1, generator=rng))
    high_hz = band_hz[1] / 2 ** (OCTAVES * torch.rand(batch, 1, 1, generator=rng))
    return z_score(band_passed(_stretched(wave_BCT * sign, speed), fs_hz, low_hz, high_hz))


def band_passed(wave_NCT: Tensor, fs_hz: float, low_hz: Tensor | float, high_hz: Tensor | float) -> Tensor:
    """Without phase, by the gains of Butterworth's filter; a window's end is taken to be followed by its beginning."""
    samples = wave_NCT.shape[-1]
    frequency_F = torch.fft.rfftfreq(samples, 1 / fs_hz)
    fall = 1 + (frequency_F / high_hz) ** (2 * ORDER)
    rise = 1 + (low_hz / frequency_F.clamp_min(1 / samples)) ** (2 * ORDER)
    return torch.fft.irfft(torch.fft.rfft(wave_NCT) / (fall * rise).sqrt(), n=samples)


def _stretched(wave_BCT: Tensor, speed_B1: Tensor) -> Tensor:
    """Time runs `speed` times as fast, by linear interpolation; zeros where the window has no more."""
    samples = wave_BCT.shape[-1]
    time_BT = torch.arange(samples) * speed_B1
    before = time_BT.floor().clamp_max(samples - 2)
    part = (time_BT - before)[:, None]
    place = before.long()[:, None].expand_as(wave_BCT)
    wave = torch.lerp(wave_BCT.gather(2, place), wave_BCT.gather(2, place + 1), part)
    return wave * (time_BT <= samples - 1)[:, None]


def log_kurtosis(wave_NCT: Tensor) -> Tensor:
    """The one feature that tells an earthquake from noise where they are not mixed: mean over components, (N,)."""
    return moments(wave_NCT)["log_kurtosis"].mean(1)


def best_threshold(earthquake_N: Tensor, noise_N: Tensor) -> float:
    """The value of a feature above which calling it an earthquake is right most often, both classes counting alike."""
    steps = torch.cat([earthquake_N, noise_N]).sort().values
    between = torch.cat([steps[:1] - 1, (steps[1:] + steps[:-1]) / 2])
    right = [(earthquake_N > value).double().mean() + (noise_N <= value).double().mean() for value in between]
    return float(between[int(torch.stack(right).argmax())])


def quality(earthquake_N: Tensor, noise_N: Tensor) -> dict[str, float]:
    """Accuracy, precision, recall and F1 of logits, above 0 an earthquake, and the area under the ROC curve.

    Both classes count alike, however many windows there are of each.
    """
    recall, false = (float((logits > 0).double().mean()) for logits in (earthquake_N, noise_N))
    precision = recall / (recall + false) if recall + false else 0.0
    above = earthquake_N[:, None] - noise_N
    return {
        "accuracy": (recall + 1 - false) / 2,
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "auc": float((above.sign() + 1).double().mean() / 2),
    }


def _places(wave_NCT: Tensor, count: int, rng: torch.Generator) -> Tensor:
    return torch.randint(len(wave_NCT), (count,), generator=rng)
