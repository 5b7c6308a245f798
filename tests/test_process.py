import numpy as np
import obspy
import pytest
from scipy import ndimage, signal

from data_prep import process
from data_prep.checks import UnusableError
from data_prep.onset import find_onset


def cut(wave, fs_hz, samples, rule):
    return process.cut(wave, fs_hz, samples, rule, find_onset(wave, fs_hz))


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
    np.testing.assert_allclose(ours, np.array(reference), atol=1e-3 * np.abs(wave).max())


@pytest.mark.parametrize(("fs_hz", "new_hz"), [(100, 200), (125, 200), (250, 200), (200, 50)])
@pytest.mark.parametrize(("share", "kept"), [(0.1, True), (0.5, True), (0.8, True), (1.0, False), (1.2, False)])
def test_resampling_leaves_the_band_as_it_is_and_neither_image_nor_alias(fs_hz, new_hz, share, kept):
    frequency_hz = share * min(fs_hz, new_hz) / 2
    if frequency_hz >= fs_hz / 2:
        pytest.skip("no record holds that frequency")
    old, new = np.arange(40 * fs_hz) / fs_hz, np.arange(40 * new_hz) / new_hz
    ours = process.resample(np.sin(2 * np.pi * frequency_hz * old)[None], fs_hz, new_hz)[0]
    expected = kept * np.sin(2 * np.pi * frequency_hz * new)
    np.testing.assert_allclose(ours[new_hz:-new_hz], expected[new_hz:-new_hz], atol=1e-3)


@pytest.mark.parametrize("samples", [500, 6000])
@pytest.mark.parametrize(("fs_hz", "new_hz", "up", "down"), [(100, 200, 2, 1), (50, 200, 4, 1), (200, 100, 1, 2)])
def test_resampling_in_blocks_is_the_sum_over_taps_with_the_ends_drawn_on(samples, fs_hz, new_hz, up, down):
    wave = np.random.default_rng(0).standard_normal((3, samples)).astype(np.float32) + 3
    taps, beta = signal.kaiserord(70, 0.2 / max(up, down))
    window = signal.firwin(taps | 1, 0.9 / max(up, down), window=("kaiser", beta))
    expected = signal.resample_poly(wave.astype(float), up, down, axis=1, window=window, padtype="line")
    np.testing.assert_allclose(process.resample(wave, fs_hz, new_hz), expected, atol=1e-5)


def test_rates_without_a_simple_ratio_are_refused():
    with pytest.raises(UnusableError, match="no simple ratio"):
        process.resample(np.zeros((3, 1000)), 100.0, 161.8034)


@pytest.mark.parametrize("samples", [700, 4000, 9973])
@pytest.mark.parametrize(("fs_hz", "pass_hz"), [(200.0, 40.0), (100.0, 20.0), (1000.0, 10.0)])
def test_low_pass_in_blocks_is_the_convolution_with_the_ends_held(samples, fs_hz, pass_hz):
    wave = np.random.default_rng(0).standard_normal((3, samples)).astype(np.float32)
    taps, beta = signal.kaiserord(60, pass_hz / 4 / (fs_hz / 2))
    kernel = signal.firwin(taps | 1, pass_hz * 1.125, window=("kaiser", beta), fs=fs_hz)
    expected = ndimage.convolve1d(wave.astype(float), kernel, axis=1, mode="nearest")
    np.testing.assert_allclose(process.low_pass(wave, fs_hz, pass_hz), expected, atol=1e-5)


