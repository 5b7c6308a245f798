"""Which configurations are trained again, and what their trainings say."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from optuna.trial import TrialState

from search import finalists as module
from search import plan, session
from search.config import FinalistsConfig, with_settings
from search.finalists import Finalists, choose, choose_once, stages
from search.presets import preset
from search.run import parse_arguments
from search.samplers import curve_model
from search.samplers.curve_model import expected_scores
from search.space import Range
from search.trials import TrialRow
from search.verdict import compare, counted_score
from tests.made_up import AtReport, ctrl_c
from tests.test_search import run, search, study

CONFIG = replace(preset("demo"), space={"training.n_critic": {"low": 1, "high": 9}}, baselines=[])


def row(number, score=1.0, state="complete", reason="", seed=None, **parameters):
    own = {"seed": seed} if seed is not None else {}
    name = f"id{number}"
    return TrialRow(
        name, name, state, reason, 3, 30, score, 6.0, 2.0, {"training.n_critic": number, **parameters, **own}
    )


def test_the_best_configurations_are_chosen_each_once():
    rows = [row(1, 5.0), row(2, 3.0), row(3, 4.0), replace(row(2, 3.5), trial_id="twin"), row(4, 9.0)]
    config = replace(CONFIG, finalists=FinalistsConfig(count=3))
    assert [one.trial_id for one in choose(rows, config, 1).chosen] == ["id2", "id3", "id1"]


def test_a_low_score_among_bad_neighbours_is_luck():
    """Of two configurations that score alike, the one whose neighbourhood is good comes first, by however little."""
    good = [row(number, 2.0 + number / 100) for number in (1, 2, 3)]
    bad = [row(number, 40.0) for number in (7, 9)]
    finalists = choose([*bad, row(8, 1.9), *good], replace(CONFIG, finalists=FinalistsConfig(count=3)), 1)
    assert {one.parameters["training.n_critic"] for one in finalists.chosen} == {1, 2, 3}


def test_what_broke_a_rule_or_has_no_score_is_no_finalist():
    rows = [
        row(1, 1.0, "stopped", "diverged: non-finite score"),
        row(2, 2.0, "stopped", "scheduler: others did better"),
        row(3, 3.0, "failed", "error"),
        row(4, math.nan, "running"),
        row(5, 5.0, "stopped", "stalled: score 5.00"),
    ]
    assert [one.trial_id for one in choose(rows, CONFIG, 1).chosen] == ["id2", "id5"]


@pytest.mark.parametrize(("rows", "count"), [([row(1)], 3), ([row(1), row(1)], 3), ([row(1), row(2)], 0), ([], 3)])
def test_without_a_choice_there_are_no_finalists(rows, count):
    assert choose(rows, replace(CONFIG, finalists=FinalistsConfig(count=count)), 1) is None


def test_each_finalist_is_trained_with_the_same_seeds_none_of_them_the_search_s():
    finalists = choose([row(1, 1.0), row(2, 2.0)], replace(CONFIG, seed=2**31 - 2), 1)
    assert finalists.seeds == (2**31 - 1, 0, 1)
    points = [(point["training.n_critic"], point["seed"]) for point in finalists.points()]
    assert points == [(number, seed) for seed in finalists.seeds for number in (1, 2)]
    assert [finalists.origin(point) for point in finalists.points()] == ["id1", "id2"] * 3


@pytest.mark.parametrize(
    ("count", "seeds", "at_once", "trainings"),
    [
        (4, 3, 1, (4, 4)),
        (4, 3, 7, (4, 4)),
        (4, 3, 8, (8, 2)),  # there is room for two seeds of each
        (4, 3, 50, (12, 0)),
        (2, 3, 1, (2, 4)),
        (1, 3, 1, (0, 0)),
        (0, 3, 1, (0, 0)),
    ],
)
def test_the_best_two_are_trained_with_every_seed_the_others_with_what_there_is_room_for(
    count, seeds, at_once, trainings
):
    assert stages(count, seeds, at_once) == trainings


def test_a_choice_stays_though_the_model_would_rank_otherwise(tmp_path, monkeypatch):
    rows = [row(number, float(number)) for number in range(1, 6)]
    first = choose_once(rows, CONFIG, 8, tmp_path / "finalists.json")
    assert first.first_seeds == 2
    monkeypatch.setattr(module, "expected_scores", lambda sound, *others: -np.array([one.score for one in sound]))
    assert choose(rows, CONFIG, 1).chosen != first.chosen
    assert choose_once(rows, CONFIG, 1, tmp_path / "finalists.json") == first
    assert first.expected == pytest.approx({row.trial_id: row.score for row in first.chosen}, rel=0.5)


def test_a_choice_of_a_former_version_is_made_anew(tmp_path):
    rows, file = [row(number, float(number)) for number in range(1, 6)], tmp_path / "finalists.json"
    file.write_text('{"trials": ["id3", "id4"], "seeds": [1, 2, 3]}')
    assert choose_once(rows, CONFIG, 1, file) == choose(rows, CONFIG, 1)
    assert set(json.loads(file.read_text())["expected"]) == {"id1", "id2", "id3", "id4"}


@pytest.mark.parametrize(("key", "value"), [("count", 1), ("count", -2), ("seeds", 2)])
def test_finalists_that_could_tell_nothing_are_refused(key, value):
    with pytest.raises(ValueError, match=f"finalists.{key} is {value}; expected at least"):
        with_settings(CONFIG, [f"finalists.{key}={value}"])


@pytest.mark.parametrize(
    ("state", "reason", "expected"),
    [
        ("complete", "", 2.0),
        ("stopped", "stalled: score 2.00", 2.0),
        ("stopped", "drifting: mean off by 60", math.inf),
        ("stopped", "collapsed: diversity 0.1", math.inf),
        ("stopped", "diverged: non-finite score", math.inf),
        ("failed", "error", math.inf),
        ("stopped", "budget: time is up", None),
        ("running", "", None),
        ("waiting", "", None),
    ],
)
def test_what_a_training_counts_with(state, reason, expected):
    found = counted_score(row(1, 2.0, state, reason))
    assert math.isnan(found) if expected is None else found == expected


def verdict(expected=(), **scores):
    """The verdict on scores by configuration, one a seed, NaN for one cut off; of each 1 was expected, or as said."""
    trainings = [(name, seed, score) for name, each in scores.items() for seed, score in enumerate(each, start=1)]
    return compare(dict.fromkeys(scores, 1.0) | dict(expected), trainings)


def test_the_lowest_geometric_mean_wins_not_the_lowest_score():
    found = verdict(lucky=[2.0, 9.0, 8.0], steady=[5.0, 4.0, 6.0])
    assert found.winner == "steady"
    assert found.ranked[0].mean == pytest.approx(120 ** (1 / 4))
    assert found.ranked[1].scores == {1: 2.0, 2: 9.0, 3: 8.0}


def test_what_the_search_lets_expect_counts_as_one_seed_more():
    assert verdict(a=[3.0, 3.0, 3.0], b=[2.0, 3.0, 4.0]).winner == "b"
    found = verdict({"b": 1.2}, a=[3.0, 3.0, 3.0], b=[2.0, 3.0, 4.0])
    assert found.winner == "a"
    assert found.ranked[1].mean == pytest.approx((1.2 * 24) ** (1 / 4))


def test_those_that_went_on_come_first_whatever_became_of_the_others():
    """Fewer trainings have less to fear from luck; one cut off by the search's end is one that went on."""
    found = verdict(lucky=[1.0], cut=[3.0, math.nan, math.nan], whole=[3.0, 4.0, 5.0], last=[9.0])
    assert [one.trial_id for one in found.ranked] == ["cut", "whole", "lucky", "last"]


