import json

import pytest
from ray.tune.experiment import Experiment

from search.finalists import Finalists
from search.optuna_search import PastTrial
from search.race import Race
from search.tune_state import FIRST_STATE, KEPT, Proposals, has_state, mend_state
from tests.test_finalists import row

OLD, NEW = "experiment_state-2026-01-01_00-00-00.json", "experiment_state-2026-01-02_00-00-00.json"


def trial(number, status, records="{}"):
    return json.dumps({"trial_id": f"t{number}", "status": status}), records


def content(*statuses):
    """A state of Tune's with trials of these statuses."""
    return json.dumps({"trial_data": [trial(number, status) for number, status in enumerate(statuses)]})


@pytest.fixture
def experiment(tmp_path):
    (tmp_path / "tune").mkdir()
    return tmp_path / "tune"


def keep(experiment, *trials):
    (experiment / KEPT).write_text("".join(json.dumps({"trial": kept}) + "\n" for kept in trials))


def mended(experiment):
    """Of each trial its status and its records, in the state that Tune would go on from."""
    mend_state(experiment.parent)
    trials = json.loads(max(experiment.glob("experiment_state-*")).read_text())["trial_data"]
    return {json.loads(fields)["trial_id"]: (json.loads(fields)["status"], records) for fields, records in trials}


def test_a_folder_has_a_state_once_a_trial_is_known(experiment, tmp_path):
    assert not has_state(tmp_path)
    assert not has_state(tmp_path / "other")
    (experiment / NEW).write_text(content())
    assert not has_state(tmp_path)
    keep(experiment, trial(0, "RUNNING"))
    assert has_state(tmp_path)


def test_what_tune_has_saved_is_gone_on_from(experiment):
    (experiment / OLD).write_text(content("RUNNING"))
    (experiment / NEW).write_text(content("TERMINATED", "RUNNING"))
    assert mended(experiment) == {"t0": ("TERMINATED", "{}"), "t1": ("RUNNING", "{}")}


def test_what_has_ended_or_begun_since_is_known_too_and_the_reports_of_the_others(experiment):
    (experiment / NEW).write_text(content("RUNNING", "ERROR", "RUNNING"))
    begun, ended = trial(2, "RUNNING", "as it began"), trial(0, "TERMINATED", "as it ended")
    keep(experiment, trial(0, "RUNNING"), begun, ended, trial(3, "RUNNING", "first"), trial(3, "RUNNING", "again"))
    assert mended(experiment) == {
        "t0": ("TERMINATED", "as it ended"),
        "t1": ("ERROR", "{}"),
        "t2": ("RUNNING", "{}"),
        "t3": ("RUNNING", "again"),
    }


@pytest.mark.parametrize("length", [0, 1, 40, len(content("TERMINATED", "RUNNING")) - 1])
def test_in_place_of_a_state_cut_off_there_are_those_of_before_and_the_kept_trials(experiment, length):
    (experiment / OLD).write_text(content("RUNNING"))
    (experiment / NEW).write_text(content("TERMINATED", "RUNNING")[:length])
    keep(experiment, trial(1, "TERMINATED"))
    assert mended(experiment) == {"t0": ("RUNNING", "{}"), "t1": ("TERMINATED", "{}")}


def test_killed_before_tune_saved_anything_the_kept_trials_are_gone_on_from(experiment):
    keep(experiment, trial(0, "TERMINATED"))
    with (experiment / KEPT).open("a") as file:
        file.write('{"trial": ["cut')
    assert mended(experiment) == {"t0": ("TERMINATED", "{}")}
    assert [state.name for state in experiment.glob("experiment_state-*")] == [FIRST_STATE]


def test_trials_that_tune_does_not_know_of_are_proposed_again_and_take_no_places(tmp_path):
    experiment = Experiment("any", run=print, num_samples=4, storage_path=str(tmp_path))

    four = Finalists(tuple(row(number) for number in range(4)), {}, (5,), first_seeds=1)

    def proposals(over=False):
        return Proposals(Race(four), 2, experiment, over)

    before = proposals()
    before.add_configurations([experiment])
    ended, _ = before.next_trial(), before.next_trial()
    before.on_trial_complete(ended.trial_id)
    assert before.next_trial() is not None
    assert before.next_trial() is None  # two run

    (tmp_path / NEW).write_text(content("TERMINATED").replace("t0", ended.trial_id))
    after = proposals()
    after.restore_from_dir(str(tmp_path))
    after.searcher.searcher.rebuild([PastTrial(ended.trial_id, four.points()[0], [], running=False, failed=False)])
    again = [after.next_trial(), after.next_trial()]
    assert [trial.config for trial in again] == four.points()[1:3]
    assert after.next_trial() is None
    after.on_trial_complete(again[0].trial_id)
    assert after.next_trial().config == four.points()[3]
    assert after.is_finished()

    over = proposals(over=True)  # of a search that a budget ended
    over.restore_from_dir(str(tmp_path))
    assert over.is_finished()
    assert over.next_trial() is None
