import json

import numpy as np
import pandas as pd
import pytest

from data_prep.dataset import new_folder, open_dataset, usable_band, write_dataset

PARTS = ["train", "train", "val", "train", "test"]


def test_what_a_dead_run_left_is_removed_and_nothing_else(tmp_path):
    mine, other = tmp_path / ".set.0123abcd.partial", tmp_path / ".set.v2.0123abcd.partial.v2"
    for folder in (mine, other):
        folder.mkdir()
    with new_folder(tmp_path / "set"):
        assert not mine.exists()
    assert other.exists()


@pytest.fixture
def written(tmp_path):
    waves = np.random.default_rng(0).standard_normal((5, 3, 8)).astype(np.float32)
    rows = pd.DataFrame(
        {"event_id": list("abcde"), "label": "earthquake", "usable_low_hz": 0.1, "usable_high_hz": 40.0}
    )
    rejected = pd.DataFrame({"record": ["x", "y", "z"], "kind": ["glitch", "noisy", "glitch"], "reason": "why"})
    with new_folder(tmp_path / "set") as folder:
        manifest = write_dataset(folder, waves, rows, pd.Series(PARTS), rejected, {"fs_hz": 50.0, "settings": {}})
    return tmp_path / "set", waves, manifest


def test_what_is_written_is_read_back(written):
    path, waves, manifest = written
    dataset = open_dataset(path)
    assert (dataset.fs_hz, dataset.samples, dataset.usable_band_hz) == (50.0, 8, (0.1, 40.0))
    assert dataset.manifest == manifest
    np.testing.assert_array_equal(dataset.train.waves, waves[[0, 1, 3]])
    np.testing.assert_array_equal(dataset.test.waves, waves[[4]])
    assert dataset.train.rows["event_id"].tolist() == ["a", "b", "d"]
    assert dataset.val.waves.dtype == np.float32
    assert isinstance(dataset.train.waves, np.memmap)


def test_windows_and_rejected_make_all_records(written):
    path, _, manifest = written
    assert manifest["counts"] == {
        "records": 8,
        "windows": 5,
        "train": 3,
        "val": 1,
        "test": 1,
        "labels": {"earthquake": 5},
        "rejected": {"glitch": 2, "noisy": 1},
    }
    assert len(pd.read_csv(path / "rejected.csv")) == 3
    assert set(manifest["files"]) == {f"{p}.{s}" for p in ("train", "val", "test") for s in ("npy", "parquet")} | {
        "rejected.csv"
    }


@pytest.mark.parametrize("name", ["train.npy", "val.parquet", "rejected.csv"])
def test_a_missing_or_changed_file_is_named(written, name):
    path, _, _ = written
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=f"{name} differs from its checksum"):
        open_dataset(path)
    (path / name).unlink()
    with pytest.raises(ValueError, match=f"{name} is missing"):
        open_dataset(path, verify=False)


def test_an_unreadable_array_is_told_without_checksums_too(written):
    path, _, _ = written
    (path / "val.npy").write_bytes(b"none")
    with pytest.raises(ValueError, match="val cannot be read"):
        open_dataset(path, verify=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no manifest.json"),
        ("{", "manifest.json is damaged"),
        ("[]", "format None, expected 2"),
        (json.dumps({"format": 99}), "format 99, expected 2"),
    ],
)
def test_what_is_no_dataset_is_one_clear_line(tmp_path, content, message):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        open_dataset(tmp_path)


def test_the_usable_band_is_that_of_nineteen_in_twenty_windows():
    rows = pd.DataFrame({"usable_low_hz": [0.1] * 99 + [5.0], "usable_high_hz": [10.0] + [40.0] * 99})
    assert usable_band(rows) == (0.1, 40.0)
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"usable_low_hz": rng.uniform(0, 1, 200), "usable_high_hz": rng.uniform(20, 50, 200)})
    low, high = usable_band(rows)
    assert ((rows["usable_low_hz"] <= low) & (rows["usable_high_hz"] >= high)).mean() >= 0.95


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_an_interrupted_folder_leaves_nothing(tmp_path, error):
    def interrupted():
        with new_folder(tmp_path / "new" / "parents" / "set") as folder:
            (folder / "train.npy").write_text("half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ValueError, match=r"cannot be created .*choose another"),
        new_folder(tmp_path / "file" / "a" / "b"),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
