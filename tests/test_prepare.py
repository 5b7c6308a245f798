import json
import re
import shutil
import signal
import subprocess
import sys
from functools import partial

import h5py
import numpy as np
import pandas as pd
import pytest

from data_prep import windows
from data_prep.dataset import open_dataset
from data_prep.prepare import main, prepare
from data_prep.record import PrepareSettings, common_pass_hz

SETTINGS = {"fs_hz": 50.0, "window_s": 20.48}


def run(paths, out, workers=1, **settings):
    archive, flatfile = paths
    full = PrepareSettings(**{**SETTINGS, **settings})
    return prepare([archive], flatfile, out, full, workers=workers, progress=False)


@pytest.fixture
def run_main(run_here):
    return partial(run_here, main)


def test_every_record_becomes_a_window_or_a_reason(archive_factory, ten_events, tmp_path, make_quake):
    glitch = make_quake()
    glitch[1, 1200:1203] = 900
    long = make_quake(onset_s=8.0, seconds=90.0)
    long[:, 800:] += 20 * np.random.default_rng(1).standard_normal((3, 8200)) * np.exp(-np.arange(8200) / 3000)
    bad = [
        {"station": "B0", "wave": glitch},
        {"station": "B1", "wave": np.full((3, 4000), np.nan)},
        {"station": "B2", "wave": np.random.default_rng(0).standard_normal((3, 4000))},
        {"station": "B3", "axes": "NZ"},
        {"station": "B4", "in_archive": False},
        {"station": "B5", "in_flatfile": False},
        {"station": "B6", "magnitude": 3.0},
        {"station": "S1", "event": "EMSC-20200101", "processing": "cv"},
        {"station": "B8", "fs_hz": 161.8034},
        {"station": "B9", "wave": make_quake(seconds=8.0, onset_s=2.0)},
        {"station": "BA", "wave": long},
    ]
    result = run(archive_factory(*ten_events, *bad), tmp_path / "out")
    counts = result.manifest["counts"]
    assert counts["records"] == 21
    assert counts["windows"] == 10
    rejected = pd.read_csv(tmp_path / "out" / "rejected.csv")
    assert dict(zip(rejected["station"], rejected["kind"], strict=True)) == {
        "B0": "glitch",
        "B1": "not finite",
        "B2": "noisy",
        "B3": "incomplete",
        "B4": "no data",
        "B5": "no flatfile row",
        "B6": "magnitude",
        "S1": "duplicate",
        "B8": "sampling rate",
        "B9": "too short",
        "BA": "energy outside",
    }
    assert rejected["reason"].notna().all()
    assert sum(counts["rejected"].values()) == 11


def test_windows_carry_what_the_table_says(archive_factory, ten_events, tmp_path):
    ten_events[0] |= {"magnitude": "", "magnitude_l": 4.4, "corners": ("0.2", "15"), "distance_km": ""}
    run(archive_factory(*ten_events), tmp_path / "out")
    dataset = open_dataset(tmp_path / "out")
    parts = [dataset.train, dataset.val, dataset.test]
    rows = pd.concat([part.rows for part in parts]).set_index("station").sort_index()
    waves = np.concatenate([part.waves for part in parts])
    assert waves.shape == (10, 3, 1024)
    np.testing.assert_allclose(waves.mean(axis=2), 0, atol=1e-5)
    np.testing.assert_allclose(waves.std(axis=2), 1, atol=1e-5)
    first, second = rows.iloc[0], rows.iloc[1]
    assert (first["magnitude"], first["magnitude_type"]) == (4.4, "Ml")
    assert (first["usable_low_hz"], first["usable_high_hz"]) == (0.2, 15.0)
    assert np.isnan(first["distance_km"])
    assert (second["usable_low_hz"], second["usable_high_hz"]) == (0.0, 20.0)
    assert (second["depth_km"], second["label"], second["source_file"]) == (10.0, "earthquake", "a.h5")
    assert (rows["onset_s"] - 2.56).abs().max() < 0.2
    assert (rows["n_valid"] == 1024).all()
    assert (rows["snr"] > 3).all()
    with h5py.File(tmp_path / "a.h5") as file:
        assert second["source_key"] in file
        scale = np.std(file[second["source_key"]][...])
    # Half the seconds hold all the shaking; half the rate, filtered, carries 0.45 of the power of a white signal.
    assert second["std_e_cm_s2"] == pytest.approx(scale * np.sqrt(0.45 * 40 / 20.48), rel=0.1)


