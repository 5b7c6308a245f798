"""Whole searches on a small Ray cluster, from prepared data to the exported generator."""

import io
import json
import math

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from optuna.trial import TrialState
from rich.console import Console

from data_prep.files import sha256
from search import ending, plan, session
from search.config import with_settings
from search.export.load import load_best, load_records
from search.generate import write_waveforms
from search.presets import preset
from search.run import parse_arguments
from tests.made_up import AtReport, ctrl_c
from trainables.batches import PreparedDataset
from trainables.score import VERSION

pytestmark = pytest.mark.slow

SMALL = [
    "model.base_channels=2",
    "model.kernel=8",
    "training.batch_size=[4, 8]",
    "model.latent_dim=[100, 120]",
    "evaluation.fakes=16",
    "evaluation.splits=10",
    "scheduler.grace_epochs=1",
    "finalists.count=0",
    "wandb.mode=offline",
    "resources.max_concurrent=1",
]

# One after the other: a promising trial, a hopeless one, and two that the sampler proposes.
FOUR = [
    *("--num-samples", "4", "--max-epochs", "3", "--name", "small"),
    *("--set", "training.generator_lr=[1e-4, 1]"),
    *("--set", 'baselines=[{"training.generator_lr": 1e-3}, {"training.generator_lr": 1}]'),
]
SCALES = [f"std_{c}_cm_s2" for c in "enz"]


def search(results, data, *arguments):
    """Run a small search; what it printed, and its folder."""
    settings = [part for text in SMALL for part in ("--set", text)]
    given = ["--data", str(data), "--preset", "demo", "--results", str(results), *settings, *arguments]
    return run(plan.make(parse_arguments(given), {}))


def run(planned):
    stream = io.StringIO()
    finished = session.run(planned, Console(file=stream, soft_wrap=True))
    return planned.folder, stream.getvalue(), finished


def study(folder):
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "optuna.journal")))
    return optuna.load_study(study_name=folder.name, storage=storage)


@pytest.fixture(scope="module")
def result(cluster, prepared, tmp_path_factory):
    """A finished search of four trials of at most three epochs."""
    folder, text, finished = search(tmp_path_factory.mktemp("results"), prepared, *FOUR)
    assert finished
    return folder, text


def test_a_search_leaves_what_the_contract_names(result):
    folder, _ = result
    assert {f.name for f in folder.iterdir() if not f.name.startswith(".")} == {
        "search.json",
        "trials.csv",
        "trials.jsonl",
        "answers.json",
        "report.html",
        "optuna.journal",
        "tune",
        "wandb",
        "best",
        "generated.npy",
        "generated.csv",
        "waveforms.png",
    }


def test_every_trial_has_its_row_and_a_hopeless_one_stops_early(result):
    folder, _ = result
    table = pd.read_csv(folder / "trials.csv")
    assert len(table) == 4
    assert set(table["state"]) <= {"complete", "stopped"}
    assert table["state"][1] == "stopped"
    reasons = table.loc[table["state"] == "stopped", "stop_reason"]
    assert reasons.str.contains("scheduler|drifting|collapsed|diverged").all()
    assert (table.loc[table["state"] == "complete", "epochs"] == 3).all()
    assert table["model.latent_dim"].between(100, 120).all()


def test_the_best_of_all_epochs_is_exported(result):
    folder, text = result
    lines = [line for file in folder.glob("tune/*/result.json") for line in file.read_text().splitlines()]
    scores = [json.loads(line)["score"] for line in lines]
    metrics = json.loads((folder / "best" / "metrics.json").read_text())
    assert metrics["validation"]["score"] == min(scores)
    assert f"{min(scores):.2f} on validation" in text
    assert metrics["trial_id"] in text


def test_the_winner_is_looked_at_more_closely_on_the_test_part(result):
    folder, _ = result
    metrics = json.loads((folder / "best" / "metrics.json").read_text())
    look = {name: value for name, value in metrics["test"].items() if name.startswith("finalist/")}
    copied = {f"finalist/memorisation_{name}" for name in ("closer", "p", "ratio", "memorised")}
    assert set(look) == {*copied, "finalist/classifier_auc", "finalist/soft_dtw"}
    assert all(math.isfinite(value) for value in look.values())
    assert look["finalist/classifier_auc"] > 0.9  # three epochs of training make no earthquake


def test_optuna_knows_how_each_trial_ended(result):
    folder, _ = result
    table = pd.read_csv(folder / "trials.csv", dtype={"trial_id": str}).set_index("trial_id")
    told = {trial.user_attrs["tune_trial_id"]: trial.state for trial in study(folder).trials}
    expected = {"complete": TrialState.COMPLETE, "stopped": TrialState.PRUNED}
    assert told == {trial_id: expected[state] for trial_id, state in table["state"].items()}


