import io
import json
from dataclasses import asdict

import pytest
from rich.console import Console

from search import plan
from search.config import resolved
from search.ending import say_how_to_resume
from search.presets import preset
from search.run import parse_arguments
from trainables.config import with_values


def make(tmp_path, *arguments, environment=None):
    return plan.make(parse_arguments(["--results", str(tmp_path), *arguments]), environment or {})


@pytest.fixture
def data(tmp_path_factory, monkeypatch):
    """A folder that looks like a prepared dataset, called `d` from here."""
    folder = tmp_path_factory.mktemp("elsewhere") / "d"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    monkeypatch.chdir(folder.parent)
    return folder


def finished(tmp_path, data="/somewhere", name="old"):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "search.json").write_text(json.dumps(resolved(preset("demo"), {"data": str(data)})))
    header = "trial_id,state,stop_reason,epochs,samples,score,seconds,model.latent_dim,training.critic_lr"
    (folder / "trials.csv").write_text(f"{header}\n00012345,complete,,9,1,2.0,3.0,150,0.002\n")
    return folder


def test_without_data_it_is_the_demo_and_says_so(tmp_path):
    found = make(tmp_path)
    assert found.data is None
    assert found.folder == tmp_path / "demo-1"
    assert "demo" in found.headline
    assert "miniature" in found.headline


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [(["--data", "d"], {}), ([], {"SEARCH_DATA": "d"}), (["--data", "d"], {"SEARCH_DATA": "other"})],
)
def test_with_data_it_is_itaca(tmp_path, data, arguments, environment):
    found = make(tmp_path, *arguments, environment=environment)
    assert found.data.here == data
    assert found.config == preset("itaca")
    assert found.folder.name == "itaca-1"


def test_the_demo_can_be_asked_for_on_a_cluster_that_sets_the_data(tmp_path):
    assert make(tmp_path, "--preset", "demo", environment={"SEARCH_DATA": "d"}).data is None


def test_the_next_free_number_is_taken(tmp_path):
    (tmp_path / "demo-1").mkdir()
    (tmp_path / "demo-3").mkdir()
    assert make(tmp_path).folder.name == "demo-2"


