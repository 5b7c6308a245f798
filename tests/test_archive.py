import h5py
import numpy as np
import pyasdf
import pytest

from data_prep.archive import find_archives, index_archives, read_rates, read_traces


def channels(row):
    return [str(row[name]).split("__")[0].split(".")[-1] for name in "ENZ"]


@pytest.mark.parametrize(
    ("band", "axes", "expected"),
    [
        ("HN", "ENZ", ["HNE", "HNN", "HNZ"]),
        ("HN", "ZNE", ["HNE", "HNN", "HNZ"]),
        ("HG", "ENZ", ["HGE", "HGN", "HGZ"]),
        ("HL", "NEZ", ["HLE", "HLN", "HLZ"]),
        ("EN", "ENZ", ["ENE", "ENN", "ENZ"]),
        ("HN", "123", ["HN1", "HN2", "HN3"]),
        ("HN", "321", ["HN1", "HN2", "HN3"]),
        ("HN", "12Z", ["HN2", "HN1", "HNZ"]),
        ("HN", "UVW", ["HNU", "HNV", "HNW"]),
    ],
)
def test_components_are_told_by_name_not_position(archive_factory, band, axes, expected):
    index = index_archives([archive_factory({"band": band, "axes": axes})[0]])
    assert len(index) == 1
    assert channels(index.iloc[0]) == expected


def test_sensors_bands_events_and_processings_are_records_of_their_own(archive_factory):
    others = [{"location": "01"}, {"band": "HG"}, {"event": "E-2"}, {"processing": "cv"}, {"data_type": "vel"}]
    index = index_archives([archive_factory({}, *others)[0]])
    assert len(index) == 6
    assert index[list("ENZ")].notna().all(axis=None)
    assert sorted(index["data_type"]) == ["acc"] * 5 + ["vel"]


def test_two_stretches_of_one_sensor_are_two_records(archive_factory):
    index = index_archives([archive_factory({}, {"start": "2020-01-01T00:10:00"})[0]])
    assert [row.count("00:10:00") for row in index["E"].tolist()] == [0, 2]
    assert [row.count("00:10:00") for row in index["Z"].tolist()] == [0, 2]


def test_other_channels_beside_a_triplet_do_not_tear_it_apart(archive_factory):
    index = index_archives([archive_factory({"axes": "EXNYZ", "wave": np.zeros((5, 4000))})[0]])
    assert index[list("ENZ")].notna().all(axis=1).tolist() == [True]


def test_a_name_that_is_no_text_costs_its_station_alone(archive_factory):
    path, _ = archive_factory({}, {"station": "BBB"})
    with h5py.File(path, "a") as file:
        group = file["Waveforms/IT.BBB"]
        h5py.h5g.GroupID.link(group.id, sorted(group)[0].encode(), b"IT.BBB\xe9..HNE__a__b__hne_e_acc_mp")
    index = index_archives([path])
    assert index["damage"].ne("").tolist() == [False, True] or index["damage"].ne("").tolist() == [True, False]
    assert index["damage"].str.contains("IT.BBB is damaged").sum() == 1


def test_a_missing_component_leaves_a_gap(archive_factory):
    index = index_archives([archive_factory({"axes": "EZ"})[0]])
    assert index[list("ENZ")].notna().iloc[0].tolist() == [True, False, True]


def test_an_unknown_name_is_listed_without_components(archive_factory):
    path, _ = archive_factory({})
    with h5py.File(path, "a") as file:
        file["Waveforms/IT.AAA/junk"] = [1.0]
        file["Waveforms/IT.AAA/StationXML"] = [1]
    index = index_archives([path])
    assert index[list("ENZ")].notna().all(axis=1).tolist() == [False, True]