def test_the_exported_generator_is_the_trained_one(result, prepared):
    folder, _ = result
    generator, config = load_best(folder)
    assert (config["samples"], config["fs_hz"], config["labels"]) == (400, 40.0, ["earthquake"])
    with torch.no_grad():
        wave = generator(torch.randn(3, generator.latent_dim), torch.ones(3, 4))  # a label, three conditions
    assert wave.shape == (3, 3, 400)
    assert torch.isfinite(wave).all()


def test_the_output_says_where_things_are_and_what_to_try_next(result):
    _, text = result
    for expected in ("Score not resolvable", "4 of 4 ended", "best/", "search/generate.py", "--trial", "wandb sync"):
        assert expected in text


def test_each_trial_has_an_offline_wandb_run(result):
    folder, _ = result
    table = pd.read_csv(folder / "trials.csv", dtype={"trial_id": str})
    runs = [f.name for f in (folder / "wandb").glob("offline-run-*")]
    assert sorted(name.rsplit("-", 1)[1] for name in runs) == sorted(table["trial_id"])
    assert all(any((folder / "wandb" / name).glob("*.wandb")) for name in runs)


def test_no_pickle_and_no_half_file_is_in_the_export(result):
    folder, _ = result
    assert not list(folder.rglob("*.partial*"))
    assert not [f for f in (folder / "best").iterdir() if f.suffix in (".pt", ".pkl")]


def test_generating_is_seeded_finite_and_float32(result, tmp_path):
    folder, _ = result
    for name in ("a", "b"):
        write_waveforms(folder, 70, tmp_path / f"{name}.npy", seed=5)
    write_waveforms(folder, 70, tmp_path / "c.npy", seed=6)
    a, b, c = (np.load(tmp_path / f"{name}.npy") for name in "abc")
    assert (a.shape, a.dtype) == ((70, 3, 400), np.float32)
    assert np.isfinite(a).all()
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
    np.testing.assert_allclose(a.std(-1), 1, atol=1e-4)
    np.testing.assert_allclose(a.mean(-1), 0, atol=1e-4)


def test_physical_units_have_the_scales_of_one_training_record_each(result, prepared, tmp_path):
    folder, _ = result
    write_waveforms(folder, 20, tmp_path / "x.npy", units="cm/s2")
    found = np.load(tmp_path / "x.npy").std(-1)
    rows = pd.read_parquet(prepared / "train.parquet")[[f"std_{c}_cm_s2" for c in "enz"]].to_numpy()
    distance = np.abs(found[:, None] / rows - 1).max(-1).min(1)
    assert distance.max() < 1e-3


@pytest.fixture(scope="module")
def conditioned(cluster, write_prepared, tmp_path_factory):
    """A finished search of both architectures for two components under conditions, with noise of unknown unit.

    One earthquake's unit is unknown too.
    """
    data = write_prepared(tmp_path_factory.mktemp("data") / "mixed", noise_every=3)
    rows = pd.read_parquet(data / "train.parquet")
    rows.loc[1, SCALES] = np.nan
    rows.to_parquet(data / "train.parquet")
    write_checksums(data)
    settings = [
        "model.components=EZ",
        "model.conditions=[magnitude, depth]",
        "model.architecture=[seismogen, gated]",
        'baselines=[{"model.architecture": "gated"}, {"model.architecture": "seismogen"}]',
        "training.pretrain_epochs=1",
        "training.lr_half_life=100",
        "wandb.mode=disabled",
    ]
    arguments = [part for text in settings for part in ("--set", text)]
    results = tmp_path_factory.mktemp("results")
    folder, text, _ = search(results, data, "--num-samples", "2", "--max-epochs", "2", "--name", "told", *arguments)
    return folder, text, data


@pytest.mark.all
def test_both_architectures_are_searched_shown_and_tabled(conditioned):
    folder, text, _ = conditioned
    table = pd.read_csv(folder / "trials.csv")
    assert table["model.architecture"].tolist() == ["gated", "seismogen"]
    assert np.isfinite(table["score"]).all()
    best = table.loc[table["score"].idxmin(), "model.architecture"]
    assert f"architecture {best}" in text
    card = (folder / "best" / "README.md").read_text()
    assert f"| `model.architecture` | {best} |" in card
    assert "component (E, Z)" in card
    assert "label, magnitude, depth, the components' scales" in card
    assert (folder / "waveforms.png").is_file()


