"""A page about a search: what it found, and why to believe it.

python search/report.py results/demo-1                  writes results/demo-1/report.html, of a running search too
python search/report.py results/demo-1 results/demo-2   sets searches side by side in results/comparison.html
"""

import shlex
from html import escape
from pathlib import Path

from data_prep import page
from data_prep.command import Parser, run_command
from data_prep.files import write_text
from data_prep.page import Html
from search.pages.answer import answer_section
from search.pages.compare import write_comparison
from search.pages.page import command, quiet, render, section, tiles
from search.pages.result import Result, hours_text, read_result
from search.pages.training import training_section
from search.pages.trials import trials_section
from search.pages.utility import tried, utility_section
from search.pages.waves import waves_section
from search.plan import SEARCH_FILE, shown_path
from search.space import shown
from search.storage import is_url
from trainables.config import flat

REPORT = "report.html"
SECTIONS = {
    "answer": "Answer",
    "waves": "Waveforms",
    "training": "Training",
    "utility": "Use",
    "trials": "Trials",
    "cost": "Cost",
    "again": "Reproduce",
}


def write_report(folder: Path) -> Path:
    """Write `report.html` into a search's folder; returns its path.

    Raises:
        ValueError: no search there, or a damaged file of one.
    """
    result = read_result(folder)
    body = [
        _head(result),
        answer_section(result),
        waves_section(result),
        training_section(result),
        utility_section(result),
        trials_section(result),
        _cost(result),
        _again(result),
    ]
    write_text(folder / REPORT, render(f"Search {result.name}", body))
    return folder / REPORT


def _head(result: Result) -> str:
    counted = sum(row.ended for row in result.rows)
    state = "" if result.best else " It has not ended: what follows is what there is so far."
    sections = {name: title for name, title in SECTIONS.items() if name != "utility" or tried(result)}
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title in sections.items())
    return f"""<header><h1>Search {escape(result.name)}</h1>
<p>{counted} of {result.config.num_samples} trials ended, of at most {result.config.training.max_epochs} epochs each, on
<code>{escape("/".join(Path(result.data_name).parts[-2:]))}</code>.{state}</p><nav>{links}</nav></header>"""


def _cost(result: Result) -> str:
    """What the search took, and what it would have taken had every trial been trained to its last epoch."""
    if not any(row.epochs for row in result.rows):
        return section("cost", "What it cost", quiet("No trial has ended an epoch yet."))
    searched, finalists, saved = result.searched_hours, result.finalists_hours, result.saved_hours
    share = f"{saved / (searched + saved):.0%} of training every trial to its last epoch"
    facts: dict[str, tuple[object, str]] = {
        "Worker time of the search": (hours_text(searched), f"{len(result.rows)} trials")
    }
    if result.finalists:
        facts["Worker time of the finalists"] = hours_text(finalists), f"{len(result.finalists)} trainings"
    facts["Saved by stopping early"] = hours_text(saved), share
    remark = "What was saved is reckoned from each stopped trial's own time an epoch."
    return section("cost", "What it cost", tiles(facts), quiet(remark))


def _again(result: Result) -> str:
    """Commands that repeat the search and train its best configuration again, and all settings."""
    where, results = shown_path(result.folder), shown_path(result.folder.parent)
    data = result.data_name if is_url(result.data_name) else shown_path(result.data)
    search = ["--config", f"{where}/{SEARCH_FILE}", "--data", data, "--name", f"{result.name}-again"]
    lines = [_run(*search, "--results", results)]
    if result.leader:
        lines.append(_run("--trial", f"{where}:{result.leader.trial_id}", "--results", results))
    if result.best:
        lines.append(shlex.join(["python", "search/generate.py", where, "--count", "1000", "--out", "waveforms.npy"]))
    settings = [
        (Html(f"<code>{escape(key)}</code>"), shown(value, 10))
        for key, value in flat(result.config).items()
        if key not in ("space", "baselines", *result.config.space)
    ]
    return section(
        "again",
        "Reproduce",
        "<p>The search once more, its best configuration once more, and waveforms from what it exported:</p>",
        *map(command, lines),
        f"<details><summary>All settings</summary>{page.table(['setting', 'value'], settings)}</details>",
    )


def _run(*arguments: str) -> str:
    return shlex.join(["python", "search/run.py", *arguments])


def main() -> None:
    """The command line."""
    parser = Parser(
        description="Write report.html into the folder of a search, ended or not; of several, compare them."
    )
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULT", help="folder of a search: results/demo-1")
    folders = parser.parse_args().results
    print(shown_path(write_report(folders[0]) if len(folders) == 1 else write_comparison(folders)))


if __name__ == "__main__":
    run_command(main)
