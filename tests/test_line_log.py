from search.line_log import LOG, LineLog, reports_by_trial


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


def test_a_diverged_score_comes_back(tmp_path):
    write(tmp_path, report("a", 1, float("inf")))
    assert reports_by_trial(tmp_path)["a"][0]["score"] == float("inf")


def test_without_a_log_there_are_no_reports(tmp_path):
    assert reports_by_trial(tmp_path) == {}