def test_a_trial_of_one_architecture_can_be_trained_again_alone(conditioned):
    folder, _, _ = conditioned
    trial_id = pd.read_csv(folder / "trials.csv", dtype={"trial_id": str})["trial_id"][0]
    again = plan.make(parse_arguments(["--results", str(folder.parent), "--trial", f"{folder}:{trial_id}"]), {})
    assert again.config.model.architecture == "gated"
    assert again.config.model.conditions == ("magnitude", "depth")


def test_the_export_says_all_that_a_condition_means(conditioned):
    folder, _, data = conditioned
    generator, config = load_best(folder)
    assert (generator.components, config["model"]["components"]) == (2, "EZ")
    train = pd.read_parquet(data / "train.parquet").query("label == 'earthquake'")
    expected = {"magnitude": train["magnitude"], "depth": train["depth_km"]}
    assert config["standards"] == {
        name: {"mean": pytest.approx(value.mean()), "std": pytest.approx(value.std(ddof=0))}
        for name, value in expected.items()
    }


def test_conditions_and_scales_of_the_export_are_those_of_the_same_records(conditioned):
    folder, _, data = conditioned
    rows = pd.read_parquet(data / "train.parquet")
    label = PreparedDataset.open(data).label(rows, ("magnitude", "depth"))
    for name in ("earthquake", "noise"):
        of_it = (rows["label"] == name).to_numpy()
        records = load_records(folder, name, scaled=False)
        np.testing.assert_array_equal(records.label, label.numpy()[of_it])
        np.testing.assert_array_equal(records.scale, rows.loc[of_it, [SCALES[0], SCALES[2]]].to_numpy(np.float32))
    assert len(load_records(folder, "earthquake", scaled=False).label) == 20
    assert len(load_records(folder, "earthquake", scaled=True).label) == 19


def test_every_waveform_has_the_scales_of_the_record_that_its_row_names(conditioned, tmp_path):
    folder, _, _ = conditioned
    write_waveforms(folder, 70, tmp_path / "x.npy", units="cm/s2", seed=3)
    wave, table = np.load(tmp_path / "x.npy"), pd.read_csv(tmp_path / "x.csv")
    assert wave.shape == (70, 2, 400)
    scale = load_records(folder, "earthquake", scaled=False).scale.numpy()[table["training_record"]]
    np.testing.assert_allclose(wave.std(-1), scale, rtol=1e-3)
    assert table["training_record"].nunique() > 10


def test_noise_of_unknown_unit_is_generated_normalised(conditioned, tmp_path):
    folder, _, _ = conditioned
    for label in ("noise", "earthquake"):
        write_waveforms(folder, 4, tmp_path / f"{label}.npy", label=label)
        wave = np.load(tmp_path / f"{label}.npy")
        assert wave.shape == (4, 2, 400)
        np.testing.assert_allclose(wave.std(-1), 1, atol=1e-4)
    write_waveforms(folder, 64, tmp_path / "scaled.npy", units="cm/s2")
    assert np.isfinite(np.load(tmp_path / "scaled.npy")).all()
    with pytest.raises(ValueError, match="records of noise have no known unit; generate them normalised"):
        write_waveforms(folder, 4, tmp_path / "none.npy", label="noise", units="cm/s2")
    assert not (tmp_path / "none.npy").exists()


def test_data_that_are_no_numbers_are_refused_before_anything_is_written(write_prepared, tmp_path):
    data = write_prepared(tmp_path / "data")
    wave = np.load(data / "val.npy")
    wave[3, 0, 0] = np.nan
    np.save(data / "val.npy", wave)
    write_checksums(data)
    with pytest.raises(ValueError, match=r"val\.npy: window 3 holds a sample that is no finite number"):
        search(tmp_path, data, "--name", "x")
    assert not (tmp_path / "x").exists()


def write_checksums(data):
    manifest = json.loads((data / "manifest.json").read_text())
    manifest["files"] = {name: sha256(data / name) for name in manifest["files"]}
    (data / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"count": 0}, "--count is 0"),
        ({"count": 10**20}, "--count is 1000"),
        ({"seed": -1}, "--seed is -1"),
        ({"out": "x.txt"}, r"ends in '\.txt'; expected one of \.npy"),
        ({"out": "no/x.npy"}, "does not exist; create it first"),
        ({"label": "noise"}, "trained on earthquake alone"),
    ],
)
def test_generate_refuses_what_it_cannot_do_and_writes_nothing(result, tmp_path, kwargs, message):
    folder, _ = result
    count, out = kwargs.pop("count", 1), tmp_path / kwargs.pop("out", "x.npy")
    with pytest.raises(ValueError, match=message):
        write_waveforms(folder, count, out, **kwargs)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.all
