import h5py
import numpy as np
import pandas as pd
import pytest

from data_prep import noise, process
from data_prep.archive import Traces
from data_prep.dataset import open_dataset
from data_prep.onset import find_onset
from data_prep.prepare import prepare
from data_prep.process import UnusableError
from data_prep.record import PrepareSettings

SETTINGS = {"fs_hz": 50.0, "window_s": 20.48}
PARTS = ("train", "val", "test")


def cut(wave, fs_hz, samples, rule):
    return process.cut(wave, fs_hz, samples, rule, find_onset(wave, fs_hz))


def traces_of(lengths, starts_s, fs_hz=100.0):
    """Components whose samples count from 1970, so that each sample says when it is."""
    start_ns = tuple(round(start * 1e9) for start in starts_s)
    samples = tuple(np.arange(n) + round(start * fs_hz) for n, start in zip(lengths, starts_s, strict=True))
    return Traces(samples, (fs_hz,) * 3, start_ns, np.nan, np.nan, unit_known=False)


def test_components_are_cut_to_the_time_they_share():
    cut = noise.common_time(traces_of((3000, 2800, 3000), (1000.0, 1002.5, 1001.0)), seconds=20)
    assert cut.start_ns == (1002_500_000_000,) * 3
    assert {wave.size for wave in cut.samples} == {2750}
    assert len({tuple(wave) for wave in cut.samples}) == 1


@pytest.mark.parametrize(
    ("lengths", "starts_s", "kind", "reason"),
    [
        ((3000, 3000, 3000), (0.0, 8.0, 12.0), "components apart", "share 18.0 s"),
        ((3000, 3000, 3000), (0.0, 0.0, 99.0), "components apart", "share 0.0 s"),
        ((3000, 1500, 3000), (0.0, 0.0, 0.0), "too short", "15.0 s"),
    ],
)
def test_components_that_share_too_little_say_so(lengths, starts_s, kind, reason):
    with pytest.raises(UnusableError, match=reason) as error:
        noise.common_time(traces_of(lengths, starts_s), seconds=20)
    assert error.value.kind == kind


def test_a_quiet_stretch_becomes_windows_side_by_side_but_for_an_earthquake():
    wave = np.random.default_rng(0).standard_normal((3, 5000))
    wave[:, 2500:2900] *= 30
    windows = noise.quiet_windows(wave, 100.0, 1000)
    assert [window.start for window in windows] == [0, 1000, 3000, 4000]
    np.testing.assert_allclose(
        windows[1].wave * windows[1].std[:, None] + windows[1].mean[:, None], wave[:, 1000:2000], rtol=1e-4, atol=1e-4
    )
    assert all(window.n_valid == 1000 and window.onset is None for window in windows)


def test_the_coda_of_an_earthquake_is_no_noise():
    rng, time = np.random.default_rng(0), np.arange(40_000) / 100
    wave = rng.standard_normal((3, 40_000)) * (1 + 1000 * (time > 50) * np.exp(-np.maximum(time - 50, 0) / 20))
    starts = [window.start / 100 for window in noise.quiet_windows(wave, 100.0, 2000)]
    assert starts[:2] == [0, 20]
    assert min(start for start in starts if start > 20) >= 160
    assert max(starts) == 380


def test_before_the_event_ends_where_its_window_begins(make_quake):
    wave = make_quake(seconds=90.0, onset_s=50.0)
    event = cut(wave, 100.0, 1500, "onset")
    windows = noise.before_event(wave, 100.0, 1500, event)
    assert [window.start for window in windows] == [event.start - 3000, event.start - 1500]
    assert event.start > 4500  # but the first 4.5 s may be tapered
    peak = max(np.abs(window.wave * window.std[:, None]).max() for window in windows)
    assert peak < 0.2  # nothing of the earthquake


@pytest.mark.parametrize("before", ["zeros", "taper"])
def test_padding_and_taper_at_the_start_are_no_noise(make_quake, before):
    wave = make_quake(seconds=100.0, onset_s=60.0)
    if before == "zeros":
        wave[:, :3000] = 0
    else:
        wave[:, :500] *= np.sin(np.linspace(0, np.pi / 2, 500)) ** 2
    event = cut(wave, 100.0, 1500, "onset")
    windows = noise.before_event(wave, 100.0, 1500, event)
    assert windows
    assert min(window.start for window in windows) >= (3000 if before == "zeros" else 500)


def table_of(*windows):
    rows = [
        {"network": "IT", "station": station, "label": label, "start_ns": round(start_s * 1e9)}
        for station, label, start_s in windows
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("station", "start_s", "shared"),
    [
        ("A", 100, True),
        ("A", 139, True),
        ("A", 61, True),
        ("A", 140, True),
        ("A", 259, True),
        ("A", 260, False),
        ("A", 60, False),
        ("B", 100, False),
    ],
)
def test_noise_that_shares_time_with_an_earthquake_at_its_station_is_known(station, start_s, shared):
    rows = table_of(("A", "earthquake", 100), (station, "noise", start_s), ("A", "earthquake", 9000))
    assert noise.overlapping(rows, 40.0).tolist() == [False, shared, False]


