"""What may be wrong with one record, file or row: it is left out with its reason, and the rest is prepared."""

import resource
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from data_prep.dataset import open_dataset
from data_prep.prepare import prepare
from data_prep.record import PrepareSettings

SETTINGS = PrepareSettings(fs_hz=50.0, window_s=20.48)


@pytest.fixture
def good(archive_factory, ten_events):
    """Archive and flatfile of nine sound records."""
    return archive_factory(*ten_events[:9], name="good.h5")


@pytest.fixture
def bad(archive_factory, ten_events, tmp_path):
    """A tenth sound record in an archive of its own, to be spoilt; its flatfile rows are in `all.csv`."""

    def make(good_flatfile, **change):
        archive, flatfile = archive_factory({**ten_events[9], "seed": 9, **change}, name="bad.h5")
        rows = [pd.read_csv(path, sep=";", dtype=str, keep_default_na=False) for path in (good_flatfile, flatfile)]
        pd.concat(rows).to_csv(tmp_path / "all.csv", sep=";", index=False)
        return archive

    return make


def prepared(archives, flatfile, out):
    prepare(archives, flatfile, out, SETTINGS, progress=False)
    dataset, rejected = open_dataset(out), pd.read_csv(out / "rejected.csv", dtype=str, keep_default_na=False)
    stations = {name for part in (dataset.train, dataset.val, dataset.test) for name in part.rows["station"]}
    assert dataset.manifest["counts"]["records"] == dataset.manifest["counts"]["windows"] + len(rejected)
    return stations, rejected


def file_of(content):
    return lambda path: path.write_bytes(content)


