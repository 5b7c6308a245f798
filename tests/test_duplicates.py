import numpy as np
import pandas as pd
import pytest
from scipy.signal import correlate

from data_prep.duplicates import _candidates, near_duplicates, signatures

START_NS = 1_577_836_800 * 10**9


def rows_of(count, **columns):
    table = {
        "record": [f"R{i}" for i in range(count)],
        "event_id": [f"E{i}" for i in range(count)],
        "processing": "mp",
        "snr": 10.0,
        "start_ns": START_NS + np.arange(count) * 3600 * 10**9,
    }
    return pd.DataFrame(table | columns)


def reasons(waves, rows):
    return near_duplicates(rows, signatures(np.asarray(waves)), waves).tolist()


@pytest.fixture
def waves(make_quake):
    waves = np.stack([make_quake(seed=seed) for seed in range(6)])
    return ((waves - waves.mean(-1, keepdims=True)) / waves.std(-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_no_two_windows_are_more_correlated_than_their_signatures_allow(waves, seed):
    rng = np.random.default_rng(seed)
    first = waves[seed]
    second = 0.8 * np.roll(first, rng.integers(-300, 300), axis=1) + 0.6 * waves[5]
    doubled = np.concatenate([first, first], axis=1)
    cross = sum(correlate(a, b, "valid") for a, b in zip(doubled, second, strict=True))
    exact = cross.max() / np.linalg.norm(first) / np.linalg.norm(second)
    assert exact > 0.7
    one, other = signatures(np.stack([first, second]))
    assert one @ other >= exact - 1e-6


@pytest.mark.parametrize(
    ("share", "copied"),
    [(0.0, True), (0.1, True), (0.13, True), (0.16, False), (0.5, False)],  # correlation 1 / sqrt(1 + share²)
)
def test_what_correlates_at_99_per_cent_is_a_copy(waves, share, copied):
    unlike = waves[1] - waves[0] * (waves[0] * waves[1]).sum() / (waves[0] ** 2).sum()
    waves[1] = waves[0] + share * unlike * np.linalg.norm(waves[0]) / np.linalg.norm(unlike)
    found = reasons(waves, rows_of(6, event_id=["E"] * 6))
    assert [bool(reason) for reason in found] == [False, copied, False, False, False, False]


@pytest.mark.parametrize("none", ["", np.nan])
def test_windows_of_no_event_are_compared_with_those_of_their_time_alone(none):
    quiet = np.random.default_rng(0).standard_normal((40, 3, 500)).astype(np.float32)
    rows, signed = rows_of(40, event_id=[none] * 40), signatures(quiet)
    assert len(list(_candidates(signed[:2].repeat(20, axis=0), rows))) == 0
    rows["start_ns"] = START_NS
    assert len(list(_candidates(signed[:1].repeat(40, axis=0), rows))) == 40 * 39 / 2


def test_a_copy_is_known_whatever_its_lag_and_scale(waves):
    waves[3] = 7 * np.roll(waves[0], 40, axis=1)
    found = reasons(waves, rows_of(6, event_id=["E"] * 6))
    assert found == ["", "", "", "the same waveform as R0 (correlation 1.0000)", "", ""]


@pytest.mark.parametrize(
    ("start_s", "event", "copied"),
    [(0, "other", True), (59, "other", True), (61, "other", False), (86400, "E0", True), (-1_577_836_800, "x", False)],
)
def test_only_what_is_of_the_same_time_is_a_copy(waves, start_s, event, copied):
    waves[1] = waves[0]
    rows = rows_of(6)
    rows.loc[1, ["event_id", "start_ns"]] = [event, START_NS + start_s * 10**9]
    assert bool(reasons(waves, rows)[1]) is copied


def test_two_records_of_unknown_time_are_not_of_one_time(waves):
    waves[1] = waves[0]
    assert reasons(waves, rows_of(6, start_ns=0)) == [""] * 6


@pytest.mark.parametrize(
    ("processing", "snr", "kept"),
    [(["ap", "mp"], [9.0, 5.0], 1), (["mp", "mp"], [5.0, 9.0], 1), (["mp", "mp"], [5.0, 5.0], 0)],
)
def test_the_better_one_stays(waves, processing, snr, kept):
    waves[1] = waves[0]
    rows = rows_of(2, event_id=["E", "E"], processing=processing, snr=snr)
    assert [not reason for reason in reasons(waves[:2], rows)] == [kept == 0, kept == 1]


def test_of_many_copies_one_stays(waves):
    waves[1:4] = waves[0]
    assert [bool(reason) for reason in reasons(waves, rows_of(6, event_id=["E"] * 6))] == [
        False,
        True,
        True,
        True,
        False,
        False,
    ]