def ambient(path, starts_s, seconds=70.0, fs_hz=100.0, unit=None):
    """An archive of ambient noise: a piece for each triple of starts."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for starts in starts_s:
            for axis, start in zip("ENZ", starts, strict=True):
                time = [pd.Timestamp(at, unit="s").strftime("%Y-%m-%dT%H:%M:%S") for at in (start, start + seconds)]
                tag = f"hn{axis.lower()}_noise_day_cv"
                data = file.create_dataset(
                    f"Waveforms/CI.USC/CI.USC..HN{axis}__{time[0]}__{time[1]}__{tag}",
                    data=(900 + 5 * rng.standard_normal(round(seconds * fs_hz))).astype(np.float32),
                )
                data.attrs["sampling_rate"], data.attrs["starttime"] = fs_hz, np.int64(start * 1e9)
        if unit:
            for axis in "ENZ":
                header = file.create_dataset(f"AuxiliaryData/Headers/CI_USC/hn{axis.lower()}_noise_day_cv", data=[0])
                header.attrs["units"] = unit
    return path


def all_rows(folder):
    dataset = open_dataset(folder)
    return pd.concat([getattr(dataset, part).rows.assign(part=part) for part in PARTS], ignore_index=True)


@pytest.fixture
def run(archive_factory, ten_events, tmp_path):
    def call(noise_files=(), events=(), **settings):
        archive, flatfile = archive_factory(*ten_events, *events)
        full = PrepareSettings(**{**SETTINGS, "noise": True, **settings})
        summary = prepare([archive], flatfile, tmp_path / "out", full, noise_files, progress=False)
        return summary, all_rows(tmp_path / "out"), pd.read_csv(tmp_path / "out" / "rejected.csv")

    return call


HOUR = 3600
PIECES = [(n * HOUR, n * HOUR + 2, n * HOUR + 5) for n in range(1, 9)]


def test_ambient_noise_is_prepared_as_earthquakes_are(run, tmp_path):
    apart, short = (10 * HOUR, 10 * HOUR + 60, 10 * HOUR + 61), (12 * HOUR,) * 3
    file = ambient(tmp_path / "n.h5", [*PIECES, apart])
    brief = ambient(tmp_path / "s.h5", [short], seconds=15.0)
    summary, rows, rejected = run([file, brief])
    quiet = rows[rows["label"] == "noise"]
    assert len(quiet) == 8 * 3  # 65 s shared, 20.48 s each
    assert summary.manifest["counts"]["labels"] == {"earthquake": 10, "noise": 24}
    assert summary.manifest["counts"]["records"] == 36
    assert sorted(rejected["kind"]) == ["components apart", "too short"]
    assert quiet[["magnitude", "distance_km", "snr", "onset_s", "std_e_cm_s2"]].isna().all(axis=None)
    assert quiet["record"].is_unique
    hour = quiet["start_ns"] // (HOUR * 10**9)
    assert quiet.groupby(hour)["part"].nunique().max() == 1
    assert set(quiet["part"]) == set(PARTS)
    waves = np.concatenate([np.load(tmp_path / "out" / f"{part}.npy") for part in PARTS])
    np.testing.assert_allclose(waves.std(axis=2), 1, atol=1e-5)
    ends = waves[(rows["label"] == "noise").to_numpy()][:, :, -100:].std(axis=2)
    assert ends.min() > 0.5  # no padding, no taper


def test_a_unit_that_the_archive_names_keeps_the_scale(run, tmp_path):
    _, rows, _ = run([ambient(tmp_path / "n.h5", PIECES, unit="m/s^2")])
    quiet = rows[rows["label"] == "noise"]
    np.testing.assert_allclose(quiet["std_e_cm_s2"], 500 * 0.45**0.5, rtol=0.1)  # half the rate, and 0.9 of that


def test_quiet_before_p_goes_where_its_earthquake_goes(run):
    events = [
        {
            "event": f"LATE-{n}",
            "station": f"L{n}",
            "latitude": 36.0 + n,
            "seconds": 90.0,
            "onset_s": 50.0,
            "magnitude": 5,
        }
        for n in range(3)
    ]
    _, rows, _ = run(events=events)
    quiet = rows[rows["label"] == "noise"]
    assert len(quiet) == 6
    both = rows[rows["event_id"].isin(quiet["event_id"])]
    assert both.groupby("event_id")["part"].nunique().max() == 1
    assert (
        quiet["start_ns"] + 20.48e9
        <= quiet["event_id"].map(both[both["label"] == "earthquake"].set_index("event_id")["start_ns"])
    ).all()
    assert np.isfinite(quiet["std_e_cm_s2"]).all()


def test_a_file_cannot_be_earthquakes_and_noise_at_once(archive_factory, ten_events, tmp_path):
    archive, flatfile = archive_factory(*ten_events)
    with pytest.raises(ValueError, match="as earthquakes and as noise"):
        prepare([archive], flatfile, tmp_path / "out", PrepareSettings(**SETTINGS), [archive], progress=False)


def test_the_real_noise_is_intersected_or_told_apart(strong_motion, tmp_path):
    settings = PrepareSettings(country="any", min_magnitude=0.0, max_depth_km=1000.0, window_s=20.0, noise=True)
    files = [strong_motion / "itaca_data_01.h5", strong_motion / "itaca_data_02.h5"]
    out = tmp_path / "out"
    prepare(files, strong_motion / "flatfile.csv", out, settings, [strong_motion / "noise_usc.h5"], progress=False)
    rows, rejected = all_rows(out), pd.read_csv(out / "rejected.csv")
    usc = rows[rows["station"] == "USC"]
    assert len(usc) == 94
    assert (usc["label"] == "noise").all()
    left_out = rejected[rejected["station"] == "USC"]
    assert left_out["kind"].value_counts().to_dict() == {"components apart": 126, "incomplete": 64}
    with h5py.File(strong_motion / "noise_usc.h5") as file:
        traces = len(file["Waveforms/CI.USC"])
    # Complete pieces have three traces; of the incomplete ones half lack one component and half lack two.
    assert traces == 3 * (94 + 126) + 32 * 2 + 32