def cut_short(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change(edit):
    """Spoil the first trace of the archive through h5py."""

    def spoil(path):
        with h5py.File(path, "a") as file:
            group = file["Waveforms/IT.S9"]
            edit(group, sorted(group)[0])

    return spoil


def stored(samples, **options):
    """Store the first trace's samples, changed, in the stead of them."""

    def edit(group, name):
        attributes, old = dict(group[name].attrs), group[name][...]
        del group[name]
        group.create_dataset(name, data=samples(old), **options).attrs.update(attributes)

    return change(edit)


def attribute(name, value):
    def edit(group, key):
        if value is None:
            del group[key].attrs[name]
        else:
            group[key].attrs[name] = value

    return change(edit)


def flipped(path, **options):
    stored(lambda old: old, chunks=(4000,), **options)(path)
    with h5py.File(path) as file:
        group = file["Waveforms/IT.S9"]
        at = group[sorted(group)[0]].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[at + 100] ^= 0xFF
    path.write_bytes(content)


def no_group(path):
    with h5py.File(path, "w") as file:
        file["Waveforms/IT.S9"] = [1.0]


def no_unit_of_acceleration(path):
    with h5py.File(path, "a") as file:
        name = sorted(file["Waveforms/IT.S9"])[0].split("__")[-1]
        file.create_dataset(f"AuxiliaryData/Headers/IT_S9/{name}", data=[0]).attrs["units"] = "furlong"


def endless(path):
    def edit(group, name):
        attributes = dict(group[name].attrs)
        del group[name]
        group.create_dataset(name, shape=(10**13,), chunks=(1000,), dtype="f4").attrs.update(attributes)

    change(edit)(path)


def spike(old):
    return np.where(np.arange(old.size) == 2500, 5000.0, old)


def bridged(old):
    """A gap of two seconds drawn over with a line, as ungapped formats do."""
    old = old.copy()
    old[900:1100] = np.linspace(old[900], old[1100], 200)
    return old


@pytest.mark.parametrize(
    ("spoil", "kind", "reason"),
    [
        (file_of(b"<!DOCTYPE html><title>503</title>"), "unreadable", "bad.h5: not an HDF5 file"),
        (file_of(b""), "unreadable", "not an HDF5 file"),
        (cut_short, "unreadable", "truncated or damaged"),
        (lambda path: h5py.File(path, "w").close(), "unreadable", "without the group Waveforms"),
        (no_group, "unreadable", "IT.S9 is no group of traces"),
        (partial(flipped, compression="gzip"), "unreadable", "damaged in the archive"),
        (partial(flipped, fletcher32=True), "unreadable", "damaged in the archive"),
        (partial(flipped, compression="gzip", shuffle=True, fletcher32=True), "unreadable", "damaged in the archive"),
        (stored(lambda old: np.array([b"x"] * 9)), "unreadable", "series of numbers"),
        (stored(lambda old: old.astype(complex)), "unreadable", "complex128"),
        (stored(lambda old: old.reshape(2, -1)), "unreadable", "2-dimensional"),
        (no_unit_of_acceleration, "unreadable", "unit 'furlong'"),
        (attribute("sampling_rate", None), "unreadable", "sampling_rate"),
        (attribute("sampling_rate", "fast"), "unreadable", "sampling_rate is no number"),
        (attribute("sampling_rate", [1.0, 2.0]), "unreadable", "one number expected"),
        (attribute("sampling_rate", [100.0]), "unreadable", "one number expected"),
        (attribute("sampling_rate", h5py.Empty("f8")), "unreadable", "one number expected"),
        (attribute("sampling_rate", True), "unreadable", "sampling_rate is no number"),
        (attribute("sampling_rate", 1j), "unreadable", "sampling_rate is no number"),
        (attribute("starttime", None), "unreadable", "starttime"),
        (attribute("starttime", "noon"), "unreadable", "starttime is no number"),
        (attribute("sampling_rate", 0.0), "sampling rate", "0, 100, 100 Hz"),
        (attribute("sampling_rate", np.nan), "sampling rate", "nan, 100, 100 Hz"),
        (attribute("sampling_rate", np.inf), "sampling rate", "inf, 100, 100 Hz"),
        (attribute("sampling_rate", -100.0), "sampling rate", "-100, 100, 100 Hz"),
        (attribute("sampling_rate", 200.0), "sampling rate", "200, 100, 100 Hz"),
        (endless, "unreadable", "more than any record has"),
        (attribute("starttime", np.int64(0)), "components differ", "start up to"),
        (stored(lambda old: old[:-1]), "components differ", "3999, 4000, 4000 samples"),
        (stored(lambda old: old[:0]), "components differ", "0, 4000, 4000 samples"),
        (stored(lambda old: old * np.nan), "not finite", "E holds NaN"),
        (stored(lambda old: np.where(old == old[5], np.inf, old)), "not finite", "infinity"),
        (stored(lambda old: 0 * old), "constant", "E never changes"),
        (stored(lambda old: np.clip(old, -5, 5)), "clipped", "E stays at its extreme"),
        (stored(bridged), "straight line", "2.0 s"),
        (stored(lambda old: 1e7 * old), "amplitude", "which unit?"),
        (stored(spike), "glitch", "5e+03 cm/s² 25.0 s in"),
    ],
)
def test_a_spoilt_archive_costs_its_own_records_only(good, bad, tmp_path, spoil, kind, reason):
    archive = bad(good[1])
    spoil(archive)
    stations, rejected = prepared([good[0], archive], tmp_path / "all.csv", tmp_path / "out")
    assert stations == {f"S{n}" for n in range(9)}
    assert kind in set(rejected["kind"])
    assert reason in rejected.loc[rejected["kind"] == kind, "reason"].iloc[0]
    assert set(rejected["kind"]) <= {kind, "no data", "no flatfile row"}


@pytest.mark.parametrize("dtype", ["float32", ">f4", "int32", "int16", "uint8"])
def test_samples_of_any_number_type_are_read(good, bad, tmp_path, dtype):
    archive = bad(good[1])
    stored(lambda old: (old * 5 + 100).astype(dtype))(archive)
    stations, rejected = prepared([good[0], archive], tmp_path / "all.csv", tmp_path / "out")
    assert stations == {f"S{n}" for n in range(10)}
    assert rejected.empty


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ({"depth_km": -33}, "flatfile"),
        ({"latitude": 200}, "flatfile"),
        ({"longitude": "E13"}, "flatfile"),
        ({"magnitude": "5,1"}, "flatfile"),
        ({"distance_km": -4}, "flatfile"),
        ({"magnitude": ""}, "magnitude"),
        ({"depth_km": ""}, "depth"),
        ({"nation": "XX"}, "country"),
        ({"in_archive": False}, "no data"),
        ({"in_flatfile": False}, "no flatfile row"),
        ({"axes": "NZ"}, "incomplete"),
        ({"data_type": "vel"}, "not acceleration"),
        ({"event": "IT-2000-0001", "station": "S8", "wave": None, "in_flatfile": False}, "no flatfile row"),
    ],
)
def test_a_wrong_row_costs_its_own_record_only(good, bad, tmp_path, wrong, kind):
    archive = bad(good[1], **wrong)
    stations, rejected = prepared([good[0], archive], tmp_path / "all.csv", tmp_path / "out")
    assert stations == {f"S{n}" for n in range(9)}
    assert rejected["kind"].tolist() == [kind]