def test_a_training_that_failed_counts_as_the_worst_of_all():
    found = verdict(once=[1.0, 2.0, math.inf], sound=[50.0, 80.0, 40.0], always=[math.inf] * 3)
    assert [one.trial_id for one in found.ranked] == ["once", "sound", "always"]
    assert found.ranked[0].mean == pytest.approx(160 ** (1 / 4))
    assert found.ranked[2].mean == math.inf


@pytest.mark.parametrize(
    ("one", "other", "p", "apart"),
    [
        # Of the 20 ways to deal six ranks to three seeds each, 2 separate them wholly.
        ([1, 2, 3], [4, 5, 6], 2 / 20, True),
        ([1, 2, 4], [3, 5, 6], 4 / 20, False),
        ([1, 2, 3], [4, math.inf, math.inf], 2 / 20, True),
        ([1, 2, 3, 4], [5, 6, 7, 8], 2 / 70, True),
        ([1, 2, 3, 4, 9], [5, 6, 7, 8, 10], 24 / 252, True),
        ([2, 2, 2], [2, 2, 2], 1.0, False),
    ],
)
def test_winner_and_runner_up_are_told_apart_by_an_exact_permutation_test(one, other, p, apart):
    found = verdict(one=one, other=other)
    assert found.p == pytest.approx(p)
    assert found.told_apart is apart
    assert ("cannot" in found.sentence) is not apart


