"""The page about a search: its numbers against the files, what it shows of a search that runs, and in a browser."""

import base64
import csv
import hashlib
import json
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from data_prep.files import sha256
from search.config import SchedulerConfig, SearchConfig, resolved
from search.export.load import FORMAT
from search.line_log import LOG, LineLog
from search.pages.charts import Axis, number
from search.pages.result import hours_text
from search.pages.waves import LOOKS
from search.report import main, write_report
from search.storage import copies, dataset_copy
from search.trials import TrialRow, write_trials
from trainables.fidelity import SCORED
from trainables.score import VERSION

EVIL = "A&B<script>alert(1)</script>\"'"
SPACE = {
    "model.latent_dim": {"low": 100, "high": 400},
    "model.architecture": {"choices": ["seismogen", "gated"]},
    "training.generator_lr": {"low": 1e-5, "high": 1e-3, "log": True},
}
BY_HAND = {"model.latent_dim": 200, "model.architecture": "gated", "training.generator_lr": 1e-4}
EPOCHS = 6
OUTDONE = "scheduler: others did better"


def rows_of(count):
    """Trials whose score falls with their number; of four in turn one is complete and one has an evil stop reason."""
    endings = [("complete", "", EPOCHS), ("stopped", OUTDONE, 2), ("stopped", OUTDONE, 2), ("stopped", EVIL, 3)]
    rows = []
    for i in range(count):
        state, reason, epochs = endings[i % 4]
        parameters = BY_HAND if i == 0 else {**BY_HAND, "model.latent_dim": 100 + i, "training.generator_lr": 2e-5 * i}
        score = 90.0 / (i + 1) + 1 / 3
        rows.append(
            TrialRow(f"t{i}", f"t{i}", state, reason, epochs, 30 * epochs, score, 60.0 * epochs, 60.0, parameters)
        )
    return rows


def reports_of(row):
    """Scores that end at the row's."""
    for epoch in range(1, row.epochs + 1):
        thesis = {f"thesis/minimum_{kind}": value for kind, value in (("real", -9.5), ("generated", -20.0 + epoch))}
        losses = {"loss/critic_distance": 1.0 / epoch, "loss/penalty": 0.5, "loss/generator": -1.0}
        yield {"epoch": epoch, "seconds": 60.0, "score": row.score + row.epochs - epoch, **losses, **thesis}


def write_result(folder, data, rows, **changes):
    """A search's folder as it is while trials run."""
    folder.mkdir(parents=True)
    config = SearchConfig(space=SPACE, baselines=[BY_HAND], num_samples=8, **changes)
    about = {"data": str(data), "dataset": sha256(data / "manifest.json"), "score_version": VERSION}
    config = json.loads(json.dumps(resolved(config, about)))
    config["config"]["training"]["max_epochs"] = EPOCHS
    config["config"]["scheduler"]["grace_epochs"] = 2
    (folder / "search.json").write_text(json.dumps(config))
    log = LineLog(folder / LOG)
    for row in rows:
        log.write({"trial": row.trial_id, "about": {"number": 1, "parameters": row.parameters}})
        for report in reports_of(row):
            log.write({"trial": row.trial_id, "report": report})
    log.close()
    if rows:
        write_trials(rows, folder / "trials.csv")
    return folder


