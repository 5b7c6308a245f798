import json

import pytest
from ray.tune.experiment import Experiment

from search.finalists import Listed
from search.optuna_search import PastTrial
from search.tune_state import KEPT, Proposals, has_state, mend_state

OLD, NEW = "experiment_state-2026-01-01_00-00-00.json", "experiment_state-2026-01-02_00-00-00.json"


def content(*statuses):
    """A state of Tune's with trials of these statuses."""
    trials = [json.dumps({"trial_id": f"t{number}", "status": status}) for number, status in enumerate(statuses)]
    return json.dumps({"trial_data": [[trial, "{}"] for trial in trials]})


@pytest.fixture
def experiment(tmp_path):
    """The folder of a search with the states of two processes, the newer one with an ended trial."""
    (tmp_path / "tune").mkdir()
    (tmp_path / "tune" / OLD).write_text(content("RUNNING"))
    (tmp_path / "tune" / NEW).write_text(content("TERMINATED", "RUNNING"))
    return tmp_path / "tune"


def test_a_folder_has_a_state_once_tune_has_saved_one(experiment, tmp_path):
    assert has_state(tmp_path)
    assert not has_state(tmp_path / "other")


@pytest.mark.parametrize("kept", [None, content("RUNNING"), content("ERROR"), content("TERMINATED", "PENDING")])
def test_a_state_that_knows_as_much_as_the_copy_is_left_alone(experiment, tmp_path, kept):
    if kept:
        (experiment / KEPT).write_text(kept)
    before = (experiment / NEW).read_text()
    mend_state(tmp_path)
    assert (experiment / NEW).read_text() == before


@pytest.mark.parametrize("newest", ["", content("TERMINATED", "RUNNING")[:-9], content("TERMINATED", "RUNNING")])
def test_the_copy_takes_the_place_of_a_state_that_is_cut_off_or_older(experiment, tmp_path, newest):
    (experiment / KEPT).write_text(content("TERMINATED", "TERMINATED", "RUNNING"))
    (experiment / NEW).write_text(newest)
    mend_state(tmp_path)
    assert (experiment / NEW).read_text() == content("TERMINATED", "TERMINATED", "RUNNING")


def test_without_a_copy_there_is_nothing_to_go_on_from(experiment, tmp_path):
    (experiment / NEW).write_text("")
    assert not has_state(tmp_path)
    (experiment / KEPT).write_text(content("TERMINATED"))
    assert has_state(tmp_path)


def test_trials_that_tune_does_not_know_of_are_proposed_again_and_take_no_places(tmp_path):
    def proposals():
        return Proposals(Listed([{"n": number} for number in range(4)]), 2)

    before = proposals()
    before.add_configurations([Experiment("any", run=print, num_samples=4, storage_path=str(tmp_path))])
    ended, _ = before.next_trial(), before.next_trial()
    before.on_trial_complete(ended.trial_id)
    assert before.next_trial() is not None
    assert before.next_trial() is None  # two run
    before.save_to_dir(str(tmp_path), "2026-01-01_00-00-00")

    (tmp_path / OLD).write_text(content("TERMINATED").replace("t0", ended.trial_id))
    after = proposals()
    after.restore_from_dir(str(tmp_path))
    after.searcher.searcher.rebuild([PastTrial(ended.trial_id, {}, [], running=False, failed=False)])
    again = [after.next_trial(), after.next_trial()]
    assert [trial.config["n"] for trial in again] == [1, 2]
    after.on_trial_complete(again[0].trial_id)
    assert after.next_trial().config["n"] == 3
    assert after.is_finished()