def test_mixed_rates_are_brought_to_what_the_lowest_carries(archive_factory, ten_events, tmp_path):
    for number, record in enumerate(ten_events):
        record["fs_hz"] = 200.0 if number % 2 else 100.0
    result = run(archive_factory(*ten_events), tmp_path / "out", fs_hz=200.0)
    assert result.manifest["low_pass_hz"] == 40.0
    waves = np.concatenate([getattr(open_dataset(tmp_path / "out"), part).waves for part in ("train", "val", "test")])
    spectrum = np.abs(np.fft.rfft(waves.astype(float) * np.hanning(4096), axis=2)) ** 2
    above = np.fft.rfftfreq(4096, 1 / 200) > 51
    assert (spectrum[:, :, above].sum(axis=2) < 1e-5 * spectrum.sum(axis=2)).all()


def test_a_record_sampled_too_slowly_is_rejected_and_the_others_keep_their_band(archive_factory, ten_events, tmp_path):
    ten_events[3] |= {"fs_hz": 20.0}
    result = run(archive_factory(*ten_events), tmp_path / "out", fs_hz=100.0)
    rejected = pd.read_csv(tmp_path / "out" / "rejected.csv")
    assert rejected["kind"].tolist() == ["sampled slowly"]
    assert "20 Hz, at least 25 Hz" in rejected["reason"][0]
    assert result.manifest["low_pass_hz"] is None


@pytest.mark.parametrize(
    ("rates", "fs_hz", "expected"),
    [
        ([100, 200, 250], 200, 40.0),
        ([100, 100], 200, None),
        ([200, 250], 200, None),
        ([125, 200], 200, 50.0),
        ([100, 200], 50, None),
        ([100, float("nan")], 200, None),
        ([100, 200, 1], 200, 40.0),  # a record too slow to be used takes nothing from the others
    ],
)
def test_the_common_low_pass(rates, fs_hz, expected):
    assert common_pass_hz(rates, fs_hz) == expected


def test_arrays_depend_on_neither_run_nor_workers(archive_factory, ten_events, tmp_path):
    paths = archive_factory(*ten_events)
    for name, workers in (("a", 1), ("b", 1), ("c", 2)):
        run(paths, tmp_path / name, workers)
    manifests = [(tmp_path / name / "manifest.json").read_bytes() for name in "abc"]
    assert manifests[0] == manifests[1] == manifests[2]
    for name in "bc":
        for file in json.loads(manifests[0])["files"]:
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / name / file).read_bytes()


def test_arrays_do_not_depend_on_where_the_work_is_done(archive_factory, ten_events, tmp_path, cluster):
    archive, flatfile = archive_factory(*ten_events)
    for name, address in (("here", None), ("ray", "auto")):
        settings = PrepareSettings(**SETTINGS)
        prepare([archive], flatfile, tmp_path / name, settings, ray_address=address, progress=False)
    here, there = ((tmp_path / name / "manifest.json").read_bytes() for name in ("here", "ray"))
    assert here == there


BLOCKED = """
import signal, sys
from data_prep import prepare, windows
from data_prep.command import run_command

def stand_still(jobs):
    print("begun", flush=True)
    signal.pause()

windows.prepare_records = stand_still
run_command(prepare.main)
"""


