from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from search.config import StoppingConfig
from search.stoppers import stop_reason
from trainables.batches import PreparedDataset, epoch_order
from trainables.config import ARCHITECTURES, CONDITIONS, with_values
from trainables.gan import EMA_RAMP_UP, Gan
from trainables.judge import Judge, generate
from trainables.training import check_fit, train, train_epoch


def never(history):
    return None


def run(config, folder, stop_rule=never, state=None):
    """Train; the reports and the states after each of them, as a checkpoint would hold them."""
    reports, states = [], []

    def report(metrics, gan):
        reports.append(metrics)
        states.append(torch_copy(gan.state_dict()))

    train(config, PreparedDataset.open(folder), report, stop_rule, state)
    return reports, states


def new_gan(config, folder):
    dataset = PreparedDataset.open(folder)
    return Gan(config, dataset.samples, dataset.fs_hz, torch.device("cpu"))


def torch_copy(value):
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: torch_copy(item) for key, item in value.items()}
    return [torch_copy(item) for item in value] if isinstance(value, list) else value


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            if key not in ("seconds", "memory_gb"):
                assert_same(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


def test_an_epoch_is_one_critic_pass_with_a_generator_step_every_n_critic_batches(prepared, trial_config):
    reports, _ = run(trial_config, prepared)
    assert [(r["epoch"], r["critic_steps"], r["generator_steps"], r["samples"]) for r in reports] == [
        (1, 3, 1, 24),
        (2, 6, 3, 48),
    ]
    assert [r["last_epoch"] for r in reports] == [False, True]
    assert all(np.isfinite(r["score"]) and r["stop_reason"] == "" for r in reports)


def test_every_window_is_seen_once_an_epoch_in_an_order_of_its_own():
    orders = [torch.cat(list(epoch_order(30, 10, 0, epoch))) for epoch in range(2)]
    assert sorted(orders[0].tolist()) == list(range(30))
    assert orders[0].tolist() != orders[1].tolist()
    assert orders[0].tolist() == torch.cat(list(epoch_order(30, 10, 0, 0))).tolist()


def test_the_same_seed_trains_the_same_network_and_another_seed_another(prepared, trial_config):
    first, again = run(trial_config, prepared), run(trial_config, prepared)
    assert_same(first[1], again[1])
    other = run(with_values(trial_config, {"seed": 1}), prepared)
    assert first[0][-1]["score"] != other[0][-1]["score"]


def test_a_resumed_training_equals_one_that_never_stopped(prepared, trial_config):
    config = with_values(trial_config, {"training.max_epochs": 3})
    reports, states = run(config, prepared)
    resumed_reports, resumed_states = run(config, prepared, state=torch_copy(states[0]))
    assert [r["epoch"] for r in resumed_reports] == [2, 3]
    assert_same(resumed_states[-1], states[-1])
    assert_same(resumed_reports, reports[1:])


def test_resuming_a_finished_training_does_nothing(prepared, trial_config):
    _, states = run(trial_config, prepared)
    assert run(trial_config, prepared, state=states[-1]) == ([], [])


def test_a_rule_ends_the_training_with_its_reason(prepared, trial_config):
    reports, states = run(trial_config, prepared, stop_rule=lambda history: f"rule after {len(history)}")
    assert [r["stop_reason"] for r in reports] == ["rule after 1"]
    assert run(trial_config, prepared, state=states[-1]) == ([], [])


@pytest.mark.parametrize("key", ["training.critic_lr", "training.generator_lr"])
def test_an_exploding_training_ends_with_an_infinite_score_and_finite_weights(prepared, trial_config, key):
    config = with_values(trial_config, {key: 1e30, "training.max_epochs": 5})
    reports, states = run(config, prepared)
    assert reports[-1]["score"] == float("inf")
    assert reports[-1]["stop_reason"].startswith("diverged: non-finite")
    assert len(reports) < 5
    assert all(torch.isfinite(value).all() for value in states[-1]["critic"].values())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("key", ["training.critic_lr", "training.generator_lr"])
def test_a_learning_rate_of_a_thousand_ends_by_divergence_or_by_drift(prepared, trial_config, architecture, key):
    config = with_values(trial_config, {"model.architecture": architecture, key: 1e3, "training.max_epochs": 10})
    at_once = StoppingConfig(
        patience=2, stall_patience=0, grace_epochs=0, grace_generator_steps=0, interval_generator_steps=1
    )
    reports, _ = run(config, prepared, stop_rule=partial(stop_reason, config=at_once))
    assert reports[-1]["stop_reason"].startswith(("diverged: non-finite", "drifting: "))
    assert len(reports) < 10


@pytest.mark.parametrize("part", ["train", "val"])
def test_samples_that_are_no_numbers_end_the_training_with_a_reason(write_prepared, tmp_path, trial_config, part):
    folder = write_prepared(tmp_path / "damaged")
    wave = np.load(folder / f"{part}.npy")
    wave[:, 0, 5] = np.nan
    np.save(folder / f"{part}.npy", wave)
    before = torch_copy(new_gan(trial_config, folder).state_dict())
    reports, states = run(trial_config, folder)
    reason = {"train": "non-finite critic loss or gradient", "val": "non-finite score"}[part]
    assert [(r["score"], r["stop_reason"]) for r in reports] == [(float("inf"), f"diverged: {reason}")]
    if part == "train":  # not a step was taken
        assert_same(states[-1]["critic"], before["critic"])
        assert_same(weights_of(states[-1]["generator"]), weights_of(before["generator"]))
        for name in ("critic_optimiser", "generator_optimiser"):
            moments = states[-1][name]["state"].values()
            assert moments
            assert not any(value.any() for moment in moments for value in moment.values())


def weights_of(state):
    """Without the running statistics, which move as a generator generates."""
    return {name: value for name, value in state.items() if "running" not in name}


def test_both_learning_rates_halve_in_a_half_life(prepared, trial_config):
    config = with_values(trial_config, {"training.lr_half_life": 24.0, "training.n_critic": 1})
    gan, windows = new_gan(config, prepared), PreparedDataset.open(prepared).part("train")
    rates = []
    for _ in range(7):
        gan.critic_step(windows.wave[:8], windows.label[:8])
        gan.generator_step(windows.label[:8])
        rates.append([o.param_groups[0]["lr"] for o in (gan.critic_optimiser, gan.generator_optimiser)])
    critic, generator = (np.array(rate) for rate in zip(*rates, strict=True))
    # By the windows seen before the step: the generator's turn comes after the critic has seen its batch.
    np.testing.assert_allclose(critic, config.training.critic_lr * 0.5 ** (8 * np.arange(7) / 24))
    np.testing.assert_allclose(generator, config.training.generator_lr * 0.5 ** (8 * np.arange(1, 8) / 24))


def test_without_a_half_life_the_rates_stay(prepared, trial_config):
    _, states = run(trial_config, prepared)
    for part, lr in (("critic", trial_config.training.critic_lr), ("generator", trial_config.training.generator_lr)):
        assert states[-1][f"{part}_optimiser"]["param_groups"][0]["lr"] == lr


def test_pre_training_moves_the_critic_alone_on_noise_alone(mixed, trial_config, monkeypatch):
    config = with_values(trial_config, {"training.pretrain_epochs": 1, "training.batch_size": 5})
    gan, windows = new_gan(config, mixed), PreparedDataset.open(mixed).part("train")
    noise = windows.wave[::3]
    seen, step = [], gan.critic_step
    monkeypatch.setattr(gan, "critic_step", lambda wave, label: seen.append((wave, label)) or step(wave, label))
    critic, generator = weights(gan.critic), weights(gan.generator)
    train_epoch(gan, windows)
    shown = torch.cat([wave for wave, _ in seen])
    assert sorted(shown[:, 0, 0].tolist()) == sorted(noise[:, 0, 0].tolist())
    assert not torch.cat([label for _, label in seen]).any()
    assert gan.generator_steps == 0
    assert_same(weights(gan.generator), generator)
    still = {name for name, value in weights(gan.critic).items() if torch.equal(value, critic[name])}
    assert still == {"label.weight"}  # the label of noise is 0, so nothing pulls at its weights
    gan.epoch, before = 1, gan.samples
    train_epoch(gan, windows)
    assert gan.samples - before == len(windows.wave)
    assert gan.generator_steps == 3


def weights(network):
    """Weights as they are, without the running statistics, which move as a generator generates."""
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def test_a_training_with_pre_training_reports_and_resumes_like_any_other(mixed, trial_config):
    config = with_values(trial_config, {"training.pretrain_epochs": 1, "training.max_epochs": 3})
    reports, states = run(config, mixed)
    assert [(r["samples"], r["generator_steps"]) for r in reports] == [(8, 0), (32, 2), (56, 3)]
    resumed, resumed_states = run(config, mixed, state=states[0])
    assert_same(resumed, reports[1:])
    assert_same(resumed_states[-1], states[-1])


def test_the_average_follows_by_its_half_life_in_windows(prepared, trial_config):
    gan, label = new_gan(trial_config, prepared), torch.ones(8, 1)
    for samples in (100, 100_000):  # within the ramp-up, and after it
        gan.samples = samples
        old = [p.clone() for p in gan.averaged.parameters()]
        gan.generator_step(label)
        half_life = min(trial_config.training.ema_half_life, EMA_RAMP_UP * samples)
        keep = 0.5 ** (8 * 2 / half_life)
        for average, before, weight in zip(gan.averaged.parameters(), old, gan.generator.parameters(), strict=True):
            torch.testing.assert_close(average, keep * before + (1 - keep) * weight)


def test_without_a_half_life_the_average_is_the_generator(prepared, trial_config):
    gan = new_gan(with_values(trial_config, {"training.ema_half_life": 0.0}), prepared)
    gan.samples = 100
    gan.generator_step(torch.ones(8, 1))
    for average, weight in zip(gan.averaged.parameters(), gan.generator.parameters(), strict=True):
        torch.testing.assert_close(average, weight)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_any_architecture_learns_some_components_under_conditions(mixed, trial_config, architecture):
    values = {"model.architecture": architecture, "model.components": "Z", "model.conditions": list(CONDITIONS)}
    config = with_values(trial_config, values)
    check_fit(config, PreparedDataset.open(mixed))
    reports, states = run(config, mixed)
    assert all(np.isfinite(r["score"]) and r["stop_reason"] == "" for r in reports)
    resumed, resumed_states = run(config, mixed, state=states[0])
    assert_same(resumed, reports[1:])
    assert_same(resumed_states[-1], states[-1])


def test_training_moves_generator_and_critic_and_the_average_follows(prepared, trial_config):
    dataset = PreparedDataset.open(prepared)
    before = Gan(trial_config, dataset.samples, dataset.fs_hz, torch.device("cpu"))
    _, states = run(trial_config, prepared)
    for part in ("generator", "critic", "averaged"):
        weights = dict(getattr(before, part).named_parameters())
        assert all(not torch.equal(states[-1][part][name], value) for name, value in weights.items()), part
    now, average = states[-1]["generator"], states[-1]["averaged"]
    assert not torch.equal(now["label.weight"], average["label.weight"])


def test_a_critic_step_leaves_the_generator_alone_and_the_other_way_round(prepared, trial_config):
    dataset = PreparedDataset.open(prepared)
    gan = Gan(trial_config, dataset.samples, dataset.fs_hz, torch.device("cpu"))
    part = dataset.part("train")
    weights = [p.clone() for p in gan.generator.parameters()]
    gan.critic_step(part.wave[:8], part.label[:8])
    assert all(torch.equal(a, b) for a, b in zip(weights, gan.generator.parameters(), strict=True))
    weights = [p.clone() for p in gan.critic.parameters()]
    gan.generator_step(part.label[:8])
    assert all(torch.equal(a, b) for a, b in zip(weights, gan.critic.parameters(), strict=True))


def test_judging_does_not_disturb_the_training(prepared, trial_config):
    dataset = PreparedDataset.open(prepared)
    gan = Gan(trial_config, dataset.samples, dataset.fs_hz, torch.device("cpu"))
    before = torch_copy(gan.state_dict())
    judge = Judge(trial_config, dataset, dataset.part("train"), dataset.part("val"))
    judge.settle(gan.averaged)
    first = judge.score(gan.averaged)
    after = gan.state_dict()
    for part in ("generator", "critic", "rng"):
        assert_same(before[part], torch_copy(after[part]))
    assert judge.score(gan.averaged) == first


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_first_report_tells_how_far_off_the_untrained_generator_was(prepared, trial_config, architecture):
    values = {"model.architecture": architecture, "training.generator_lr": 1e-12, "training.max_epochs": 2}
    (first, second), _ = run(with_values(trial_config, values), prepared)
    untrained = {key.partition("/")[2]: value for key, value in first.items() if key.startswith("untrained/")}
    assert untrained.keys() == {key.partition("/")[2] for key in first if key.startswith("drift/")} != set()
    assert untrained == pytest.approx({name: first[f"drift/{name}"] for name in untrained}, rel=1e-3)
    assert not any(key.startswith("untrained/") for key in second)


def test_generating_in_pieces_changes_nothing(prepared, trial_config):
    dataset = PreparedDataset.open(prepared)
    gan = Gan(trial_config, dataset.samples, dataset.fs_hz, torch.device("cpu"))
    latent, label = torch.randn(70, 100), torch.ones(70, 1)
    whole = generate(gan.averaged, latent, label)
    torch.testing.assert_close(whole[60:], generate(gan.averaged, latent[60:], label[60:]))


def test_the_dataset_on_disk_cannot_be_written_through_its_tensors(prepared):
    dataset = PreparedDataset.open(prepared)
    before = (prepared / "train.npy").read_bytes()
    dataset.part("train").wave.zero_()
    assert (prepared / "train.npy").read_bytes() == before


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"training.batch_size": 31}, "batch_size is 31 but there are only 30 training windows"),
        ({"model.cutoff_hz": 20.0}, "Nyquist frequency 20"),
        ({"model.kernel": 401}, "kernel is 401; expected no more than a window's 400 samples"),
        ({"training.pretrain_epochs": 1}, "pretrain_epochs is 1 but there are 0 training windows of noise"),
    ],
)
def test_what_does_not_fit_the_data_is_refused_before_training(prepared, trial_config, values, message):
    with pytest.raises(ValueError, match=message):
        check_fit(with_values(trial_config, values), PreparedDataset.open(prepared))


