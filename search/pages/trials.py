"""The page's section about all trials: how scores fell, what parameters did, which were stopped, and a table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from itertools import pairwise
from typing import Any

from data_prep import page
from search.answers import common_epoch, comparable_scores
from search.pages.charts import Axis, Chart, figure, legend
from search.pages.front import front_figure
from search.pages.page import grid, quiet, section
from search.pages.result import Result, hours_text
from search.schedulers import rung_epochs
from search.space import Choices, Domain, shown
from search.trials import TrialRow, score_text
from search.verdict import failed

BROAD, TALL = 1060, 380
# The share of trials that stand out among all, and no fewer than one.
BEST_SHARE = 0.1
STATES = legend({"complete": "complete", "stopped": "stopped, or still running", "best": "the best tenth"})
# The schedulers that have few rungs, always at the same epochs.
WITH_RUNGS = ("asha", "hyperband")


def trials_section(result: Result) -> str:
    """All trials, or why there are none yet."""
    title = "Every trial"
    if not any(math.isfinite(row.score) for row in result.rows):
        return section("trials", title, quiet("No trial has reported a score yet."))
    return section(
        "trials",
        title,
        "<p>Click a trial, in a chart or in the table, to find it everywhere; Esc lets go of it. "
        "Scores are lower the better; 1 is real against real.</p>",
        grid(*filter(None, (_history(result), _curves(result), front_figure(result)))),
        _parallel(result),
        "<h3>What the parameters did</h3>",
        _slices(result),
        grid(_importance(result), _foretold(result)),
        "<h3>When they were stopped</h3>",
        grid(_endings(result), _rungs(result)),
        "<h3>All of them</h3>",
        _table(result),
    )


def _best_ids(rows: Sequence[TrialRow]) -> set[str]:
    """The trials that stand out: the best tenth, and at least one."""
    scored = sorted((row for row in rows if math.isfinite(row.score)), key=lambda row: row.score)
    return {row.trial_id for row in scored[: max(1, round(BEST_SHARE * len(scored)))]}


def _kind(row: TrialRow, best: set[str]) -> str:
    """The classes that a trial's marks have."""
    state = "complete" if row.state == "complete" else "stopped"
    return f"{state} best" if row.trial_id in best else state


def _score_axis(result: Result) -> Axis:
    return Axis.over([row.score for row in result.rows], log=True, label="score")


def _history(result: Result) -> str:
    places = Axis(0.5, len(result.rows) + 0.5, label="trial, in the order of their beginning", whole=True)
    chart = Chart(places, _score_axis(result))
    best = [math.nan if value is None else value for value in result.answers["history"]["by_trial"]]
    chart.steps([*range(1, len(best) + 1), len(best) + 0.5], [*best, *best[-1:]], "frontier")
    chosen = _best_ids(result.rows)
    for place, row in enumerate(result.rows, start=1):
        if math.isfinite(row.score):
            chart.dot(place, row.score, _kind(row, chosen), row.trial_id)
    return chart.figure("Score of each trial", "Of its best epoch. The line: the best so far.", STATES)


def _curves(result: Result) -> str:
    histories, chosen = result.histories, _best_ids(result.rows)
    y = Axis.over((one.score for history in histories.values() for one in history), log=True, label="score")
    chart = Chart(Axis(0, result.config.training.max_epochs, label="epoch", whole=True), y)
    for rung in _rung_epochs(result):
        chart.upright(rung, "rung")
    for row in _best_last(result.rows):
        if history := histories.get(row.trial_id):
            kind = _kind(row, chosen)
            chart.line([one.epoch for one in history], [one.score for one in history], kind, row.trial_id)
            chart.dot(history[-1].epoch, history[-1].score, kind, row.trial_id, 2.5)
    remark = "Dashed: rungs, where the scheduler stops a trial that others outdo." if _rung_epochs(result) else ""
    return chart.figure("Score after each epoch", remark, STATES)