@pytest.mark.parametrize(
    ("end", "status", "left"),
    [(signal.SIGINT, 130, []), (signal.SIGTERM, 143, []), (signal.SIGKILL, -9, [".out.*.partial", ".out.lock"])],
)
def test_a_run_cut_off_in_the_middle_leaves_no_dataset_and_the_next_one_tidies_up(
    archive_factory, ten_events, tmp_path, end, status, left
):
    archive, flatfile = archive_factory(*ten_events)
    arguments = [archive, "--flatfile", flatfile, "--out", tmp_path / "out", "--workers", "1", "--window-s", "20"]
    command = [sys.executable, "-c", BLOCKED, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        with pytest.raises(ValueError, match="another process is making it"):
            run((archive, flatfile), tmp_path / "out")
        process.send_signal(end)
        complaint = process.stderr.read()
    assert process.returncode == status
    assert "Traceback" not in complaint
    assert not (tmp_path / "out").exists()
    assert all(len(list(tmp_path.glob(name))) == 1 for name in left)
    assert run((archive, flatfile), tmp_path / "out").made
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "a.h5.csv", "out"]


def test_the_order_of_archives_does_not_matter(archive_factory, ten_events, tmp_path):
    archive, flatfile = archive_factory(*ten_events)
    first, _ = archive_factory(*ten_events[:4], name="b.h5")
    for name, archives in (("x", [first, archive]), ("y", [archive, first])):
        prepare(archives, flatfile, tmp_path / name, PrepareSettings(**SETTINGS), progress=False)
    assert (tmp_path / "x" / "train.npy").read_bytes() == (tmp_path / "y" / "train.npy").read_bytes()
    assert open_dataset(tmp_path / "x").manifest["counts"]["rejected"] == {"duplicate": 4}


def test_one_damaged_record_is_rejected_and_the_rest_prepared(archive_factory, ten_events, tmp_path):
    archive, flatfile = archive_factory(*ten_events)
    with h5py.File(archive, "a") as file:
        group = file["Waveforms/IT.S3"]
        name = next(iter(group))
        attributes, samples = dict(group[name].attrs), group[name][...]
        del group[name]
        data = group.create_dataset(name, data=samples, compression="gzip", chunks=(len(samples),))
        data.attrs.update(attributes)
        chunk = data.id.get_chunk_info(0)
    with archive.open("r+b") as file:
        file.seek(chunk.byte_offset + 2)
        file.write(b"\x55" * 200)
    run((archive, flatfile), tmp_path / "out")
    rejected = pd.read_csv(tmp_path / "out" / "rejected.csv")
    assert rejected[["station", "kind"]].to_numpy().tolist() == [["S3", "unreadable"]]


def test_the_same_again_does_nothing_and_anything_else_is_refused(archive_factory, ten_events, tmp_path):
    paths, out = archive_factory(*ten_events), tmp_path / "out"
    assert run(paths, out).made
    before = (out / "manifest.json").stat().st_mtime_ns
    again = run(paths, out)
    assert not again.made
    assert "was there already" in str(again)
    assert (out / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="other inputs or settings"):
        run(paths, out, seed=1)
    with pytest.raises(ValueError, match="other inputs or settings"):
        run(archive_factory(*ten_events[::-1]), out)


def test_a_file_in_another_role_is_another_input(archive_factory, ten_events, tmp_path):
    archive, flatfile = archive_factory(*ten_events)
    other, _ = archive_factory({"station": "ZZZ", "seconds": 90.0}, name="z.h5")
    settings = PrepareSettings(**SETTINGS, noise=True)
    prepare([archive, other], flatfile, tmp_path / "out", settings, progress=False)
    with pytest.raises(ValueError, match="other inputs or settings"):
        prepare([archive], flatfile, tmp_path / "out", settings, [other], progress=False)


def test_a_link_to_an_empty_folder_is_followed(archive_factory, ten_events, tmp_path):
    (tmp_path / "big").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "big")
    run(archive_factory(*ten_events), tmp_path / "link")
    assert (tmp_path / "big" / "manifest.json").is_file()


