import numpy as np
import obspy
import pytest
from scipy import signal

from data_prep import process
from data_prep.process import UnusableError


def put(wave, component, start, values):
    wave = wave.copy()
    wave[component, start : start + len(values)] = values
    return wave


FLAWS = {
    "not finite": lambda wave: put(wave, 1, 900, [np.nan]),
    "constant": lambda wave: put(wave, 2, 0, np.full(4000, 3.0)),
    "clipped": lambda wave: np.clip(wave, -5, 5),
    "straight line": lambda wave: put(wave, 0, 900, np.linspace(8.0, -3.0, 150)),
    "level line": lambda wave: put(wave, 0, 900, np.full(150, 2.0)),
    "glitch": lambda wave: put(wave, 1, 1200, [900.0, 800.0, 700.0]),
    "too short": lambda wave: wave[:, :900],
}


@pytest.mark.parametrize("kind", FLAWS)
def test_a_flaw_is_found_and_named(make_quake, kind):
    with pytest.raises(UnusableError) as error:
        process.check(FLAWS[kind](make_quake()), 100.0)
    assert error.value.kind == kind.replace("level", "straight")
    assert error.value.reason


@pytest.mark.parametrize(
    "change",
    [
        lambda wave: wave,
        lambda wave: wave + 500,
        lambda wave: np.pad(wave, ((0, 0), (500, 500))),
        lambda wave: wave * np.array([[1], [1], [3]]),
        lambda wave: np.round(wave, 1),
        lambda wave: signal.sosfiltfilt(signal.butter(2, [0.1, 18], "bandpass", fs=100, output="sos"), wave),
    ],
    ids=["plain", "offset", "padded", "loud vertical", "coarse", "filtered"],
)
def test_a_sound_record_passes(make_quake, change):
    process.check(change(make_quake()), 100.0)


@pytest.mark.parametrize(
    ("lengths", "rates", "starts", "kind"),
    [
        ((100, 100, 100), (50, 50, 50), (0, 0, 9_000_000), None),
        ((100, 100, 99), (50, 50, 50), (0, 0, 0), "components differ"),
        ((100, 100, 100), (50, 50, 50), (0, 0, 11_000_000), "components differ"),
        ((100, 100, 100), (50, 50, 100), (0, 0, 0), "sampling rate"),
        ((100, 100, 100), (0, 0, 0), (0, 0, 0), "sampling rate"),
    ],
)
def test_components_must_share_rate_start_and_length(lengths, rates, starts, kind):
    samples = [np.zeros(length) for length in lengths]
    if kind is None:
        assert process.stack(samples, rates, starts).shape == (3, 100)
        return
    with pytest.raises(UnusableError) as error:
        process.stack(samples, rates, starts)
    assert error.value.kind == kind


@pytest.mark.parametrize(("fs_hz", "new_hz"), [(100, 200), (125, 200), (250, 200), (100, 50), (200, 200)])
def test_resampling_agrees_with_obspy_in_the_band_both_carry(fs_hz, new_hz):
    rng = np.random.default_rng(1)
    low = signal.butter(6, 8, fs=fs_hz, output="sos")
    wave = signal.sosfiltfilt(low, rng.standard_normal((3, 40 * fs_hz))) * np.hanning(40 * fs_hz)
    reference = []
    for samples in wave:
        trace = obspy.Trace(samples.copy(), {"sampling_rate": fs_hz})
        reference.append(trace.resample(new_hz, window=None).data)
    ours = process.resample(wave, fs_hz, new_hz)
    assert ours.shape == (3, 40 * new_hz)
    np.testing.assert_allclose(ours, np.array(reference), atol=5e-3 * np.abs(wave).max())


def test_rates_without_a_simple_ratio_are_refused():
    with pytest.raises(UnusableError, match="no simple ratio"):
        process.resample(np.zeros((3, 1000)), 100.0, 161.8034)


@pytest.mark.parametrize(("frequency_hz", "gain"), [(1, 1), (20, 1), (39, 1), (50, 0), (70, 0)])
def test_low_pass_keeps_its_band_and_nothing_above(frequency_hz, gain):
    time = np.arange(4000) / 200
    wave = np.sin(2 * np.pi * frequency_hz * time)[None]
    filtered = process.low_pass(wave, 200.0, 40.0)[0, 500:-500]
    np.testing.assert_allclose(filtered, gain * wave[0, 500:-500], atol=2e-3)


@pytest.mark.parametrize("fs_hz", [50.0, 100.0, 200.0])
@pytest.mark.parametrize("onset_s", [3.0, 8.0, 21.5])
def test_the_onset_is_found_within_a_tenth_of_a_second(make_quake, fs_hz, onset_s):
    wave = make_quake(fs_hz, 60.0, onset_s)
    assert process.find_onset(wave, fs_hz) / fs_hz == pytest.approx(onset_s, abs=0.1)


def test_the_onset_is_that_of_a_weak_p_before_a_strong_s(make_quake):
    wave = 0.1 * make_quake(onset_s=8.0, seconds=60.0) + make_quake(onset_s=14.0, seconds=60.0, seed=1)
    wave[:, :1400] += 0.05 * np.random.default_rng(2).standard_normal((3, 1400)) * (np.arange(1400) > 800)
    assert process.find_onset(wave, 100.0) / 100 == pytest.approx(8.0, abs=0.3)


