import pickle

import numpy as np
import pytest
import torch

from trainables.batches import PreparedDataset, epoch_order
from trainables.checkpoint import load_checkpoint, save_checkpoint
from trainables.config import with_values
from trainables.gan import Gan
from trainables.judge import Judge, generate
from trainables.training import check_fit, train


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
            if key != "seconds":
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


def test_a_resumed_training_equals_one_that_never_stopped(prepared, trial_config, tmp_path):
    config = with_values(trial_config, {"training.max_epochs": 3})
    reports, states = run(config, prepared)

    def save_first(metrics, gan):
        if metrics["epoch"] == 1:
            save_checkpoint(tmp_path, gan)

    train(config, PreparedDataset.open(prepared), save_first, never)
    resumed_reports, resumed_states = run(config, prepared, state=load_checkpoint(tmp_path))
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
    ],
)
def test_what_does_not_fit_the_data_is_refused_before_training(prepared, trial_config, values, message):
    with pytest.raises(ValueError, match=message):
        check_fit(with_values(trial_config, values), PreparedDataset.open(prepared))


def test_a_checkpoint_that_carries_code_is_refused(tmp_path):
    torch.save({"bad": print}, tmp_path / "training.pt")
    with pytest.raises(pickle.UnpicklingError, match=r"Weights only load failed"):
        load_checkpoint(tmp_path)


def test_nothing_is_left_beside_a_checkpoint(tmp_path, prepared, trial_config):
    dataset = PreparedDataset.open(prepared)
    save_checkpoint(tmp_path, Gan(trial_config, dataset.samples, dataset.fs_hz, torch.device("cpu")))
    assert [file.name for file in tmp_path.iterdir()] == ["training.pt"]
