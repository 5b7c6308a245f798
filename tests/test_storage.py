"""Results and data in a bucket: that of a pretended S3, which answers on this machine."""

import io
import os
import pickle
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from pyarrow.fs import FileSelector
from ray import tune
from ray.train._internal.checkpoint_manager import _CheckpointManager, _TrainingResult
from ray.tune.experiment import Experiment
from rich.console import Console
from werkzeug.serving import make_server

from search import line_log, plan, storage
from search.config import WandbConfig
from search.internals import deleting_aside, send_changes_alone
from search.line_log import LOG, LineLog, lines_of
from search.run import parse_arguments
from search.storage import LATEST_RUN, Changes, copies, dataset_at, on_this_machine, place
from search.tracking import Tracking
from search.tune_state import Sent
from search.turn import MARK, Turn
from search.wandb_runs import newest_first
from tests.test_kills import LIMIT_S, LINES, check_kept, check_whole, ended, lines, start, wait_for  # noqa: F401
from tests.test_search import SMALL
from trainables.checkpoint import FILE, load_first

PROJECT = Path(__file__).parents[1]
SECRET = "never-written"


class Service:
    """A web application that now and then answers as if it had too much to do, or not at all."""

    def __init__(self, application):
        self._application, self._lock, self.asked = application, threading.Lock(), 0
        self.refuses = lambda number: False
        self.answers = threading.Event()
        self.answers.set()

    def __call__(self, environment, start_response):
        with self._lock:
            self.asked += 1
            refused = self.refuses(self.asked)
        self.answers.wait()
        if not refused:
            return self._application(environment, start_response)
        environment["wsgi.input"].read(int(environment.get("CONTENT_LENGTH") or 0))
        start_response("500 Internal Server Error", [("Content-Length", "0")])
        return []