def test_noise_alone_makes_no_dataset(archive_factory, ten_events, tmp_path):
    for record in ten_events:
        record |= {"seconds": 90.0, "onset_s": 50.0}
    with pytest.raises(ValueError, match="none of 10 records could be prepared"):
        run(archive_factory(*ten_events), tmp_path / "out", noise=True, min_snr=1e9)
    assert not (tmp_path / "out").exists()


def test_a_record_too_short_to_be_used_takes_no_band_from_the_others(archive_factory, ten_events, tmp_path):
    for record in ten_events:
        record["fs_hz"] = 200.0
    short = {"station": "SHORT", "fs_hz": 100.0, "seconds": 8.0, "onset_s": 2.0}
    result = run(archive_factory(*ten_events, short), tmp_path / "out", fs_hz=200.0)
    assert result.manifest["low_pass_hz"] is None


def test_an_empty_folder_is_filled_and_a_foreign_one_refused(archive_factory, ten_events, tmp_path):
    paths, out = archive_factory(*ten_events), tmp_path / "out"
    out.mkdir()
    assert run(paths, out).made
    shutil.rmtree(out)
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="no prepared dataset; choose another"):
        run(paths, out)
    assert [path.name for path in out.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_magnitude": 9.0}, r"none of 10 records could be selected \(magnitude 10\)"),
        ({"min_snr": 1e9}, r"none of 10 records could be prepared \(noisy 10\)"),
        ({"window": "whole"}, r"none of 10 records could be prepared \(longer than the window 10\)"),
    ],
)
def test_nothing_left_says_why_and_leaves_nothing(archive_factory, ten_events, tmp_path, settings, message):
    paths = archive_factory(*ten_events)
    with pytest.raises(ValueError, match=message):
        run(paths, tmp_path / "new" / "out", **settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "a.h5.csv"]


def test_the_reason_told_is_that_of_records_which_are_there(archive_factory, ten_events, tmp_path):
    elsewhere = [{**record, "station": f"T{n}", "in_archive": False} for n, record in enumerate(ten_events * 2)]
    paths = archive_factory(*ten_events, *elsewhere)
    with pytest.raises(ValueError, match="for instance: 5 is not above 9"):
        run(paths, tmp_path / "out", min_magnitude=9.0)


def test_too_few_places_are_told_before_the_work(archive_factory, ten_events, tmp_path, monkeypatch):
    monkeypatch.setattr(windows, "prepare_records", None)
    with pytest.raises(ValueError, match="2 group"):
        run(archive_factory(*ten_events[:2]), tmp_path / "out")


def test_whole_records_are_padded_to_the_window(archive_factory, ten_events, tmp_path):
    run(archive_factory(*ten_events), tmp_path / "out", window="whole", window_s=60.0)
    rows = open_dataset(tmp_path / "out").train.rows
    assert (rows["n_valid"] == 2000).all()
    assert (rows["energy_kept"] == 1).all()
    assert (rows["onset_s"] - 8).abs().max() < 0.2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fs_hz": 0.0}, "fs_hz 0: 42 to 1000 expected"),
        ({"fs_hz": 55.0, "window_s": 20.48}, "whole number"),
        ({"window_s": 5.0}, "window_s 5: 10 to 3600 expected"),
        ({"fs_hz": 1e308}, "42 to 1000"),
        ({"window_s": 1e9}, "10 to 3600"),
        ({"seed": -1}, "seed -1"),
        ({"block_km": 0.0}, "block_km 0: 0.01 to 1000"),
        ({"window": "middle"}, "expected onset or whole"),
        ({"magnitude": "Mb"}, "expected Mw or Mw-or-Ml"),
        ({"country": "Italy"}, "two capital letters"),
        ({"max_depth_km": float("inf")}, "finite"),
    ],
)
def test_settings_are_checked_when_built(settings, message):
    with pytest.raises(ValueError, match=message):
        PrepareSettings(**settings)


