import pytest

from search import line_log
from search.line_log import LOG, LineLog, LogReader, lines_of, reports_by_trial


def write(folder, *lines):
    log = LineLog(folder / LOG)
    for line in lines:
        log.write(line)
    log.close()


def report(trial, epoch, score=1.0):
    return {"trial": trial, "report": {"epoch": epoch, "score": score}}


def test_reports_come_by_trial_an_epoch_once_in_order(tmp_path):
    write(tmp_path, {"trial": "a", "about": {}}, report("a", 1), report("b", 1), report("a", 2), report("a", 3))
    write(tmp_path, report("a", 2), report("a", 3), report("a", 4))  # a restored trial
    found = reports_by_trial(tmp_path)
    assert {trial: [one["epoch"] for one in reports] for trial, reports in found.items()} == {
        "a": [1, 2, 3, 4],
        "b": [1],
    }


def test_every_cut_of_the_file_leaves_the_reports_before_it(tmp_path):
    write(tmp_path, report("a", 1), report("a", 2))
    whole = (tmp_path / LOG).read_bytes()
    for length in range(len(whole)):
        (tmp_path / LOG).write_bytes(whole[:length])
        write(tmp_path, report("a", 3))
        epochs = [one["epoch"] for one in reports_by_trial(tmp_path)["a"]]
        assert epochs[-1] == 3
        assert epochs[:-1] == [1, 2][: whole[:length].count(b"}}")]


def test_zeros_that_a_power_cut_leaves_are_no_report(tmp_path):
    write(tmp_path, report("a", 1))
    with (tmp_path / LOG).open("ab") as file:
        file.write(bytes(100) + b"\n")
    write(tmp_path, report("a", 2))
    assert [one["epoch"] for one in reports_by_trial(tmp_path)["a"]] == [1, 2]


def test_a_diverged_score_comes_back(tmp_path):
    write(tmp_path, report("a", 1, float("inf")))
    assert reports_by_trial(tmp_path)["a"][0]["score"] == float("inf")


def test_without_a_log_there_are_no_reports(tmp_path):
    assert reports_by_trial(tmp_path) == {}


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(line_log, "PART_BYTES", 100)


def test_a_long_log_has_parts_and_is_read_as_one(tmp_path, small_parts):
    written = [report("a", epoch) for epoch in range(1, 30)]
    for line in written:
        write(tmp_path, line)  # opened anew each time
    files = sorted(tmp_path.iterdir(), key=lambda file: file.stat().st_mtime_ns)
    assert [file.name for file in files[:3]] == [LOG, "trials.1.jsonl", "trials.2.jsonl"]
    assert all(100 <= file.stat().st_size < 200 for file in files[:-1])
    assert list(lines_of(tmp_path / LOG)) == written


def test_a_reader_that_follows_a_log_misses_no_line_and_gets_none_twice(tmp_path, small_parts):
    log, written = LineLog(tmp_path / LOG), [report("a", epoch) for epoch in range(1, 40)]
    with LogReader(tmp_path / LOG) as reader:
        found = []
        for number, line in enumerate(written):
            log.write(line)
            if number % 7 == 0:
                found += reader.news()
        found += reader.news()
        assert found == written
        assert list(reader.news()) == []
        reader.rewind()
        assert list(reader.news()) == written
    log.close()


def test_every_cut_of_the_last_part_leaves_the_lines_before_it(tmp_path, small_parts):
    written = [report("a", epoch) for epoch in range(1, 5)]
    write(tmp_path, *written)
    last = tmp_path / "trials.1.jsonl"
    whole = last.read_bytes()
    for length in range(len(whole)):
        last.write_bytes(whole[:length])
        write(tmp_path, report("a", 9))
        kept = 2 + whole[:length].count(b"}}")
        assert list(lines_of(tmp_path / LOG)) == [*written[:kept], report("a", 9)]
        (tmp_path / "trials.2.jsonl").unlink(missing_ok=True)