def test_arguments_and_settings_are_laid_over_the_preset(tmp_path):
    arguments = ["--num-samples", "3", "--max-epochs", "4", "--max-hours", "0.5", "--seed", "7"]
    config = make(tmp_path, *arguments, "--set", "model.base_channels=2", "--set", "wandb.mode=disabled").config
    assert (config.num_samples, config.training.max_epochs, config.max_hours, config.seed) == (3, 4, 0.5, 7)
    assert config.trial.seed == 7
    assert (config.model.base_channels, config.wandb.mode) == (2, "disabled")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-samples", "0"], "num_samples is 0; expected at least 1"),
        (["--max-epochs", "0"], "max_epochs is 0"),
        (["--max-hours", "-1"], "max_hours is -1"),
        (["--preset", "sicily"], "unknown preset 'sicily'"),
        (["--preset", "itaca"], "needs data; give --data DIR"),
        (["--set", "model.colour=1"], "unknown configuration key"),
        (["--config", "nowhere.json"], "nowhere.json does not exist"),
        (["--trial", "nowhere:1"], "nowhere/trials.csv does not exist"),
        (["--resume"], "--resume needs --name"),
        (["--resume", "--name", "x", "--num-samples", "0"], "leave out --num-samples"),
        (["--resume", "--name", "../x"], "expected the plain name"),
        (["--data", "nowhere"], "nowhere: no manifest.json; give a folder made by"),
        (["--set", "seed=[1, 2]"], "seed cannot be searched"),
        (["--set", "training.max_epochs=[1, 2]"], "max_epochs cannot be searched"),
        (["--num-samples", "abc"], "invalid int value: 'abc'; see --help"),
        (["--name=-x"], "expected the plain name"),
        (["--name", "a b"], "expected the plain name"),
        (["--resume", "--name", "x", "--set", "a=1"], "leave out --set"),
        (["--trial", "x:1", "--config", "y"], "leave out --config"),
        (["--resume", "--name", "nothing"], "nothing/search.json does not exist"),
        (["--name", "a/b"], "expected the plain name"),
        (["--name", ".."], "expected the plain name"),
        (["--name", ""], "expected the plain name"),
        (["--name", "demo-data"], "expected the plain name"),
    ],
)
def test_what_cannot_be_run_is_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(tmp_path, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_name_is_refused_without_resume(tmp_path):
    finished(tmp_path)
    with pytest.raises(ValueError, match="old exists already"):
        make(tmp_path, "--name", "old")
    found = make(tmp_path, "--name", "old", "--resume")
    assert found.resume
    assert found.config == preset("demo")
    assert str(found.data) == "/somewhere"


def test_an_earlier_search_can_be_repeated_from_its_configuration(tmp_path):
    folder = finished(tmp_path)
    found = make(tmp_path, "--config", str(folder / "search.json"), "--num-samples", "2")
    assert asdict(found.config) == asdict(preset("demo")) | {"num_samples": 2}


def test_one_trial_is_trained_again_on_its_data_with_its_parameters_fixed(tmp_path, data):
    folder, limits = finished(tmp_path, data), {"max_hours": 0.1, "max_cost": 1.0, "target_score": 3.0}
    limited = with_values(preset("demo"), {**limits, "warm_start": ["gone"], "resources.cost_per_hour": 2.0})
    (folder / "search.json").write_text(json.dumps(resolved(limited, {"data": str(data)})))
    found = make(tmp_path, "--trial", f"{folder}:00012345", "--max-epochs", "30")
    config = found.config
    assert (config.model.latent_dim, config.training.critic_lr) == (150, 0.002)
    assert (config.space, config.baselines, config.num_samples) == ({}, [], 1)
    assert (found.data.here, found.folder) == (data, tmp_path / "trial-00012345-1")
    assert make(tmp_path, "--trial", f"{folder}:00012345", "--preset", "demo").data.here == data
    assert config.training.max_epochs == 30
    assert (config.warm_start, config.max_hours, config.max_cost, config.target_score) == ([], 0.0, 0.0, 0.0)


def test_an_unknown_trial_names_the_known_ones(tmp_path, data):
    with pytest.raises(ValueError, match="known: 00012345"):
        make(tmp_path, "--trial", f"{finished(tmp_path, data)}:7")


def test_a_dry_run_shows_configuration_space_resources_and_baselines(tmp_path, data):
    stream = io.StringIO()
    plan.show(make(tmp_path, "--data", "d"), Console(file=stream, width=150))
    text = stream.getvalue()
    for expected in (
        "100 to 1000",
        "1e-05 to 0.001, logarithmic",
        "base_channels",
        "4 CPU and 1 GPU",
        "Tried first",
        "itaca-1",
    ):
        assert expected in text


def test_results_go_where_the_environment_says(tmp_path):
    planned = plan.make(parse_arguments(["--name", "x"]), {"SEARCH_RESULTS": str(tmp_path)})
    assert planned.folder == tmp_path / "x"
    given = make(tmp_path / "own", "--name", "x", environment={"SEARCH_RESULTS": "/other"})
    assert given.folder == tmp_path / "own" / "x"


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [(["--results", "ftp://a/b"], {}), ([], {"SEARCH_RESULTS": "ftp://a/b"}), ([], {"SEARCH_DATA": "ftp://a/b"})],
)
def test_a_url_that_cannot_be_read_is_refused(arguments, environment):
    with pytest.raises(ValueError, match=r"^ftp://a/b: .*; expected a folder, or a URL such as s3://bucket/folder$"):
        plan.make(parse_arguments(arguments), environment)


def test_the_command_that_resumes_is_one_line_however_narrow_the_terminal(tmp_path):
    printed = io.StringIO()
    planned = plan.make(parse_arguments(["--results", str(tmp_path / "a-folder-with-a-long-name")]), {})
    say_how_to_resume(planned, Console(file=printed, width=40, force_terminal=True))
    (command,) = [line for line in printed.getvalue().splitlines() if "--name demo-1" in line]
    assert "run.py" in command
    assert command.endswith("--resume")