def test_samples_and_start_are_those_pyasdf_reads(archive_factory, tmp_path, make_quake):
    path, wave = tmp_path / "ref.h5", make_quake().astype(np.float32)
    obspy = pytest.importorskip("obspy")
    with pyasdf.ASDFDataSet(path, compression="gzip-3", mpi=False) as dataset:
        for axis, samples in zip("ENZ", wave, strict=True):
            header = {"network": "IT", "station": "AAA", "channel": f"HN{axis}", "sampling_rate": 100.0}
            trace = obspy.Trace(samples, {**header, "starttime": obspy.UTCDateTime(2020, 1, 1)})
            dataset.add_waveforms(trace, tag=f"hn{axis.lower()}_ev_1_acc_mp")
    row = index_archives([path]).iloc[0]
    with h5py.File(path) as file:
        traces = read_traces(file, [row["E"], row["N"], row["Z"]])
    np.testing.assert_array_equal(np.stack(traces.samples), wave)
    assert row["event"] == "ev_1"
    assert traces.fs_hz == (100.0,) * 3
    assert traces.start_ns == (1577836800 * 10**9,) * 3
    assert np.isnan([traces.low_cut_hz, traces.high_cut_hz]).all()


@pytest.mark.parametrize(
    ("corners", "expected"),
    [
        (("0.100", "30.0"), (0.1, 30.0)),
        ((" 0.2 ", b" 40 "), (0.2, 40.0)),
        (("None", ""), (np.nan, np.nan)),
        ((0.05, "None"), (0.05, np.nan)),
    ],
)
def test_filter_corners_come_from_the_headers(archive_factory, corners, expected):
    path, _ = archive_factory({"corners": corners})
    row = index_archives([path]).iloc[0]
    with h5py.File(path) as file:
        traces = read_traces(file, [row["E"], row["N"], row["Z"]])
    np.testing.assert_equal((traces.low_cut_hz, traces.high_cut_hz), expected)


def test_rates_are_unknown_where_they_cannot_be_read(archive_factory):
    path, _ = archive_factory({}, {"station": "BBB", "fs_hz": 200.0})
    keys = index_archives([path])["E"].tolist()
    assert read_rates(path, [*keys, "Waveforms/none"], 10.0) == pytest.approx([100.0, 200.0, np.nan], nan_ok=True)
    with h5py.File(path, "a") as file:
        del file[keys[0]].attrs["sampling_rate"]
    assert np.isnan(read_rates(path, keys, 40.1)).all()  # both last 40 s
    assert read_rates(path, keys, 10.0) == pytest.approx([np.nan, 200.0], nan_ok=True)
    path.write_bytes(b"")
    assert np.isnan(read_rates(path, keys, 10.0)).all()


def test_files_folders_and_patterns_name_each_archive_once(archive_factory, tmp_path):
    first, second = (archive_factory({}, name=name)[0] for name in ("a.h5", "b.h5"))
    assert find_archives([tmp_path]) == [first, second]
    assert find_archives([str(tmp_path / "*.h5"), second]) == [first, second]
    assert find_archives([second, first]) == [first, second]


def test_what_is_no_archive_is_one_clear_line(archive_factory, tmp_path):
    whole, _ = archive_factory({}, name="whole.h5")
    (tmp_path / "text.h5").write_text("<html>503</html>")
    (tmp_path / "cut.h5").write_bytes(whole.read_bytes()[:3000])
    h5py.File(tmp_path / "other.h5", "w").close()
    (tmp_path / "empty").mkdir()
    for name, message in [
        ("none.h5", "no such file"),
        ("*.hdf5", "no such file"),
        ("empty", "folder of .h5"),
        ("text.h5", "not an HDF5 file.*download it again"),
        ("cut.h5", "truncated or damaged.*download it again"),
        ("other.h5", "without the group Waveforms"),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            index_archives(find_archives([tmp_path / name]))
        assert str(tmp_path / name) in str(error.value)
        assert "\n" not in str(error.value)


def test_every_real_component_is_listed(strong_motion):
    index = index_archives(find_archives([strong_motion / "itaca_data_*.h5"]))
    assert len(index) == 251
    assert index[list("ENZ")].notna().all(axis=None)


@pytest.mark.parametrize("spoilt", ["Waveforms", "Waveforms/IT.AAA"])
def test_a_dataset_where_a_group_belongs_is_refused(tmp_path, spoilt):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file[spoilt] = np.zeros(3)
    with pytest.raises(ValueError, match=r"a\.h5"):
        index_archives(find_archives([tmp_path / "a.h5"]))