@pytest.fixture(scope="module")
def service():
    """S3 as it answers on a port of this machine."""
    service = Service(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, service, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    service.url = f"http://127.0.0.1:{server.port}"
    yield service
    server.shutdown()
    thread.join()


@pytest.fixture
def s3(service, tmp_path, monkeypatch):
    """An empty bucket `mine`, and none of the copies on this machine that other tests have made."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    keys = {"AWS_ACCESS_KEY_ID": "anyone", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_EC2_METADATA_DISABLED": "true"}
    where = {"AWS_ENDPOINT_URL": service.url, "AWS_DEFAULT_REGION": "us-east-1", "XDG_CACHE_HOME": str(tmp_path / "c")}
    for name, value in {**keys, **where}.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="mine")
    yield service
    service.refuses = lambda number: False
    service.answers.set()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="mine"):
        for kept in page.get("Contents", []):
            client.delete_object(Bucket="mine", Key=kept["Key"])
    client.delete_bucket(Bucket="mine")


def names(kept):
    """The files in a place."""
    found = kept.filesystem.get_file_info(FileSelector(kept.path, recursive=True))
    return sorted(os.path.relpath(info.path, kept.path) for info in found if info.is_file)


def write(folder, *files):
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def test_a_local_folder_is_its_own_copy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", tmp_path / "a", f"file://{tmp_path}/a"):
        assert (place(name) / "b").here == tmp_path / "a" / "b"
    (tmp_path / "a").mkdir()
    write(tmp_path / "a", "b")
    Changes(place("a")).send()
    place("a").bring_search()
    assert names(place("a")) == ["b"]


def test_what_lies_below_a_url_keeps_its_options(s3):
    url = f"s3://mine/results?endpoint_override={s3.url.removeprefix('http://')}&scheme=http"
    below = place(url) / "x"
    assert below.path == "mine/results/x"
    assert below.name == url.replace("results?", "results/x?")
    below.write(b"some")
    assert place(below.name).read() == b"some"


@pytest.mark.parametrize("password", ["hidden", "a/hidden+b", "a:hidden"])
def test_a_password_in_a_url_is_refused_and_not_told(password):
    with pytest.raises(ValueError, match="has a password; expected it in the environment") as refusal:
        place(f"s3://key:{password}@bucket/results")
    assert "hidden" not in str(refusal.value)


def test_no_key_is_in_what_is_sent_to_other_processes(s3):
    assert SECRET.encode() not in pickle.dumps(place("s3://mine/results"))


def test_what_has_changed_is_sent_and_no_more(s3, monkeypatch):
    kept = place("s3://mine/results/x")
    own = ["search.json", "trials.csv", "trials.jsonl", "tune/kept_trials.jsonl", "best/config.json"]
    write(kept.here, *own, ".lock", "tune/trial/result.json", "wandb/run-1/a.wandb", "finalists/tune/kept_trials.jsonl")
    (kept.here / "wandb" / LATEST_RUN).symlink_to("run-1")
    sent, write_there = [], storage.Place.write

    def noted(one, content):
        sent.append(os.path.relpath(one.here, kept.here))
        write_there(one, content)

    monkeypatch.setattr(storage.Place, "write", noted)
    changes = Changes(kept)
    changes.send()
    assert names(kept) == sorted([*own, "finalists/tune/kept_trials.jsonl"])
    assert [name.rpartition("/")[2] for name in sent[:3]] == ["trials.jsonl", "kept_trials.jsonl", "kept_trials.jsonl"]
    sent.clear()
    (kept.here / "trials.csv").write_text("more")
    changes.send()
    assert sent == ["trials.csv"]
    changes.send(left_out=(LATEST_RUN,))
    assert sent == ["trials.csv", "wandb/run-1/a.wandb"]


def test_of_a_long_log_its_last_part_alone_is_sent_again_and_what_follows_from_it_later(s3, monkeypatch):
    monkeypatch.setattr(line_log, "PART_BYTES", 100)
    kept = place("s3://mine/results/x")
    kept.here.mkdir(parents=True)
    log, changes = LineLog(kept.here / LOG), Changes(kept)
    sent = []
    for number in range(20):
        log.write({"trial": "a", "number": number})
        write(kept.here, "trials.csv", "optuna.journal")
        asked = s3.asked
        changes.send_logs()
        sent.append(s3.asked - asked)
    log.close()
    assert set(sent) == {1}
    assert names(kept) == sorted(name for name in names(place(kept.here)) if name.endswith(".jsonl"))
    shutil.rmtree(kept.here)
    kept.bring_search()
    assert [line["number"] for line in lines_of(kept.here / LOG)] == list(range(20))


def test_the_study_is_sent_at_the_end_alone(s3):
    kept = place("s3://mine/results/x")
    write(kept.here, "trials.csv", "optuna.journal", "trials.jsonl")
    changes = Changes(kept)
    with Turn(kept, Console(file=io.StringIO())) as turn:
        Sent(changes, turn).get_state()
    assert names(kept) == ["trials.csv", "trials.jsonl"]
    changes.send(left_out=(LATEST_RUN,))
    assert names(kept) == ["optuna.journal", "trials.csv", "trials.jsonl"]


def test_of_what_tune_saves_the_changes_are_sent_as_they_were_when_it_saved(s3, tmp_path):
    kept = place("s3://mine/results/x")
    experiment = Experiment("tune", print, storage_path=kept.path, storage_filesystem=kept.filesystem)
    send_changes_alone(experiment, kept / "tune")
    syncer, at = experiment.storage.syncer, experiment.storage.experiment_fs_path
    before = len(pickle.dumps(experiment.storage))
    write(tmp_path / "saved", "state.json", "trial/params.json")
    requests = []
    for content in ("first", "second"):
        (tmp_path / "saved" / "state.json").write_text(content)
        asked = s3.asked
        assert syncer.sync_up(str(tmp_path / "saved"), at)
        syncer.wait()
        requests.append(s3.asked - asked)
        assert (kept / "tune" / "state.json").read() == content.encode()
    assert names(kept / "tune") == [".validate_storage_marker", "state.json", "trial/params.json"]
    assert requests == [2, 1]
    assert len(pickle.dumps(experiment.storage)) == before  # Tune saves it with each trial


def test_a_trial_s_checkpoints_are_found_where_they_are_kept(s3):
    kept = place("s3://mine/results/x")
    kept.here.mkdir(parents=True)
    for number in (0, 1):
        (kept / f"tune/a/checkpoint_{number:06d}/{FILE}").write(b"any")
    trial = SimpleNamespace(path=f"{kept.path}/tune/a", trial_id="b", experiment_tag="1_", config={})
    with closing(Tracking(WandbConfig(mode="disabled"), kept, Console(file=io.StringIO()))) as tracking:
        folders = tracking._about(trial)["checkpoints"]
    assert folders == ["tune/a", "tune/b"]
    found = newest_first([kept / name for name in folders])
    assert [str(folder) for folder in found] == [f"{kept.path}/tune/a/checkpoint_{n:06d}" for n in (1, 0)]


def test_tune_does_not_wait_until_checkpoints_are_deleted(s3):
    kept = place("s3://mine/results/x")
    folders = [kept / f"checkpoint_{number:06d}" for number in range(5)]
    for folder in folders:
        (folder / "training.pt").write(b"some")
    manager = _CheckpointManager(tune.CheckpointConfig(num_to_keep=2))
    with deleting_aside(kept):
        s3.answers.clear()
        for folder in folders:
            manager.register_checkpoint(_TrainingResult(tune.Checkpoint(folder.path, folder.filesystem), {}))
        s3.answers.set()
    assert names(kept) == ["checkpoint_000003/training.pt", "checkpoint_000004/training.pt"]


def test_a_search_is_brought_as_it_is_kept(s3):
    kept = place("s3://mine/results/x")
    for name in ("search.json", "tune/state.json", "tune/trial/result.json", "wandb/run-1/a.wandb"):
        (kept / name).write(b"kept")
    write(kept.here, "search.json", "trials.csv", ".lock")
    kept.bring_search()
    assert names(place(kept.here)) == [".lock", "search.json", "tune/state.json"]
    assert (kept.here / "search.json").read_text() == "kept"


@pytest.fixture
def kept_data(s3, prepared):
    """A prepared dataset in the bucket."""
    for file in prepared.iterdir():
        (place("s3://mine/data") / file.name).write(file.read_bytes())
    return "s3://mine/data"


def test_a_dataset_is_brought_once_by_all_who_ask(kept_data, prepared, s3):
    data = dataset_at(kept_data)
    with ThreadPoolExecutor(4) as pool:
        (folder,) = set(pool.map(on_this_machine, [data] * 4))
    assert names(place(folder)) == names(place(prepared))
    asked = s3.asked
    assert on_this_machine(pickle.loads(pickle.dumps(data))) == folder
    assert s3.asked == asked


def test_a_dataset_that_was_changed_is_refused_and_nothing_is_left(kept_data):
    data = dataset_at(kept_data)
    (place(kept_data) / "rejected.csv").write(b"other")
    with pytest.raises(ValueError, match=r"rejected\.csv differs from its checksum"):
        on_this_machine(data)
    assert [file.suffix for file in data.here.parent.iterdir()] == [".lock"]


def test_a_dataset_without_manifest_is_refused(s3):
    with pytest.raises(ValueError, match=r"dataset s3://mine/data: no manifest\.json; give a folder made by"):
        dataset_at("s3://mine/data")


def test_requests_are_repeated_until_the_service_answers(s3):
    kept = place("s3://mine/results/x")
    kept.write(b"some")
    elsewhere = pickle.loads(pickle.dumps(kept))
    first = s3.asked
    s3.refuses = lambda number: number < first + 6
    assert elsewhere.read() == b"some"
    assert s3.asked > first + 6
    s3.refuses = lambda number: number % 3 == 0
    for number in range(20):
        elsewhere.write(f"{number}".encode())
        assert kept.read() == f"{number}".encode()


def test_checkpoints_are_read_where_they_are_kept(s3):
    kept = place("s3://mine/tune/trial")
    (kept / "checkpoint_000001/training.pt").write(b"no checkpoint")
    folders = [Path(kept.path, f"checkpoint_{number:06d}") for number in range(2)]
    state, damage = load_first(folders, kept.filesystem)
    assert state is None
    assert "mine/tune/trial/checkpoint_000000/training.pt does not exist" in damage[0]
    assert "begins with b'no checkpoint'" in damage[1]


def test_names_are_taken_in_the_bucket(s3, tmp_path):
    results = "s3://mine/results"
    (place(results) / "demo-1" / "search.json").write(b"{}")
    assert plan.make(parse_arguments(["--results", results]), {}).kept.name == "s3://mine/results/demo-2"
    with pytest.raises(ValueError, match="s3://mine/results/demo-1 exists already; choose another --name"):
        plan.make(parse_arguments(["--results", results, "--name", "demo-1"]), {})
    with pytest.raises(ValueError, match=r"s3://mine/results/other/search\.json does not exist"):
        plan.make(parse_arguments(["--results", results, "--name", "other", "--resume"]), {})


@pytest.mark.all
def test_a_search_killed_on_one_machine_goes_on_on_another(s3, start):  # noqa: F811
    kept = place("s3://mine/results") / "x"
    s3.refuses = lambda number: number % 10 == 0
    process = start("s3://mine/results")
    wait_for(lambda: lines(kept.here) >= LINES // 3, process)
    process.kill()
    process.wait()
    assert (kept / MARK).exists()
    kept.filesystem.delete_file((kept / MARK).path)  # or it would be waited for
    shutil.rmtree(copies())
    kept.bring_search()
    before = ended(kept.here)
    shutil.rmtree(copies())
    assert before
    assert start("s3://mine/results").wait(LIMIT_S) == 0
    check_kept(before, kept.here)
    check_whole(kept.here)
    assert (kept / "trials.csv").read() == (kept.here / "trials.csv").read_bytes()
    for name in names(kept):
        content = (kept / name).read()
        assert SECRET.encode() not in content
        assert SECRET.encode().hex().encode() not in content  # as Tune writes what is not JSON


@pytest.fixture
def silent(s3):
    """Has the service accept what it is asked and not answer, for so many seconds, or until the test ends."""
    timers = []

    def call(seconds=None):
        s3.answers.clear()
        if seconds:
            timers.append(threading.Timer(seconds, s3.answers.set))
            timers[-1].start()

    yield call
    for timer in timers:
        timer.cancel()
        timer.join()


@pytest.mark.slow
@pytest.mark.all
def test_a_service_that_does_not_answer_for_a_minute_is_waited_for(s3, silent, start):  # noqa: F811
    kept = place("s3://mine/results") / "x"
    process = start("s3://mine/results")
    wait_for(lambda: lines(kept.here) >= LINES // 3, process)
    silent(60.0)
    assert process.wait(LIMIT_S) == 0
    check_whole(kept.here)
    assert (kept / "trials.csv").read() == (kept.here / "trials.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.all
def test_a_service_that_never_answers_again_ends_the_search_with_what_to_do(s3, silent, start, tmp_path):  # noqa: F811
    kept = place("s3://mine/results") / "x"
    process = start("s3://mine/results")
    wait_for(lambda: lines(kept.here) >= LINES // 3, process)
    silent()
    assert process.wait(2 * LIMIT_S) == 2  # 4 minutes for the request that is given up
    told = (tmp_path / "output.txt").read_text()
    assert "Interrupted; everything so far is kept. Go on with:" in told
    assert "--name x --results s3://mine/results --resume" in told
    assert told.splitlines()[-1].startswith("error: ")
    before = ended(kept.here)
    s3.answers.set()
    assert start("s3://mine/results").wait(LIMIT_S) == 0
    check_kept(before, kept.here)
    check_whole(kept.here)


@pytest.mark.slow
@pytest.mark.all
def test_trials_read_data_from_the_bucket_and_the_best_goes_there(kept_data, tmp_path):
    given = ["--data", kept_data, "--results", "s3://mine/results", "--preset", "demo", "--name", "y"]
    settings = [part for text in (*SMALL, "wandb.mode=disabled") for part in ("--set", text)]
    command = [sys.executable, "search/run.py", *given, *settings, "--num-samples", "2", "--max-epochs", "2"]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    kept = place("s3://mine/results/y")
    assert names(kept / "best") == names(place(kept.here / "best"))
    assert (kept / "report.html").exists()
    assert len(list(copies().glob("data/*/manifest.json"))) == 1
    assert "best/" in ended.stdout
    assert not list((tmp_path / "c").rglob("training.pt"))