def test_resuming_a_finished_search_exports_the_same_again(result):
    folder, _ = result
    before = (folder / "best" / "metrics.json").read_text(), (folder / "trials.csv").read_text()
    _, text, finished = resume(folder)
    assert finished
    assert "ended: trial" not in text
    assert ((folder / "best" / "metrics.json").read_text(), (folder / "trials.csv").read_text()) == before


def resume(folder):
    return run(plan.make(parse_arguments(["--results", str(folder.parent), "--name", folder.name, "--resume"]), {}))


def test_a_search_that_is_running_cannot_be_resumed_beside_it(result):
    folder, _ = result
    with session._alone(folder), pytest.raises(ValueError, match="search small is running already"):
        resume(folder)


def test_a_search_scored_by_an_earlier_formula_is_not_resumed(result):
    folder, _ = result
    kept = (folder / "search.json").read_text()
    content = json.loads(kept)
    del content["score_version"]
    (folder / "search.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"search small was scored by formula 1, expected {VERSION}"):
        resume(folder)
    (folder / "search.json").write_text(kept)


def test_a_search_is_not_resumed_on_other_data(result, write_prepared, tmp_path):
    folder, _ = result
    kept = (folder / "search.json").read_text()
    content = json.loads(kept)
    other = write_prepared(tmp_path / "other", seed=1)
    (folder / "search.json").write_text(json.dumps({**content, "data": str(other)}))
    with pytest.raises(ValueError, match="is not the dataset that search small began on"):
        resume(folder)
    (folder / "search.json").write_text(kept)


def test_a_search_without_tune_s_state_keeps_what_it_has(result, tmp_path):
    folder, _ = result
    (folder / "tune").rename(tmp_path / "tune")
    before = (folder / "trials.csv").read_text()
    with pytest.raises(ValueError, match="nothing to go on from"):
        resume(folder)
    (tmp_path / "tune").rename(folder / "tune")
    assert (folder / "trials.csv").read_text() == before


@pytest.mark.all
def test_ctrl_c_during_the_export_can_be_resumed_too(result, monkeypatch):
    folder, _ = result

    def interrupted(*arguments):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ending, "export_best", interrupted)
        _, text, finished = resume(folder)
    assert not finished
    assert "--name small" in text
    assert resume(folder)[2]


def test_a_trial_can_be_trained_again_alone(result, prepared):
    folder, _ = result
    trial_id = json.loads((folder / "best" / "metrics.json").read_text())["trial_id"]
    arguments = ["--data", str(prepared), "--results", str(folder.parent), "--trial", f"{folder}:{trial_id}"]
    again, _, finished = run(plan.make(parse_arguments([*arguments, "--name", "again"]), {}))
    assert finished
    old = pd.read_csv(folder / "trials.csv", dtype={"trial_id": str}).set_index("trial_id").loc[trial_id]
    new = pd.read_csv(again / "trials.csv").iloc[0]
    assert new["score"] == pytest.approx(old["score"])
    assert new["epochs"] == old["epochs"]


@pytest.mark.all
def test_one_at_a_time_the_same_seed_proposes_and_scores_the_same(result, prepared, tmp_path):
    folder, _ = result
    again, _, _ = search(tmp_path, prepared, *FOUR)
    columns = ["state", "epochs", "score", "model.latent_dim", "training.critic_lr", "training.batch_size"]
    first, second = (pd.read_csv(f / "trials.csv")[columns] for f in (folder, again))
    pd.testing.assert_frame_equal(first, second)


@pytest.mark.all
def test_a_trial_that_fails_is_told_as_failed_and_the_others_go_on(cluster, prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "check_fit", lambda config, dataset: None)  # or it would refuse what is to fail here
    monkeypatch.setattr("search.tuner.MAX_FAILURES", 0)  # it would fail each time
    settings = ["--set", "training.batch_size=[10, 90]", "--num-samples", "4", "--max-epochs", "1", "--name", "x"]
    folder, _, _ = search(tmp_path, prepared, *settings)
    table = pd.read_csv(folder / "trials.csv", dtype={"trial_id": str}).set_index("trial_id")
    failed = table["state"] == "failed"
    assert failed.any()
    assert (~failed).any()
    assert failed.equals(table["training.batch_size"] > 30)
    states = {trial.user_attrs["tune_trial_id"]: trial.state for trial in study(folder).trials}
    assert all((states[i] is TrialState.FAIL) == is_failed for i, is_failed in failed.items())


