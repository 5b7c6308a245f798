"""The page's section about the training of the best generator: losses, extremes and moments, as the thesis has them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_prep import page
from search.pages.charts import WIDTH, Axis, Chart, legend
from search.pages.page import grid, quiet, section
from search.pages.result import Result

# Of each loss the title and what it is.
LOSSES = {
    "loss/critic_distance": ("Critic's distance", "Its mean score of real windows less that of generated ones."),
    "loss/penalty": ("Gradient penalty", "Before it is weighted."),
    "loss/generator": ("Generator's loss", "The critic's mean score of generated windows, negative."),
}
EXTREMES = {"minimum": "Smallest", "maximum": "Largest"}
MOMENTS = {"mean": "Mean", "std": "Standard deviation", "skewness": "Skewness"}
KINDS = legend({"real": "real", "generated": "generated"})
# Epochs in a table, but for the one that was kept.
SHOWN = 8

Reports = Sequence[dict[str, Any]]


def training_section(result: Result) -> str:
    """How the exported generator was trained, or the leading trial so far."""
    title, training = "How it was trained", result.shown
    if training is None or not training.reports:
        return section("training", title, quiet("The log holds no report of its training."))
    reports = training.reports
    kept = result.best["validation"]["epoch"] if result.best else None
    which = f"The training that was exported, at epoch {kept}." if kept else "The leading trial so far."
    scale = "Losses say nothing about quality: penalty weight and critic steps set their scale."
    return section(
        "training",
        title,
        f"<p>{which} {scale}</p>",
        grid(*(_loss(reports, key, kept) for key in LOSSES), columns=3),
        grid(_extremes(reports, kept), _scores(reports, kept)),
        "<h3>Smallest and largest value</h3>",
        grid(*(_table(reports, name, title, kept) for name, title in EXTREMES.items())),
        "<h3>Moments</h3>",
        grid(*(_table(reports, name, title, kept) for name, title in MOMENTS.items()), columns=3),
        quiet(
            "Over all samples of all windows at once, as in the thesis: real ones normalised, generated ones as the "
            "generator gives them. Extremes of a sample grow with its size. None of this is part of the score."
        ),
    )


def _column(reports: Reports, key: str) -> list[float]:
    return [report.get(key, math.nan) for report in reports]


def _chart(reports: Reports, y: Axis, kept: int | None, width: int = WIDTH, height: int = 280) -> Chart:
    chart = Chart(Axis(0, reports[-1]["epoch"], label="epoch", whole=True), y, width, height)
    if kept:
        chart.upright(kept, "rung", "kept")
    return chart


def _loss(reports: Reports, key: str, kept: int | None) -> str:
    values = _column(reports, key)
    chart = _chart(reports, Axis.over(values, label="loss"), kept, 350, 240)
    chart.line(_column(reports, "epoch"), values, "generated")
    return chart.figure(*LOSSES[key])


def _extremes(reports: Reports, kept: int | None) -> str:
    keys = [(kind, f"thesis/{name}_{kind}") for name in EXTREMES for kind in ("real", "generated")]
    lines = [(kind, _column(reports, key)) for kind, key in keys]
    values = [value for _, line in lines for value in line]
    chart = _chart(reports, Axis.over(values, label="standard deviations"), kept)
    for kind, line in lines:
        chart.line(_column(reports, "epoch"), line, kind)
    return chart.figure("Smallest and largest value of all windows", legend=KINDS)


def _scores(reports: Reports, kept: int | None) -> str:
    values = _column(reports, "score")
    chart = _chart(reports, Axis.over(values, log=True, label="score"), kept)
    chart.line(_column(reports, "epoch"), values, "generated")
    return chart.figure("Score on validation")


def _table(reports: Reports, name: str, title: str, kept: int | None) -> str:
    """A statistic of real and generated windows and their difference at some epochs: first, last, and the kept one."""
    places = set(np.linspace(0, len(reports) - 1, SHOWN).round().astype(int).tolist())
    kinds = ("real", "generated", "difference")
    body = [
        (report["epoch"], *(page.Number(_fixed(report.get(f"thesis/{name}_{kind}", math.nan))) for kind in kinds))
        for place, report in enumerate(reports)
        if place in places or report["epoch"] == kept
    ]
    return f"<div><h4>{title}</h4>{page.table(['epoch', *kinds], body)}</div>"


def _fixed(value: float) -> str:
    """A value as the thesis gives them, never as minus nothing."""
    return f"{round(value, 2) + 0.0:.2f}" if math.isfinite(value) else "–"