def test_neither_taper_nor_padding_passes_for_an_onset(make_quake):
    wave = make_quake(onset_s=20.0, seconds=80.0)
    wave[:, :400] *= np.sin(np.linspace(0, np.pi / 2, 400)) ** 2
    wave = np.pad(wave, ((0, 0), (500, 0)))
    assert process.find_onset(wave, 100.0) / 100 == pytest.approx(25.0, abs=0.1)


def test_shaking_from_the_first_sample_has_its_onset_there():
    wave = np.random.default_rng(0).standard_normal((3, 4000)) * np.exp(-np.arange(4000) / 1500)
    assert process.find_onset(wave, 100.0) == 0


def test_signal_to_noise_is_the_ratio_of_amplitudes():
    rng = np.random.default_rng(0)
    wave = rng.standard_normal((3, 6000))
    wave[:, 3000:] *= 7
    ratio, noise = process.signal_to_noise(wave, 100.0, 3000)
    assert ratio == pytest.approx(7, rel=0.03)
    assert noise == pytest.approx(3, rel=0.03)


def test_without_noise_before_the_onset_the_quietest_second_stands_in():
    rng = np.random.default_rng(0)
    wave = 7 * rng.standard_normal((3, 6000))
    wave[:, 4000:5000] /= 7
    wave[:, -200:] = 0  # padding, no quiet second
    ratio, _ = process.signal_to_noise(wave, 100.0, 0)
    assert 6 < ratio < 9


@pytest.mark.parametrize(
    ("window_s", "onset_s", "expected_onset_s"),
    [(30, 8, 3.75), (40, 8, 5.0), (20, 8, 2.5), (30, 2, 2.0)],
)
def test_an_onset_window_begins_an_eighth_of_it_before_p(make_quake, window_s, onset_s, expected_onset_s):
    window = process.cut(make_quake(seconds=90.0, onset_s=onset_s), 100.0, window_s * 100, "onset")
    assert window.wave.shape == (3, window_s * 100)
    assert (window.onset - window.start) / 100 == pytest.approx(expected_onset_s, abs=0.1)
    assert window.n_valid == window_s * 100
    assert window.energy_kept > 0.99


def test_the_lead_shrinks_to_a_second_before_shaking_is_lost(make_quake):
    wave = make_quake(seconds=90.0, onset_s=20.0)
    wave[:, 2000:] = np.random.default_rng(0).standard_normal((3, 7000)) * np.exp(-np.arange(7000) / 3000)
    window = process.cut(wave, 100.0, 2000, "onset")
    assert (window.onset - window.start) / 100 == pytest.approx(1.0, abs=0.1)
    energy = (wave[:, 1900:3900] ** 2).sum() / (wave**2).sum()
    assert window.energy_kept == pytest.approx(energy, abs=0.02)


def test_exact_silence_before_the_shock_is_no_trouble(make_quake):
    wave = make_quake(seconds=60.0, onset_s=20.0)
    wave[:, :2000] = 0
    wave[:, 0] = 1e-3  # so that the silence is no padding
    window = process.cut(wave, 100.0, 4000, "onset")
    assert (window.onset - window.start) / 100 == pytest.approx(5.0, abs=0.1)
    assert window.energy_kept == pytest.approx(1, abs=1e-4)
    assert np.isfinite(window.snr)


def test_a_short_record_is_tapered_and_padded_at_its_end(make_quake):
    wave = make_quake(seconds=30.0, onset_s=3.0) + 1
    window = process.cut(wave, 100.0, 4000, "whole")
    restored = window.wave * window.std[:, None] + window.mean[:, None]
    assert window.n_valid == 3000
    assert window.energy_kept == 1
    np.testing.assert_allclose(restored[:, :2900], wave[:, :2900], atol=1e-4)
    np.testing.assert_allclose(restored[:, 3000:], 0, atol=1e-4)
    assert np.abs(restored[:, 2990:3000]).max() < 0.05


def test_a_record_longer_than_the_window_is_no_whole_window(make_quake):
    with pytest.raises(UnusableError, match=r"40\.0 s, the window 30 s"):
        process.cut(make_quake(), 100.0, 3000, "whole")


@pytest.mark.parametrize("samples", [3000, 6000])
def test_each_component_is_z_scored_over_all_samples_padding_included(make_quake, samples):
    window = process.cut(make_quake() * np.array([[1], [5], [0.01]]), 100.0, samples, "onset")
    assert window.wave.dtype == np.float32
    np.testing.assert_allclose(window.wave.astype(float).mean(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(window.wave.astype(float).std(axis=1), 1, atol=1e-6)
    assert window.std[1] / window.std[2] == pytest.approx(500, rel=0.5)


def test_a_component_without_motion_cannot_be_normalised():
    with pytest.raises(UnusableError, match="N does not move"):
        process.normalise(np.array([[1.0, 2.0], [3.0, 3.0], [1.0, 2.0]]))