def export(folder, winner):
    """What the end of a search adds: finalists, generated waveforms, the export."""
    header, line = "trial_id,seed,score,state,stop_reason,epochs,seconds", f"{winner.trial_id},1,14.0,complete,,6,360.0"
    (folder / "finalists.csv").write_text(f"{header}\n{line}\n")
    rng = np.random.default_rng(0)
    np.save(folder / "generated.npy", rng.standard_normal((16, 3, 400)).astype(np.float32))
    parts = {f"fidelity/{name}": 1.0 + place for place, name in enumerate(SCORED)}
    floors = {name: {"low": 0.5, "median": 1.0, "high": 2.0} for name in SCORED}
    looks = {key: 0.75 for key, _ in LOOKS.values()} | {"finalist/memorisation_memorised": 1.0}
    test = {"score": 15.25, "resolvable": False, "floors": floors, **parts, **looks}
    ranked = [
        {
            "trial_id": winner.trial_id,
            "mean": 14.0,
            "expected": 17.0,
            "lowest": 13.0,
            "highest": None,
            "scores": {"1": 14.0, "2": None},
        },
        {"trial_id": "t5", "mean": 20.0, "lowest": 18.0, "highest": 21.0, "scores": {"1": 18.0, "2": 21.0}},
    ]
    metrics = {
        "trial_id": winner.trial_id,
        "seed": 0,
        "parameters": winner.parameters,
        "validation": {"score": 12.75, "epoch": 5, **parts},
        "test": test,
        "finalists": {"ranked": ranked, "p": 0.4, "told_apart": False, "verdict": f"Winner: {EVIL}."},
    }
    (folder / "best").mkdir()
    (folder / "best" / "metrics.json").write_text(json.dumps(metrics))
    (folder / "best" / "config.json").write_text(json.dumps({"format": FORMAT}))
    return folder


