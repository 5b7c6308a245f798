import io
import json
import multiprocessing
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from data_prep.files import write_json
from search import tracking, wandb_runs
from search.config import WandbConfig, resolved
from search.line_log import LOG, LineLog, LogReader, reports_by_trial
from search.presets import preset
from search.storage import place
from search.tracking import Tracking, resolved_mode
from search.wandb_runs import Driver, Runs, is_complete, make_runs, write_runs
from tests.wandb_fakes import BLOCK, Offline, running_service
from trainables.checkpoint import FILE, save_checkpoint

KEY = "f00dfeedfacade" * 3


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    """A machine that knows of no account, whatever this one does."""
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")


@pytest.mark.parametrize("mode", ["online", "offline", "disabled"])
def test_a_mode_that_is_asked_for_is_taken(mode):
    assert resolved_mode(mode) == mode


def test_without_an_account_it_is_offline():
    assert resolved_mode("auto") == "offline"


def test_a_key_in_the_environment_is_an_account(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert resolved_mode("auto") == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert resolved_mode("auto") == "offline"


@pytest.mark.parametrize(("host", "mode"), [("api.wandb.ai", "online"), ("example.org", "offline")])
def test_a_login_kept_in_netrc_is_an_account(tmp_path, host, mode):
    file = tmp_path / ".netrc"
    file.write_text(f"machine {host} login user password {KEY}\n")
    for rights in (0o600, 0o644):
        file.chmod(rights)
        assert resolved_mode("auto") == mode


def test_a_login_at_a_service_of_one_s_own_kept_elsewhere_is_an_account(tmp_path, monkeypatch):
    (tmp_path / "logins").write_text(f"machine wandb.example.org:8080 login user password {KEY}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "logins"))
    assert resolved_mode("auto") == "offline"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org:8080")
    assert resolved_mode("auto") == "online"


@pytest.mark.parametrize("content", ["machine", "\0", "machine x login y passwrd z"])
def test_a_netrc_file_that_cannot_be_read_holds_no_account(tmp_path, content):
    (tmp_path / ".netrc").write_text(content)
    assert resolved_mode("auto") == "offline"


@pytest.fixture(autouse=True)
def busy_machine(monkeypatch):
    """As long as a machine with much else to do takes to start the process that writes runs."""
    monkeypatch.setattr(tracking, "PATIENCE_S", 300.0)


@pytest.fixture
def folder(tmp_path):
    """The folder of a demo search that has just begun."""
    folder = tmp_path / "demo-7"
    folder.mkdir()
    write_json(folder / "search.json", resolved(preset("demo"), {"data": "nowhere"}))
    return folder


def starts(trial="a", number=1, **parameters):
    checkpoints = [f"tune/{trial}"]
    return {"trial": trial, "about": {"number": number, "parameters": parameters, "checkpoints": checkpoints}}


def reports(first, last, trial="a"):
    return [{"trial": trial, "report": {"epoch": epoch, "score": 9 / epoch}} for epoch in range(first, last + 1)]


def ends(trial="a", state="complete", stop_reason=""):
    return {"trial": trial, "ending": {"state": state, "stop_reason": stop_reason}}


def write_log(folder, *lines):
    with (folder / LOG).open("a") as log:
        log.writelines(json.dumps(line) + "\n" for line in lines)


def told(link):
    texts = []
    with suppress(EOFError):
        while link.poll(0):
            texts.append(link.recv())
    return [text for text in texts if text]


def follow(folder, *lines, mode="offline"):
    """Make runs of a log to its end, in this process; what the user is told."""
    write_log(folder, *lines)
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs, LogReader(folder / LOG) as log:
        ours.send(True)
        make_runs(log, place(folder), mode, Driver(theirs))
        return told(ours)


def offline(folder, trial="a"):
    """The one offline run of a trial."""
    (file,) = folder.glob(f"wandb/offline-run-*/run-demo-7-{trial}.wandb")
    return Offline(file)


def test_a_run_has_its_trial_s_configuration_every_metric_and_how_it_ended(folder):
    parameters = {"model.latent_dim": 150, "training.batch_size": 12}
    assert not follow(folder, starts(**parameters), *reports(1, 3), ends(state="stopped", stop_reason="stalled: x"))
    run = offline(folder)
    assert (run.id, run.group, run.exit_code) == ("demo-7-a", "demo-7", 0)
    assert run.config["model"]["latent_dim"] == 150
    assert run.config["training"]["batch_size"] == 12
    assert run.config["model"]["base_channels"] == preset("demo").model.base_channels
    assert [(row["_step"], row["epoch"], row["score"]) for row in run.history] == [
        (1, 1, 9.0),
        (2, 2, 4.5),
        (3, 3, 3.0),
    ]
    assert (run.summary["state"], run.summary["stop_reason"]) == ("stopped", "stalled: x")


def test_a_run_says_where_its_parameters_come_from(folder):
    (baseline,) = preset("demo").baselines
    drawn = {**baseline, "model.latent_dim": 333}
    lines = [starts("a", 1, **baseline), starts("b", 2, **drawn), starts("c", 1, **drawn, seed=5)]
    follow(folder, *lines)
    runs = [offline(folder, trial).config for trial in "abc"]
    assert [run["origin"] for run in runs] == ["baseline", "proposed", "trained again"]
    assert [run.get("trained_again_from") for run in runs] == [None, None, "b"]
    assert [(run["search"], run["trial"]) for run in runs] == [("demo-7", 1), ("demo-7", 2), ("demo-7", 1)]


def test_a_trial_that_failed_before_its_first_report_has_a_failed_run(folder):
    follow(folder, starts() | ends(state="failed", stop_reason="error"))
    run = offline(folder)
    assert (run.steps, run.summary["state"], run.exit_code) == ([], "failed", 1)


def test_no_step_is_doubled_when_a_restored_trial_repeats_epochs(folder):
    follow(folder, starts(), *reports(1, 7), starts(), *reports(5, 9), ends())
    assert offline(folder).steps == list(range(1, 10))


def test_a_line_cut_off_by_a_kill_is_passed_over(folder):
    write_log(folder, starts(), *reports(1, 3))
    with (folder / LOG).open("a") as log:
        log.write('{"trial": "a", "rep')
    LineLog(folder / LOG).close()
    follow(folder, *reports(4, 5), ends())
    assert offline(folder).steps == [1, 2, 3, 4, 5]


def test_what_a_kill_cut_off_is_written_whole_and_what_is_whole_left_alone(folder):
    follow(folder, starts("a"), *reports(1, 900, "a"), ends("a"), starts("b"), *reports(1, 900, "b"), ends("b"))
    (cut,) = folder.glob("wandb/offline-run-*/run-demo-7-a.wandb")
    (whole,) = folder.glob("wandb/offline-run-*/run-demo-7-b.wandb")
    os.truncate(cut, BLOCK)
    (cut.parent / wandb_runs.COMPLETE).unlink()
    assert offline(folder, "a").steps != list(range(1, 901))
    before = whole.stat()
    follow(folder)
    assert offline(folder, "a").steps == list(range(1, 901))
    assert offline(folder, "a").summary["state"] == "complete"
    assert whole.stat() == before


def test_a_trial_that_was_interrupted_goes_on_in_the_same_run(folder):
    follow(folder, starts(), *reports(1, 4))
    assert offline(folder).summary["state"] == "interrupted"
    assert not is_complete(folder, "a")
    follow(folder, starts(), *reports(4, 6), ends())
    assert offline(folder).steps == [1, 2, 3, 4, 5, 6]
    assert is_complete(folder, "a")


@pytest.fixture
def trained(folder, prepared, trial_config):
    """The parameters of a trial whose checkpoint lies where the log says."""
    from trainables.batches import PreparedDataset
    from trainables.gan import Gan

    dataset = PreparedDataset.open(prepared)
    config = preset("demo")
    write_json(folder / "search.json", resolved(config, {"data": str(prepared)}))
    gan = Gan(config.trial, dataset.samples, dataset.fs_hz, torch.device("cpu"))
    checkpoint = folder / "tune" / "a" / "checkpoint_000000"
    checkpoint.mkdir(parents=True)
    best = {"averaged": gan.averaged.state_dict(), "history": [{"score": 2.0}]}
    save_checkpoint(checkpoint, gan, best)
    return checkpoint / FILE


def test_a_picture_of_the_trial_s_generator_is_a_file_of_its_run(folder, trained):
    assert not follow(folder, starts(), *reports(1, 2), ends())
    run = offline(folder)
    (picture,) = folder.glob("wandb/offline-run-*/files/media/images/waveforms_*.png")
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert run.history[-1]["waveforms._type"] == "image-file"
    assert run.steps == [1, 2]


def test_a_damaged_checkpoint_costs_the_picture_alone(folder, trained):
    trained.write_bytes(b"no checkpoint")
    (text,) = follow(folder, starts(), *reports(1, 2), ends())
    assert "Trial a" in text
    assert "expected" in text
    assert is_complete(folder, "a")


@pytest.fixture
def service(monkeypatch):
    """A W&B service on this machine, with an account."""
    with running_service() as running:
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield running


def test_online_runs_reach_the_service_and_go_on_there_after_a_kill(folder, service):
    assert not follow(folder, starts(), *reports(1, 4), mode="online")
    assert service.steps("demo-7-a") == [1, 2, 3, 4]
    assert not follow(folder, starts(), *reports(3, 6), ends(), mode="online")
    assert service.steps("demo-7-a") == [1, 2, 3, 4, 5, 6]
    assert service.summary["demo-7-a"]["state"] == "complete"


def test_no_secret_is_written_into_the_result(folder, service):
    follow(folder, starts(), *reports(1, 3), ends(), mode="online")
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert files
    assert not [file for file in files if KEY.encode() in file.read_bytes()]


def test_a_service_that_cannot_be_reached_leaves_whole_offline_runs(folder, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(wandb_runs, "INIT_TIMEOUT_S", 1.0)
    lines = [starts("a"), *reports(1, 3, "a"), ends("a"), starts("b"), *reports(1, 2, "b"), ends("b")]
    (text,) = follow(folder, *lines, mode="online")
    assert "going on offline" in text
    assert (offline(folder, "a").steps, offline(folder, "b").steps) == ([1, 2, 3], [1, 2])


def test_a_service_that_falls_silent_leaves_whole_offline_runs(folder, service, monkeypatch):
    monkeypatch.setattr(wandb_runs, "INIT_TIMEOUT_S", 1.0)
    monkeypatch.setattr(wandb_runs, "FINISH_TIMEOUT_S", 1.0)
    end = Runs._end

    def silent_end(*arguments, **ending):
        service.answering.clear()
        end(*arguments, **ending)

    monkeypatch.setattr(Runs, "_end", silent_end)
    (text,) = follow(folder, starts(), *reports(1, 3), ends(), mode="online")
    assert "going on offline" in text
    assert offline(folder).steps == [1, 2, 3]
    assert is_complete(folder, "a")


def test_an_error_of_its_own_is_told_in_one_line(folder):
    (folder / "search.json").unlink()
    write_log(folder, starts())
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs:
        write_runs(place(folder), "offline", theirs)
        (text,) = told(ours)
    assert "search.json" in text


def test_the_driver_need_not_wait_for_what_wandb_does_after_the_runs_are_whole(folder):
    write_log(folder, starts(), *reports(1, 3), ends())
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs:
        ours.send(True)
        write_runs(place(folder), "offline", theirs)
        assert theirs.closed
    assert offline(folder).steps == [1, 2, 3]


def tune_trial(folder, name="a"):
    return SimpleNamespace(
        trial_id=name,
        path=str(folder / "tune" / f"run_{name}"),
        experiment_tag="3_latent_dim=150",
        config={"model.latent_dim": 150},
        status="RUNNING",
        last_result={},
        metric_analysis={},
    )


def run_trial(follower, trial, epochs, step=lambda: None):
    follower.on_trial_start(0, [trial], trial)
    for epoch in epochs:
        trial.last_result = {"epoch": epoch, "score": 9 / epoch, "node_ip": "10.0.0.1", "drift/minimum": 1.0}
        follower.on_trial_result(0, [trial], trial, trial.last_result)
        follower.on_step_end(0, [trial])
        step()


def end_trial(follower, trial):
    follower.on_trial_complete(0, [trial], trial)
    trial.status, trial.last_result = "TERMINATED", {**trial.last_result, "last_epoch": True}
    follower.on_step_end(0, [trial])


def test_disabled_it_writes_the_log_alone(folder):
    follower = Tracking(WandbConfig(mode="disabled"), place(folder), Console(file=io.StringIO()))
    run_trial(follower, trial := tune_trial(folder), range(1, 3))
    end_trial(follower, trial)
    follower.close()
    assert {file.name for file in folder.iterdir()} == {"search.json", LOG}
    assert [report["epoch"] for report in reports_by_trial(folder)[trial.trial_id]] == [1, 2]


def test_a_trial_that_ended_just_before_a_kill_is_told_of_when_the_search_is_restored(folder, monkeypatch):
    monkeypatch.setattr(tracking, "PATIENCE_S", 0.0)
    follower = Tracking(WandbConfig(mode="offline"), place(folder), Console(file=io.StringIO()))
    trial = tune_trial(folder)
    trial.status, trial.last_result = "TERMINATED", {"epoch": 5, "stop_reason": "stalled: x"}
    follower.on_step_end(0, [trial])
    follower.on_step_end(1, [trial])
    follower.close()
    (line,) = map(json.loads, (folder / LOG).read_text().splitlines())
    assert line["ending"] == {"state": "stopped", "stop_reason": "stalled: x"}
    assert line["about"]["parameters"] == trial.config


def test_a_search_is_followed_to_its_end_whatever_ctrl_c_does_to_its_process(folder):
    stream = io.StringIO()
    follower = Tracking(WandbConfig(mode="offline"), place(folder), Console(file=stream))
    (process,) = multiprocessing.active_children()
    os.kill(process.pid, signal.SIGINT)
    run_trial(follower, trial := tune_trial(folder), range(1, 6))
    end_trial(follower, trial)
    follower.close()
    run = offline(folder)
    assert run.steps == [1, 2, 3, 4, 5]
    assert run.history[0].keys() - {"_step", "_runtime", "_timestamp"} == {"epoch", "score", "drift/minimum"}
    assert (run.config["trial"], run.summary["state"]) == (3, "complete")
    assert not multiprocessing.active_children()
    assert "not whole" not in stream.getvalue()


def test_a_silent_service_holds_up_neither_the_search_nor_its_end(folder, service, monkeypatch):
    monkeypatch.setattr(tracking, "PATIENCE_S", 0.2)
    service.answering.clear()
    stream = io.StringIO()
    follower = Tracking(WandbConfig(mode="online"), place(folder), Console(file=stream))
    start = time.perf_counter()
    run_trial(follower, trial := tune_trial(folder), range(1, 1001))
    end_trial(follower, trial)
    follower.close()
    assert time.perf_counter() - start < 5
    assert "1 runs are not whole" in stream.getvalue()
    follow(folder)
    assert offline(folder).steps == list(range(1, 1001))


def _drive_and_die(folder: Path, epochs: int) -> None:
    follower = Tracking(WandbConfig(mode="offline"), place(folder), Console(file=io.StringIO()))
    trials = [tune_trial(folder, name) for name in "ab"]
    for trial in trials:
        run_trial(follower, trial, range(1, epochs + 1))
    end_trial(follower, trials[0])
    while not is_complete(folder, "a"):
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_after_a_kill_of_the_driver_a_resumed_search_has_every_run_to_its_last_step(folder):
    driver = multiprocessing.get_context("spawn").Process(target=_drive_and_die, args=(folder, 400))
    driver.start()
    driver.join()
    assert driver.exitcode == -signal.SIGKILL
    follower = Tracking(WandbConfig(mode="offline"), place(folder), Console(file=io.StringIO()))
    run_trial(follower, trial := tune_trial(folder, "b"), range(390, 421))
    end_trial(follower, trial)
    follower.close()
    assert offline(folder, "a").steps == list(range(1, 401))
    assert offline(folder, "b").steps == list(range(1, 421))
