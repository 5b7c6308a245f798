import io
import os
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from search import packing
from search.config import ResourcesConfig, SchedulerConfig, SearchConfig, with_settings
from search.packing import Taken, pack, packed_on, sharing, threads, why_waiting
from search.presets import preset
from search.probe import Estimate, ShortTraining, Steps, all_epochs, expected_epochs, largest, say_how_long, typical
from trainables.config import with_values


@pytest.mark.parametrize(
    ("speeds", "most", "count"),
    [
        ([100], 1, 1),
        ([100, 190, 270, 330, 350], 4, 4),  # no memory for a fifth
        ([100, 190, 270, 330, 335, 500], 6, 4),  # the fifth adds next to nothing: no sixth is tried
        ([100, 119], 2, 1),  # not worth its memory
        ([100, 120], 2, 2),
        ([100, 104, 200], 3, 1),
        ([100, 150, 140, 300], 4, 2),
        ([100, 0], 5, 1),  # the second ran out of memory
        ([0, 0], 2, 1),
        ([100], 0, 1),  # the largest configuration takes more than there is
    ],
)
def test_a_gpu_is_shared_as_far_as_steps_per_second_grow(speeds, most, count):
    assert sharing(lambda count: speeds[count - 1], most) == count


def test_speeds_are_measured_only_where_there_is_a_choice():
    assert sharing(lambda count: pytest.fail("measured"), 1) == 1


def waiting_or_not(status, **needs):
    return SimpleNamespace(status=status, placement_group_factory=SimpleNamespace(required_resources=needs))


@pytest.mark.parametrize(
    ("running", "needs", "why"),
    [
        (0, {"CPU": 1}, ""),  # its process starts
        (1, {"CPU": 1}, ""),
        (2, {"CPU": 1}, "Waiting: no free CPU (2 of 2 taken)."),
        (1, {"CPU": 2}, "Waiting: no free CPU (2 of 2 taken)."),
        (1, {"CPU": 1, "GPU": 0.5}, ""),
        (2, {"CPU": 1, "GPU": 0.5}, "Waiting: no free CPU (2 of 2 taken), GPU (1 of 1 taken)."),
        (1, {"CPU": 1, "memory": 5e9}, "Waiting: no free memory (5.0 GB of 8.0 GB taken)."),
    ],
)
def test_a_trial_that_waits_says_what_it_lacks(running, needs, why):
    there = {"CPU": 2.0, "GPU": 1.0, "memory": 8e9}
    trials = [waiting_or_not("RUNNING", **needs)] * running + [waiting_or_not("TERMINATED", **needs)]
    assert why_waiting(trials, there) == ""
    assert why_waiting([*trials, waiting_or_not("PENDING", **needs)], there) == why


@pytest.mark.parametrize(
    ("cores", "room", "least", "cpus"),
    [(2, 9, 1, 1), (8, 99, 2, 2), (8, 2, 1, 4), (8, 3, 1, 2), (8, 1, 2, 8), (8, 0, 1, 8), (1, 1, 1, 1), (2, 9, 4, 4)],
)
def test_threads_left_idle_for_want_of_memory_are_shared_out(cores, room, least, cpus):
    assert threads(cores, room, least) == cpus


GPUS = SearchConfig(resources=ResourcesConfig(cpus_per_trial=4, gpus_per_trial=1.0))
NODE = {"CPU": 32.0, "GPU": 4.0, "memory": 256e9}


def measured(memory_gb=3.0, gpu_share=0.2, speeds=(100, 180, 250, 260)):
    return lambda trial, count: Taken(memory_gb, gpu_share, speeds[count - 1])