def test_of_equal_configurations_few_are_told_apart():
    """At the level of 0.1 one in ten, whatever the scores' distribution."""
    scores = np.random.default_rng(0).lognormal(size=(300, 2, 3))
    share = np.mean([verdict(one=list(one), other=list(other)).told_apart for one, other in scores])
    assert share == pytest.approx(0.1, abs=0.05)


def test_what_did_not_come_to_its_end_is_left_out():
    found = verdict(one=[3.0, math.nan, math.nan], other=[2.0, 4.0, 9.0])
    assert found.winner == "one"
    assert found.p is None
    assert "Too few" in found.sentence
    assert verdict(one=[math.nan], other=[math.nan]) is None


def test_the_verdict_is_plain_json_and_a_failed_training_is_null():
    content = verdict(one=[1.0, 2.0, math.inf], other=[math.inf] * 3).content()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["ranked"][0]["scores"] == {"1": 1.0, "2": 2.0, "3": None}
    assert [content["ranked"][0][key] for key in ("expected", "lowest", "highest")] == [1.0, 1.0, None]
    assert content["ranked"][1]["mean"] is None
    found = verdict(one=[1.0, 2.0, math.inf], other=[3.0] * 3)
    assert found.lines[1] == "  trial one 1.57 (1.00; 1.00, 2.00, failed)"


def test_trainings_are_written_with_the_trial_whose_configuration_they_train(tmp_path):
    finalists = Finalists((row(1), row(2)), {}, (5, 6), 1)
    rows = [
        row(1, 3.0, seed=5),
        row(2, 9.0, "stopped", "collapsed: diversity 0.1", seed=5),
        row(1, state="waiting", seed=6),
    ]
    finalists.write(rows, tmp_path / "finalists.csv")
    table = pd.read_csv(tmp_path / "finalists.csv")
    assert list(table.columns) == ["trial_id", "seed", "score", "state", "stop_reason", "epochs", "seconds"]
    assert table["trial_id"].tolist() == ["id1", "id2", "id1"]
    assert table["seed"].tolist() == [5, 5, 6]
    assert table["score"].tolist()[:2] == [3.0, math.inf]
    assert math.isnan(table["score"][2])


WITH_FINALISTS = [
    *("--num-samples", "3", "--max-epochs", "2", "--name", "x", "--set", "finalists.count=3"),
    *("--set", "scheduler.name=none", "--set", "wandb.mode=disabled"),
]


@pytest.fixture(scope="module")
def interrupted(cluster, prepared, tmp_path_factory):
    """A search of three trials, cut off by Ctrl-C in the second stage of its finalists' race, and what was resumed."""

    results = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        run_finalists = session.run_finalists

        def with_interrupt(config, data, folder, callbacks, *others):
            return run_finalists(config, data, folder, [*callbacks, AtReport(8, ctrl_c)], *others)

        patch.setattr(session, "run_finalists", with_interrupt)
        folder, text, finished = search(results, prepared, *WITH_FINALISTS)
    assert not finished
    assert "--resume" in text
    assert not (folder / "best").exists()
    before = pd.read_csv(folder / "finalists.csv", dtype={"trial_id": str})
    content = json.loads((folder / "search.json").read_text())
    content["config"]["num_samples"] = 9  # as if the search had been ended by its time
    (folder / "search.json").write_text(json.dumps(content))
    _, resumed, finished = run(plan.make(parse_arguments(["--results", str(results), "--name", "x", "--resume"]), {}))
    assert finished
    return folder, before, resumed


