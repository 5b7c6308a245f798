"""Several workers against one. As a script this file is one of the workers that `torch.distributed.run` starts."""

import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from optuna.storages import InMemoryStorage
from pyarrow.fs import LocalFileSystem
from ray.tune.schedulers import FIFOScheduler
from torch import distributed

from search.trials import trial_number
from trainables import workers
from trainables.config import ARCHITECTURES, TrialConfig, from_dict, with_values
from trainables.gan import Gan

FS_HZ, SAMPLES, ITERATIONS = 40.0, 400, 3
TOLERANCE = 1e-8


def iterate(config):
    """State and losses after a few iterations, each worker with its share of the same batches."""
    rng = torch.Generator().manual_seed(0)
    gan = Gan(config, SAMPLES, FS_HZ, torch.device("cpu"))
    label = torch.ones(config.training.batch_size, 1)
    for _ in range(ITERATIONS):
        for _ in range(config.training.n_critic):
            wave = torch.randn(len(label), 3, SAMPLES, generator=rng)
            gan.critic_step(workers.share(wave), workers.share(label))
        gan.generator_step(workers.share(label))
    return gan.state_dict() | gan.tally.read()


def of_each_architecture(config):
    return {name: iterate(with_values(config, {"model.architecture": name})) for name in ARCHITECTURES}


def be_a_worker(config, folder):
    """Train with the other workers and leave the states in the folder."""
    distributed.init_process_group("gloo")
    torch.set_default_dtype(torch.float64)
    torch.save(of_each_architecture(from_dict(TrialConfig, json.loads(config))), Path(folder, f"{workers.rank()}.pt"))
    distributed.destroy_process_group()


def difference(a, b):
    """The largest difference between two states: of each tensor or number, over its largest value."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        return max((difference(a[key], b[key]) for key in a if key not in ("seconds", "memory_gb")), default=0.0)
    if isinstance(a, list | tuple):
        assert len(a) == len(b)
        return max((difference(x, y) for x, y in zip(a, b, strict=True)), default=0.0)
    if isinstance(a, float):
        return difference(torch.tensor(a), torch.tensor(b))
    if isinstance(a, torch.Tensor) and a.is_floating_point():
        assert a.dtype == b.dtype == torch.float64 or a.ndim == 0  # an optimiser counts its steps in float32
        return float(((a - b).abs().max() / a.abs().max()).nan_to_num(0.0))
    assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    return 0.0


@pytest.fixture
def float64():
    """Double precision here, where no rounding is magnified enough to be seen; and single again for other tests."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.slow
def test_two_workers_with_half_the_batch_each_equal_one_with_all_of_it(trial_config, tmp_path, float64):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__]
    arguments = [json.dumps(asdict(trial_config)), str(tmp_path)]
    subprocess.run([*command, *arguments], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, timeout=300)
    alone = of_each_architecture(trial_config)
    assert alone["gated"]["counters"] == {"epoch": 0, "critic_steps": 6, "generator_steps": 3, "samples": 48}
    for rank in range(2):
        assert difference(alone, torch.load(tmp_path / f"{rank}.pt")) <= TOLERANCE


class Float64:
    """A rule that never stops a training; whichever process unpickles it computes in float64 from then on."""

    def __call__(self, history, config):
        return None

    def __reduce__(self):
        return _in_float64, ()


def _in_float64():
    torch.set_default_dtype(torch.float64)
    return Float64()


class KillOnce:
    """A rule that never stops a training; the second worker that unpickles it dies in the middle of its third epoch.

    It leaves a file that keeps the worker that replaces it alive.
    """

    def __init__(self, flag):
        self.flag = flag

    def __call__(self, history, config):
        return None

    def __reduce__(self):
        return _deadly, (self.flag,)


def _deadly(flag):
    step = Gan.generator_step

    def step_or_die(gan, label_BL):
        if workers.rank() == 1 and gan.epoch == 2 and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return step(gan, label_BL)

    Gan.generator_step = step_or_die
    return KillOnce(flag)


@pytest.fixture
def search(cluster, prepared, trial_config, monkeypatch):
    """Train one trial in a search of its own, of so many workers; Tune's records and the reports of its epochs."""
    from ray import cloudpickle

    from search import tuner
    from search.config import ResourcesConfig, SchedulerConfig, SearchConfig

    def run(folder, num_workers, rule=None, epochs=2):
        if rule:
            monkeypatch.setattr(tuner, "stop_reason", rule)
        config = with_values(
            SearchConfig(
                trial_config.model,
                trial_config.training,
                trial_config.evaluation,
                scheduler=SchedulerConfig("none"),
                resources=ResourcesConfig(workers_per_trial=num_workers, cpus_per_trial=num_workers),
                num_samples=1,
            ),
            {"training.max_epochs": epochs},
        )
        folder.mkdir()
        analysis, finished = tuner.run_search(config, prepared, folder, [], resume=False)
        assert finished
        (file,) = folder.glob("tune/*/result.json")
        return analysis, [json.loads(line) for line in file.read_text().splitlines()]

    # Ray's own processes cannot import a test.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield run
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def last_state(analysis):
    from search.export.write import _checkpoints
    from trainables.checkpoint import load_checkpoint

    newest = max(kept.checkpoint.path for kept in _checkpoints(analysis.trials[0]))  # by count, or time
    return load_checkpoint(Path(newest))


