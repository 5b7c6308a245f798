import itertools
import math
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.integrate import cumulative_trapezoid

from trainables import metrics

FEATURES = {
    "moments": lambda wave: torch.cat(list(metrics.moments(wave).values()), dim=1),
    "crest": metrics.crest,
    "log_psd": partial(metrics.log_psd, fs_hz=40.0, low_hz=0.5, high_hz=16.0),
    "envelope": partial(metrics.log_envelope, fs_hz=40.0),
    "band_envelope": partial(metrics.band_envelopes, fs_hz=40.0, high_hz=16.0),
    "duration": partial(metrics.durations, fs_hz=40.0),
    "response_spectrum": partial(metrics.response_spectra, fs_hz=40.0, low_hz=0.5),
    "coupling": partial(metrics.coupling, fs_hz=40.0, high_hz=16.0),
    "slow_motion": partial(metrics.slow_motion, fs_hz=40.0, low_hz=0.5),
}


def noise(n=6, samples=2000, seed=0):
    return torch.randn(n, 3, samples, generator=torch.Generator().manual_seed(seed))


def tone(tone_hz, fs_hz, seconds=40):
    time = torch.arange(round(seconds * fs_hz)) / fs_hz
    return torch.sin(2 * torch.pi * tone_hz * time).expand(1, 3, -1)


def records(n=1, fs_hz=200.0, low_hz=0.2, high_hz=25.0, seed=0):
    """Noise of 40 s within a band, under an envelope that rises and decays; z-scored, float32."""
    samples, rng = 8000, np.random.default_rng(seed)
    frequency = np.fft.rfftfreq(samples, 1 / 200)
    spectrum = np.fft.rfft(rng.standard_normal((n, 3, samples)))
    time = np.arange(samples) / 200
    wave = np.fft.irfft(spectrum * ((frequency > low_hz) & (frequency < high_hz)), n=samples)
    wave = wave * (time * np.exp(-time / 3))
    return metrics.z_score(torch.from_numpy(wave[..., :: round(200 / fs_hz)]).float())


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
    shape = [expected[name] for name in ("minimum", "maximum", "skewness", "log_kurtosis")]
    np.testing.assert_allclose(metrics.crest(wave).numpy(), np.concatenate(shape, axis=1), atol=1e-4)


def test_z_scored_signals_do_not_drift_in_normalisation():
    assert metrics.normalisation_drift(metrics.z_score(5 * noise() + 2)) == pytest.approx(0, abs=1e-5)
    assert metrics.normalisation_drift(metrics.z_score(noise()) * np.e + 0.5) == pytest.approx(1.5, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "components"), [*((name, 3) for name in FEATURES), *((name, 1) for name in FEATURES if name != "coupling")]
)
def test_silent_constant_and_single_spikes_are_finite(name, components):
    spike = torch.zeros(400)
    spike[-1] = 1e3
    for signal in (torch.zeros(400), torch.full((400,), 1e-30), torch.full((400,), 1e4), spike):
        for wave in (signal.expand(2, components, -1), metrics.z_score(signal.expand(2, components, -1))):
            found = FEATURES[name](wave)
            assert len(found) == 2
            assert torch.isfinite(found).all()


@pytest.mark.parametrize("name", FEATURES)
def test_a_window_is_measured_alike_alone_and_among_others(name):
    wave = records(5)
    together = FEATURES[name](wave)
    for number in range(5):
        torch.testing.assert_close(FEATURES[name](wave[number : number + 1])[0], together[number])


# Every fourth (or other) sample of a signal without energy above 3 Hz is the same signal, but for a peak between two
# samples. At 50 Hz envelopes are 0.24 s apart, not 0.25 s; response spectra have their three longest periods in common.
@pytest.mark.parametrize(
    ("measure", "fs_hz", "tolerance"),
    [
        (lambda wave, fs_hz: metrics.crest(wave), 50.0, 0.1),
        (lambda wave, fs_hz: metrics.log_psd(wave, fs_hz, 0.1, 3.0) - math.log(fs_hz), 50.0, 1e-3),
        (metrics.log_envelope, 100.0, 0.05),
        (partial(metrics.band_envelopes, high_hz=3.0), 100.0, 0.05),
        (metrics.durations, 50.0, 0.021),
        (lambda wave, fs_hz: metrics.response_spectra(wave, fs_hz, 0.03)[:, -3:], 50.0, 0.02),
        (partial(metrics.coupling, high_hz=3.0), 50.0, 1e-3),
        (partial(metrics.slow_motion, low_hz=0.3), 50.0, 0.02),
    ],
    ids=["crest", "log_psd", "envelope", "band_envelope", "duration", "response_spectrum", "coupling", "slow_motion"],
)
def test_a_signal_is_measured_alike_at_any_sampling_rate(measure, fs_hz, tolerance):
    fine, coarse = (measure(records(4, rate, high_hz=3.0), rate) for rate in (200.0, fs_hz))
    torch.testing.assert_close(coarse, fine, atol=tolerance, rtol=0)


