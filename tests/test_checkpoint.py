"""Checkpoints: nothing damaged is gone on from, and no kill leaves a training without a whole one."""

import hashlib
import io
import multiprocessing
import os
import pickle
import random
import shutil
import signal
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch
from ray import tune
from rich.console import Console

from search.config import with_settings
from search.export.write import best_state
from search.presets import preset
from search.progress import Progress
from search.tuner import run_search
from tests.made_up import AtReport, ctrl_c
from trainables import trainable
from trainables.batches import PreparedDataset
from trainables.checkpoint import FILE, best_epoch, load_checkpoint, load_first, save_checkpoint
from trainables.config import with_values
from trainables.gan import Gan
from trainables.training import train

KILLS = 20
EPOCHS = 8


def never(history):
    return None


def plain(value, name=""):
    """A state as {path: plain value, or type, shape and bytes of a tensor}, without what the clock says."""
    if isinstance(value, torch.Tensor):
        return {name: (value.dtype, value.shape, value.numpy().tobytes())}
    if not isinstance(value, dict | list):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    parts = {name: len(value)}
    for key, item in items:
        parts |= plain(item, f"{name}/{key}") if key not in ("seconds", "memory_gb") else {}
    return parts


def whole(folder):
    """The folders in which a checkpoint lies, newest first."""
    return sorted((file.parent for file in folder.glob(f"*/{FILE}")), reverse=True)


def train_in(folder, prepared, config):
    """Train with a checkpoint an epoch, of which the last two are kept; goes on from what lies in the folder."""
    torch.set_num_threads(1)
    state, _ = load_first(whole(folder))
    best = state and state["best"]

    def report(metrics, gan):
        nonlocal best
        best = best_epoch(best, gan)
        target = folder / f"{gan.epoch:06d}"
        target.mkdir(parents=True, exist_ok=True)
        save_checkpoint(target, gan, best)
        for old in whole(folder)[2:]:
            shutil.rmtree(old)

    train(config, PreparedDataset.open(prepared), report, never, state)


@pytest.fixture(scope="module")
def server():
    """The server that processes are forked from, started anew and ended: other tests need one of another kind."""
    forkserver._forkserver._stop()
    yield multiprocessing.get_context("forkserver")
    forkserver._forkserver._stop()


