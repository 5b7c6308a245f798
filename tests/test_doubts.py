import numpy as np
import pandas as pd
import pytest

from data_prep.doubts import find_doubts, ita10_log_pga, suspect_networks

SAMPLES = 400


def make_rows(windows, **columns):
    """Rows without a fault, each of a station of its own: M 4 to 6.9, PGA as the model has it."""
    magnitude, distance_km = np.linspace(4.0, 6.9, windows), np.random.default_rng(0).uniform(5, 150, windows)
    rows = {
        "event_id": [f"E{i % 12}" for i in range(windows)],
        "network": [("IT", "TK")[i % 2] for i in range(windows)],
        "station": [f"S{i}" for i in range(windows)],
        "label": "earthquake",
        "magnitude": magnitude,
        "magnitude_type": "Mw",
        "distance_km": distance_km,
        "pga_cm_s2": 10 ** ita10_log_pga(magnitude, distance_km),
        "usable_low_hz": 0.1,
        "onset_s": 2.0,
        "n_valid": SAMPLES,
        "samples": SAMPLES,
    }
    return pd.DataFrame(rows).assign(**columns)


@pytest.mark.parametrize(
    ("magnitude", "distance_km", "g"),
    [(4.0, 0.0, 0.0266237706), (6.0, 10.0, 0.1031595907), (6.9, 30.0, 0.077157745), (5.0, 100.0, 0.0009338143)],
)
def test_the_model_gives_the_values_of_openquake(magnitude, distance_km, g):
    """Its test table is for strike-slip (rake 0), whose term is -0.0544, on class A, in g."""
    assert ita10_log_pga(magnitude, distance_km) - 0.0544 == pytest.approx(np.log10(g * 980.665), abs=1e-5)


@pytest.mark.parametrize(
    ("factor", "windows", "named"), [(18, 3, True), (1 / 18, 3, True), (18, 2, False), (4, 12, False), (1, 12, False)]
)
def test_a_network_far_from_the_model_is_named(factor, windows, named):
    rows = make_rows(24)
    rows.loc[: windows - 1, "network"] = "CN"
    rows.loc[: windows - 1, "pga_cm_s2"] *= factor
    suspects = suspect_networks(rows)
    assert suspects.index.tolist() == ["CN"] * named
    assert suspects["factor"].tolist() == pytest.approx([factor] * named)


def titles(rows, **signals):
    table = pd.DataFrame({"mean": 0.0, "std": 1.0, **signals}, index=range(3 * len(rows)))
    rows = rows.assign(place=rows["network"] + "." + rows["station"])
    return [doubt.title for doubt in find_doubts(rows, table)]


SOUND = {"part": ["train"] * 120 + ["val"] * 60 + ["test"] * 60, "event_id": [f"E{i // 6}" for i in range(240)]}


def test_a_sound_dataset_raises_no_doubt():
    assert titles(make_rows(240, **SOUND)) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"event_id": "E"}, "One event, E, holds 100%"),
        ({"event_id": [f"E{i % 60}" for i in range(240)]}, "60 events are in more than one part"),
        ({"part": "train"}, "val holds 0 earthquake windows of 0 events"),
        ({"station": "S"}, "120 of 120 windows of val and test are from stations of train"),
        ({"station": [f"S{i // 2 * 2}" for i in range(240)], "network": "IT"}, "240 windows share event and station"),
        ({"magnitude": np.nan}, "240 of 240 earthquake windows have no magnitude"),
        ({"magnitude_type": "Ml"}, "240 of 240 earthquake windows have Ml standing in for Mw"),
        ({"onset_s": 0.5}, "240 of 240 earthquake windows begin less than 1 s before the onset"),
        ({"n_valid": SAMPLES - 1}, "240 of 240 earthquake windows are padded with zeros"),
        ({"pga_cm_s2": 1e-3}, "Network IT: PGA is typically"),
    ],
)
def test_each_doubt_is_raised_by_what_it_names(change, expected):
    assert any(title.startswith(expected) for title in titles(make_rows(240, **{**SOUND, **change})))


@pytest.mark.parametrize("signals", [{"mean": 0.1}, {"std": 1.1}, {"std": np.nan}])
def test_signals_that_are_not_z_scored_are_counted(signals):
    assert titles(make_rows(240, **SOUND), **signals) == ["720 of 720 signals are not z-scored"]


def test_the_warnings_of_the_split_are_doubts():
    signals = pd.DataFrame({"mean": [0.0], "std": [1.0]})
    rows = make_rows(240, **SOUND).assign(place="")
    (doubt,) = find_doubts(rows, signals, ["noise: 4 records, none in val; take more"])
    assert (doubt.serious, doubt.title) == (True, "Split: noise: 4 records, none in val")
    assert doubt.text == "To mend it: take more."
