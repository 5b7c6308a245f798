"""Scores beside each other on one axis, a line for each kind of them, from the floor up."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from search.pages.charts import Axis, Chart
from search.trials import score_text

BROAD, ROW_PX = 1060, 34
# Room for the names and the words of the lines.
NAMES_PX, WORDS_PX = 190, 250
Dot = tuple[float, str, str]


class Line(NamedTuple):
    """A line of the ladder: its name, its figures in words, and scores with the class and the trial of each."""

    name: str
    words: str
    dots: list[Dot]


def ladder(lines: Sequence[Line]) -> str:
    """Scores on one axis, from the floor up."""
    lines = [line for line in lines if line.dots]
    values = [value for line in lines for value, *_ in line.dots]
    x = Axis.over([1.0, *values], log=True, label="score, lower is better", room=0.03)
    height = ROW_PX * len(lines) + 72
    chart = Chart(x, Axis(len(lines), 0), BROAD, height, (NAMES_PX, WORDS_PX, 20, 46))
    chart.upright(1.0, "floor", "floor")
    for place, line in enumerate(lines):
        y = place + 0.5
        chart.named(y, line.name, line.words)
        ends = [value for value, kind, _ in line.dots if kind == "seed"]
        if ends:
            chart.line((min(ends), max(ends)), (y, y), "span")
        for value, kind, trial in line.dots:
            chart.dot(value, y, kind, trial, 3 if kind == "all" else 6)
    return chart.figure("Where the scores lie")


def finite(dots: Iterable[tuple[float | None, str, str]]) -> list[Dot]:
    """The dots that have a score."""
    return [(value, kind, trial) for value, kind, trial in dots if value is not None and math.isfinite(value)]


def text_of(score: float | None) -> str:
    """A score as it is shown; there is none where a training failed."""
    return "failed" if score is None else score_text(score)