def test_detrending_is_obspy_s(make_quake):
    wave = make_quake() + np.array([[500.0], [-3.0], [0.0]]) + np.linspace(0, 20, 4000)
    ours = process.detrend(wave)
    for samples, reference in zip(ours, wave, strict=True):
        expected = obspy.Trace(reference.copy()).detrend("linear").data
        np.testing.assert_allclose(samples, expected, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize(("frequency_hz", "gain"), [(1, 1), (20, 1), (39, 1), (50, 0), (70, 0)])
def test_low_pass_keeps_its_band_and_nothing_above(frequency_hz, gain):
    time = np.arange(4000) / 200
    wave = np.sin(2 * np.pi * frequency_hz * time)[None]
    filtered = process.low_pass(wave, 200.0, 40.0)[0, 500:-500]
    np.testing.assert_allclose(filtered, gain * wave[0, 500:-500], atol=2e-3)


@pytest.mark.parametrize(
    ("window_s", "onset_s", "expected_onset_s"),
    [(30, 8, 3.75), (40, 8, 5.0), (20, 8, 2.5), (30, 2, 2.0)],
)
def test_an_onset_window_begins_an_eighth_of_it_before_p(make_quake, window_s, onset_s, expected_onset_s):
    window = cut(make_quake(seconds=90.0, onset_s=onset_s), 100.0, window_s * 100, "onset")
    assert window.wave.shape == (3, window_s * 100)
    assert (window.onset - window.start) / 100 == pytest.approx(expected_onset_s, abs=0.1)
    assert window.n_valid == window_s * 100
    assert window.energy_kept > 0.99


def test_the_lead_shrinks_to_a_second_before_shaking_is_lost(make_quake):
    wave = make_quake(seconds=90.0, onset_s=20.0)
    wave[:, 2000:] = np.random.default_rng(0).standard_normal((3, 7000)) * np.exp(-np.arange(7000) / 3000)
    window = cut(wave, 100.0, 2000, "onset")
    assert (window.onset - window.start) / 100 == pytest.approx(1.0, abs=0.1)
    energy = (wave[:, 1900:3900] ** 2).sum() / (wave**2).sum()
    assert window.energy_kept == pytest.approx(energy, abs=0.02)


def test_exact_silence_before_the_shock_is_no_trouble(make_quake):
    wave = make_quake(seconds=60.0, onset_s=20.0)
    wave[:, :2000] = 0
    wave[:, 0] = 1e-3  # so that the silence is no padding
    window = cut(wave, 100.0, 4000, "onset")
    assert (window.onset - window.start) / 100 == pytest.approx(5.0, abs=0.1)
    assert window.energy_kept == pytest.approx(1, abs=1e-4)
    assert np.isfinite(window.snr)


def test_a_short_record_is_tapered_and_padded_at_its_end(make_quake):
    wave = make_quake(seconds=30.0, onset_s=3.0) + 1
    window = cut(wave, 100.0, 4000, "whole")
    restored = window.wave * window.std[:, None] + window.mean[:, None]
    assert window.n_valid == 3000
    assert window.energy_kept == 1
    np.testing.assert_allclose(restored[:, :2900], wave[:, :2900], atol=1e-4)
    np.testing.assert_allclose(restored[:, 3000:], 0, atol=1e-4)
    assert np.abs(restored[:, 2990:3000]).max() < 0.05


def test_a_record_longer_than_the_window_is_no_whole_window(make_quake):
    with pytest.raises(UnusableError, match=r"40\.0 s, the window 30 s"):
        cut(make_quake(), 100.0, 3000, "whole")


@pytest.mark.parametrize("samples", [3000, 6000])
def test_each_component_is_z_scored_over_all_samples_padding_included(make_quake, samples):
    window = cut(make_quake() * np.array([[1], [5], [0.01]]), 100.0, samples, "onset")
    assert window.wave.dtype == np.float32
    np.testing.assert_allclose(window.wave.astype(float).mean(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(window.wave.astype(float).std(axis=1), 1, atol=1e-6)
    assert window.std[1] / window.std[2] == pytest.approx(500, rel=0.5)


def test_a_component_without_motion_cannot_be_normalised():
    with pytest.raises(UnusableError, match="N does not move"):
        process.normalise(np.array([[1.0, 2.0], [3.0, 3.0], [1.0, 2.0]]))
