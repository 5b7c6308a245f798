"""A search whose driver is killed again and again, or whose disk is full for a while, ends as one left alone."""

import os
import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
from optuna.trial import TrialState

from search.storage import place
from tests.test_search import study

pytestmark = pytest.mark.slow

SEARCH = Path(__file__).with_name("made_up.py")
TRIALS, EPOCHS = 16, 4
LINES = TRIALS * (EPOCHS + 2)  # of the log, if no trial is stopped early
LIMIT_S = 300


@pytest.fixture
def start(tmp_path, prepared):
    """Start a search of made-up trials, or go on with it, in a process of its own."""
    started = []

    def call(results):
        beginning = ["--data", prepared, "--preset", "demo", "--num-samples", TRIALS, "--max-epochs", EPOCHS]
        settings = ["scheduler.grace_epochs=1", "finalists.count=0", "wandb.mode=offline", "resources.max_concurrent=2"]
        beginning += [part for text in settings for part in ("--set", text)]
        arguments = ["--resume"] if (place(results) / "x").exists() else beginning
        command = [sys.executable, SEARCH, "--results", results, "--name", "x", *arguments]
        project = {"PYTHONPATH": str(SEARCH.parents[1])}
        with (tmp_path / "output.txt").open("w") as output:
            started.append(
                subprocess.Popen(
                    list(map(str, command)), stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **project}
                )
            )
        return started[-1]

    yield call
    for process in started:
        process.kill()
        process.wait()


def ended(folder):
    """The rows of the trials that have ended, by id, but for how long they took."""
    if not (folder / "trials.csv").is_file():
        return {}
    table = pd.read_csv(folder / "trials.csv", dtype={"trial_id": str, "stop_reason": str}).fillna({"stop_reason": ""})
    assert table["trial_id"].is_unique
    of_ended = table[table["state"].isin(["complete", "stopped", "failed"])]
    return of_ended.set_index("trial_id").drop(columns="seconds").to_dict("index")


def lines(folder):
    log = folder / "trials.jsonl"
    return log.read_bytes().count(b"\n") if log.is_file() else 0


def wait_for(sign, process):
    while process.poll() is None and not sign():
        try:
            process.wait(0.01)
        except subprocess.TimeoutExpired:
            continue


def check_kept(before, folder):
    """What had ended is there once, and as it was; so the best is no worse."""
    now = ended(folder)
    for trial_id, row in before.items():
        assert now.get(trial_id) == row


def check_whole(folder):
    """Every trial of the search has ended, and Optuna knows each once and as it ended."""
    table = ended(folder)
    assert len(table) == TRIALS
    told = [(trial.user_attrs["tune_trial_id"], trial.state) for trial in study(folder).trials]
    expected = {"complete": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}
    assert sorted(told) == sorted((trial_id, expected[row["state"]]) for trial_id, row in table.items())


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.all)])
def test_after_kills_of_the_driver_each_trial_is_there_once_and_unchanged(start, tmp_path, kills):
    rng, folder, before = random.Random(kills), tmp_path / "x", {}
    for _ in range(kills):
        process = start(tmp_path)
        until = lines(folder) + rng.randint(0, 2 * LINES // kills)
        wait_for(lambda until=until: lines(folder) >= until, process)
        process.kill()
        process.wait()
        check_kept(before, folder)
        before = ended(folder)
    assert start(tmp_path).wait(LIMIT_S) == 0, (tmp_path / "output.txt").read_text()
    check_kept(before, folder)
    check_whole(folder)


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of its own, of a few megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder):
    """Take all the room there is; the file that takes it."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler


@pytest.mark.all
def test_a_search_whose_disk_was_full_says_so_in_one_line_and_is_resumed(small_disk, start, tmp_path):
    folder = small_disk / "x"
    process = start(small_disk)
    wait_for(lambda: lines(folder) >= LINES // 4, process)
    filler = fill(small_disk)
    assert process.wait(LIMIT_S) == 2
    output = (tmp_path / "output.txt").read_text()
    assert output.splitlines()[-1] == "error: [Errno 28] No space left on device"
    before = ended(folder)
    filler.unlink()
    assert start(small_disk).wait(LIMIT_S) == 0, (tmp_path / "output.txt").read_text()
    check_kept(before, folder)
    check_whole(folder)
