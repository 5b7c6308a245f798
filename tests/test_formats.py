"""Generated waveforms in the field's formats, read back by its tools and by our own preparation."""

import itertools
from dataclasses import replace

import h5py
import numpy as np
import obspy
import pandas as pd
import pyasdf
import pytest

from data_prep.archive import index_archives, read_traces
from data_prep.dataset import open_dataset
from data_prep.prepare import prepare
from data_prep.process import detrend
from data_prep.record import PrepareSettings
from search.waveforms.asdf import write_asdf
from search.waveforms.formats import (
    CM_S2,
    MAX_COUNT,
    NORMALISED,
    Batch,
    Layout,
    with_table,
    write_array,
    write_miniseed,
)

SAMPLES, FS_HZ = 2000, 100.0
COUNT, BATCH = 10, 4


LAYOUT = Layout(COUNT, "ENZ", SAMPLES, FS_HZ, "earthquake", CM_S2, seed=7)


@pytest.fixture
def wave(make_quake):
    """Ten earthquakes in float32, (N, C, T)."""
    return np.float32([make_quake(FS_HZ, SAMPLES / FS_HZ, onset_s=4.0, seed=n) for n in range(COUNT)])


def batches(wave, of):
    told = {"Mw": "5.5", "epi_dist_km": "20", "EVENT_DEPTH_KM": ""}
    rows = [{"index": n} | told | of.names(n) for n in range(len(wave))]
    return [Batch(wave[n : n + BATCH], rows[n : n + BATCH]) for n in range(0, len(wave), BATCH)]


def test_an_array_comes_back(wave, tmp_path):
    write_array(tmp_path / "x.npy", LAYOUT, batches(wave, LAYOUT))
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), wave)


@pytest.mark.parametrize(("label", "events"), [("earthquake", COUNT), ("noise", 0)])
def test_pyasdf_reads_every_event_station_and_sample(wave, tmp_path, label, events):
    of = replace(LAYOUT, label=label)
    write_asdf(tmp_path / "x.h5", of, batches(wave, of))
    with pyasdf.ASDFDataSet(str(tmp_path / "x.h5"), mode="r", mpi=False) as archive:
        assert [event.magnitudes[0].mag for event in archive.events] == [5.5] * events
        stations = [archive.waveforms[name] for name in archive.waveforms.list()]
        assert len(stations) == COUNT
        for number, station in enumerate(stations):
            traces = [station[tag][0] for tag in station.get_waveform_tags()]
            assert [trace.stats.channel for trace in traces] == ["HNE", "HNN", "HNZ"]
            assert {trace.stats.sampling_rate for trace in traces} == {FS_HZ}
            assert all(len(trace.stats.asdf.get("event_ids", [])) == bool(events) for trace in traces)
            np.testing.assert_array_equal([trace.data for trace in traces], wave[number])
        if events:
            event = stations[3][stations[3].get_waveform_tags()[0]][0].stats.asdf.event_ids[0]
            assert event == archive.events[3].resource_id


def test_obspy_reads_every_sample_of_a_miniseed(wave, tmp_path):
    write_miniseed(tmp_path / "x.mseed", LAYOUT, batches(wave, LAYOUT))
    stream = obspy.read(tmp_path / "x.mseed")
    assert len(stream) == 3 * COUNT
    np.testing.assert_array_equal(np.reshape([trace.data for trace in stream], wave.shape), wave)
    assert [trace.stats.channel for trace in stream[:3]] == ["HNE", "HNN", "HNZ"]
    assert {(trace.stats.sampling_rate, trace.stats.mseed.encoding) for trace in stream} == {(FS_HZ, "FLOAT32")}
    times = [(trace.stats.starttime, trace.stats.endtime) for trace in stream[::3]]
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(times))


def test_both_formats_and_the_table_use_the_same_names(wave, tmp_path):
    write_miniseed(tmp_path / "x.mseed", LAYOUT, with_table(tmp_path / "x.csv", batches(wave, LAYOUT)))
    write_asdf(tmp_path / "x.h5", LAYOUT, batches(wave, LAYOUT))
    stream, table = obspy.read(tmp_path / "x.mseed"), pd.read_csv(tmp_path / "x.csv")
    index = index_archives([tmp_path / "x.h5"])
    assert list(table["STATION_CODE"]) == [trace.stats.station for trace in stream[::3]] == list(index["station"])
    assert list(table["start_time"]) == [trace.stats.starttime.strftime("%Y-%m-%dT%H:%M:%SZ") for trace in stream[::3]]
    assert list(table["EVENT_ID"].str.replace("-", "_")) == list(index["event"])


def test_our_own_preparation_makes_windows_of_an_asdf_file_and_its_table(wave, tmp_path):
    write_asdf(tmp_path / "x.h5", LAYOUT, with_table(tmp_path / "x.csv", batches(wave, LAYOUT)))
    settings = PrepareSettings(country="any", max_depth_km=800.0, window="whole", fs_hz=FS_HZ, window_s=20.0)
    prepare([tmp_path / "x.h5"], tmp_path / "x.csv", tmp_path / "data", settings, progress=False)
    data = open_dataset(tmp_path / "data")
    found = {}
    for part in (data.train, data.val, data.test):
        assert set(part.rows["magnitude"]) == {5.5}
        assert set(part.rows["distance_km"]) == {20.0}
        found |= dict(zip(part.rows["event_id"], part.waves, strict=True))
    assert len(found) == COUNT
    for number, original in enumerate(wave):
        straight = detrend(original.astype(np.float64))
        expected = (straight - straight.mean(-1, keepdims=True)) / straight.std(-1, keepdims=True)
        np.testing.assert_allclose(found[f"generated-7-{number}"], expected, atol=1e-4)


def test_noise_is_read_as_noise_of_known_unit(wave, tmp_path):
    of = replace(LAYOUT, label="noise")
    write_asdf(tmp_path / "x.h5", of, batches(wave, of))
    index = index_archives([tmp_path / "x.h5"])
    with h5py.File(tmp_path / "x.h5") as file:
        traces = read_traces(file, index.loc[2, ["E", "N", "Z"]])
    assert traces.unit_known
    np.testing.assert_array_equal(traces.samples, wave[2])


def test_what_is_in_no_unit_is_not_taken_for_an_acceleration(wave, tmp_path):
    of = replace(LAYOUT, units=NORMALISED)
    write_asdf(tmp_path / "x.h5", of, with_table(tmp_path / "x.csv", batches(wave, of)))
    settings = PrepareSettings(country="any", max_depth_km=800.0)
    with pytest.raises(ValueError, match="unit 'normalised', expected one of cm/s"):
        prepare([tmp_path / "x.h5"], tmp_path / "x.csv", tmp_path / "data", settings, progress=False)


def test_names_stay_within_their_formats_to_the_last_waveform():
    first, last = (LAYOUT.names(number) for number in (0, MAX_COUNT - 1))
    assert (first["STATION_CODE"], last["STATION_CODE"]) == ("A0000", "ZZZZZ")
    assert last["start_time"] < "2262"  # where nanoseconds since 1970 end


def test_two_components_are_two_traces(wave, tmp_path):
    of = replace(LAYOUT, components="EZ")
    write_miniseed(tmp_path / "x.mseed", of, batches(wave[:, [0, 2]], of))
    stream = obspy.read(tmp_path / "x.mseed")
    assert [trace.stats.channel for trace in stream[:2]] == ["HNE", "HNZ"]
    assert len(stream) == 2 * COUNT
