import numpy as np
import pytest

from data_prep import onset


@pytest.mark.parametrize("fs_hz", [50.0, 100.0, 200.0])
@pytest.mark.parametrize("onset_s", [3.0, 8.0, 21.5])
def test_the_onset_is_found_within_a_tenth_of_a_second(make_quake, fs_hz, onset_s):
    wave = make_quake(fs_hz, 60.0, onset_s)
    assert onset.find_onset(wave, fs_hz) / fs_hz == pytest.approx(onset_s, abs=0.1)


def test_the_onset_is_that_of_a_weak_p_before_a_strong_s(make_quake):
    wave = 0.1 * make_quake(onset_s=8.0, seconds=60.0) + make_quake(onset_s=14.0, seconds=60.0, seed=1)
    wave[:, :1400] += 0.05 * np.random.default_rng(2).standard_normal((3, 1400)) * (np.arange(1400) > 800)
    assert onset.find_onset(wave, 100.0) / 100 == pytest.approx(8.0, abs=0.3)


def test_neither_taper_nor_padding_passes_for_an_onset(make_quake):
    wave = make_quake(onset_s=20.0, seconds=80.0)
    wave[:, :400] *= np.sin(np.linspace(0, np.pi / 2, 400)) ** 2
    wave = np.pad(wave, ((0, 0), (500, 0)))
    assert onset.find_onset(wave, 100.0) / 100 == pytest.approx(25.0, abs=0.1)


def test_shaking_from_the_first_sample_has_its_onset_there():
    wave = np.random.default_rng(0).standard_normal((3, 4000)) * np.exp(-np.arange(4000) / 1500)
    assert onset.find_onset(wave, 100.0) == 0


def test_signal_to_noise_is_the_ratio_of_amplitudes():
    rng = np.random.default_rng(0)
    wave = rng.standard_normal((3, 6000))
    wave[:, 3000:] *= 7
    ratio, noise = onset.signal_to_noise(wave, 100.0, 3000)
    assert ratio == pytest.approx(7, rel=0.03)
    assert noise == pytest.approx(3, rel=0.03)


def test_without_noise_before_the_onset_the_quietest_second_stands_in():
    rng = np.random.default_rng(0)
    wave = 7 * rng.standard_normal((3, 6000))
    wave[:, 4000:5000] /= 7
    wave[:, -200:] = 0  # padding, no quiet second
    ratio, _ = onset.signal_to_noise(wave, 100.0, 0)
    assert 6 < ratio < 9