@pytest.mark.slow
def test_interrupted_finalists_go_on_and_finished_trainings_stay(interrupted):
    folder, before, _ = interrupted
    after = pd.read_csv(folder / "finalists.csv", dtype={"trial_id": str})
    assert sorted(after["trial_id"].value_counts()) == [1, 3, 3]
    assert not after.duplicated(["trial_id", "seed"]).any()
    assert set(after["state"]) == {"complete"}
    done = before[before["state"] == "complete"]
    assert 3 <= len(done) < 7
    pd.testing.assert_frame_equal(after.loc[done.index], done, check_dtype=False)
    epochs = [
        [json.loads(line)["epoch"] for line in file.read_text().splitlines()]
        for file in (folder / "finalists").glob("tune/*/result.json")
    ]
    assert len(epochs) == 7
    assert all(set(each) == {1, 2} for each in epochs)


@pytest.mark.slow
def test_the_study_knows_every_trial_after_the_finalists_are_resumed(interrupted):
    folder, _, _ = interrupted
    searched = pd.read_csv(folder / "trials.csv", dtype={"trial_id": str})
    told = {trial.user_attrs["tune_trial_id"]: trial.state for trial in study(folder).trials}
    assert len(searched) == 3
    assert told == dict.fromkeys(searched["trial_id"], TrialState.COMPLETE)


@pytest.mark.slow
def test_the_winner_s_best_training_is_exported_and_the_verdict_told(interrupted):
    folder, _, text = interrupted
    metrics = json.loads((folder / "best" / "metrics.json").read_text())
    trained = pd.read_csv(folder / "finalists.csv", dtype={"trial_id": str})
    expected = pd.Series(json.loads((folder / "finalists.json").read_text())["expected"])
    scores = pd.concat([trained.set_index("trial_id")["score"], expected])
    means = np.exp(np.log(scores).groupby(level=0).mean())
    ranked = metrics["finalists"]["ranked"]
    assert {one["trial_id"]: one["mean"] for one in ranked} == pytest.approx(means.to_dict())
    assert [len(one["scores"]) for one in ranked] == [3, 3, 1]
    assert metrics["trial_id"] == ranked[0]["trial_id"]
    assert ranked[0]["mean"] <= ranked[1]["mean"]
    searched = pd.read_csv(folder / "trials.csv", dtype={"trial_id": str}).set_index("trial_id")
    of_winner = trained[trained["trial_id"] == metrics["trial_id"]].set_index("seed")["score"]
    of_winner.loc[0] = searched.loc[metrics["trial_id"], "score"]
    assert metrics["validation"]["score"] == pytest.approx(of_winner.min())
    assert metrics["seed"] == of_winner.idxmin()
    assert "seed" not in metrics["parameters"]
    card = (folder / "best" / "README.md").read_text()
    for told in (text, card):
        assert metrics["finalists"]["verdict"] in told


def test_thousands_of_trials_are_modelled_by_the_best_and_some_of_the_others(monkeypatch):
    """As good as by all of them, at a fixed cost."""
    rng = np.random.default_rng(0)
    space, x = {"x": Range(0.0, 1.0)}, rng.random(300)
    scores = np.exp((x - 0.3) ** 2 + 0.05 * rng.standard_normal(300))
    rows = [replace(row(number), score=scores[number], parameters={"x": x[number]}) for number in range(300)]
    by_all = expected_scores(rows, space, 9)
    monkeypatch.setattr(curve_model, "MAX_ROWS", 100)
    by_some = expected_scores(rows, space, 9)
    assert np.abs(np.log(by_some / by_all)).max() < 0.1
    assert abs(x[np.argmin(by_some)] - 0.3) < 0.1
