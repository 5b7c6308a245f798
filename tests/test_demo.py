"""The demo archive: its waveforms against theory, its form against ITACA's, its flaws as announced."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import obspy
import pandas as pd
import pytest
from numpy.typing import NDArray
from pyasdf import ASDFDataSet

from data_prep import demo, stochastic
from data_prep.demo import FLAWS, DemoArchive, Planted, write_demo_archive
from data_prep.demo_catalogue import draw_events, draw_stations, epicentral_km, hypocentral_km
from data_prep.stochastic import FS_HZ, background_noise, fourier_spectrum, ground_motion, noise_spectrum

N_EVENTS, STATIONS_PER_EVENT = len(FLAWS) + 1, 2
Wave = NDArray[np.float32]
Traces = dict[tuple[str, str], h5py.Dataset]
Table = Any  # a data frame: its cells have no static types


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> DemoArchive:
    return write_demo_archive(tmp_path_factory.mktemp("demo") / "archive", N_EVENTS, STATIONS_PER_EVENT)


@pytest.fixture(scope="module")
def table(archive: DemoArchive) -> Table:
    return pd.read_csv(archive.flatfile, sep=";")


@pytest.fixture(scope="module")
def traces(archive: DemoArchive) -> Iterator[Traces]:
    found: Traces = {}
    with ExitStack() as stack:
        for path in archive.files:
            for station in stack.enter_context(h5py.File(path))["Waveforms"].values():
                found |= {(path.name, key): data for key, data in station.items() if key != "StationXML"}
        yield found


def components(planted: Planted, table: Table, traces: Traces) -> dict[str, Wave]:
    own = table.set_index(["EVENT_ID", "STATION_CODE", "processing"]).sort_index()
    rows = own.loc[[(planted.event_id, planted.station, planted.processing.upper())]]
    return {row.component: traces[row.filename, row.dataset][:] for row in rows.itertuples()}


def sound_traces(table: Table, traces: Traces, archive: DemoArchive) -> Iterator[tuple[Any, Wave, int, int]]:
    """Row, waveform, and the samples at which theory puts P and S, of each trace without a flaw."""
    planted = {(p.event_id, p.station, p.processing.upper()) for p in archive.planted}
    for row in table.itertuples():
        if (row.EVENT_ID, row.STATION_CODE, row.processing) in planted:
            continue
        data = traces[row.filename, row.dataset]
        origin_s = pd.Timestamp(row.event_time).value / 1e9 - data.attrs["starttime"] / 1e9
        distance_km = np.hypot(row.epi_dist_km, row.EVENT_DEPTH_KM)
        p, s = (int((origin_s + distance_km / velocity) * FS_HZ) for velocity in (3.5 * 3**0.5, 3.5))
        yield row, data[:], p, s


def announced(flaw: str, archive: DemoArchive) -> Planted:
    return next(planted for planted in archive.planted if planted.flaw == flaw)


@pytest.mark.parametrize("scenario", ["one magnitude and distance", "all magnitudes and distances"])
def test_mean_fourier_spectrum_of_200_records_is_the_theoretical_one(scenario: str) -> None:
    n, rng = 3500, np.random.default_rng(0)
    freq_hz = np.fft.rfftfreq(n, 1 / FS_HZ)
    ratios = []
    for _ in range(200):
        random = scenario.startswith("all")
        magnitude, distance_km = (rng.uniform(4.1, 6.3), rng.uniform(8, 40)) if random else (5.2, 22.0)
        wave = ground_motion(magnitude, distance_km, 7.0, n, rng) + background_noise(n, rng)
        theory = [fourier_spectrum(freq_hz, magnitude, distance_km, c) ** 2 for c in "ENZ"]
        power = (np.abs(np.fft.rfft(wave)) / FS_HZ) ** 2
        ratios.append(power / (np.array(theory) + noise_spectrum(n / FS_HZ) ** 2))
    band = np.digitize(freq_hz, np.geomspace(0.3, 20, 13))
    amplitude = [np.sqrt(np.array(ratios)[..., band == k].mean()) for k in range(1, 13)]
    np.testing.assert_allclose(amplitude, 1, atol=0.05)


def test_theory_has_the_levels_of_the_brune_source_at_both_ends() -> None:
    """Below the corner the S spectrum rises as f^2 M0, above it is flat before attenuation: eqs. 1-10 by hand."""
    magnitude, distance_km = 5.0, 20.0
    moment = 10 ** (1.5 * magnitude + 16.05)
    corner_hz = 4.9e6 * 3.5 * (200 / moment) ** (1 / 3)
    level = 0.55 * 2 * 0.707 / (4 * np.pi * 2.8 * 3.5**3) * moment / distance_km * 1e-20
    for freq_hz in (corner_hz / 20, corner_hz * 5):
        loss = np.pi * freq_hz * (distance_km / (47 * freq_hz**0.87 * 3.5) + 0.04)
        expected = level * (2 * np.pi * freq_hz) ** 2 / (1 + (freq_hz / corner_hz) ** 2) * np.exp(-loss)
        found = fourier_spectrum(freq_hz, magnitude, distance_km, "E")
        # P adds its power, (1 / 3^1.5 x 0.52 / 0.55 x 0.354 / 0.707)^2 = 0.8 % before it is attenuated less
        assert expected < found < 1.02 * expected


def test_window_peaks_at_a_fifth_of_its_length_and_ends_at_a_twentieth_of_its_peak() -> None:
    duration_s = 5.0
    found = stochastic.window(np.array([-1.0, 0.0, 2.0, 10.0]), duration_s)
    np.testing.assert_allclose(found, [0, 0, 1, 0.05], atol=1e-12)


def test_s_follows_p_by_the_time_that_the_velocities_give() -> None:
    distance_km, onset_s = 35.0, 7.0
    rng = np.random.default_rng(0)
    power = np.mean([ground_motion(4.5, distance_km, onset_s, 3500, rng) ** 2 for _ in range(50)], axis=(0, 1))
    expected_s = onset_s + distance_km / 3.5 * (1 - 3**-0.5)
    p, s = int(onset_s * FS_HZ), int(expected_s * FS_HZ)
    assert power[p : p + 50].mean() > 100 * power[: p - 50].mean()
    assert power[s + 20 : s + 50].mean() > 10 * power[s - 50 : s - 20].mean()
    assert np.argmax(np.diff(np.sqrt(np.convolve(power, np.ones(20), "same")))) == pytest.approx(s, abs=30)


def test_distances_outside_the_model_are_refused() -> None:
    with pytest.raises(ValueError, match=r"60.0 km: expected 0 < distance <= 40"):
        ground_motion(5.0, 60.0, 7.0, 3500, np.random.default_rng(0))


def test_p_is_strongest_on_the_vertical_and_s_on_the_horizontals(
    table: Table, traces: Traces, archive: DemoArchive
) -> None:
    rms: dict[tuple[str, str], list[Any]] = {}
    for row, wave, p, s in sound_traces(table, traces, archive):
        rms.setdefault((row.component[-1], "P"), []).append(np.std(wave[p:s]))
        rms.setdefault((row.component[-1], "S"), []).append(np.std(wave[s : s + 200]))
    mean = {key: np.mean(values) for key, values in rms.items()}
    assert mean["Z", "P"] > 1.5 * mean["E", "P"]
    assert mean["E", "S"] > 1.2 * mean["Z", "S"]
    assert mean["E", "S"] > 4 * mean["E", "P"]


def test_window_of_20_s_around_the_onset_holds_the_energy_and_noise_is_far_below(
    table: Table, traces: Traces, archive: DemoArchive
) -> None:
    count = 0
    for row, wave, p, s in sound_traces(table, traces, archive):
        energy = wave.astype(float) ** 2
        assert energy[p - 250 : p - 250 + 2048].sum() > 0.98 * energy.sum(), row.dataset
        assert np.std(wave[s : s + 200]) > 10 * np.std(wave[: p - 50]), row.dataset
        count += 1
    assert count == 3 * archive.n_sound


def test_names_and_attributes_are_those_of_itaca(table: Table, traces: Traces) -> None:
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"
    form = rf"XX\.D\d{{3}}\.\.(HG[ENZ])__{time}__{time}__(hg[enz])_(demo_\d{{4}})_acc_(mp|cv)"
    for (_, key), data in traces.items():
        match = re.fullmatch(form, key)
        assert match, key
        assert match[1].lower() == match[2]
        event_id = data.attrs["event_id"]
        text = event_id.decode() if isinstance(event_id, bytes) else event_id
        assert text.startswith("smi:")
        assert text.split("event_id=")[1].lower().replace("-", "_") == match[3]
        assert data.dtype == np.float32
        assert data.attrs["sampling_rate"] == FS_HZ
        assert data.attrs["starttime"].dtype == np.int64
        start = pd.Timestamp(data.attrs["starttime"])
        assert start.strftime("%Y-%m-%dT%H:%M:%S") == key.split("__")[1]


def test_flatfile_matches_the_traces_one_to_one(table: Table, traces: Traces) -> None:
    keys = list(zip(table.filename, table.dataset, strict=True))
    assert len(keys) == len(set(keys))
    assert set(keys) == set(traces)
    for row in table.itertuples():
        data = traces[row.filename, row.dataset]
        assert len(data) == row.NDATA
        assert row.dur_s == pytest.approx((row.NDATA - 1) * row.SAMPLING_INTERVAL_S)
        assert row.pga_cm_s2 == pytest.approx(np.nanmax(np.abs(data[:])), abs=1e-4)
        assert row.component == row.dataset.split("__")[0][-3:]


def test_pyasdf_reads_waveforms_events_and_stations(archive: DemoArchive, table: Table) -> None:
    for path in archive.files:
        with ASDFDataSet(str(path), mode="r", mpi=False) as dataset:
            catalogue = {str(event.resource_id): event for event in dataset.events}
            rows = table[table.filename == path.name].drop_duplicates(["EVENT_ID", "STATION_CODE"])
            assert len(catalogue) == rows.EVENT_ID.nunique()
            for row in rows.itertuples():
                event = catalogue[f"smi:local/demo?event_id={row.EVENT_ID}"]
                assert event.preferred_origin().depth == pytest.approx(1000 * row.EVENT_DEPTH_KM)
                assert event.preferred_origin().time == obspy.UTCDateTime(row.event_time)
                assert event.preferred_magnitude().mag == row.Mw
                station = dataset.waveforms[f"XX.{row.STATION_CODE}"]
                assert station.coordinates["latitude"] == row.STATION_LATITUDE_DEGREE
                assert {channel.code for channel in station.StationXML[0][0]} == set(demo.CHANNELS)
                tag = f"hge_{row.EVENT_ID}_acc_mp".lower().replace("-", "_")
                assert station[tag][0].stats.asdf.event_ids == [event.resource_id]


@pytest.mark.parametrize(
    ("flaw", "is_so"),
    [
        ("constant component", lambda c: np.ptp(c["HGE"]) == 0 and np.ptp(c["HGN"]) > 0),
        ("NaN samples", lambda c: np.isnan(c["HGN"]).sum() == 50 and np.isfinite(c["HGE"]).all()),
        ("too short", lambda c: len(c["HGZ"]) == 500),
        ("clipped", lambda c: (np.abs(c["HGE"]) == np.abs(c["HGE"]).max()).sum() > 20),
        ("noise only", lambda c: max(np.abs(wave).max() for wave in c.values()) < 0.1),
        ("missing component", lambda c: set(c) == {"HGE", "HGN"}),
        ("cv duplicate of an mp", lambda c: all(np.isclose(wave.mean(), 1.5, atol=0.2) for wave in c.values())),
    ],
)
def test_planted_records_have_the_flaw_announced(
    flaw: str, is_so: Callable[[dict[str, Wave]], bool], archive: DemoArchive, table: Table, traces: Traces
) -> None:
    assert is_so(components(announced(flaw, archive), table, traces))


def test_planted_records_are_extra_and_the_duplicate_has_its_original(
    archive: DemoArchive, table: Table, traces: Traces
) -> None:
    assert [planted.flaw for planted in archive.planted] == list(FLAWS)
    records = table.drop_duplicates(["EVENT_ID", "STATION_CODE", "processing"])
    assert len(records) == archive.n_sound + len(FLAWS)
    assert archive.n_sound == N_EVENTS * STATIONS_PER_EVENT
    copy = announced("cv duplicate of an mp", archive)
    original = Planted(copy.flaw, copy.event_id, copy.station, "mp")
    for component, wave in components(original, table, traces).items():
        np.testing.assert_allclose(components(copy, table, traces)[component], wave + 1.5, rtol=1e-6)


def test_same_seed_gives_the_same_waveforms_and_another_seed_others(
    archive: DemoArchive, tmp_path: Path, traces: Traces
) -> None:
    same = write_demo_archive(tmp_path / "same", N_EVENTS, STATIONS_PER_EVENT)
    other = write_demo_archive(tmp_path / "other", N_EVENTS, STATIONS_PER_EVENT, seed=1)
    assert same.flatfile.read_bytes() == archive.flatfile.read_bytes()
    assert same.flatfile.read_bytes() != other.flatfile.read_bytes()
    with h5py.File(same.files[0]) as file:
        for station in file["Waveforms"].values():
            for key in station.keys() - {"StationXML"}:
                np.testing.assert_array_equal(station[key][:], traces[same.files[0].name, key][:])


def test_complete_archive_is_left_alone_and_another_one_refused(archive: DemoArchive) -> None:
    folder = archive.flatfile.parent
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert write_demo_archive(folder, N_EVENTS, STATIONS_PER_EVENT) == archive
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    with pytest.raises(ValueError, match=r"is not the demo archive of .*'seed': 5"):
        write_demo_archive(folder, N_EVENTS, STATIONS_PER_EVENT, seed=5)


def test_nothing_is_left_when_writing_fails_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(demo, "_flatfile_row", fail)
    with pytest.raises(OSError, match="disk full"):
        write_demo_archive(tmp_path / "archive", N_EVENTS, STATIONS_PER_EVENT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("n_events", "stations"), [(len(FLAWS) - 1, 5), (20, 0), (20, 9)])
def test_numbers_that_cannot_be_met_are_refused(n_events: int, stations: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{n_events} events at {stations} stations: expected"):
        write_demo_archive(tmp_path / "archive", n_events, stations)


def test_default_catalogue_spreads_over_space_distance_and_magnitude() -> None:
    events = draw_events(120, 6, seed=0)
    blocks = {(e.latitude * 111.2 // 20, e.longitude * 81.7 // 20) for e in events}
    assert len(blocks) >= 30
    assert len(draw_stations(0)) == 42
    distances = [(epicentral_km(e, s), hypocentral_km(e, s)) for e in events for s in e.stations]
    assert min(epicentral for epicentral, _ in distances) >= 5
    assert max(hypocentral for _, hypocentral in distances) <= 40
    assert all(len(set(e.stations)) == 6 for e in events)
    assert {e.magnitude for e in events} <= {round(m / 10, 1) for m in range(41, 64)}