def test_lines_that_contradict_each_other_cost_their_record_only(good, bad, tmp_path):
    archive = bad(good[1])
    with (tmp_path / "all.csv").open("a") as file:
        file.write((tmp_path / "all.csv").read_text().splitlines()[-1].replace(";5.0;", ";6.9;") + "\n")
    stations, rejected = prepared([good[0], archive], tmp_path / "all.csv", tmp_path / "out")
    assert stations == {f"S{n}" for n in range(9)}
    assert rejected["reason"].tolist() == ["all.csv line 29: another line says otherwise of the same record"]


def test_a_station_under_two_names_counts_once(good, bad, tmp_path, ten_events):
    archive = bad(good[1], event=ten_events[0]["event"], station="TWIN", seed=0)  # the same seed, so the same waveform
    stations, rejected = prepared([good[0], archive], tmp_path / "all.csv", tmp_path / "out")
    assert stations == {f"S{n}" for n in range(9)}
    assert rejected[["station", "kind"]].to_numpy().tolist() == [["TWIN", "near-duplicate"]]
    assert "IT.S0" in rejected["reason"][0]


@pytest.mark.parametrize("seed", range(20))
def test_bytes_flipped_anywhere_are_no_traceback(good, bad, tmp_path, seed):
    archive = bad(good[1])
    content, rng = bytearray(archive.read_bytes()), np.random.default_rng(seed)
    for at in rng.integers(0, min(len(content), 12_000), 20):  # where names, groups and attributes are
        content[at] ^= int(rng.integers(1, 256))
    archive.write_bytes(content)
    stations, _ = prepared([good[0], archive], tmp_path / "all.csv", tmp_path / "out")
    assert stations >= {f"S{n}" for n in range(9)}


def test_a_full_disk_is_one_line_and_leaves_nothing(good, tmp_path):
    script = Path(__file__).resolve().parents[1] / "data_prep" / "prepare.py"
    arguments = [good[0], "--flatfile", good[1], "--out", tmp_path / "new" / "out", "--fs-hz", "50", "--workers", "1"]
    done = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: [Errno 27]")
    assert not (tmp_path / "new").exists()


def test_an_archive_that_goes_away_meanwhile_costs_its_own_records_only(good, bad, tmp_path, monkeypatch):
    archive = bad(good[1])
    from data_prep import windows

    make = windows.prepare_records

    def lose(jobs):
        archive.unlink(missing_ok=True)
        return make(jobs)

    monkeypatch.setattr(windows, "prepare_records", lose)
    stations, rejected = prepared([good[0], archive], tmp_path / "all.csv", tmp_path / "out")
    assert stations == {f"S{n}" for n in range(9)}
    assert rejected["kind"].tolist() == ["unreadable"]
    shutil.rmtree(tmp_path / "out")
