import json
import sys
from dataclasses import replace

import pytest

from search import dashboard, wandb_runs
from search.dashboard import workspace
from search.presets import preset
from search.tracking import metrics_of
from trainables.batches import PreparedDataset
from trainables.config import CONDITIONS
from trainables.training import train

# wandb-workspaces, when imported
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic V1 style:DeprecationWarning")


@pytest.fixture
def no_account(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def spec(search=None, config=None):
    """The workspace as the service would be sent it."""
    made = workspace("team", "seismo", config or preset("itaca"), search)
    return json.loads(made._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))["section"]


def panels(content):
    """Each panel's kind and configuration, by the section's name."""
    sections = content["panelBankConfig"]["sections"]
    return {one["name"]: [(panel["viewType"], panel["config"]) for panel in one["panels"]] for one in sections}


def drawn(content):
    """The metrics that line plots draw, in the order of the panels."""
    plots = [config for section in panels(content).values() for kind, config in section if "Line Plot" in kind]
    assert all(plot["xAxis"] == "epoch" for plot in plots)
    return [metric for plot in plots for metric in plot["metrics"]]


def test_every_panel_draws_what_a_trial_logs_and_every_group_of_metrics_is_drawn(prepared, trial_config):
    reports = []
    training, model = replace(trial_config.training, max_epochs=1), replace(trial_config.model, conditions=CONDITIONS)
    config = replace(trial_config, training=training, model=model)
    train(config, PreparedDataset.open(prepared), lambda metrics, gan: reports.append(metrics), lambda history: None)
    logged = set(metrics_of({**reports[0], "best_score": 1.0}))
    metrics = drawn(spec())
    assert len(metrics) == len(set(metrics))
    assert {metric for metric in metrics if not metric.startswith("worker/")} <= logged
    in_groups = {name for name in logged if name.startswith(("loss/", "drift/", "gate/", "fidelity/"))}
    assert in_groups <= set(metrics)
    assert dashboard.BEST_SCORE in logged
    assert dashboard.PICTURE == wandb_runs.PICTURE


def test_the_parameters_searched_are_set_against_the_score():
    sections = panels(spec())
    ((_, config),) = [panel for panel in sections["Trials"] if panel[0] == "Parallel Coordinates Plot"]
    columns = {column["accessor"]: column["log"] for column in config["columns"]}
    assert columns["config:training.value.generator_lr"]
    assert not columns["config:model.value.latent_dim"]
    assert list(columns)[-1] == "summary:best_score"
    assert len(columns) == len(preset("itaca").space) + 1


def test_trials_are_compared_by_their_number_and_waveforms_shown():
    sections = panels(spec())
    kinds = {kind: config for section in sections.values() for kind, config in section}
    assert (kinds["Scatter Plot"]["xAxis"], kinds["Scatter Plot"]["yAxis"]) == (
        "config:trial.value",
        "summary:best_score",
    )
    assert kinds["Media Browser"]["mediaKeys"] == ["waveforms"]


def test_one_search_alone_is_shown_where_it_is_named():
    assert "demo-7" in json.dumps(spec("demo-7")["runSets"])
    assert "demo-7" not in json.dumps(spec())


@pytest.mark.parametrize("target", ["seismo", "a/b/c", "/b", "a/"])
def test_a_target_that_is_no_project_is_refused(run_here, no_account, target):
    status, _, complaint = run_here(dashboard.main, target)
    assert status == 2
    assert "expected ENTITY/PROJECT" in complaint
    assert complaint.count("\n") == 1


def test_without_an_account_one_line_says_what_to_do(run_here, no_account):
    status, _, complaint = run_here(dashboard.main, "team/seismo", "--search", "demo-7")
    assert status == 2
    assert "wandb login" in complaint


def test_without_the_package_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(ValueError, match="make search"):
        workspace("team", "seismo", preset("itaca"))