def test_the_command_shows_progress_a_summary_and_the_next_step(archive_factory, ten_events, tmp_path, run_main):
    archive, flatfile = archive_factory(*ten_events, {"station": "LOW", "magnitude": 1.0})
    options = ["--flatfile", flatfile, "--out", tmp_path / "out", "--workers", "1", "--fs-hz", "50"]
    status, printed, complained = run_main(archive, *options)
    assert status == 0
    assert "preparing" in complained
    assert "11 records: 10 windows of 2000 samples at 50 Hz, 1 rejected" in printed
    assert re.search(r"1 +magnitude", printed)
    assert re.search(r"train 8 \(80%\), val 1 \(10%\), test 1 \(10%\)", printed)
    assert f"next: python search/run.py --data {tmp_path / 'out'}" in printed
    assert open_dataset(tmp_path / "out").manifest["settings"] == {
        "country": "IT",
        "min_magnitude": 4.0,
        "max_depth_km": 50.0,
        "magnitude": "Mw-or-Ml",
        "window": "onset",
        "fs_hz": 50.0,
        "window_s": 40.0,
        "min_snr": 3.0,
        "min_energy_kept": 0.85,
        "noise": False,
        "block_km": 20.0,
        "seed": 0,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"archive": "none.h5"}, "no such file"),
        ({"flatfile": "none.csv"}, "no such file"),
        ({"out": "a.h5/x"}, "cannot be created"),
        ({"out": "a.h5"}, "no prepared dataset"),
        ({"workers": "0"}, "at least 1"),
        ({"window_s": "1"}, "10 to 3600 expected"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(archive_factory, ten_events, tmp_path, run_main, change, message):
    archive_factory(*ten_events)
    given = {"archive": "a.h5", "flatfile": "a.h5.csv", "out": "new/out", "workers": "1", "window_s": "20", **change}
    options = ["--flatfile", tmp_path / given["flatfile"], "--out", tmp_path / given["out"]]
    options += ["--workers", given["workers"], "--window-s", given["window_s"], "--fs-hz", "50"]
    status, printed, complained = run_main(tmp_path / given["archive"], *options)
    assert status == 2
    assert complained.startswith("error: ")
    assert message in complained
    assert complained.count("\n") == 1
    assert not printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "a.h5.csv"]


def test_ctrl_c_ends_cleanly(archive_factory, ten_events, tmp_path, run_main, monkeypatch):
    def interrupt(job):
        raise KeyboardInterrupt

    monkeypatch.setattr(windows, "prepare_records", interrupt)
    archive, flatfile = archive_factory(*ten_events)
    status, _, complained = run_main(archive, "--flatfile", flatfile, "--out", tmp_path / "o", "--workers", "1")
    assert status == 130
    assert complained.rstrip().endswith("error: interrupted")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "a.h5.csv"]


def test_help_names_every_option(run_main):
    status, printed, _ = run_main("--help")
    assert status == 0
    options = (
        "--flatfile --out --country --min-magnitude --max-depth-km --magnitude --window --fs-hz --window-s --workers"
    )
    for option in ["ARCHIVE", "--seed", *options.split()]:
        assert option in printed


def test_the_real_records_are_prepared_and_none_is_lost(strong_motion, tmp_path):
    settings = PrepareSettings(country="any", min_magnitude=0.0, max_depth_km=1000.0)
    archives = [strong_motion / "itaca_data_*.h5"]
    result = prepare(archives, strong_motion / "flatfile.csv", tmp_path / "out", settings, workers=2, progress=False)
    dataset = open_dataset(result.path)
    counts = result.manifest["counts"]
    assert counts["records"] == 251
    assert counts["windows"] >= 200
    assert counts["windows"] + sum(counts["rejected"].values()) == 251
    assert counts["rejected"]["duplicate"] == 12
    assert dataset.train.waves.shape[1:] == (3, 8000)
    rejected = pd.read_csv(result.path / "rejected.csv", dtype=str)
    for record, kind in (("NP.8040.D3", "glitch"), ("TK.3518", "straight line"), ("IR.AHAR", "straight line")):
        assert rejected.loc[rejected["record"].str.startswith(record), "kind"].tolist() == [kind]
