"""In what order the finalists are trained, and which of them go on."""

import math

import pytest

from search.finalists import Finalists
from search.optuna_search import PastTrial
from search.race import Race
from tests.test_finalists import row


def finalists(count=4, first_seeds=1, expected=3.0):
    chosen = tuple(row(number) for number in range(count))
    return Finalists(chosen, {one.trial_id: expected for one in chosen}, (5, 6, 7), first_seeds)


def ended(score, reason=""):
    return {"epoch": 3, "score": score, "stop_reason": reason, "last_epoch": not reason}


def names(race, count):
    """Configuration and seed of the next trainings."""
    points = [race.suggest(f"after{number}") for number in range(count)]
    return [(point["training.n_critic"], point["seed"]) if isinstance(point, dict) else point for point in points]


def begun(race):
    """Begin the first stage: trial t0 is of configuration 0, and so on."""
    return [race.suggest(f"t{number}")["training.n_critic"] for number in range(4)]


def test_the_best_two_of_the_first_stage_are_trained_with_the_other_seeds():
    race = Race(finalists())
    assert begun(race) == [0, 1, 2, 3]
    for number, score in enumerate((5.0, 2.0, 9.0)):
        race.on_trial_complete(f"t{number}", ended(score))
        assert race.suggest("early") is None  # which two go on is not known yet
    race.on_trial_complete("t3", ended(1.0))
    assert names(race, 5) == [(1, 6), (3, 6), (1, 7), (3, 7), Race.FINISHED]
    assert race.trainings == 8


def test_a_training_counts_with_its_best_epoch_and_one_that_failed_with_none():
    race = Race(finalists())
    begun(race)
    race.on_trial_result("t0", {"score": 1.0})
    race.on_trial_result("t0", {"score": math.nan})
    race.on_trial_complete("t0", ended(50.0))
    race.on_trial_complete("t1", ended(0.5, "collapsed: diversity 0.1"))
    race.on_trial_complete("t2", ended(40.0, "stalled: score 40.00"))
    race.on_trial_result("t3", {"score": 0.1})
    race.on_trial_complete("t3", error=True)
    assert names(race, 2) == [(0, 6), (2, 6)]


def test_what_the_search_expects_counts_when_two_are_chosen():
    four = finalists()
    race = Race(Finalists(four.chosen, {"id0": 1.0, "id1": 9.0, "id2": 9.0, "id3": 9.0}, four.seeds, 1))
    begun(race)
    for number, score in enumerate((5.0, 4.0, 3.0, 2.0)):  # means 2.2, 6, 5.2 and 4.2
        race.on_trial_complete(f"t{number}", ended(score))
    assert {number for number, _ in names(race, 4)} == {0, 3}


def test_where_there_is_room_all_are_trained_with_every_seed_at_once():
    race = Race(finalists(count=2, first_seeds=3))
    assert names(race, 7) == [(0, 5), (1, 5), (0, 6), (1, 6), (0, 7), (1, 7), None]
    assert race.trainings == 6
    assert str(race) == "the 2 most promising configurations again with 3 other seeds each"


def test_how_it_goes_is_said():
    expected = "the 4 most promising configurations again with another seed each, then the best 2 with 2 more"
    assert str(Race(finalists())) == expected


def past(name, point, *scores, running=False):
    return PastTrial(name, point, [ended(score) for score in scores], running, failed=False)


def test_a_restored_race_goes_on_where_it_was():
    points = finalists().points()
    race = Race(finalists())
    race.rebuild([past("a", points[1], 1.0), past("b", points[0], 2.0), past("c", points[3], 9.0, 0.5)])
    assert race.suggest("d") == points[2]
    race.on_trial_complete("d", ended(5.0))
    assert names(race, 5) == [(1, 6), (3, 6), (1, 7), (3, 7), Race.FINISHED]


def test_a_restored_race_trains_nothing_twice():
    points = finalists().points()
    trained = [past(f"t{number}", points[number], 1.0 + number) for number in range(4)]
    race = Race(finalists())
    race.rebuild([*trained, past("t4", points[5], running=True)])
    assert names(race, 4) == [(0, 6), (0, 7), (1, 7), Race.FINISHED]


def test_a_restored_training_of_what_is_no_finalist_is_told_of():
    with pytest.raises(ValueError, match=r"trial a of finalists/ is of .* that finalists\.json does not name"):
        Race(finalists()).rebuild([past("a", {"seed": 2}, running=True)])
