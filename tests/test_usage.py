import json
import math
import time

import pytest
import torch

from trainables import usage
from trainables.batches import PreparedDataset
from trainables.gan import Gan
from trainables.training import train
from trainables.usage import Usage

CPU = torch.device("cpu")


def test_usage_is_counted_from_one_report_to_the_next(trial_config, monkeypatch):
    now = iter([100.0, 113.0, 125.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    use, gan = Usage(CPU, steps=5), Gan(trial_config, 400, 40.0, CPU)
    gan.critic_steps, gan.generator_steps = 20, 5
    assert use(gan, 10.0) == {"worker/steps_per_s": 2.0, "worker/wait_s": 3.0}
    gan.critic_steps = 26
    assert use(gan, 12.0) == {"worker/steps_per_s": 0.5, "worker/wait_s": 0.0}


def test_peak_memory_is_in_gigabytes():
    assert 0.1 < usage.peak_gb(CPU) < 50


def no_room():
    """What torch raises where a CPU has no memory left."""
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60)
    return raised.value


@pytest.mark.parametrize("used", [False, True])
def test_the_peak_of_a_gpu_is_forgotten_only_where_one_is_in_use(used, monkeypatch):
    """Before its first use the allocator knows of no device, and would raise."""
    forgotten = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: used)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", forgotten.append)
    usage.forget_peak(torch.device("cuda"))
    assert forgotten == ([torch.device("cuda")] if used else [])


@pytest.mark.skipif(not usage.CLEAR_PEAK.exists(), reason="this system does not forget a peak")
def test_a_peak_is_that_of_one_training_alone():
    usage.forget_peak(CPU)  # the tests before reached one of their own
    before, large = usage.peak_gb(CPU), torch.ones(10**8)
    assert usage.peak_gb(CPU) > before + 0.3
    del large
    usage.forget_peak(CPU)
    assert usage.peak_gb(CPU) < before + 0.1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), "CUDA out of memory"),
        (MemoryError("no room"), "no room"),
        (no_room(), "can't allocate memory: you tried to allocate 4611686018427387904 bytes"),
    ],
)
def test_a_training_without_memory_ends_with_the_reason_and_its_last_state(
    trial_config, prepared, monkeypatch, error, reason
):
    reports, step = [], Gan.generator_step

    def step_or_fail(gan, label_BL):
        if gan.epoch == 1:
            raise error
        return step(gan, label_BL)

    monkeypatch.setattr(Gan, "generator_step", step_or_fail)
    train(trial_config, PreparedDataset.open(prepared), lambda m, gan: reports.append(m), lambda history: None)
    assert [report["epoch"] for report in reports] == [1, 2]
    assert reports[0]["stop_reason"] == ""
    assert math.isfinite(reports[0]["score"])
    assert reports[1]["stop_reason"] == f"out of memory: {reason}"
    assert reports[1]["score"] == math.inf


def test_another_error_ends_a_training_with_itself(trial_config, prepared, monkeypatch):
    def fails(gan, label_BL):
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(Gan, "generator_step", fails)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        train(trial_config, PreparedDataset.open(prepared), lambda m, gan: None, lambda history: None)


@pytest.mark.slow
def test_every_report_of_a_search_says_what_the_process_used(cluster, prepared, trial_config, tmp_path):
    from search.config import ResourcesConfig, SearchConfig
    from search.tuner import run_search

    config = SearchConfig(
        trial_config.model,
        trial_config.training,
        trial_config.evaluation,
        resources=ResourcesConfig(memory_gb_per_trial=0.5),
        num_samples=1,
    )
    run_search(config, prepared, tmp_path, [], resume=False)
    (file,) = tmp_path.glob("tune/*/result.json")
    reports = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(reports) == 2
    for report in reports:
        assert report["worker/steps_per_s"] > 0
        assert 0.1 < report["memory_gb"] < 10
        assert report["worker/wait_s"] >= 0
        assert report["parameters"] > 100