@pytest.fixture
def start(monkeypatch, server):
    """Start `train_in` in a process of its own that has torch loaded already."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    # All that this file imports, and what torch's optimisers import when they are first made.
    server.set_forkserver_preload(["pytest", "search.export", "search.tuner", "torch._dynamo"])
    workers = []

    def begin(*arguments, target=train_in):
        workers.append(server.Process(target=target, args=arguments))
        workers[-1].start()
        return workers[-1]

    yield begin
    for worker in workers:
        worker.kill()
        worker.join()


@pytest.fixture
def saved(prepared, trial_config, tmp_path):
    """The folder of a checkpoint, and the state that was saved in it."""
    dataset = PreparedDataset.open(prepared)
    gan = Gan(trial_config, dataset.samples, dataset.fs_hz, torch.device("cpu"))
    gan.history = [{"score": 2.0}]
    best = best_epoch(None, gan)
    save_checkpoint(tmp_path, gan, best)
    return tmp_path, {**gan.state_dict(), "best": best}


def test_all_that_went_in_comes_out_and_nothing_lies_beside_it(saved):
    folder, state = saved
    assert plain(load_checkpoint(folder)) == plain(state)
    assert [file.name for file in folder.iterdir()] == [FILE]


@pytest.mark.parametrize("place", [0, 25, 60, 90, 0.1, 0.5, 0.9, -1])
def test_a_flipped_bit_anywhere_is_refused(saved, place):
    folder, _ = saved
    content = bytearray((folder / FILE).read_bytes())
    content[int(place * len(content)) if isinstance(place, float) else place] ^= 1
    (folder / FILE).write_bytes(content)
    with pytest.raises(ValueError, match=r"training\.pt .*; expected |training\.pt .*, expected .*: restore it"):
        load_checkpoint(folder)


@pytest.mark.parametrize("length", [0, 10, 100, 1000, -1])
def test_a_truncated_file_is_refused(saved, length):
    folder, _ = saved
    content = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(content[:length])
    with pytest.raises(ValueError, match="restore it from a copy or go on without it"):
        load_checkpoint(folder)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"training\.pt does not exist; expected a checkpoint"):
        load_checkpoint(tmp_path)


def test_what_torch_alone_wrote_is_refused(tmp_path):
    torch.save({"epoch": 1}, tmp_path / FILE)
    with pytest.raises(ValueError, match=r"begins with .*; expected 'seismogen checkpoint"):
        load_checkpoint(tmp_path)


def test_another_format_is_refused(saved):
    folder, _ = saved
    content = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(content.replace(b"checkpoint 1", b"checkpoint 7", 1))
    with pytest.raises(ValueError, match="has format 7; expected 1: go on with the version that wrote it"):
        load_checkpoint(folder)


class Code:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def by_torch(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("write", [by_torch, pickle.dumps, lambda value: b"no pickle at all"])
def test_code_behind_a_right_checksum_is_refused_and_not_run(tmp_path, write):
    content = write({"epoch": Code(tmp_path / "mark")})
    header = f"seismogen checkpoint 1 {hashlib.sha256(content).hexdigest()}\n".encode()
    (tmp_path / FILE).write_bytes(header + content)
    with pytest.raises(ValueError, match="expected tensors and plain values alone"):
        load_checkpoint(tmp_path)
    assert not (tmp_path / "mark").exists()


def test_the_best_epoch_is_remembered_as_it_was(prepared, trial_config):
    dataset = PreparedDataset.open(prepared)
    gan = Gan(trial_config, dataset.samples, dataset.fs_hz, torch.device("cpu"))
    best, expected = None, [3.0, 2.0, 2.0, 2.0, 1.0]
    for epoch, score in enumerate([3.0, 2.0, 4.0, float("inf"), 1.0]):
        gan.history.append({"score": score, "epoch": epoch})
        with torch.no_grad():
            for weight in gan.averaged.parameters():
                weight.fill_(score)
        best = best_epoch(best, gan)
        assert best["history"][-1]["score"] == expected[epoch]
        assert all((best["averaged"][name] == expected[epoch]).all() for name, _ in gan.averaged.named_parameters())


def die_while_saving(function, saved_before, prepared, config):
    """Train until the second epoch's checkpoint calls a function of `os`, and die there as by kill -9."""

    def deadly(*arguments):
        if whole(saved_before):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)

    real = getattr(os, function)
    setattr(os, function, deadly)
    train_in(saved_before, prepared, config)


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_kill_in_the_middle_of_writing_leaves_the_checkpoint_before(
    start, prepared, trial_config, tmp_path, function
):
    worker = start(function, tmp_path, prepared, trial_config, target=die_while_saving)
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    state, damage = load_first(whole(tmp_path))
    assert (state["counters"]["epoch"], damage) == (1, [])


def wait_for(sign, worker):
    while worker.exitcode is None and not sign():
        worker.join(0.001)


def kill_at_random(worker, folder, rng, epoch_s):
    """SIGKILL at a random moment, mostly after one more checkpoint and often while the next is being written.

    Returns whether the training was still on.
    """
    before = whole(folder)
    if rng.random() < 0.8:
        wait_for(lambda: whole(folder) != before, worker)
    if rng.random() < 0.4:
        wait_for(lambda: any(folder.glob(f"*/.{FILE}.partial")), worker)
    else:
        worker.join(rng.uniform(0, epoch_s))
    worker.kill()
    worker.join()
    return worker.exitcode == -signal.SIGKILL


@pytest.mark.slow
def test_20_kills_at_random_moments_lose_no_checkpoint_and_change_no_bit(start, prepared, trial_config, tmp_path):
    config = with_values(trial_config, {"training.max_epochs": EPOCHS})
    start(tmp_path / "0", prepared, config).join()
    expected = load_checkpoint(whole(tmp_path / "0")[0])
    epoch_s = sum(report["seconds"] for report in expected["history"]) / EPOCHS
    rng, kills, folder = random.Random(0), 0, tmp_path / "1"
    while kills < KILLS:  # or else one more training, which takes the rest of them
        epoch, folder = 0, folder.with_name(f"{int(folder.name) + 1}")
        while epoch < EPOCHS:
            worker = start(folder, prepared, config)
            if kills < KILLS:
                kills += kill_at_random(worker, folder, rng, epoch_s)
            worker.join()
            assert worker.exitcode in (0, -signal.SIGKILL)
            state, damage = load_first(whole(folder))
            reached = state["counters"]["epoch"] if state else 0
            assert (damage, reached >= epoch) == ([], True)
            epoch = reached
        assert plain(state) == plain(expected)


