"""A page that sets several searches side by side: their scores, what they cost, what they found, how they differ."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from data_prep import page
from data_prep.files import write_text
from data_prep.page import Html
from search.pages.answer import ranked
from search.pages.charts import Axis, Chart, legend
from search.pages.ladder import Line, finite, ladder, text_of
from search.pages.page import quiet, render, section
from search.pages.result import Result, hours_text, read_result
from search.space import shown
from trainables.config import flat

COMPARISON = "comparison.html"
# Lines are told apart by so many colours, and after these by dashes.
COLOURS = 4
BROAD = 1060
# Settings that differ between any two searches, and say nothing about them.
OWN = ("space", "baselines", "warm_start")


def write_comparison(folders: Sequence[Path]) -> Path:
    """Write `comparison.html` beside the first of these searches' folders; returns its path.

    Raises:
        ValueError: no search in one of them, or a damaged file of one.
    """
    results = [read_result(folder) for folder in folders]
    path = folders[0].resolve().parent / COMPARISON
    names = ", ".join(result.name for result in results)
    head = f"<header><h1>Searches side by side</h1><p>{escape(names)}</p></header>"
    body = [head, _scores(results), _parameters(results), _settings(results)]
    write_text(path, render(f"Searches {names}", body))
    return path


def _scores(results: Sequence[Result]) -> str:
    doubt = ""
    if len({(result.fingerprint, result.score_version) for result in results}) > 1:
        doubt = (
            '<p class="doubt">They ran on different datasets, or were scored by different formulas: '
            "their scores cannot be compared.</p>"
        )
    return section("scores", "Scores and cost", doubt, _figures(results), _ladder(results), _progress(results))


def _figures(results: Sequence[Result]) -> str:
    """A table of what each search came to."""
    columns = [_figures_of(result) for result in results]
    body = [(name, *(page.Number(escape(column[name])) for column in columns)) for name in columns[0]]
    return page.table(["", *(result.name for result in results)], body)


def _figures_of(result: Result) -> dict[str, str]:
    best, leader = result.best or {}, result.leader
    winner = ranked(result)[0] if ranked(result) else {}
    return {
        "best trial": leader.trial_id if leader else "–",
        "its score in the search": text_of(leader.score) if leader else "–",
        "its mean with other seeds": text_of(winner["mean"]) if winner else "–",
        "exported, on validation": text_of(best["validation"]["score"]) if best else "–",
        "exported, on the test part": text_of(best["test"]["score"]) if best else "–",
        "trials ended": str(sum(row.ended for row in result.rows)),
        "worker time of the search": hours_text(result.searched_hours),
        "worker time of the finalists": hours_text(result.finalists_hours),
        "saved by stopping early": hours_text(result.saved_hours),
    }


def _ladder(results: Sequence[Result]) -> str:
    """Each search's exported generator, and the other seeds of its winner."""
    lines = []
    for result in results:
        dots, words = finite((row.score, "all", "") for row in result.rows), "no export yet"
        for one in ranked(result)[:1]:
            dots += finite([*((score, "seed", "") for score in one["scores"].values()), (one["mean"], "seeds", "")])
        if result.best:
            dots += finite([(result.best["test"]["score"], "test", "")])
            words = f"○ test {text_of(result.best['test']['score'])}"
        lines.append(Line(result.name, words, dots))
    return ladder(lines)


def _progress(results: Sequence[Result]) -> str:
    """The best score so far by worker time."""
    lines = [result.answers["history"]["by_seconds"] for result in results]
    if not any(lines):
        return quiet("No trial has reported a score yet.")
    hours = [result.searched_hours for result in results]
    begun = [result.hours([line[0][0]]) for result, line in zip(results, lines, strict=True) if line]
    x = Axis.over([*begun, *hours], log=True, label="worker hours of the search", room=0.02)
    chart = Chart(
        x, Axis.over([score for line in lines for _, score in line], log=True, label="best score"), BROAD, 360
    )
    for place, (result, line, end) in enumerate(zip(results, lines, hours, strict=True)):
        if line:
            times = [*(result.hours([seconds]) for seconds, _ in line), end]
            chart.steps(times, [*(score for _, score in line), line[-1][1]], _kind(place))
    keys = {_kind(place): result.name for place, result in enumerate(results)}
    return chart.figure("Best score so far", legend=legend(keys))


def _kind(place: int) -> str:
    """The classes of a search's line."""
    return f"s{place % COLOURS} of-search{' dashed' if place >= COLOURS else ''}"


def _parameters(results: Sequence[Result]) -> str:
    """The best values that each search found; a fixed parameter in those where it was searched over."""
    keys = dict.fromkeys(key for result in results for key in result.config.domains)
    body = [
        (Html(f"<code>{escape(key)}</code>"), *(page.Number(_best(result, key)) for result in results)) for key in keys
    ]
    return section(
        "parameters", "Best parameters", page.table(["parameter", *(result.name for result in results)], body)
    )


def _best(result: Result, key: str) -> str:
    if key not in result.config.domains:
        return f"{escape(shown(flat(result.config.trial)[key], 3))} <small>fixed</small>"
    return escape(shown(result.leader.parameters[key], 3)) if result.leader else "–"


def _settings(results: Sequence[Result]) -> str:
    """The settings in which they differ."""
    settings = [flat(result.config) for result in results]
    searched = {key for result in results for key in result.config.space}
    body = []
    for key in dict.fromkeys(key for each in settings for key in each if key not in searched and key not in OWN):
        values = [shown(each.get(key, "–"), 10) for each in settings]
        if len(set(values)) > 1:
            body.append((Html(f"<code>{escape(key)}</code>"), *map(page.Number, map(escape, values))))
    if not body:
        return section("settings", "Settings", quiet("They have the same settings."))
    return section(
        "settings", "Settings that differ", page.table(["setting", *(result.name for result in results)], body)
    )