def test_a_searched_parameter_s_own_default_need_not_fit_the_data(prepared, tmp_path):
    with pytest.raises(ValueError, match="batch_size is 31"):
        search(tmp_path, prepared, "--set", "training.batch_size=[4, 31]")
    config = with_settings(preset("itaca"), ["training.batch_size=[4, 8]"])  # 32 windows where nothing is said
    session._check_fit_of_space(config, PreparedDataset.open(prepared))


def test_when_every_trial_fails_the_reason_is_told(cluster, prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "check_fit", lambda config, dataset: None)
    monkeypatch.setattr("search.tuner.MAX_FAILURES", 0)
    with pytest.raises(ValueError, match="batch_size is 40 but there are only 30"):
        search(tmp_path, prepared, "--set", "training.batch_size=40", "--num-samples", "1", "--name", "x")


def with_callback(monkeypatch, callback):
    """Have the searches of this test call one more callback of Tune's."""
    run_search = session.run_search

    def with_one_more(config, data, folder, callbacks, resume):
        return run_search(config, data, folder, [*callbacks, callback], resume)

    monkeypatch.setattr(session, "run_search", with_one_more)


def two_hours_pass(monkeypatch):
    """Have the time limit of this test's searches run out at their third report."""

    class Clock:
        """The clock of Tune's time limit: two hours pass at the third report, none before or after."""

        seconds = 1.0

        @classmethod
        def advance(cls):
            cls.seconds += 7200

        @classmethod
        def time(cls):
            return cls.seconds

    monkeypatch.setattr("ray.tune.stopper.timeout.time", Clock)
    with_callback(monkeypatch, AtReport(3, Clock.advance))


def test_a_search_whose_time_is_up_exports_the_best_so_far(cluster, prepared, tmp_path, monkeypatch):
    two_hours_pass(monkeypatch)
    arguments = ["--num-samples", "50", "--max-epochs", "1000", "--max-hours", "1", "--name", "x"]
    settings = ["--set", "scheduler.name=none", "--set", "stopping.grace_epochs=1000"]
    folder, _, finished = search(tmp_path, prepared, *arguments, *settings)
    assert finished
    assert (folder / "best" / "generator.safetensors").is_file()
    table = pd.read_csv(folder / "trials.csv")
    assert list(table["stop_reason"]) == ["budget: time is up"]
    assert not [trial for trial in study(folder).trials if trial.state is TrialState.RUNNING]


def test_when_every_trial_diverges_there_is_nothing_to_export(cluster, prepared, tmp_path):
    with pytest.raises(ValueError, match="finite score: nothing to export; diverged: non-finite"):
        search(tmp_path, prepared, "--set", "training.critic_lr=1e30", "--num-samples", "2", "--name", "x")
    table = pd.read_csv(tmp_path / "x" / "trials.csv")
    assert table["stop_reason"].str.startswith("diverged").all()
    assert all(math.isinf(score) or math.isnan(score) for score in table["score"])
    assert [trial.state for trial in study(tmp_path / "x").trials] == [TrialState.PRUNED] * 2
    assert not (tmp_path / "x" / "best").exists()


def test_a_search_can_be_interrupted_and_resumed(cluster, prepared, tmp_path, monkeypatch):
    with_callback(monkeypatch, AtReport(3, ctrl_c))
    arguments = ["--num-samples", "3", "--max-epochs", "4", "--name", "x", "--set", "scheduler.name=none"]
    folder, text, finished = search(tmp_path, prepared, *arguments)
    assert not finished
    assert "--name x" in text
    assert "--resume" in text
    assert not (folder / "best").exists()
    planned = plan.make(parse_arguments(["--results", str(tmp_path), "--name", "x", "--resume"]), {})
    _, _, finished = run(planned)
    assert finished
    table = pd.read_csv(folder / "trials.csv")
    assert table["epochs"].tolist() == [4, 4, 4]
    assert set(table["state"]) == {"complete"}
    assert [trial.state for trial in study(folder).trials] == [TrialState.COMPLETE] * 3


@pytest.mark.all
def test_a_search_for_two_objectives_names_the_best_of_both(cluster, prepared, tmp_path):
    settings = ("scheduler.name=none", "sampler=tpe", "second_objective=epoch_seconds")
    given = [part for setting in settings for part in ("--set", setting)]
    folder, text, finished = search(
        tmp_path, prepared, *given, "--num-samples", "3", "--max-epochs", "2", "--name", "two"
    )
    assert finished
    answers = json.loads((folder / "answers.json").read_text())
    assert set(answers["front"]) == {trial.user_attrs["tune_trial_id"] for trial in study(folder).best_trials}
    assert "No complete trial beats one of these in both score and epoch seconds" in text
    assert "Score and epoch seconds" in (folder / "report.html").read_text()
