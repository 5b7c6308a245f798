import numpy as np
import pytest
import scipy.stats
import torch

from trainables import metrics


def noise(n=6, samples=2000, seed=0):
    return torch.randn(n, 3, samples, generator=torch.Generator().manual_seed(seed))


def test_moments_equal_scipy_s():
    wave = noise() * 2 + 0.3
    found = metrics.moments(wave)
    x = wave.double().numpy()
    expected = {
        "minimum": x.min(-1),
        "maximum": x.max(-1),
        "mean": x.mean(-1),
        "log_std": np.log(x.std(-1)),
        "skewness": scipy.stats.skew(x, axis=-1),
        "log_kurtosis": np.log(scipy.stats.kurtosis(x, axis=-1, fisher=False)),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name].numpy(), value, atol=1e-4)


def test_z_scored_signals_do_not_drift_in_normalisation():
    assert metrics.normalisation_drift(metrics.z_score(5 * noise() + 2)) == pytest.approx(0, abs=1e-5)
    assert metrics.normalisation_drift(metrics.z_score(noise()) * np.e + 0.5) == pytest.approx(1.5, abs=1e-4)


def test_a_silent_signal_is_finite():
    silent = torch.zeros(2, 3, 400)
    for value in metrics.moments(silent).values():
        assert torch.isfinite(value).all()
    assert torch.isfinite(metrics.log_psd(silent, 40.0, 0.5, 16.0)).all()
    assert torch.isfinite(metrics.log_envelope(silent, 40.0)).all()


def test_white_noise_has_a_flat_spectrum_of_its_variance():
    psd = metrics.log_psd(noise(200), 50.0, 0.5, 20.0).exp().mean((0, 1))
    np.testing.assert_allclose(psd.numpy(), 1.0, atol=0.15)


@pytest.mark.parametrize("tone_hz", [1.0, 4.0, 15.0])
def test_a_tone_peaks_in_its_own_band_whatever_the_sampling_rate(tone_hz):
    centres = np.geomspace(0.5, 20, metrics.BANDS)
    for fs_hz in (50.0, 200.0):
        time = torch.arange(round(40 * fs_hz)) / fs_hz
        wave = torch.sin(2 * torch.pi * tone_hz * time).expand(1, 3, -1)
        psd = metrics.log_psd(wave, fs_hz, 0.5, 20.0)
        assert centres[psd[0, 0].argmax()] == pytest.approx(tone_hz, rel=0.06)


def test_a_band_beyond_the_nyquist_frequency_is_refused():
    with pytest.raises(ValueError, match="Nyquist frequency 20"):
        metrics.log_psd(noise(), 40.0, 0.5, 21.0)


def test_the_envelope_follows_the_amplitude_in_time():
    envelope = torch.where(torch.arange(2000) < 1000, 0.1, 2.0)
    found = metrics.log_envelope(noise(100) * envelope, 50.0).exp().square().mean((0, 1)).sqrt()
    np.testing.assert_allclose(found[:35].numpy(), 0.1, rtol=0.05)
    np.testing.assert_allclose(found[-35:].numpy(), 2.0, rtol=0.05)


def test_the_envelope_of_silence_stands_on_its_floor():
    assert metrics.log_envelope(torch.zeros(1, 3, 400), 50.0).exp().max().item() == pytest.approx(0.01)


def test_the_distance_of_two_gaussians_is_known():
    zero, one = torch.zeros(4), torch.ones(4)
    assert metrics.frechet_diagonal(zero, one, zero, one).item() == 0
    assert metrics.frechet_diagonal(zero, one, 2 * one, 4 * one).item() == 4 + 9
