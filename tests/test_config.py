import io
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from rich.console import Console

from search import plan
from search.config import ResourcesConfig, SearchConfig, read_config, with_settings
from search.presets import PRESETS, preset
from search.run import parse_arguments
from search.session import check_device
from search.space import Choices, Range, domain_from_json, shown
from trainables.config import ModelConfig, TrainingConfig, TrialConfig, flat, from_dict, with_values


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (ModelConfig, {"latent_dim": 99}, "latent_dim is 99; expected 100 to 1000"),
        (ModelConfig, {"latent_dim": 1001}, "latent_dim is 1001; expected 100 to 1000"),
        (ModelConfig, {"architecture": "unet"}, "architecture is unet; expected seismogen or gated"),
        (ModelConfig, {"components": "XYZ"}, "components is XYZ; expected some of ENZ, in this order"),
        (ModelConfig, {"components": "ZE"}, "components is ZE; expected some of ENZ, in this order"),
        (ModelConfig, {"components": "EE"}, "components is EE"),
        (ModelConfig, {"components": ""}, "components is ; expected some of ENZ"),
        (ModelConfig, {"conditions": ("vs30",)}, r"conditions is \['vs30'\]; expected some of magnitude, log_dist"),
        (ModelConfig, {"conditions": ("depth", "depth")}, r"conditions is \['depth', 'depth'\]"),
        (ModelConfig, {"kernel": 1}, "kernel is 1; expected at least 2 samples"),
        (ModelConfig, {"base_channels": 0}, "base_channels"),
        (ModelConfig, {"cutoff_hz": float("nan")}, "cutoff_hz"),
        (TrainingConfig, {"batch_size": 1}, "batch_size"),
        (TrainingConfig, {"critic_lr": 0.0}, "critic_lr"),
        (TrainingConfig, {"generator_lr": float("inf")}, "generator_lr"),
        (TrainingConfig, {"penalty_weight": -1.0}, "penalty_weight"),
        (TrainingConfig, {"n_critic": 0}, "n_critic"),
        (TrainingConfig, {"lr_half_life": -1.0}, "lr_half_life is -1.0; expected 0 or more"),
        (TrainingConfig, {"lr_half_life": float("nan")}, "lr_half_life"),
        (TrainingConfig, {"ema_half_life": float("inf")}, "ema_half_life"),
        (TrainingConfig, {"pretrain_epochs": -1}, "pretrain_epochs is -1; expected 0 or more"),
        (TrainingConfig, {"convolution": "fast"}, "convolution is fast; expected measured or direct or spectral"),
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
        ({"model.components": ["Z"]}, r"'model.components' is \['Z'\]; expected str"),
        ({"model.conditions": "depth"}, r"'model.conditions' is 'depth'; expected a list in brackets, \[a, b\]"),
        ({"model.conditions": [3]}, "'model.conditions' is 3; expected str"),
        ({"training.pretrain_epochs": 1.5}, "'training.pretrain_epochs' is 1.5; expected int"),
        ({"training.cuda_graphs": 1}, "'training.cuda_graphs' is 1; expected bool"),
        ({"training.n_critic": True}, "'training.n_critic' is True; expected int"),
    ],
)
def test_unknown_keys_and_wrong_types_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        with_values(TrialConfig(), values)


def test_flat_keys_and_back():
    config = preset("itaca").trial
    assert flat(config)["model.latent_dim"] == 800
    assert with_values(TrialConfig(), flat(config)) == config


def test_a_list_in_json_is_a_tuple_in_the_configuration():
    config = with_values(TrialConfig(), {"model.conditions": ["magnitude", "depth"]})
    assert config.model.conditions == ("magnitude", "depth")
    assert config.model.label_dim == 3
    assert from_dict(TrialConfig, asdict(config)) == config


def test_a_search_refuses_what_its_trials_cannot_compute(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (7, 5))
    configs = {name: SearchConfig(training=TrainingConfig(precision=name)) for name in ("float32", "tf32", "bf16")}
    on_gpus = {name: replace(config, resources=ResourcesConfig(gpus_per_trial=1)) for name, config in configs.items()}
    for allowed in (*configs.values(), on_gpus["float32"], on_gpus["tf32"]):
        check_device(allowed)
    with pytest.raises(ValueError, match=r"^precision is bf16, but the GPU has compute capability 7\.5; expected 8\.0"):
        check_device(on_gpus["bf16"])


def test_sampled_values_are_laid_over_the_base():
    config = with_values(TrialConfig(), {"model.latent_dim": 321, "training.penalty_weight": 7})
    assert (config.model.latent_dim, config.training.penalty_weight) == (321, 7.0)
    assert config.training.batch_size == TrainingConfig().batch_size


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_search_latent_cutoff_batch_penalty_both_learning_rates_and_n_critic(name):
    assert set(preset(name).space) == {
        "model.latent_dim",
        "model.cutoff_hz",
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


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00012345678, "0.0001235"),
        (1e-4, "0.0001"),
        (800, "800"),
        (123456, "123456"),
        ("gated", "gated"),
        (("depth", "magnitude"), "[depth, magnitude]"),
        ((), "[]"),
    ],
)
def test_values_are_shown_as_set_takes_them(value, text):
    assert shown(value) == text


