import io
from types import SimpleNamespace

import pytest
import wandb
from rich.console import Console

from search.config import WandbConfig
from search.tracking import Tracking, resolved_mode


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    """A machine that knows of no account, whatever this one does."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize("mode", ["online", "offline", "disabled"])
def test_a_mode_that_is_asked_for_is_taken(mode):
    assert resolved_mode(mode) == mode


def test_without_an_account_it_is_offline():
    assert resolved_mode("auto") == "offline"


def test_a_key_in_the_environment_is_an_account(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert resolved_mode("auto") == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert resolved_mode("auto") == "offline"


@pytest.mark.parametrize(("host", "mode"), [("api.wandb.ai", "online"), ("example.org", "offline")])
def test_a_login_kept_in_netrc_is_an_account(tmp_path, host, mode):
    file = tmp_path / ".netrc"
    file.write_text(f"machine {host} login user password {'x' * 40}\n")
    file.chmod(0o600)
    assert resolved_mode("auto") == mode


class FakeRun:
    """Keeps what it is told."""

    def __init__(self, **kwargs):
        self.kwargs, self.logged, self.summary, self.exit_code = kwargs, [], {}, None

    def log(self, metrics, step):
        self.logged.append((step, metrics))

    def finish(self, exit_code=0):
        self.exit_code = exit_code


def trial(name="t1", last=None):
    return SimpleNamespace(trial_id=name, config={"model.latent_dim": 150}, last_result=last or {})


def follow(tmp_path, monkeypatch, mode="offline", fail_online=False):
    runs, stream = [], io.StringIO()

    def init(**kwargs):
        if fail_online and kwargs["mode"] == "online":
            raise wandb.errors.CommError("no route")
        runs.append(FakeRun(**kwargs))
        return runs[-1]

    monkeypatch.setattr(wandb, "init", init)
    folder = tmp_path / "demo-7"
    tracking = Tracking(WandbConfig(mode=mode), folder, {"model.latent_dim": 200, "seed": 3}, Console(file=stream))
    return tracking, runs, stream


def test_a_run_a_trial_with_its_own_parameters_in_the_search_s_group(tmp_path, monkeypatch):
    tracking, runs, _ = follow(tmp_path, monkeypatch)
    tracking.on_trial_start(0, [], trial())
    tracking.on_trial_start(0, [], trial())
    (run,) = runs
    assert (run.kwargs["group"], run.kwargs["id"], run.kwargs["resume"]) == ("demo-7", "demo-7-t1", "allow")
    assert run.kwargs["config"] == {"model.latent_dim": 150, "seed": 3}


def test_metrics_are_logged_by_epoch_and_tune_s_own_left_out(tmp_path, monkeypatch):
    tracking, runs, _ = follow(tmp_path, monkeypatch)
    tracking.on_trial_start(0, [], trial())
    result = {"score": 2.0, "epoch": 4, "drift/minimum": 1.0, "node_ip": "10.0.0.1", "time_total_s": 3.0}
    tracking.on_trial_result(0, [], trial(), result)
    assert runs[0].logged == [(4, {"score": 2.0, "epoch": 4, "drift/minimum": 1.0})]


def test_the_end_of_a_trial_closes_its_run_with_the_reason(tmp_path, monkeypatch):
    tracking, runs, _ = follow(tmp_path, monkeypatch)
    for name in ("a", "b", "c"):
        tracking.on_trial_start(0, [], trial(name))
    tracking.on_trial_complete(0, [], trial("a", {"stop_reason": "drifting: minimum"}))
    tracking.on_trial_error(0, [], trial("b"))
    assert runs[0].summary["stop_reason"] == "drifting: minimum"
    assert [run.exit_code for run in runs] == [0, 1, None]
    tracking.close()
    assert runs[2].exit_code == 0


def test_an_unreachable_service_is_told_once_and_the_search_goes_on_offline(tmp_path, monkeypatch):
    tracking, runs, stream = follow(tmp_path, monkeypatch, mode="online", fail_online=True)
    for name in ("a", "b"):
        tracking.on_trial_start(0, [], trial(name))
    assert [run.kwargs["mode"] for run in runs] == ["offline", "offline"]
    assert stream.getvalue().count("going on offline") == 1
