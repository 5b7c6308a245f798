"""Two machines at once on a search that is kept in a bucket: that of a pretended S3, which answers on this machine."""

import io
import os
import subprocess
import sys
import threading

import pytest
from rich.console import Console

from search import turn
from search.storage import place
from search.turn import CLOCK, MARK, Turn
from tests.test_kills import LIMIT_S, LINES, check_whole, lines, start, wait_for  # noqa: F401
from tests.test_storage import names, s3, service  # noqa: F401


@pytest.fixture
def kept(s3):  # noqa: F811
    return place("s3://mine/results/x")


@pytest.fixture
def quick(monkeypatch):
    """Marks are renewed and looked at many times a second."""
    monkeypatch.setattr(turn, "RENEWED_S", 0.05)
    monkeypatch.setattr(turn, "LOOK_S", 0.05)


def one(kept):
    return Turn(kept, Console(file=io.StringIO()))


def test_a_mark_is_there_for_as_long_as_one_works_on_a_search(kept):
    with one(kept) as ours:
        assert names(kept) == [MARK]
        ours.check()
    assert names(kept) == []


@pytest.mark.parametrize("error", [ValueError, ConnectionError, OSError])
def test_after_an_error_a_mark_is_given_back_too(kept, error):
    with pytest.raises(error), one(kept):
        raise error("no cluster, or a full disk")
    assert names(kept) == []


def test_a_bucket_that_does_not_answer_is_not_waited_for(kept, monkeypatch):
    monkeypatch.setattr(turn, "PATIENCE_S", 0.1)
    answers, ours = threading.Event(), one(kept)
    ours.__enter__()
    monkeypatch.setattr(ours, "_holder", answers.wait)
    ours.__exit__(OSError, OSError("no answer"), None)
    assert names(kept) == [MARK]
    answers.set()


def test_a_search_in_a_folder_has_no_mark(tmp_path):
    with one(place(tmp_path)) as ours:
        assert list(tmp_path.iterdir()) == []
        ours.check()


def test_a_second_machine_is_refused_as_soon_as_the_mark_is_renewed(kept, quick):
    with one(kept), pytest.raises(ValueError, match=r"search x is running already, on .*, process \d+; wait for it"):
        one(kept).__enter__()
    assert names(kept) == []


def test_a_mark_that_nobody_renews_is_of_a_machine_that_is_lost(kept, quick, monkeypatch):
    monkeypatch.setattr(turn, "LOST_S", 0.5)
    (kept / MARK).write(b"lost, process 1 (id)")
    with one(kept) as ours:
        assert (kept / MARK).read() == ours._own
        assert not (kept / CLOCK).exists()


def test_a_mark_that_goes_away_is_waited_for_no_longer(kept, quick, monkeypatch):
    (kept / MARK).write(b"just ending, process 1 (id)")
    monkeypatch.setattr(turn.time, "sleep", lambda _: kept.filesystem.delete_file((kept / MARK).path))
    with one(kept) as ours:
        assert (kept / MARK).read() == ours._own


def test_of_two_that_write_their_mark_at_once_the_one_whose_is_gone_is_refused(kept, monkeypatch):
    ours = one(kept)
    monkeypatch.setattr(ours, "_wait_for_the_lost", lambda: None)
    answers = iter([b"other, process 2 (id)"])
    monkeypatch.setattr(ours, "_holder", lambda: next(answers))
    with pytest.raises(ValueError, match="running already, on other, process 2;"):
        ours.__enter__()


def test_a_machine_that_was_taken_for_lost_stops_and_leaves_the_mark_of_the_other(kept, quick):
    with one(kept) as ours:
        (kept / MARK).write(b"other, process 2 (id)")
        ours._renewing.join(LIMIT_S)
        with pytest.raises(ValueError, match=r"search x goes on elsewhere since this machine .* on other, process 2;"):
            ours.check()
    assert (kept / MARK).read() == b"other, process 2 (id)"


@pytest.mark.slow
@pytest.mark.all
def test_a_head_is_refused_while_another_one_works_on_the_search(kept, start, tmp_path):  # noqa: F811
    first = start("s3://mine/results")
    wait_for(lambda: lines(kept.here) >= LINES // 4, first)
    first.kill()
    first.wait()
    kept.filesystem.delete_file((kept / MARK).path)
    command = [sys.executable, "search/run.py", "--results", "s3://mine/results", "--name", "x", "--resume"]
    elsewhere = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "elsewhere")}
    with one(kept):
        second = subprocess.run(command, env=elsewhere, capture_output=True, text=True, timeout=LIMIT_S)
    assert second.returncode == 2
    assert "error: search x is running already, on " in second.stderr
    assert start("s3://mine/results").wait(LIMIT_S) == 0
    check_whole(kept.here)
    assert MARK not in names(kept)