def test_white_noise_has_a_flat_spectrum_of_its_variance():
    psd = metrics.log_psd(noise(200), 50.0, 0.5, 20.0).exp().mean((0, 1))
    np.testing.assert_allclose(psd.numpy(), 1.0, atol=0.15)


@pytest.mark.parametrize("tone_hz", [1.0, 4.0, 15.0])
def test_a_tone_peaks_in_its_own_band_whatever_the_sampling_rate(tone_hz):
    centres = np.geomspace(0.5, 20, metrics.BANDS)
    for fs_hz in (50.0, 200.0):
        psd = metrics.log_psd(tone(tone_hz, fs_hz), fs_hz, 0.5, 20.0)
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


# Octaves below 20 Hz: 10 to 20, 5 to 10, 2.5 to 5, 1.25 to 2.5, and all that is lower; nothing is above.
@pytest.mark.parametrize(
    ("tone_hz", "octave"), [(15.0, 0), (19.5, 0), (9.5, 1), (3.0, 2), (2.0, 3), (0.25, 4), (22.0, None)]
)
def test_a_tone_has_an_envelope_in_its_own_octave_alone(tone_hz, octave):
    found = metrics.band_envelopes(tone(tone_hz, 50.0), 50.0, 20.0).exp().view(metrics.OCTAVES, 3, -1)
    for number, band in enumerate(found):
        if number != octave:
            torch.testing.assert_close(band, torch.full_like(band, metrics.ENVELOPE_FLOOR))
        elif tone_hz > 1:
            np.testing.assert_allclose(band.square().mean().sqrt(), 0.5**0.5, rtol=0.01)


def test_durations_equal_eqsig_s():
    import eqsig.im

    wave = records(4)
    found = metrics.durations(wave, 200.0).view(4, 3, 3)
    for number, component in itertools.product(range(4), range(3)):
        signal = eqsig.AccSignal(wave[number, component].double().numpy(), 1 / 200)
        for row, end in ((0, 0.95), (1, 0.75)):
            begin, until = eqsig.im.calc_sig_dur(signal, end=end, se=True)
            assert found[number, row, component] == pytest.approx(until - begin, rel=0.01)
        assert found[number, 2, component] == pytest.approx(begin, rel=0.01)


def test_the_duration_of_a_boxcar_is_its_share():
    wave = torch.zeros(1, 1, 1000)
    wave[..., 200:600] = -2.0
    np.testing.assert_allclose(metrics.durations(wave, 100.0)[0], [0.9 * 4, 0.7 * 4, 2 + 0.05 * 4], atol=0.011)


def test_periods_lie_between_ten_samples_and_a_tenth_of_the_window_within_the_band():
    found = metrics.periods_s(8000, 200.0, 0.03)
    np.testing.assert_allclose(found, np.geomspace(0.05, 4, 10), rtol=1e-5)
    assert metrics.periods_s(8000, 200.0, 0.5)[-1] == pytest.approx(2)
    assert metrics.periods_s(8000, 200.0, 0.0)[-1] == pytest.approx(4)


def test_response_spectra_equal_eqsig_s():
    from eqsig.sdof import pseudo_response_spectra

    wave, periods = records(), np.array(metrics.periods_s(8000, 200.0, 0.03))
    found = metrics.response_spectra(wave, 200.0, 0.03).exp().view(metrics.PERIODS, 3).numpy()
    long = periods >= 0.13  # for shorter ones eqsig's straight lines between samples are too coarse
    assert long.sum() == 8
    for component in range(3):
        signal = wave[0, component].double().numpy()
        spectrum = pseudo_response_spectra(np.pad(signal, (0, 2000)), 1 / 200, periods[long], 0.05)[2]
        np.testing.assert_allclose(found[long, component], spectrum / np.abs(signal).max(), rtol=0.01)


def test_response_spectra_equal_pyrotd_s(monkeypatch):
    # pyrotd asks a module for its own version that setuptools no longer has.
    asked = SimpleNamespace(get_distribution=lambda name: SimpleNamespace(version="0"))
    monkeypatch.setitem(sys.modules, "pkg_resources", asked)
    import pyrotd

    monkeypatch.setattr(pyrotd, "processes", 1)
    wave, periods = records(2), np.array(metrics.periods_s(8000, 200.0, 0.03))
    found = metrics.response_spectra(wave, 200.0, 0.03).exp().view(2, metrics.PERIODS, 3).numpy()
    for number, component in itertools.product(range(2), range(3)):
        signal = wave[number, component].double().numpy()
        padded = np.pad(signal, (0, 12000))  # where the slowest oscillator comes to rest
        spectrum = pyrotd.calc_spec_accels(1 / 200, padded, 1 / periods, 0.05).spec_accel
        np.testing.assert_allclose(found[number, :, component], spectrum / np.abs(signal).max(), rtol=0.01)


