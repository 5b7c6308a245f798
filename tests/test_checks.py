import numpy as np
import pytest
from scipy import signal

from data_prep.checks import UnusableError, check, check_detrended
from data_prep.process import detrend


def check_record(wave):
    check(wave, 100.0)
    check_detrended(detrend(wave), np.abs(wave).max(axis=1), 100.0)


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
    "constant but for a line": lambda wave: put(wave, 0, 0, 3 + 0.01 * np.arange(4000)),
    "constant beside others": lambda wave: wave * np.array([[1], [1e-4], [1]]),
    "glitch": lambda wave: put(wave, 1, 1200, [900.0, 800.0, 700.0]),
    "too short": lambda wave: wave[:, :900],
}


@pytest.mark.parametrize("kind", FLAWS)
def test_a_flaw_is_found_and_named(make_quake, kind):
    with pytest.raises(UnusableError) as error:
        check_record(FLAWS[kind](make_quake()))
    assert error.value.kind == kind.replace("level", "straight").split(" b")[0]
    assert error.value.reason


@pytest.mark.parametrize("shift", range(15))
def test_the_shortest_lines_count_wherever_they_begin(make_quake, shift):
    wave = make_quake()
    for start in (900, 1000, 1100):
        wave = put(wave, 0, start + shift, np.linspace(8.0, -3.0, 32))
    check_record(wave)
    with pytest.raises(UnusableError, match=r"straight lines for 1\.2 s"):
        check_record(put(wave, 0, 1200 + shift, np.linspace(8.0, -3.0, 32)))


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
    check_record(change(make_quake()))
