import io
import math
import re
from types import SimpleNamespace

import pandas as pd
import pytest
from ray.tune.experiment import Trial
from rich.console import Console

from search.progress import Progress, _clock
from search.trials import best_row, trial_rows, write_trials


def trial(number, status=Trial.RUNNING, score=None, best=None, epoch=0, last_epoch=False, reason="", done=False):
    last = (
        {}
        if score is None
        else {
            "score": score,
            "epoch": epoch,
            "samples": 10 * epoch,
            "seconds": 2.0,
            "time_total_s": 2.0 * epoch,
            "last_epoch": last_epoch,
            "stop_reason": reason,
            "done": done,
        }
    )
    return SimpleNamespace(
        trial_id=f"id{number}",
        experiment_tag=f"{number}_x=1",
        status=status,
        last_result=last,
        metric_analysis={"score": {"min": best if best is not None else score}} if last else {},
        config={"model.latent_dim": 100 + number},
        placement_group_factory=SimpleNamespace(required_resources={"CPU": 2.0}),
    )


@pytest.mark.parametrize(
    ("status", "kwargs", "state", "reason"),
    [
        (Trial.PENDING, {}, "waiting", ""),
        (Trial.PAUSED, {"score": 2.0, "epoch": 1}, "waiting", ""),
        (Trial.RUNNING, {"score": 2.0, "epoch": 1}, "running", ""),
        (Trial.ERROR, {}, "failed", "error"),
        (Trial.TERMINATED, {"score": 2.0, "epoch": 9, "last_epoch": True}, "complete", ""),
        (Trial.TERMINATED, {"score": 2.0, "epoch": 4, "done": True}, "stopped", "scheduler: others did better"),
        (Trial.TERMINATED, {"score": 2.0, "epoch": 4}, "stopped", "budget: time is up"),
        (Trial.TERMINATED, {}, "stopped", "budget: time is up"),
        (Trial.TERMINATED, {"score": 2.0, "epoch": 4, "reason": "drifting: x"}, "stopped", "drifting: x"),
        (
            Trial.TERMINATED,
            {"score": math.inf, "epoch": 9, "last_epoch": True, "reason": "diverged: y"},
            "stopped",
            "diverged: y",
        ),
    ],
)
def test_state_and_reason_of_each_ending(status, kwargs, state, reason):
    (row,) = trial_rows([trial(1, status, **kwargs)])
    assert (row.state, row.stop_reason) == (state, reason)
    assert row.ended is (state in ("complete", "stopped", "failed"))


def test_rows_keep_the_order_of_creation_and_the_best_score():
    rows = trial_rows([trial(10, score=3.0, best=1.5, epoch=2), trial(2, score=2.0, epoch=1), trial(3)])
    assert [row.trial_id for row in rows] == ["id2", "id3", "id10"]
    assert best_row(rows).trial_id == "id10"
    assert best_row(trial_rows([trial(1), trial(2, score=math.inf, epoch=1)])) is None


def test_trials_csv_has_the_columns_of_the_contract(tmp_path):
    file = tmp_path / "trials.csv"
    write_trials(trial_rows([trial(1, Trial.TERMINATED, 2.0, epoch=9, last_epoch=True), trial(2)]), file)
    table = pd.read_csv(file)
    assert list(table.columns) == [
        "trial_id",
        "state",
        "stop_reason",
        "epochs",
        "samples",
        "score",
        "seconds",
        "model.latent_dim",
    ]
    assert table["score"].tolist()[0] == 2.0
    assert math.isnan(table["score"][1])
    assert [f.name for f in tmp_path.iterdir()] == ["trials.csv"]


def follow(tmp_path, steps, terminal=False):
    stream = io.StringIO()
    console = Console(file=stream, width=110, force_terminal=terminal)
    with Progress(console, tmp_path / "trials.csv", num_samples=4, max_epochs=9) as progress:
        for ended, trials in steps:
            for one in ended:
                progress.on_trial_complete(0, trials, one)
            progress.show(trials)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())


def test_without_a_terminal_each_ended_trial_gets_one_line(tmp_path):
    ended = trial(1, Trial.TERMINATED, 5.0, epoch=4, reason="drifting: mean")
    text = follow(tmp_path, [([ended], [ended, trial(2)]), ([], [ended, trial(2)])])
    assert text.count("\n") == 1
    assert "1 of 4 ended: trial id1 stopped at epoch 4, score 5.00 (drifting: mean); best so far 5.00" in text


def test_trials_that_end_together_are_counted_one_by_one(tmp_path):
    trials = [trial(number, Trial.TERMINATED, 5.0, epoch=9) for number in (1, 2, 3)]
    text = follow(tmp_path, [(trials[:1], [trials[0], trial(2), trial(3)]), (trials[1:], trials)])
    assert re.findall(r"(\d) of 4 ended: trial (\w+)", text) == [("1", "id1"), ("2", "id2"), ("3", "id3")]


def test_a_resumed_search_does_not_announce_what_had_ended_before(tmp_path):
    assert follow(tmp_path, [([], [trial(1, Trial.TERMINATED, 5.0, epoch=4)])]) == ""


@pytest.fixture
def three_cpus(monkeypatch):
    """A cluster of three CPUs, as far as the terminal is told."""
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 3.0})


def test_the_table_shows_state_epoch_score_best_and_time_left(tmp_path, three_cpus):
    trials = [
        trial(1, Trial.TERMINATED, 5.0, epoch=9, last_epoch=True),
        trial(2, score=4.0, epoch=3),
        trial(3, Trial.PENDING),
    ]
    text = follow(tmp_path, [([], trials)], terminal=True)
    for expected in (
        "1 of 4 trials ended",
        "best so far 4.00 (trial id2)",
        "complete",
        "3/9",
        "★",
        "≤ 0:12",
        "about 0:48 left",  # 12 s of the running one, and two to come of 18 s as the ended one took
        "waiting",
        "Waiting: no free CPU (2 of 3 taken).",
    ):
        assert expected in text


def test_of_many_trials_the_running_and_the_best_are_shown(tmp_path, three_cpus):
    trials = [trial(i, Trial.TERMINATED, float(i), epoch=9, last_epoch=True) for i in range(1, 40)] + [trial(40)]
    text = follow(tmp_path, [([], trials)], terminal=True)
    assert "id40" in text
    assert "id5 " in text
    assert "id39 " not in text
    assert "20 more trials in trials.csv" in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3725, "1:02:05"), (math.nan, "time unknown")]
)
def test_clock(seconds, text):
    assert _clock(seconds) == text


def test_of_a_large_search_s_time_progress_takes_a_small_part(tmp_path, monkeypatch):
    clock, drawn = [0.0], []
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    progress = Progress(Console(file=io.StringIO()), tmp_path / "trials.csv", 8, 9)

    def show(trials):
        drawn.append(clock[0])
        clock[0] += 1.0

    monkeypatch.setattr(progress, "show", show)
    while clock[0] < 100:
        progress.on_step_end(1, [])
        clock[0] += 0.1
    assert len(drawn) == 5