def _best_last(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """The order to draw trials in: the best lie on top."""
    chosen = _best_ids(rows)
    return sorted(rows, key=lambda row: row.trial_id in chosen)


def _rung_epochs(result: Result) -> list[int]:
    scheduler = result.config.scheduler
    return rung_epochs(scheduler, result.config.training.max_epochs) if scheduler.name in WITH_RUNGS else []


def _parallel(result: Result) -> str:
    """Parallel coordinates: an upright axis a parameter, and the score."""
    domains, score = result.config.domains, _score_axis(result)
    if not domains:
        return quiet("No parameter was searched over.")
    left, right, top, bottom = 70, BROAD - 70, 46, TALL - 34
    step, chosen = (right - left) / len(domains), _best_ids(result.rows)
    content = []
    for row in _best_last(result.rows):
        shares = [_share(domain, row.parameters.get(key)) for key, domain in domains.items()]
        shares.append(float(score.share(row.score)) if math.isfinite(row.score) else None)
        places = [
            (left + i * step, bottom - share * (bottom - top)) for i, share in enumerate(shares) if share is not None
        ]
        if len(places) == len(shares):
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            whose = f'class="{_kind(row, chosen)}" data-trial="{escape(row.trial_id)}"'
            content.append(f'<polyline {whose} points="{points}"/>')
    for place, (key, domain) in enumerate([*domains.items(), ("score", score)]):
        content.append(_upright_axis(left + place * step, top, bottom, key, domain))
    remark = "Values beyond a range, as a baseline may have them, lie at its end."
    return figure("".join(content), BROAD, TALL, "Parameters and score of each trial", remark, STATES)


def _upright_axis(x: float, top: float, bottom: float, key: str, domain: Domain | Axis) -> str:
    if isinstance(domain, Axis):
        marks = [(float(domain.share(value)), score_text(value)) for value in (domain.low, domain.high)]
    elif isinstance(domain, Choices):
        marks = [(domain.share(choice), shown(choice)) for choice in domain.choices]
    else:
        marks = [(0.0, shown(domain.low)), (1.0, shown(domain.high))]
    texts = "".join(
        f'<text class="mark" x="{x:.1f}" y="{bottom - share * (bottom - top) + (16 if share == 0 else -6):.1f}">'
        f"{escape(text)}</text>"
        for share, text in marks
    )
    name = escape(key.rpartition(".")[2])
    return (
        f'<text class="name" x="{x:.1f}" y="16">{name}</text>'
        f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>{texts}'
    )


def _share(domain: Domain, value: object) -> float | None:
    """How far along its domain a value is, None for one that has no place there."""
    if value is None or (isinstance(domain, Choices) and value not in domain):
        return None
    return min(1.0, max(0.0, domain.share(value)))  # type: ignore[arg-type]


def _slices(result: Result) -> str:
    at = common_epoch(result.rows, result.histories)
    scores = comparable_scores(result.rows, result.histories, at)
    finite = [score for score in scores.values() if math.isfinite(score)]
    if not finite:
        return quiet("No epoch yet that almost all trials came to.")
    y = Axis.over(finite, log=True, label=f"score at epoch {at}")
    charts = [_slice(result, key, domain, y, scores) for key, domain in result.config.domains.items()]
    note = (
        f"Scores of trials that were stopped early are not comparable with those of others, so here all trials are "
        f"compared at epoch {at}, the last one that almost all came to. At the top: a trial that broke a rule before."
    )
    return f"<p>{note}</p>" + grid(*charts, columns=3)


def _slice(result: Result, key: str, domain: Domain, y: Axis, scores: Mapping[str, float]) -> str:
    """The score by one parameter; choices stand side by side in their order."""
    choices = domain.choices if isinstance(domain, Choices) else ()
    chart, chosen = Chart(_domain_axis(domain), y, 350, 230), _best_ids(result.rows)
    for row in result.rows:
        value = row.parameters.get(key)
        place = choices.index(value) + 1 if value in choices else value
        if row.trial_id in scores and isinstance(place, int | float):
            score = scores[row.trial_id]
            broken = "" if math.isfinite(score) else " broken"
            chart.dot(place, score, _kind(row, chosen) + broken, row.trial_id, 3.5)
    return chart.figure(key)


def _domain_axis(domain: Domain) -> Axis:
    if isinstance(domain, Choices):
        return Axis(0, len(domain.choices) + 1, names=tuple(map(shown, domain.choices)))
    return replace(Axis.over([domain.low, domain.high], domain.log), whole=isinstance(domain.low, int))


def _importance(result: Result) -> str:
    found, head = result.answers["importance"], "<h4>Which mattered</h4>"
    if "why" in found:
        return f"<div>{head}{quiet(_too_few(found))}</div>"
    body = [
        (key, page.Number(f"{one['share']:.0%}"), page.bar(one["share"]), "clear" if one["clear"] else "may be chance")
        for key, one in found["parameters"].items()
    ]
    remark = (
        "Share of importance by PED-ANOVA: what it takes to be among the best. "
        "Clear: more than shuffled scores would give it 19 times in 20."
    )
    return f"<div>{head}{page.table(['parameter', 'share', '', ''], body)}{quiet(remark)}</div>"


def _too_few(found: Mapping[str, Any]) -> str:
    return f"{found['why'][0].upper()}{found['why'][1:]}; there are {found['trials']}."


def _foretold(result: Result) -> str:
    found, head = result.answers["rank_correlation"], "How early a rank is known"
    if "why" in found:
        return f"<div><h4>{head}</h4>{quiet(_too_few(found))}</div>"
    values = {int(epoch): value for epoch, value in found["epochs"].items() if value is not None}
    y = Axis(min([0.0, *values.values()]), 1, label="rank correlation")
    chart = Chart(Axis(0, max(values, default=1), label="epoch", whole=True), y, height=230)
    chart.line(list(values), list(values.values()), "best")
    remark = f"Spearman's, of the best score so far with the final one, over {found['trials']} complete trials."
    return chart.figure(head, remark)


def _endings(result: Result) -> str:
    """How many trials ended in which way, how late, and what they took."""
    groups: dict[str, list[TrialRow]] = {}
    for row in result.rows:
        groups.setdefault(_ending(row), []).append(row)
    body = []
    for name, rows in sorted(groups.items(), key=lambda group: -len(group[1])):
        time = hours_text(result.hours(row.seconds for row in rows))
        epochs = sum(row.epochs for row in rows) / len(rows)
        body.append((name, len(rows), epochs, page.Number(time), page.bar(len(rows) / len(result.rows))))
    return page.table(["trials that", "number", "epochs, mean", "worker time", "of all"], body)


def _ending(row: TrialRow) -> str:
    """How a trial ended, in a word or two."""
    if row.state != "stopped":
        return {"complete": "are complete", "failed": "failed", "running": "run", "waiting": "wait"}[row.state]
    rule, _, why = row.stop_reason.partition(":")
    if rule == "scheduler":
        return "were outdone by others"
    if rule == "budget":
        return f"were cut off: {why.strip()}"
    return f"broke a rule: {rule}" if failed(row) else rule


def _rungs(result: Result) -> str:
    rungs = _rung_epochs(result)
    if not rungs:
        return quiet(f"Scheduler {result.config.scheduler.name} has no fixed rungs.")
    body = []
    for rung, after in pairwise([*rungs, math.inf]):
        came = [row for row in result.rows if row.epochs >= rung]
        stopped = [row for row in came if row.stop_reason.startswith("scheduler") and row.epochs < after]
        body.append((f"epoch {rung}", len(came), len(stopped), page.bar(len(came) / len(result.rows))))
    table = page.table(["rung", "came", "stopped there", "came, of all"], body)
    return f"<div>{table}{quiet('At a rung the scheduler compares trials, and stops those that others outdo.')}</div>"


def _table(result: Result) -> str:
    """Every trial, to be sorted by any column; the exact value of a cell stands in `data-value`."""
    head = ["", "trial", "state", "score", "epochs", "seconds", *result.config.domains, "stop reason"]
    titles = "".join(
        f'<th aria-sort="none"><button type="button">{escape(name.rpartition(".")[2] or "no.")}</button></th>'
        for name in head
    )
    lines = "".join(_line(place, row, result) for place, row in enumerate(result.rows, start=1))
    return (
        f'<div class="wide tall"><table id="all"><thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table></div>'
    )


def _line(place: int, row: TrialRow, result: Result) -> str:
    score = _cell(row.score, score_text(row.score)) if math.isfinite(row.score) else _cell(None)
    values = [row.epochs, row.seconds, *(row.parameters.get(key) for key in result.config.domains), row.stop_reason]
    cells = [_cell(place), _cell(row.trial_id), _cell(row.state), score, *map(_cell, values)]
    whose = " class='leader'" if result.leader and row.trial_id == result.leader.trial_id else ""
    return f'<tr{whose} data-trial="{escape(row.trial_id)}" tabindex="0">{"".join(cells)}</tr>'


def _cell(value: object, text: str = "") -> str:
    """A cell with its exact value, which sorts the table, beside the text that is shown."""
    if value is None:
        return "<td data-value=''></td>"
    align = ' class="n"' if isinstance(value, int | float) and not isinstance(value, bool) else ""
    return f'<td{align} data-value="{escape(str(value))}">{escape(text or shown(value))}</td>'