def of_training(report):
    """The training's own part of what was reported to Tune."""
    kept = ("score", "epoch", "samples", "critic_steps", "generator_steps", "stop_reason", "last_epoch", "best_score")
    return {
        key: value
        for key, value in report.items()
        if key in kept or (key.partition("/")[1] and not key.startswith("worker/"))
    }


pydantic = pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince20")  # Ray Train reading its own files


@pydantic
@pytest.mark.slow
@pytest.mark.all
def test_a_trial_of_two_workers_equals_one_of_one(search, tmp_path):
    alone, first = search(tmp_path / "one", 1, Float64())
    shared, second = search(tmp_path / "two", 2, Float64())
    assert [report["generator_steps"] for report in first] == [1, 3]
    assert difference([of_training(r) for r in first], [of_training(r) for r in second]) <= TOLERANCE
    assert difference(last_state(alone), last_state(shared)) <= TOLERANCE
    assert torch.get_default_dtype() == torch.float32


@pydantic
@pytest.mark.slow
@pytest.mark.all
def test_a_trial_goes_on_from_its_checkpoint_when_a_worker_is_killed(search, tmp_path):
    _, undisturbed = search(tmp_path / "undisturbed", 2, epochs=4)
    flag = tmp_path / "killed"
    analysis, reports = search(tmp_path / "disturbed", 2, KillOnce(flag), epochs=4)
    assert flag.exists()
    assert analysis.trials[0].status == "TERMINATED"
    assert [report["epoch"] for report in reports] == [1, 2, 3, 4]  # a training begun anew would report the first again
    assert [of_training(r) for r in reports] == [of_training(r) for r in undisturbed]


SMALL = [
    "model.base_channels=2",
    "model.kernel=8",
    "evaluation.fakes=16",
    "evaluation.splits=10",
    "wandb.mode=disabled",
    "finalists.count=0",
]
TWO = ["resources.workers_per_trial=2", "resources.cpus_per_trial=2"]


@pytest.fixture
def whole_search(cluster, prepared, tmp_path):
    """Run a whole search from the command line's settings; its folder and what it printed."""
    from rich.console import Console

    from search import plan, session
    from search.run import parse_arguments

    def run(*settings, samples=1):
        options = ["--data", str(prepared), "--preset", "demo", "--results", str(tmp_path), "--name", "x"]
        given = [part for text in (*SMALL, *settings) for part in ("--set", text)]
        count = ["--num-samples", str(samples), "--max-epochs", "2"]
        stream = io.StringIO()
        session.run(plan.make(parse_arguments([*options, *count, *given]), {}), Console(file=stream, soft_wrap=True))
        return tmp_path / "x", stream.getvalue()

    return run


class StopFirst(FIFOScheduler):
    """Stops a search's first trial at its first report, and no other."""

    def on_trial_result(self, controller, trial, result):
        return self.STOP if trial_number(trial) == 1 else self.CONTINUE


@pydantic
@pytest.mark.slow
@pytest.mark.all
def test_a_search_with_two_workers_a_trial_goes_on_after_a_stop_and_exports_its_best_epoch(whole_search, monkeypatch):
    monkeypatch.setattr("search.tuner.make_scheduler", lambda *_: StopFirst())
    folder, _ = whole_search(*TWO, "training.batch_size=[4, 8]", samples=2)
    table = pd.read_csv(folder / "trials.csv")
    assert list(table["state"]) == ["stopped", "complete"]
    assert list(table["epochs"]) == [1, 2]
    assert set(table["training.batch_size"]) <= {4, 6, 8}
    lines = [line for file in folder.glob("tune/*/result.json") for line in file.read_text().splitlines()]
    metrics = json.loads((folder / "best" / "metrics.json").read_text())
    assert metrics["validation"]["score"] == min(json.loads(line)["score"] for line in lines)


@pydantic
@pytest.mark.slow
@pytest.mark.all
def test_two_workers_that_diverge_leave_nothing_to_export(whole_search):
    with pytest.raises(ValueError, match=r"no trial has finished an epoch with a finite score.*diverged: non-finite"):
        whole_search(*TWO, "training.critic_lr=1e30", "training.batch_size=8")