class Session:
    """Stands for Tune, which names one checkpoint as the last."""

    def __init__(self, folder):
        self.folder = folder

    def get_checkpoint(self):
        return self.folder and tune.Checkpoint.from_directory(self.folder)


@pytest.fixture
def last_two(prepared, trial_config, tmp_path, monkeypatch):
    """The folders of the checkpoints of epochs 2 and 1 of a trial."""
    train_in(tmp_path, prepared, trial_config)
    folders = whole(tmp_path)
    monkeypatch.setattr(trainable, "_session", lambda: Session(folders[0]))
    return folders


def flip(folder):
    content = bytearray((folder / FILE).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / FILE).write_bytes(content)


def test_a_trial_goes_on_from_its_last_checkpoint_without_a_word(last_two):
    state, warning = trainable._last_state()
    assert (state["counters"]["epoch"], warning) == (2, "")


def test_a_trial_goes_on_from_the_checkpoint_before_a_damaged_one_and_says_so(last_two):
    flip(last_two[0])
    state, warning = trainable._last_state()
    assert plain(state) == plain(load_checkpoint(last_two[1]))
    assert f"{last_two[0] / FILE} is damaged" in warning
    assert warning.endswith("; went on from epoch 1")


def test_a_trial_without_a_whole_checkpoint_starts_anew_and_says_so(last_two):
    for folder in last_two:
        flip(folder)
    state, warning = trainable._last_state()
    assert state is None
    assert all(f"{folder / FILE} is damaged" in warning for folder in last_two)
    assert warning.endswith("; no other is whole: started anew")


def test_a_new_trial_starts_without_a_word(monkeypatch):
    monkeypatch.setattr(trainable, "_session", lambda: Session(None))
    assert trainable._last_state() == (None, "")


def search(folder, data, callback, resume=False):
    """A search of one trial of four epochs."""
    settings = ["model.base_channels=2", "model.kernel=8", "model.latent_dim=100", "training.batch_size=8"]
    small = ["evaluation.fakes=16", "evaluation.splits=10", "scheduler.name=none", "training.max_epochs=4"]
    config = with_settings(preset("demo"), [*settings, *small, "num_samples=1", "training.convolution=direct"])
    folder.mkdir(exist_ok=True)
    return run_search(config, data, folder, [callback], resume)


def kept_by(analysis):
    return whole(Path(analysis.trials[0].path))


@pytest.mark.slow
@pytest.mark.all
def test_a_search_with_a_damaged_checkpoint_ends_as_one_without(cluster, prepared, tmp_path):
    analysis, finished = search(tmp_path / "a", prepared, AtReport(3, ctrl_c))
    assert not finished
    last = Path(analysis.trials[0].checkpoint.path)
    epoch = load_checkpoint(last)["counters"]["epoch"]
    flip(last)
    console = Console(record=True, width=1000)
    analysis, finished = search(tmp_path / "a", prepared, Progress(console, tmp_path / "trials.csv", 1, 4), resume=True)
    assert finished
    text = console.export_text()
    assert f"{last / FILE} is damaged" in text
    assert f"; went on from epoch {epoch - 1}" in text
    untroubled, _ = search(tmp_path / "b", prepared, tune.Callback())
    assert plain(load_checkpoint(kept_by(analysis)[0])) == plain(load_checkpoint(kept_by(untroubled)[0]))


@pytest.mark.slow
def test_an_export_takes_the_next_best_checkpoint_for_a_damaged_one(cluster, prepared, tmp_path, capsys):
    analysis, _ = search(tmp_path, prepared, tune.Callback())
    last, before = kept_by(analysis)
    expected = load_checkpoint(before)["best"]
    flip(last)
    _, state = best_state(analysis.trials)
    assert plain(state) == plain(expected)
    assert f"{last / FILE} is damaged" in capsys.readouterr().err
    flip(before)
    with pytest.raises(ValueError, match="no checkpoint of this search is whole: nothing to export"):
        best_state(analysis.trials)