def test_coupling_tells_identical_opposite_and_independent_components():
    base = noise(20, samples=8000)
    wave = torch.stack([base[:, 0], -2 * base[:, 0], base[:, 1]], dim=1)
    correlation, *coherence = metrics.coupling(wave, 50.0, 20.0).view(20, 3, 6).unbind(-1)
    np.testing.assert_allclose(correlation[:, 0], -1, atol=1e-5)
    for octave in coherence:
        np.testing.assert_allclose(octave[:, 0], 1, atol=1e-4)
    assert correlation[:, 1:].abs().max() < 0.05
    for octave in coherence:
        assert octave[:, 1:].mean() < 0.1


def test_coupling_finds_a_known_correlation_and_the_octave_that_holds_it():
    base = noise(20, samples=8000)
    shared = 0.6 * base[:, 0] + 0.8 * base[:, 1]
    spectrum, frequency = torch.fft.rfft(base[:, :2]), torch.fft.rfftfreq(8000, 1 / 50)
    low_alone = torch.where(frequency < 5, spectrum[:, 0], spectrum[:, 1])
    wave = torch.stack([base[:, 0], shared, torch.fft.irfft(low_alone, n=8000)], dim=1)
    mean = metrics.coupling(wave, 50.0, 20.0).mean(0).view(3, 6)
    np.testing.assert_allclose(mean[0], 0.6, atol=0.03)
    np.testing.assert_allclose(mean[1, 3:], 1, atol=0.01)
    assert mean[1, 1:3].max() < 0.1


def test_coupling_equals_numpy_s_correlation():
    wave = records(3)
    found = metrics.coupling(wave, 200.0, 25.0).view(3, 3, 6)[..., 0].numpy()
    for number in range(3):
        expected = np.corrcoef(wave[number].double().numpy())
        np.testing.assert_allclose(found[number], expected[[0, 0, 1], [1, 2, 2]], atol=1e-4)


def integrated(acceleration):
    """Running integral of a 200 Hz signal with as many zeros after it, less its mean."""
    value = cumulative_trapezoid(acceleration, dx=1 / 200, initial=0)
    return value - value.mean()


def test_peak_velocity_and_displacement_equal_a_running_integral_s():
    wave = records(3, low_hz=0.05, high_hz=10.0)
    found = metrics.slow_motion(wave, 200.0, 0.0).exp().view(3, 2, 3).numpy()
    for number, component in itertools.product(range(3), range(3)):
        signal = wave[number, component].double().numpy()
        velocity = integrated(np.pad(signal - signal.mean(), (0, 8000)))
        motions = velocity[:8000], integrated(velocity)[:8000]
        peaks = [np.abs(motion).max() / np.abs(signal).max() for motion in motions]
        np.testing.assert_allclose(found[number, :, component], peaks, rtol=0.01)


def test_a_drift_too_slow_for_the_spectrum_multiplies_the_displacement():
    wave = records(10, low_hz=0.2)
    drifting = metrics.z_score(wave + 0.1 * torch.linspace(-(3**0.5), 3**0.5, 8000))
    still, moved = (metrics.slow_motion(each, 200.0, 0.1).view(10, 3, 3) for each in (wave, drifting))
    assert (metrics.log_psd(drifting, 200.0, 0.5, 25.0) - metrics.log_psd(wave, 200.0, 0.5, 25.0)).abs().mean() < 0.05
    assert (moved - still)[:, 1].exp().median() > 10
    assert (moved - still)[:, 2].exp().median() > 10


def test_integrated_noise_moves_slower_than_noise():
    white = metrics.z_score(noise(10))
    still, moved = (
        metrics.slow_motion(metrics.z_score(wave), 50.0, 0.5).view(10, -1, 3).mean((0, 2))
        for wave in (white, white.cumsum(-1))
    )
    assert (moved > still + 2).all()


def test_without_a_lower_edge_no_power_is_below_the_band():
    assert metrics.slow_motion(noise(2), 50.0, 0.0).shape == (2, 6)
    share = metrics.slow_motion(metrics.z_score(noise(50)), 50.0, 5.0)[:, 6:].exp()
    assert share.mean() == pytest.approx(5 / 25, rel=0.02)
