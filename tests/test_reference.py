"""What is measured of real windows once and kept beside the dataset: the same numbers, whoever measured them."""

from dataclasses import replace

import pytest
import torch

from data_prep.dataset import open_dataset
from trainables import fidelity, reference
from trainables.batches import PreparedDataset
from trainables.config import with_values
from trainables.gan import Gan
from trainables.judge import Judge


@pytest.fixture
def folder(write_prepared, tmp_path):
    return write_prepared(tmp_path / "data")


def new_judge(folder, config, part="val"):
    """A judge of another process, which remembers nothing."""
    reference._last.clear()
    dataset = PreparedDataset.open(folder)
    return Judge(config, dataset, dataset.part("train", config.model), dataset.part(part, config.model))


def judged(judge, folder, config):
    """All that a judge says of one generator, and what it measures by."""
    dataset = PreparedDataset.open(folder)
    generator = Gan(replace(config, seed=0), dataset.samples, dataset.fs_hz, torch.device("cpu")).averaged
    return judge.score(generator), fidelity.describe(judge.fidelity)


def kept_files(folder):
    return sorted(folder.glob("judge-*"))


def must_not_measure(*_):
    raise AssertionError("real windows were measured again")


def test_what_one_process_measured_the_next_reads_to_the_last_digit(folder, trial_config, monkeypatch):
    measured = judged(new_judge(folder, trial_config), folder, trial_config)
    monkeypatch.setattr(fidelity.Fidelity, "_measured", must_not_measure)
    assert judged(new_judge(folder, trial_config), folder, trial_config) == measured
    assert len(kept_files(folder)) == 1


def test_trials_of_all_seeds_are_judged_alike(folder, trial_config):
    alike = [replace(trial_config, seed=seed) for seed in (0, 1)]
    found = [judged(new_judge(folder, config), folder, config) for config in alike]
    assert found[0] == found[1]
    assert len(kept_files(folder)) == 1


def test_a_folder_that_takes_no_file_changes_nothing(folder, trial_config, monkeypatch):
    expected = judged(new_judge(folder, trial_config), folder, trial_config)
    (file,) = kept_files(folder)
    file.unlink()
    file.mkdir()  # in the way, for root too
    before = sorted(folder.iterdir())
    judge = new_judge(folder, trial_config)
    assert judged(judge, folder, trial_config) == expected
    assert sorted(folder.iterdir()) == before
    monkeypatch.setattr(fidelity.Fidelity, "_measured", must_not_measure)
    dataset = PreparedDataset.open(folder)
    Judge(trial_config, dataset, dataset.part("train"), dataset.part("val"))  # of the same process


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage", [flipped, lambda content: content[:-100], lambda content: b"", lambda content: b"{}"]
)
def test_a_damaged_file_is_measured_anew_and_replaced(tmp_path, damage):
    small = reference.Reference({"log_psd": torch.arange(400.0)}, {}, {}, {}, {"mean": [0.1, 1 / 3]}, {})
    file, cpu = tmp_path / "judge.npz", torch.device("cpu")
    reference.kept(file, cpu, lambda: small)
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    reference._last.clear()
    assert reference.kept(file, cpu, lambda: small) is small
    reference._last.clear()
    again = reference.kept(file, cpu, must_not_measure)
    assert torch.equal(again.features["log_psd"], small.features["log_psd"])
    assert again.drift == small.drift


def test_what_is_judged_otherwise_is_kept_apart(folder, trial_config):
    new_judge(folder, trial_config)
    new_judge(folder, trial_config, "test")
    for key, value in (("evaluation.splits", 11), ("model.components", "Z")):
        new_judge(folder, with_values(trial_config, {key: value}))
    assert len(kept_files(folder)) == 4


def test_other_code_measures_for_itself(folder, monkeypatch):
    dataset = PreparedDataset.open(folder)
    before = reference.file_beside(dataset, dataset.part("val"), 10)
    monkeypatch.setattr(reference, "CODE", reference.CODE[1:])
    assert reference.file_beside(dataset, dataset.part("val"), 10) != before


def test_the_dataset_is_sound_with_what_is_kept_in_it(folder, trial_config):
    before = open_dataset(folder).manifest
    new_judge(folder, trial_config)
    assert kept_files(folder)
    assert open_dataset(folder).manifest == before
