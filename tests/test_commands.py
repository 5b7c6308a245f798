"""The commands as a user calls them: bad input ends in one line that names the file and the remedy."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


def call(script, *arguments, cwd=None):
    """Run a command from another folder, as an installed user may."""
    environment = {key: value for key, value in os.environ.items() if key != "SEARCH_DATA"}
    return subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=300,
        check=False,
    )


def assert_one_line(done, *expected):
    """Exit status 2 and one line on stderr that holds what is expected."""
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    for text in expected:
        assert text in done.stderr


@pytest.fixture
def given(archive_factory, ten_events, tmp_path):
    """Arguments of a preparation that would work: archive, flatfile, output folder."""
    archive, flatfile = archive_factory(*ten_events)
    return {"archive": archive, "flatfile": flatfile, "out": tmp_path / "out"}


def missing_archive(given, tmp_path):
    given["archive"].unlink()
    return ["a.h5"]


def text_as_archive(given, tmp_path):
    given["archive"].write_text("<html>Service unavailable</html>")
    return ["a.h5", "HDF5"]


def truncated_archive(given, tmp_path):
    whole = given["archive"].read_bytes()
    given["archive"].write_bytes(whole[: len(whole) // 2])
    return ["a.h5", "download it again"]


def flatfile_without_magnitude(given, tmp_path):
    given["flatfile"].write_text(given["flatfile"].read_text().replace("Mw", "magnitude_w"))
    return ["a.h5.csv", "Mw"]


def out_below_a_file(given, tmp_path):
    (tmp_path / "file").write_text("")
    given["out"] = tmp_path / "file" / "out"
    return [str(tmp_path / "file")]


@pytest.mark.parametrize(
    "spoil", [missing_archive, text_as_archive, truncated_archive, flatfile_without_magnitude, out_below_a_file]
)
def test_prepare_refuses_bad_input_and_writes_nothing(given, tmp_path, spoil):
    expected = spoil(given, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    done = call("data_prep/prepare.py", given["archive"], "--flatfile", given["flatfile"], "--out", given["out"])
    assert_one_line(done, *expected)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--num-samples", "0"], "num_samples is 0; expected at least 1"),
        (["--preset", "sicily"], "unknown preset 'sicily'; expected one of demo, itaca"),
        (["--set", "model.colour=3"], "unknown configuration key 'model.colour'; known here: architecture"),
        (["--name", "x", "--resume"], "check --name and --results"),
    ],
)
def test_search_refuses_bad_input_and_writes_nothing(tmp_path, arguments, expected):
    assert_one_line(call("search/run.py", "--results", tmp_path / "results", *arguments, cwd=tmp_path), expected)
    assert list(tmp_path.iterdir()) == []


def test_search_refuses_a_folder_that_is_no_dataset(tmp_path):
    done = call("search/run.py", "--results", tmp_path / "results", "--data", tmp_path)
    assert_one_line(done, str(tmp_path), "give a folder made by data_prep/prepare.py")
    assert list(tmp_path.iterdir()) == []


def test_search_refuses_a_dataset_whose_bytes_have_changed(tmp_path, write_prepared):
    folder = write_prepared(tmp_path / "data")
    content = bytearray((folder / "train.npy").read_bytes())
    content[-1] ^= 1
    (folder / "train.npy").write_bytes(content)
    done = call("search/run.py", "--results", tmp_path / "results", "--data", folder)
    assert_one_line(done, "train.npy differs from its checksum; remove the folder and prepare it again")
    assert not (tmp_path / "results").exists()


def test_search_refuses_results_that_cannot_be_created(tmp_path):
    (tmp_path / "file").write_text("")
    assert_one_line(call("search/run.py", "--results", tmp_path / "file"), str(tmp_path / "file"))


def test_generate_refuses_a_folder_without_a_result(tmp_path):
    done = call("search/generate.py", tmp_path, "--count", "2", "--out", tmp_path / "x.npy")
    assert_one_line(done, str(tmp_path / "best"), "expected the folder of a finished search")
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_writes_nothing(tmp_path):
    done = call("search/run.py", "--results", tmp_path / "results", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("No data given: running the demo")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "script",
    [
        *("search/run.py", "search/generate.py", "search/report.py", "search/cluster_check.py"),
        *("data_prep/prepare.py", "data_prep/download.py", "tests/bench/prepare.py"),
    ],
)
def test_help_is_for_newcomers(script):
    done = call(script, "--help")
    assert done.returncode == 0
    assert "usage:" in done.stdout


@pytest.mark.slow
def test_a_search_runs_as_a_command_from_any_folder(tmp_path, write_prepared):
    """The whole of it but for the finalists: a process of its own, its own Ray, no terminal, no account."""
    data = write_prepared(tmp_path / "data")
    small = ["model.base_channels=2", "model.kernel=8", "training.batch_size=[4,8]", "evaluation.fakes=16"]
    settings = [part for text in [*small, "model.latent_dim=100", "finalists.count=0"] for part in ("--set", text)]
    arguments = ["--preset", "demo", "--data", data, "--results", tmp_path / "results", "--num-samples", "2"]
    done = call("search/run.py", *arguments, "--max-epochs", "1", *settings, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "Best: trial" in done.stdout
    out = tmp_path / "x.npy"
    done = call("search/generate.py", tmp_path / "results" / "demo-1", "--count", "3", "--out", out, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert np.load(out).shape == (3, 3, 400)