def test_pre_training_needs_a_batch_of_noise_and_leaves_an_epoch_for_the_rest(mixed, trial_config):
    dataset = PreparedDataset.open(mixed)
    check_fit(with_values(trial_config, {"training.pretrain_epochs": 1, "training.batch_size": 10}), dataset)
    with pytest.raises(ValueError, match="10 training windows of noise; expected a batch of 11 at least"):
        check_fit(with_values(trial_config, {"training.pretrain_epochs": 1, "training.batch_size": 11}), dataset)
    with pytest.raises(ValueError, match="pretrain_epochs is 2 of max_epochs 2; expected fewer"):
        check_fit(with_values(trial_config, {"training.pretrain_epochs": 2}), dataset)


@pytest.mark.parametrize(("architecture", "samples"), [("seismogen", 391), ("gated", 255)])
def test_windows_too_short_for_the_architecture_are_refused(
    write_prepared, tmp_path, trial_config, architecture, samples
):
    dataset = PreparedDataset.open(write_prepared(tmp_path / "short", samples=samples))
    with pytest.raises(
        ValueError, match=f"windows of {samples} samples are too short; expected at least {samples + 1}"
    ):
        check_fit(with_values(trial_config, {"model.architecture": architecture}), dataset)


def test_a_condition_that_no_record_has_is_refused_before_training(write_prepared, tmp_path, trial_config):
    folder = write_prepared(tmp_path / "blank")
    rows = pd.read_parquet(folder / "train.parquet")
    rows.assign(depth_km=np.nan).to_parquet(folder / "train.parquet")
    with pytest.raises(ValueError, match=r"has a depth; leave it out of model\.conditions"):
        check_fit(with_values(trial_config, {"model.conditions": ["depth"]}), PreparedDataset.open(folder))


def test_a_part_without_an_earthquake_is_nothing_to_judge_by(write_prepared, tmp_path, trial_config):
    folder = write_prepared(tmp_path / "noise")
    rows = pd.read_parquet(folder / "val.parquet")
    rows.assign(label="noise").to_parquet(folder / "val.parquet")
    with pytest.raises(ValueError, match=r"val\.npy has no earthquake; expected some to judge by"):
        check_fit(trial_config, PreparedDataset.open(folder))