@pytest.mark.parametrize(
    ("node", "resources", "measure", "expected"),
    [
        (NODE, {}, measured(), (2, 0.3333, 3.6)),
        (NODE, {}, measured(gpu_share=0.3), (4, 0.5, 3.6)),
        (NODE, {}, measured(gpu_share=0.9), (4, 1.0, 3.6)),
        (NODE, {}, measured(memory_gb=30.0), (4, 1.0, 36.0)),
        (NODE, {"gpus_per_trial": 0.5}, measured(), (4, 0.5, 3.6)),
        (NODE, {"gpus_per_trial": 2.0}, measured(), (4, 2.0, 3.6)),
        (NODE | {"CPU": 4.0}, {}, measured(), (1, 1.0, 3.6)),
        (NODE, {"gpus_per_trial": 0.0, "cpus_per_trial": 1}, measured(gpu_share=0.0), (1, 0.0, 3.6)),
        (NODE, {"gpus_per_trial": 0.0, "cpus_per_trial": 1}, measured(100.0, 0.0), (16, 0.0, 120.0)),
        (NODE, {"gpus_per_trial": 0.0, "cpus_per_trial": 1}, measured(999.0, 0.0), (32, 0.0, 256.0)),
    ],
)
def test_what_a_trial_takes_follows_from_what_was_measured(node, resources, measure, expected):
    config = replace(GPUS, resources=replace(GPUS.resources, **resources))
    packed = packed_on(node, config, measure)
    assert (packed.cpus_per_trial, packed.gpus_per_trial, packed.memory_gb_per_trial) == expected


def test_memory_is_that_of_the_largest_configuration_and_speed_that_of_a_typical_one():
    config, asked = replace(preset("itaca"), baselines=[]), []

    def measure(trial, count):
        asked.append((trial.training.batch_size, trial.model.latent_dim, count))
        return measured()(trial, count)

    packed_on(NODE, config, measure)
    assert asked == [(128, 1000, 1), (45, 550, 1), (45, 550, 2), (45, 550, 3), (45, 550, 4)]


def test_the_middle_and_the_upper_end_of_a_space():
    config = with_settings(preset("itaca"), ["training.n_critic=[3, 9]", "model.architecture=[seismogen, gated]"])
    middle, end = typical(config), largest(config)
    assert (middle.training.n_critic, middle.training.penalty_weight) == (6, pytest.approx(50**0.5))
    assert (end.training.n_critic, end.training.penalty_weight) == (9, 50.0)
    assert end.model.architecture == "gated"
    assert largest(with_settings(config, ["model.base_channels=[16, 32, 8]"])).model.base_channels == 32


@pytest.mark.parametrize(
    ("scheduler", "max_epochs", "epochs"),
    [
        (SchedulerConfig("none"), 90, 90),
        (SchedulerConfig("asha", 10, 3), 90, 10 + 20 / 3 + 60 / 9),
        (SchedulerConfig("asha", 10, 3), 40, 10 + 20 / 3 + 10 / 9),
        (SchedulerConfig("asha", 10, 3), 5, 5),
        (SchedulerConfig("median", 10, 3), 90, 90),  # at most
    ],
)
def test_a_third_goes_on_at_each_rung(scheduler, max_epochs, epochs):
    assert expected_epochs(scheduler, max_epochs) == pytest.approx(epochs)


def test_the_generator_counts_once_in_n_critic_steps():
    assert Steps(0.1, 0.3).critic_steps_per_s(3) == pytest.approx(5)


def test_hours_of_a_search():
    assert Estimate(epoch_s=36.0, epochs=400.0, at_once=4).hours == pytest.approx(1)


def test_a_short_training_measures_itself(trial_config, prepared):
    training = ShortTraining(trial_config, lambda: prepared, threads=1, gpus=0.0)
    steps = training.steps(0.1)
    assert 0 < steps.critic_s < 10
    assert 0 < steps.generator_s < 10
    memory_gb, taken = training.memory()
    assert 0.1 < memory_gb < 10
    assert taken == 0


def tiny(trial_config):
    return SearchConfig(trial_config.model, trial_config.training, trial_config.evaluation)


