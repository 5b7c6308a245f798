from dataclasses import asdict

import pytest

from search.config import PRESETS, SearchConfig, preset, read_config, with_settings
from search.space import Choices, Range, domain_from_json
from trainables.config import ModelConfig, TrainingConfig, TrialConfig, flat, from_dict, with_values


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (ModelConfig, {"latent_dim": 99}, "latent_dim is 99; expected 100 to 1000"),
        (ModelConfig, {"latent_dim": 1001}, "latent_dim is 1001"),
        (ModelConfig, {"base_channels": 0}, "base_channels"),
        (ModelConfig, {"cutoff_hz": float("nan")}, "cutoff_hz"),
        (TrainingConfig, {"batch_size": 1}, "batch_size"),
        (TrainingConfig, {"critic_lr": 0.0}, "critic_lr"),
        (TrainingConfig, {"generator_lr": float("inf")}, "generator_lr"),
        (TrainingConfig, {"penalty_weight": -1.0}, "penalty_weight"),
        (TrainingConfig, {"n_critic": 0}, "n_critic"),
    ],
)
def test_values_outside_their_range_are_refused_by_name(cls, values, message):
    with pytest.raises(ValueError, match=message):
        cls(**values)


def test_a_configuration_survives_json():
    config = preset("itaca")
    assert from_dict(SearchConfig, asdict(config)) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model.latent": 200}, "unknown configuration key 'model.latent'"),
        ({"nothing": 1}, "unknown configuration key 'nothing'"),
        ({"seed.deep": 1}, "unknown configuration key"),
        ({"model.latent_dim": "many"}, "'model.latent_dim' is 'many'; expected int"),
        ({"model.latent_dim": 200.5}, "expected int"),
        ({"model.latent_dim": True}, "expected int"),
        ({"seed": False}, "expected int"),
        ({"model": 3}, "expected a group of keys"),
    ],
)
def test_unknown_keys_and_wrong_types_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        with_values(TrialConfig(), values)


def test_flat_keys_and_back():
    config = preset("itaca").trial
    assert flat(config)["model.latent_dim"] == 800
    assert with_values(TrialConfig(), flat(config)) == config


def test_sampled_values_are_laid_over_the_base():
    config = with_values(TrialConfig(), {"model.latent_dim": 321, "training.penalty_weight": 7})
    assert (config.model.latent_dim, config.training.penalty_weight) == (321, 7.0)
    assert config.training.batch_size == TrainingConfig().batch_size


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_search_latent_batch_penalty_both_learning_rates_and_n_critic(name):
    assert set(preset(name).space) == {
        "model.latent_dim",
        "training.batch_size",
        "training.penalty_weight",
        "training.generator_lr",
        "training.critic_lr",
        "training.n_critic",
    }


def test_the_itaca_preset_has_the_full_ranges():
    domains = preset("itaca").domains
    assert domains["model.latent_dim"] == Range(100, 1000)
    assert domains["training.batch_size"] == Range(16, 128, log=True)
    assert domains["training.penalty_weight"] == Range(1.0, 50.0, log=True)
    assert domains["training.generator_lr"] == domains["training.critic_lr"] == Range(1e-5, 1e-3, log=True)


def test_the_hand_tuned_runs_lie_inside_the_space():
    config = preset("itaca")
    for point in config.baselines:
        assert set(point) == set(config.space)
        for key, value in point.items():
            assert config.domains[key].low <= value <= config.domains[key].high


def test_setting_a_searched_parameter_fixes_it_for_baselines_too():
    config = with_settings(preset("itaca"), ["training.batch_size=16"])
    assert config.training.batch_size == 16
    assert "training.batch_size" not in config.space
    assert all("training.batch_size" not in point for point in config.baselines)


def test_setting_a_list_moves_the_ends_of_a_range_and_keeps_its_scale():
    config = with_settings(preset("itaca"), ["training.batch_size=[16, 32]"])
    assert config.domains["training.batch_size"] == Range(16, 32, log=True)
    assert [point["training.batch_size"] for point in config.baselines] == [16, 32, 32]


def test_a_baseline_s_value_outside_the_new_range_is_left_to_the_sampler():
    config = with_settings(preset("itaca"), ["training.batch_size=[20, 64]"])
    assert [point.get("training.batch_size") for point in config.baselines] == [None, 32, 32]


def test_whole_ends_of_a_real_parameter_s_range_stay_real():
    (low, high) = (
        with_settings(preset("itaca"), ["training.penalty_weight=[1, 50]"]).domains["training.penalty_weight"].ends
    )
    assert (type(low), type(high)) == (float, float)


def test_setting_a_list_for_a_fixed_parameter_makes_it_a_choice():
    config = with_settings(preset("demo"), ["model.kernel=[32, 64]"])
    assert config.domains["model.kernel"] == Choices((32, 64))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.latent_dim", "expected KEY=VALUE"),
        ("model.colour=1", "unknown configuration key 'model.colour'"),
        ("model.latent_dim=[50, 200]", "latent_dim is 50"),
        ("model.latent_dim=[1, 2, 3]", "two ends"),
        ("training.penalty_weight=[5, 1]", "low end below a high end"),
        ("scheduler.name=hyperband", "scheduler.name is 'hyperband'; expected one of asha"),
        ("wandb.mode=maybe", "wandb.mode"),
        ("num_samples=0", "num_samples is 0; expected at least 1"),
        ("space=3", "'space' is 3; expected a dict"),
        ("baselines=x", "'baselines' is 'x'; expected a list"),
        ("baselines=[3]", "baseline 3 is none"),
        ('baselines=[{"foo": 1}]', "expected values of searched parameters"),
        ('baselines=[{"model.latent_dim": 5000}]', "latent_dim is 5000"),
        ('model.latent_dim=["a", "b"]', "'a' is no end of a range"),
        ("model.latent_dim=[100, null]", "None is no end of a range"),
        ("model.kernel=[[1, 2], [3]]", "expected numbers or texts"),
        ("seed=-1", "seed is -1"),
        ("seed=2147483648", "seed is 2147483648"),
        ("max_hours=Infinity", "max_hours is inf"),
        ("resources.gpus_per_trial=1.5", "a share of one or whole GPUs"),
    ],
)
def test_bad_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        with_settings(preset("demo"), [setting])


@pytest.mark.parametrize("content", [{"low": 1}, {"choices": []}, {"low": 0, "high": 1, "log": True}, 5, "abc"])
def test_a_space_that_is_none_is_refused_with_its_key(content):
    with pytest.raises(ValueError, match=r"space of model\.kernel"):
        domain_from_json("model.kernel", content, real=False)


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(ValueError, match="unknown preset 'x'; expected one of demo, itaca"):
        preset("x")


@pytest.mark.parametrize(
    ("text", "message"), [("{", "Expecting"), ("[]", "list"), ('{"config": {"typo": 1}}', "unknown configuration key")]
)
def test_a_damaged_configuration_file_is_refused_by_name(tmp_path, text, message):
    file = tmp_path / "search.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=f"search.json: .*{message}"):
        read_config(file)
