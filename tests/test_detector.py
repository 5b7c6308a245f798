"""The detector that shows whether generated records help: what it learns from, what it learns, how it is judged."""

import numpy as np
import pytest
import torch

from trainables import detector
from trainables.detector import augmented, best_threshold, drawn, log_kurtosis, mixed, quality, train_detector
from trainables.metrics import z_score

FS_HZ, BAND_HZ = 50.0, (0.5, 20.0)


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


def noise(count, rng, samples=256):
    return z_score(torch.randn(count, 3, samples, generator=rng))


def bursts(count, rng, samples=256):
    """Noise that is loud for a second."""
    loud = (torch.arange(samples) - samples // 3).abs() < FS_HZ / 2
    return z_score(torch.randn(count, 3, samples, generator=rng) * loud)


def test_it_learns_to_tell_bursts_in_noise_from_noise(monkeypatch, rng):
    monkeypatch.setattr(detector, "STEPS", 150)
    real, quiet = bursts(64, rng), noise(64, rng)
    detect = train_detector([drawn(mixed(real, quiet, rng), rng)], drawn(quiet, rng), seed=0)
    held = noise(100, rng)
    found = quality(detect(mixed(bursts(100, rng), held, rng)), detect(held))
    assert found["accuracy"] > 0.9
    assert found["auc"] > 0.95


def test_the_same_seed_trains_the_same_detector(monkeypatch):
    monkeypatch.setattr(detector, "STEPS", 3)

    def logits(seed):
        rng = torch.Generator().manual_seed(5)
        real, quiet = bursts(8, rng), noise(8, rng)
        return train_detector([drawn(real, rng), drawn(real, rng)], drawn(quiet, rng), seed)(real)

    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 15.0])
def test_an_earthquake_is_mixed_with_noise_at_the_ratio_asked_for(monkeypatch, rng, snr_db):
    monkeypatch.setattr(detector, "SNR_DB", (snr_db, snr_db))
    time = torch.arange(256) / FS_HZ
    sines = [z_score(torch.sin(2 * torch.pi * hz * time).expand(1, 3, -1)) for hz in (25 / 8, 25 / 4)]
    power = torch.fft.rfft(mixed(*sines, rng)).abs().square()[0, 0]
    assert 10 * float(torch.log10(power[16] / power[32])) == pytest.approx(snr_db, abs=0.01)
    assert float(power[1:].sum()) == pytest.approx(256**2 / 2, rel=1e-3)  # of standard deviation 1


def test_augmenting_moves_what_arrives_by_no_more_than_the_stretch_and_turns_polarity(rng):
    time = torch.arange(512)
    wavelet = torch.exp(-(((time - 200) / 8) ** 2)) * torch.cos((time - 200) / 4)
    made = augmented(wavelet.expand(200, 3, -1).clone(), FS_HZ, BAND_HZ, rng)
    peak = made.abs().argmax(-1).float()
    assert ((peak > 200 / 1.25 - 12) & (peak < 200 * 1.25 + 12)).all()
    assert peak.std() > 10
    signs = torch.sign(made.gather(2, peak.long()[..., None]))
    assert 0.3 < float((signs > 0).float().mean()) < 0.7
    np.testing.assert_allclose(made.std(-1, correction=0), 1, rtol=1e-4)


def test_log_kurtosis_tells_bursts_from_noise_where_they_are_not_mixed(rng):
    assert quality(log_kurtosis(bursts(50, rng)), log_kurtosis(noise(50, rng)))["auc"] == 1.0


@pytest.mark.parametrize(
    ("earthquakes", "noises", "expected"),
    [
        ([1.0, 2.0], [-1.0, -2.0], {"accuracy": 1.0, "precision": 1.0, "recall": 1.0, "f1": 1.0, "auc": 1.0}),
        ([1.0, -3.0], [-1.0], {"accuracy": 0.75, "precision": 1.0, "recall": 0.5, "f1": 2 / 3, "auc": 0.5}),
        # a false alarm in two counts like half of the earthquakes, however many these are
        ([1.0] * 4, [2.0, -2.0], {"accuracy": 0.75, "precision": 2 / 3, "recall": 1.0, "f1": 0.8, "auc": 0.5}),
        ([-1.0], [-1.0], {"accuracy": 0.5, "precision": 0.0, "recall": 0.0, "f1": 0.0, "auc": 0.5}),
    ],
)
def test_quality(earthquakes, noises, expected):
    assert quality(torch.tensor(earthquakes), torch.tensor(noises)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("earthquakes", "noises", "expected"),
    [([3.0, 4.0], [1.0, 2.0], 2.5), ([1.0, 3.0, 4.0], [2.0], 2.5), ([1.0], [2.0], 0.0)],
)
def test_the_threshold_is_where_most_are_told_right(earthquakes, noises, expected):
    assert best_threshold(torch.tensor(earthquakes), torch.tensor(noises)) == pytest.approx(expected)