@pytest.mark.parametrize(
    ("count", "num_samples", "epochs"),
    [(3, 20, 20 * 9 + 7 * 9), (3, 2, 2 * 9 + 6 * 9), (3, 1, 9), (0, 20, 20 * 9)],
)
def test_finalists_are_trained_in_full(count, num_samples, epochs):
    values = {"finalists.count": count, "num_samples": num_samples, "training.max_epochs": 9, "scheduler.name": "none"}
    assert all_epochs(with_values(preset("demo"), values), at_once=1) == epochs


def test_how_long_a_search_would_take_is_said_with_what_it_supposes(trial_config, prepared, monkeypatch):
    monkeypatch.setattr("search.probe.PROBE_S", 0.1)
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    config, stream = with_values(tiny(trial_config), {"resources.cpus_per_trial": 2}), io.StringIO()
    say_how_long(config, prepared, Console(file=stream, soft_wrap=True))
    assert stream.getvalue().startswith("About ")
    assert "with 3 at once, on this machine, if trials are stopped after 2 epochs" in stream.getvalue()
    assert "cost" not in stream.getvalue()


def test_what_a_search_would_cost_is_said_if_an_hour_has_a_price(trial_config, prepared, monkeypatch):
    monkeypatch.setattr("search.probe.estimate", lambda *_: Estimate(epoch_s=36.0, epochs=1000.0, at_once=4))
    config, stream = with_values(tiny(trial_config), {"resources.cost_per_hour": 4.5}), io.StringIO()
    say_how_long(config, prepared, Console(file=stream, soft_wrap=True))
    assert stream.getvalue().startswith("About 2.5 hours, at a cost of 11.25, with 4 at once")


class Thirsty:
    """A short training that runs out of the GPU's memory at its first step."""

    def __init__(self, *arguments):
        pass

    def steps(self, seconds=None):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    def memory(self):
        return 1.0, 1.0


def test_what_is_given_is_not_measured(trial_config):
    for given in ({"memory_gb_per_trial": 2.0}, {"workers_per_trial": 2, "cpus_per_trial": 2}):
        config = replace(tiny(trial_config), resources=ResourcesConfig(**given))
        assert pack(config, None, Console()) is config.resources


@pytest.fixture
def thirsty(monkeypatch):
    """Short trainings run out of memory, in Ray's own processes, which cannot import a test, too."""
    from ray import cloudpickle

    monkeypatch.setattr(packing, "ShortTraining", Thirsty)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_a_configuration_too_large_for_the_gpu_has_it_alone(cluster, trial_config, thirsty):
    taken = packing._take_steps(trial_config, None, ResourcesConfig(), 2)
    assert taken == Taken(1.0, 1.0, 0.0)
    packed = packed_on(NODE, GPUS, lambda trial, count: taken)
    assert packed.gpus_per_trial == 1.0


def test_a_trials_memory_is_measured_before_a_search_where_the_trial_will_be(cluster, trial_config, prepared):
    stream, driver = io.StringIO(), os.getpid()

    def there():  # as with data in a bucket: each machine has its own copy
        assert os.getpid() != driver
        return prepared

    packed = pack(tiny(trial_config), there, Console(file=stream))
    assert 0.2 < packed.memory_gb_per_trial < 10
    assert packed.cpus_per_trial == 1
    assert stream.getvalue() == f"Each trial: up to {packed.memory_gb_per_trial:.1f} GB, CPUs: 1.\n"


def test_more_memory_than_a_machine_has_is_refused(monkeypatch):
    from search import cluster

    monkeypatch.setattr(cluster.ray, "cluster_resources", dict)
    monkeypatch.setattr(cluster.ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0, "memory": 8e9}}])
    message = "resources.memory_gb_per_trial is 9, but no machine has more than 8; choose fewer with --set"
    with pytest.raises(ValueError, match=message):
        cluster.fitting(SearchConfig(resources=ResourcesConfig(memory_gb_per_trial=9.0)), Console())