class Reader(HTMLParser):
    """What a page holds: its tags, all addresses, the sections' texts, and the exact cells of the table of trials."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.links, self.marks, self.cells, self.sections = [], [], [], {}, {}
        self._section, self._row = "", ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        self.links += [found[name] for name in ("src", "href", "xlink:href", "action") if name in found]
        if tag == "section":
            self._section = found["id"]
        if "data-trial" in found:
            self._row = found["data-trial"]
            self.marks.append((tag, self._row))
        if "data-value" in found:
            self.cells.setdefault(self._row, []).append(found["data-value"])

    def handle_data(self, data):
        self.sections[self._section] = self.sections.get(self._section, "") + data + " "


@pytest.fixture(scope="module")
def folder(tmp_path_factory, prepared):
    rows = rows_of(8)
    folder = tmp_path_factory.mktemp("report") / "A&B<b>"
    return export(write_result(folder, prepared, rows), rows[4])


@pytest.fixture(scope="module")
def page(folder):
    return write_report(folder).read_text(encoding="utf-8")


def table_of(folder):
    with (folder / "trials.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_table_holds_what_the_file_holds(folder, page):
    columns = ["trial_id", "state", "score", "epochs", "seconds", *SPACE, "stop_reason"]
    cells = Reader(page).cells
    assert len(cells) == 8
    for place, row in enumerate(table_of(folder), start=1):
        assert cells[row["trial_id"]] == [str(place), *(row[name] for name in columns)]


def test_the_answer_is_the_export_and_its_doubts(page):
    answer = Reader(page).sections["answer"]
    mean = "of 13.00 to failed with other seeds, and 17.00 expected by the search"
    for told in ("Trial t4 is the best, trained with 2 other seeds.", "12.75", "15.25", mean, "90.33"):
        assert told in answer
    assert "4.93 times the best trial's, one seed each; 1 of the winner's 2 other seeds are lower" in answer
    assert "Too few windows" in answer
    assert "memorised" in answer


def test_every_trial_is_in_every_chart_of_trials(page):
    marks = Reader(page).marks
    for trial in (f"t{i}" for i in range(8)):
        # On the ladder, in the history, at a curve's end, in a slice for each parameter; a curve, parallel axes.
        assert marks.count(("circle", trial)) >= 3 + len(SPACE)
        assert marks.count(("polyline", trial)) == 2
        assert marks.count(("tr", trial)) == 1


def test_two_objectives_have_a_chart_of_complete_trials_with_the_best_of_both_marked(tmp_path, prepared):
    two = {"second_objective": "epoch_seconds", "sampler": "nsga2", "scheduler": SchedulerConfig("none")}
    page = write_report(write_result(tmp_path / "r", prepared, rows_of(8), **two)).read_text(encoding="utf-8")
    (chart,) = re.findall(r"<figure>(?:(?!</figure>).)*Score and epoch seconds.*?</figure>", page, re.S)
    # Of two complete trials, as long as each other, the one with the lower score is better in both.
    assert re.findall(r'class="(complete[^"]*)"[^>]*data-trial="(\w+)"', chart) == [
        ("complete", "t0"),
        ("complete best", "t4"),
    ]


def test_cost_is_what_the_files_say(page):
    cost, trials = Reader(page).sections["cost"], Reader(page).sections["trials"]
    # Of 8 trials two are complete, four left out 4 epochs of a minute and two 3 of them.
    assert "26 min 8 trials" in cost.replace("  ", " ")
    assert "22 min 46% of" in cost.replace("  ", " ")
    assert "6 min 1 trainings" in cost.replace("  ", " ")
    assert re.search(r"were outdone by others\s+4\s+2\s+8 min", trials)
    assert re.search(r"epoch 2\s+8\s+4", trials)


def test_a_closer_look_at_the_exported_generator(page):
    waves = Reader(page).sections["waves"]
    assert waves.count("0.75") == len(LOOKS)
    assert "It has memorised training records" in waves


def test_two_hundred_long_trials_make_a_page_that_can_be_sent(tmp_path, prepared):
    rows = [replace(row, epochs=200 if row.state == "complete" else 40) for row in rows_of(200)]
    page = write_report(export(write_result(tmp_path / "r", prepared, rows), rows[0]))
    assert page.stat().st_size < 5e6


def test_the_thesis_tables_hold_the_log(page):
    training = Reader(page).sections["training"]
    assert re.search(r"5\s+-9\.50\s+-15\.00\s+–", training)
    assert "at epoch 5" in training


def test_what_comes_from_files_is_escaped(folder, page):
    reader = Reader(page)
    assert reader.tags.count("script") == 1
    assert "b" not in set(reader.tags) - {"b"}
    assert "<script>alert" not in page
    assert f"Winner: {EVIL}." in reader.sections["answer"]
    assert reader.cells["t3"][-1] == EVIL
    assert f"Search {folder.name}" in reader.sections[""]


def test_nothing_comes_from_the_network_and_no_other_script_runs(page):
    reader = Reader(page)
    assert all(link.startswith(("#", "data:")) for link in reader.links)
    assert not re.search(r"https?:|url\(|@import|//[a-z]", page)
    script = re.search(r"<script>(.*)</script>", page, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'" in page


def test_the_same_folder_gives_the_same_bytes(folder, page):
    assert write_report(folder).read_text(encoding="utf-8") == page


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_search_that_runs_has_a_page_of_what_there_is(tmp_path, prepared, count):
    page = write_report(write_result(tmp_path / "r", prepared, rows_of(count))).read_text(encoding="utf-8")
    told = Reader(page).sections
    assert "has not ended" in told[""]
    assert "Waveforms are generated at the end" in told["waves"]
    assert ("No trial has reported a score yet." in told["answer"]) == (count == 0)
    assert ("The leader so far" in told["answer"]) == (count > 0)
    assert ("No trial has reported a score yet." in told["trials"]) == (count == 0)


def test_trials_without_a_score_have_a_place_in_the_table(tmp_path, prepared):
    waiting = TrialRow("new", "new", "waiting", "", 0, 0, math.nan, 0.0, 0.0, BY_HAND)
    failed = TrialRow("bad", "bad", "failed", "error", 0, 0, math.nan, 1.0, 0.0, {**BY_HAND, "model.latent_dim": 7})
    result = write_result(tmp_path / "r", prepared, [*rows_of(2), waiting, failed])
    cells = Reader(write_report(result).read_text(encoding="utf-8")).cells
    assert cells["new"][1:4] == ["new", "waiting", ""]
    assert cells["bad"][-1] == "error"


def test_a_search_over_nothing_has_a_page(tmp_path, prepared):
    folder = write_result(tmp_path / "r", prepared, [rows_of(1)[0]])
    content = json.loads((folder / "search.json").read_text())
    content["config"] |= {"space": {}, "baselines": []}
    (folder / "search.json").write_text(json.dumps(content))
    assert "No parameter was searched over." in write_report(folder).read_text(encoding="utf-8")


def test_without_its_dataset_only_the_waveforms_are_missing(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    content = json.loads((copy / "search.json").read_text()) | {"data": str(tmp_path / "gone")}
    (copy / "search.json").write_text(json.dumps(content))
    told = Reader(write_report(copy).read_text(encoding="utf-8")).sections
    assert f"no longer at {tmp_path / 'gone'}" in told["waves"]
    assert "12.75" in told["answer"]


@pytest.mark.parametrize("content", ["", "[1]"])
@pytest.mark.parametrize("name", ["best/metrics.json", "best/config.json", "answers.json", "generated.npy"])
def test_a_damaged_file_is_named(folder, tmp_path, name, content):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / name).write_text(content)
    with pytest.raises(ValueError, match=rf"{name} is damaged \(.*export it again"):
        write_report(copy)


def test_data_in_a_bucket_are_read_from_their_copy_and_named_as_the_user_did(folder, prepared, tmp_path, monkeypatch):
    result, digest = shutil.copytree(folder, tmp_path / "r"), sha256(prepared / "manifest.json")
    content = json.loads((result / "search.json").read_text()) | {"data": "s3://mine/windows", "dataset": digest}
    (result / "search.json").write_text(json.dumps(content))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gone = Reader(write_report(result).read_text(encoding="utf-8")).sections
    assert "no longer at s3://mine/windows" in gone["waves"]
    shutil.copytree(prepared, copies() / dataset_copy(digest))
    told = Reader(write_report(result).read_text(encoding="utf-8")).sections
    assert "no longer" not in told["waves"]
    assert "--data s3://mine/windows" in told["again"]


def test_without_finalists_the_winner_may_be_luck(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    metrics = json.loads((copy / "best" / "metrics.json").read_text())
    del metrics["finalists"]
    (copy / "best" / "metrics.json").write_text(json.dumps(metrics))
    answer = Reader(write_report(copy).read_text(encoding="utf-8")).sections["answer"]
    assert "It was trained once, so part of its score may be luck." in answer


def test_bad_folders_are_refused_in_one_line(folder, tmp_path, run_here):
    assert run_here(main, tmp_path)[2] == (
        f"error: {tmp_path / 'search.json'} does not exist; expected the folder of a search, such as results/demo-1\n"
    )
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "best" / "config.json").write_text('{"format": 1}')
    assert f"has format 1; this version reads {FORMAT}" in run_here(main, copy)[2]
    shutil.rmtree(copy / "best")
    (copy / "trials.csv").write_text("trial_id,state\nx,complete\n")
    assert "has a damaged file" in run_here(main, copy)[2]


def test_searches_side_by_side(folder, tmp_path, prepared, run_here):
    ended = shutil.copytree(folder, tmp_path / "ended")
    begun = write_result(tmp_path / EVIL.replace("/", ""), prepared, rows_of(3), sampler="tpe")
    empty = write_result(tmp_path / "empty", prepared, [])
    status, told, _ = run_here(main, ended, begun, empty)
    assert (status, told.strip()) == (0, str(tmp_path / "comparison.html"))
    page = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    reader = Reader(page)
    assert re.search(r"its mean with other seeds\s+14\.00\s+–\s+–", reader.sections["scores"])
    assert re.search(r"worker time of the search\s+26 min\s+10 min\s+0 min", reader.sections["scores"])
    assert re.search(r"latent_dim\s+104\s+102\s+–", reader.sections["parameters"])
    assert re.search(r"sampler\s+curves\s+tpe\s+curves", reader.sections["settings"])
    assert "different datasets" not in page
    assert reader.tags.count("script") == 1


@pytest.mark.parametrize("change", [{"dataset": "1" * 64}, {"score_version": 1}])
def test_searches_whose_scores_cannot_be_compared_are_told_apart(folder, tmp_path, run_here, change):
    other = shutil.copytree(folder, tmp_path / "other")
    content = json.loads((other / "search.json").read_text()) | change
    (other / "search.json").write_text(json.dumps(content))
    run_here(main, other, folder)
    assert "They ran on different datasets" in (tmp_path / "comparison.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis(0, 12), [0, 2, 4, 6, 8, 10, 12]),
        (Axis(1, 3, whole=True), [1, 2, 3]),
        (Axis(-0.2, 0.9), [-0.2, 0, 0.2, 0.4, 0.6, 0.8]),
        (Axis(1, 900, log=True), [1, 3, 10, 30, 100, 300]),
        (Axis(2.1, 2.4, log=True), [2.1, 2.15, 2.2, 2.25, 2.3, 2.35, 2.4]),
        (Axis(0, 3, names=("x", "y")), [1, 2]),
    ],
)
def test_ticks_are_round_and_few(axis, ticks):
    assert [value for value, _ in axis.ticks()] == pytest.approx(ticks)


def test_an_axis_keeps_to_what_can_be_drawn():
    assert Axis(1, 100, log=True).share([0.5, 10, math.inf]).tolist() == [0, 0.5, 1]
    assert Axis.over([math.nan, -1, 10, 1000], log=True, room=0) == Axis(10, 1000, True)
    assert Axis.over([]).low < Axis.over([]).high
    assert Axis.over([0.0, 0.0]).low < 0 < Axis.over([0.0, 0.0]).high


@pytest.mark.parametrize(("value", "text"), [(0.001, "0.001"), (25000.0, "25,000"), (-0.0, "0"), (1e-5, "1e-5")])
def test_ticks_are_written_plainly(value, text):
    assert number(value) == text


@pytest.mark.parametrize(("hours", "text"), [(0.1, "6 min"), (2.0, "2 h"), (1234.5, "1,234 h")])
def test_hours_are_written_plainly(hours, text):
    assert hours_text(hours) == text


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium, where there is one."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=found, args=["--no-sandbox"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(folder, page, browser, scheme):
    tab = browser.new_page(color_scheme=scheme, viewport={"width": 400, "height": 800})
    complaints, requests = [], []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    address = Path(folder, "report.html").as_uri()
    tab.goto(address)

    expected = {row["trial_id"]: row for row in table_of(folder)}
    rows = tab.locator("#all tbody tr")
    first = [float(row["score"]) for row in expected.values()]
    scores = "rows => rows.map(row => Number(row.cells[3].dataset.value))"
    assert rows.evaluate_all(scores) == first
    tab.click("#all th:nth-child(4) button")
    assert rows.evaluate_all(scores) == sorted(first)
    tab.click("#all th:nth-child(4) button")
    assert rows.evaluate_all(scores) == sorted(first, reverse=True)
    assert tab.locator("th[aria-sort=descending]").inner_text().startswith("score")

    picked = "marks => marks.map(mark => mark.dataset.trial)"
    tab.locator("svg circle[data-trial=t5]").last.click()
    found = tab.locator(".picked").evaluate_all(picked)
    assert set(found) == {"t5"}
    assert len(found) == tab.locator("[data-trial=t5]").count() > 5
    told = tab.locator("#picked").inner_text()
    assert "trial t5" in told
    assert "score 15.33" in told
    tab.keyboard.press("Escape")
    assert tab.locator(".picked").count() == 0

    rows.first.focus()
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Enter")
    assert set(tab.locator(".picked").evaluate_all(picked)) == {"t1"}
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert complaints == []
    assert requests == [address]
    tab.close()