def test_two_workers_that_failed_before_their_first_report_have_no_checkpoints(tmp_path):
    from search.export.write import _checkpoints

    (tmp_path / "abc").mkdir()
    manager = SimpleNamespace(best_checkpoint_results=[])
    run_metadata = SimpleNamespace(checkpoint_manager=manager)
    storage = SimpleNamespace(storage_filesystem=LocalFileSystem())
    where = {"storage": storage, "remote_experiment_path": str(tmp_path)}
    trial = SimpleNamespace(trial_id="abc", run_metadata=run_metadata, **where)
    assert _checkpoints(trial) == []


def test_a_batch_that_two_workers_cannot_share_is_refused_before_any_is_started(trial_config, tmp_path):
    from trainables.trainable import run_trial

    config = with_values(trial_config, {"training.batch_size": 9})
    with pytest.raises(ValueError, match="batch_size is 9, which 2 workers cannot share equally; expected a multiple"):
        run_trial(
            {},
            base=config,
            dataset=lambda: tmp_path,
            stop_rule=len,
            cpus=1,
            gpus=0.0,
            num_workers=2,
            filesystem=LocalFileSystem(),
            runs=str(tmp_path / "runs"),
        )
    assert not (tmp_path / "runs").exists()


def test_drawn_batches_are_rounded_down_to_what_workers_can_share():
    from search.samplers import make_sampler
    from search.space import Range
    from search.tuner import _SharedBatches

    space = {"training.batch_size": Range(6, 21), "training.n_critic": Range(1, 9)}
    make = partial(make_sampler, "random", space, [1], 9, 0)
    searcher = _SharedBatches(3, space, make, InMemoryStorage(), "a search")
    drawn = [searcher.suggest(str(number)) for number in range(30)]
    assert {point["training.batch_size"] for point in drawn} == {6, 9, 12, 15, 18, 21}
    assert {point["training.n_critic"] for point in drawn} == set(range(1, 10))


@pytest.mark.slow
def test_a_cluster_too_small_for_one_trial_is_refused_at_once(whole_search, tmp_path):
    with pytest.raises(ValueError, match="3 workers of 1 CPUs and 0 GPUs each, but the cluster has room for 2"):
        whole_search("resources.workers_per_trial=3", "resources.cpus_per_trial=3", "training.batch_size=9")
    assert not list(tmp_path.iterdir())


ONE_NODE, TWO_NODES = [{"CPU": 8.0, "GPU": 4.0}], [{"CPU": 3.0}, {"CPU": 5.0}]


def on(nodes, monkeypatch, *settings):
    """How many trials run at once on such a cluster."""
    from search import cluster
    from search.config import with_settings
    from search.presets import preset

    nodes = [{"Alive": True, "Resources": node} for node in nodes] + [{"Alive": False, "Resources": {"CPU": 99.0}}]
    monkeypatch.setattr(cluster.ray, "nodes", lambda: nodes)
    return cluster.trials_at_once(with_settings(preset("demo"), [f"resources.{text}" for text in settings]))


@pytest.mark.parametrize(
    ("nodes", "settings", "at_once"),
    [
        (ONE_NODE, [], None),
        (ONE_NODE, ["max_concurrent=3"], 3),
        (ONE_NODE, ["workers_per_trial=2", "cpus_per_trial=2"], 4),
        (ONE_NODE, ["workers_per_trial=2", "cpus_per_trial=2", "max_concurrent=3"], 3),
        (ONE_NODE, ["workers_per_trial=2", "cpus_per_trial=2", "max_concurrent=9"], 4),
        (ONE_NODE, ["workers_per_trial=2", "cpus_per_trial=2", "gpus_per_trial=2"], 2),
        (ONE_NODE, ["workers_per_trial=2", "cpus_per_trial=6", "gpus_per_trial=2"], 1),
        (TWO_NODES, ["workers_per_trial=4", "cpus_per_trial=4"], 2),
        (TWO_NODES, ["workers_per_trial=2", "cpus_per_trial=4"], 1),
        (TWO_NODES, ["workers_per_trial=2", "cpus_per_trial=6"], 1),
    ],
)
def test_as_many_trials_run_at_once_as_their_workers_have_room(monkeypatch, nodes, settings, at_once):
    assert on(nodes, monkeypatch, *settings) == at_once


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["workers_per_trial=2", "cpus_per_trial=3"], "cpus_per_trial is 3, which 2 workers cannot share equally"),
        (["workers_per_trial=2", "cpus_per_trial=2", "gpus_per_trial=1"], "gpus_per_trial is 1, which 2 workers"),
        (["workers_per_trial=3", "cpus_per_trial=3"], "batch_size is 8, which 3 workers"),
        (["workers_per_trial=2", "cpus_per_trial=8"], "room for 1; choose fewer"),
    ],
)
def test_what_workers_cannot_share_or_the_cluster_cannot_hold_is_refused(monkeypatch, settings, message):
    with pytest.raises(ValueError, match=message):
        on(TWO_NODES, monkeypatch, *settings)


if __name__ == "__main__":
    be_a_worker(*sys.argv[1:])