def test_a_searched_text_and_a_list_are_shown_before_the_search(tmp_path):
    settings = [
        "model.architecture=[seismogen, gated]",
        'baselines=[{"model.architecture": "gated"}]',
        "model.conditions=[depth]",
    ]
    arguments = ["--results", str(tmp_path), *(part for text in settings for part in ("--set", text))]
    stream = io.StringIO()
    plan.show(plan.make(parse_arguments(arguments), {}), Console(file=stream, width=200))
    for expected in (
        r"model.architecture +│ seismogen or gated",
        r"model.architecture +│ gated",
        r"conditions +│ \[depth\]",
    ):
        assert re.search(expected, stream.getvalue())


def test_whole_ends_of_a_real_parameter_s_range_stay_real():
    (low, high) = (
        with_settings(preset("itaca"), ["training.penalty_weight=[1, 50]"]).domains["training.penalty_weight"].ends
    )
    assert (type(low), type(high)) == (float, float)


def test_setting_a_list_for_a_fixed_parameter_makes_it_a_choice():
    config = with_settings(preset("demo"), ["model.kernel=[32, 64]"])
    assert config.domains["model.kernel"] == Choices((32, 64))


@pytest.mark.parametrize("text", ['["seismogen", "gated"]', "[seismogen,gated]", " [seismogen, gated]"])
def test_words_in_brackets_need_no_quotation_marks(text):
    config = with_settings(preset("demo"), [f"model.architecture={text}"])
    assert config.domains["model.architecture"] == Choices(("seismogen", "gated"))


README = Path(__file__).parents[1] / "search" / "README.md"
SETTINGS = [
    [key if key[0] != "." else f"stopping{key}" for key in re.findall(r"`([a-z_.]+=[^`]+)`", row)]
    for row in README.read_text(encoding="utf-8").splitlines()
    if row.startswith("| `")
]


@pytest.mark.parametrize("settings", [row for row in SETTINGS if row], ids=" ".join)
def test_what_the_readme_says_can_be_set_can_be(settings):
    assert with_settings(preset("itaca"), settings) != preset("itaca")


@pytest.mark.parametrize(
    ("text", "conditions"),
    [("[magnitude, depth]", ("magnitude", "depth")), ('["depth"]', ("depth",)), ("[depth]", ("depth",)), ("[]", ())],
)
def test_what_is_a_list_itself_is_given_whole(text, conditions):
    config = with_settings(preset("demo"), [f"model.conditions={text}"])
    assert config.model.conditions == conditions
    assert config.space == preset("demo").space


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.latent_dim", "expected KEY=VALUE"),
        ("model.latent_dim=99", "latent_dim is 99"),
        ("model.architecture=[seismogen,unet]", "architecture is unet; expected seismogen or gated"),
        ("model.components=ZE", "components is ZE"),
        ("model.components=[Z,ENZ]", "model.components cannot be searched: scores would not be comparable"),
        ("model.conditions=depth", r"'model.conditions' is 'depth'; expected a list in brackets, \[a, b\]"),
        ("model.conditions=[depth,vs30]", r"conditions is \['depth', 'vs30'\]; expected some of magnitude"),
        ("model.conditions=[[depth]]", r"'model.conditions' is '\[\[depth\]\]'; expected a list"),
        ("model.colour=1", "unknown configuration key 'model.colour'"),
        ("model.latent_dim=[50, 200]", "latent_dim is 50"),
        ("model.latent_dim=[1, 2, 3]", "two ends"),
        ("training.penalty_weight=[5, 1]", "low end below a high end"),
        ("scheduler.name=pbt", "scheduler.name is 'pbt', which is not for this: it changes parameters of running"),
        ("scheduler.name=fast", "scheduler.name is 'fast'; expected one of asha"),
        ("stopping.drift_bound=-1", "stopping.drift_bound is -1.0; expected at least 0"),
        ("stopping.diversity_bound=NaN", "stopping.diversity_bound is nan"),
        ("stopping.patience=1", "stopping.patience is 1; expected at least 2"),
        ("stopping.stall_patience=-1", "stopping.stall_patience is -1; expected at least 0"),
        ("stopping.stall_patience=3", "stopping.stall_patience is 3; expected at least stopping.patience, 4, or 0"),
        ("stopping.grace_epochs=-1", "stopping.grace_epochs is -1"),
        ("stopping.grace_generator_steps=-1", "stopping.grace_generator_steps is -1"),
        ("stopping.interval_generator_steps=0", "stopping.interval_generator_steps is 0; expected at least 1"),
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
    ("text", "message"),
    [
        ("{", "Expecting"),
        ("[]", "list"),
        ('{"config": {"typo": 1}}', "unknown configuration key"),
        # written before `stopping` took its place
        ('{"config": {"drift": {"bound": 10.0}}}', "unknown configuration key 'drift'; known here: .* stopping, "),
    ],
)
def test_a_damaged_configuration_file_is_refused_by_name(tmp_path, text, message):
    file = tmp_path / "search.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=f"search.json: .*{message}"):
        read_config(file)
