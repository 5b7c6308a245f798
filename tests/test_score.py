"""Whether the score can be trusted: real windows, made worse by known amounts, have to be told from real windows."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from search.config import StoppingConfig
from search.stoppers import stop_reason
from trainables.batches import PreparedDataset

sys.path.append(str(Path(__file__).parent / "bench"))
degradations, demo, score = (importlib.import_module(name) for name in ("degradations", "demo_data", "score"))
DEGRADATIONS, shaped_noise = degradations.DEGRADATIONS, degradations.shaped_noise
# With fewer windows chance hides that some are in each other's place.
MIN_RESOLVED = 100


@pytest.fixture(scope="module")
def demo_data(tmp_path_factory):
    return PreparedDataset.open(demo.make_demo_data(tmp_path_factory.mktemp("demo")))


@pytest.fixture(scope="module", params=["demo_data", "real_data"])
def bench(request):
    return score.Bench(request.getfixturevalue(request.param), seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", DEGRADATIONS)
def test_what_is_made_worse_scores_worse_at_every_level(bench, name):
    named, scores = bench.levels(DEGRADATIONS[name])
    assert score.is_rising(named), named
    if name == "exchange" and len(bench.real.wave) < MIN_RESOLVED:
        assert scores == sorted(scores)
        assert scores[-1] > 1.1
    else:
        assert score.is_rising(scores), scores


@pytest.mark.slow
def test_real_windows_come_first_and_white_noise_last(bench):
    ladder = bench.ladder()
    assert score.is_rising(list(ladder.values())), ladder


@pytest.mark.slow
def test_noise_with_the_envelope_and_spectrum_of_each_window_does_not_pass(bench):
    for windows in (bench.real, bench.held):
        assert bench(shaped_noise(windows.wave, bench.band), windows)["score"] >= 1.5


@pytest.mark.slow
@pytest.mark.parametrize("shapes", [1, 4, 16])
def test_a_generator_of_few_shapes_and_faint_noise_is_stopped_as_collapsed(bench, shapes):
    wave = bench.held.wave
    few = wave[torch.arange(len(wave)) % shapes]
    found = bench(degradations.white_noise(few, 0.02, bench.band), bench.held)
    stopping = StoppingConfig()
    steps = [stopping.grace_generator_steps + 25 * number for number in range(stopping.patience)]
    history = [{"epoch": count, "generator_steps": count} | found for count in steps]
    assert stop_reason(history, replace(stopping, drift_bound=1e9)).startswith("collapsed: diversity 0.0")


@pytest.mark.slow
def test_real_windows_are_as_diverse_as_real_windows(bench):
    assert 0.75 < bench(bench.held.wave, bench.held)["gate/diversity"] < 1.3


@pytest.mark.all
@pytest.mark.parametrize("data", ["demo_data", "real_data"])
def test_real_windows_score_about_one_against_real_windows_in_each_of_twenty_draws(request, data):
    scores = score.real_scores(request.getfixturevalue(data), seeds=20)
    assert 0.8 <= min(scores) <= max(scores) <= 1.25, sorted(scores)
