"""Charts as SVG inside a page: axes, lines, dots, bands. Colours come from the page's own style, by class.

What belongs to a trial carries its id as `data-trial`, by which the page's script finds it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT = 500, 300
# Room for the labels of the axes: left, right, top, bottom.
MARGINS = (64, 14, 14, 42)
MOST_TICKS = 7
# A line with more points than this cannot be told from one with so many.
MOST_POINTS = 400

Values = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high`; `log` shows their logarithm, `whole` ticks integers alone, `names` name 1, 2, 3."""

    low: float
    high: float
    log: bool = False
    label: str = ""
    whole: bool = False
    names: tuple[str, ...] = ()

    @classmethod
    def over(cls, values: Iterable[float], log: bool = False, label: str = "", room: float = 0.05) -> "Axis":
        """An axis for finite values (on a logarithmic one, positive), with room at both ends."""
        known = [value for value in values if math.isfinite(value) and (value > 0 or not log)] or [1.0, 10.0]
        low, high = min(known), max(known)
        if log:
            high = max(high, 1.5 * low)
            wider = (high / low) ** room
            return cls(low / wider, high * wider, True, label)
        wider = room * (high - low or abs(high) or 1.0)
        return cls(low - wider, high + wider, False, label)

    def share(self, values: Values | float) -> np.ndarray:
        """How far along the axis values lie, from 0 to 1; those beyond its ends lie at them."""
        values = np.asarray(values, float)
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            values = np.log(np.maximum(values, self.low))
        else:
            low, high = self.low, self.high
        return np.clip((values - low) / (high - low), 0, 1)

    def ticks(self) -> list[tuple[float, str]]:
        """Round values along the axis, and what they are called."""
        if self.names:
            return list(enumerate(self.names, start=1))
        return [(value, number(value)) for value in self._round_values()]

    def _round_values(self) -> list[float]:
        if not self.log:
            return self._even_ticks()
        for steps in ((1, 2, 5), (1, 3), (1,)):
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            found = [step * 10.0**power for power in range(first, last + 1) for step in steps]
            inside = [value for value in found if self.low <= value <= self.high]
            if len(inside) <= MOST_TICKS:
                break
        inside = inside[:: max(1, math.ceil(len(inside) / MOST_TICKS))]
        return inside if len(inside) > 1 else self._even_ticks()

    def _even_ticks(self) -> list[float]:
        rough = (self.high - self.low) / (MOST_TICKS - 1)
        scale = 10.0 ** math.floor(math.log10(rough))
        step = next(each * scale for each in (1, 2, 5, 10) if each * scale >= rough * 0.999)
        step = max(step, 1.0) if self.whole else step
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def number(value: float) -> str:
    """A tick's value: 0.001, 1,000, 1e-5."""
    return f"{value + 0.0:,.6g}".replace("e-0", "e-").replace("e+0", "e")


class Chart:
    """A chart in the making: two axes, and whatever is drawn between them."""

    def __init__(self, x: Axis, y: Axis, width: int = WIDTH, height: int = HEIGHT, margins: Sequence[int] = MARGINS):
        self.x, self.y, self._width, self._height = x, y, width, height
        left, right, top, bottom = margins
        self._left, self._right, self._top, self._bottom = left, width - right, top, height - bottom
        self._drawn: list[str] = []

    def line(self, x: Values, y: Values, kind: str, trial: str = "") -> None:
        """A line through points, broken where a value is not finite."""
        points = np.stack([np.asarray(x, float), np.asarray(y, float)], axis=1)
        points = points[np.linspace(0, len(points) - 1, min(len(points), MOST_POINTS)).round().astype(int)]
        gaps = np.flatnonzero(~np.isfinite(points).all(axis=1))
        for piece in np.split(points, gaps):
            piece = piece[np.isfinite(piece).all(axis=1)]
            if len(piece):
                self._add("polyline", kind, trial, points=self._points(piece[:, 0], piece[:, 1]))

    def steps(self, x: Values, y: Values, kind: str) -> None:
        """A line that keeps each value until the next."""
        self.line(np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1], kind)

    def band(self, x: Values, low: Values, high: Values, kind: str) -> None:
        """The area between two lines."""
        points = self._points(np.concatenate([x, x[::-1]]), np.concatenate([low, high[::-1]]))
        self._add("polygon", kind, points=points)

    def dot(self, x: float, y: float, kind: str, trial: str = "", radius: float = 4) -> None:
        """A dot; a value beyond the ends of an axis lies at them."""
        self._add("circle", kind, trial, cx=self._x(x), cy=self._y(y), r=radius)

    def upright(self, x: float, kind: str, text: str = "") -> None:
        """A line from the lower to the upper end, with a text at its head."""
        self._add("line", kind, x1=self._x(x), x2=self._x(x), y1=self._top, y2=self._bottom)
        if text:
            aside = float(self._x(x)) > (self._left + self._right) / 2  # or it would leave the chart
            self.text(float(self._x(x)) + (-4 if aside else 4), self._top + 10, text, f"note{' left' * aside}")

    def level(self, y: float, kind: str) -> None:
        """A line from the left to the right end."""
        self._add("line", kind, x1=self._left, x2=self._right, y1=self._y(y), y2=self._y(y))

    def named(self, y: float, name: str, words: str) -> None:
        """A name at the left of the chart, in place of a tick, and words at its right."""
        self._drawn.append(f'<text class="name y" x="{self._left - 12}" y="{self._y(y)}">{escape(name)}</text>')
        self._drawn.append(f'<text class="words" x="{self._right + 12}" y="{self._y(y)}">{escape(words)}</text>')

    def text(self, x_px: float, y_px: float, text: str, kind: str = "note") -> None:
        """A text at a place of the chart in its own units."""
        self._drawn.append(f'<text class="{kind}" x="{x_px:.1f}" y="{y_px:.1f}">{escape(text)}</text>')

    def figure(self, title: str, remark: str = "", legend: str = "") -> str:
        """The chart as a figure of the page."""
        return figure("".join([*self._frame(), *self._drawn]), self._width, self._height, title, remark, legend)

    def _add(self, tag: str, kind: str, trial: str = "", **attributes: object) -> None:
        given = "".join(f' {name}="{value}"' for name, value in attributes.items())
        whose = f' data-trial="{escape(trial)}"' if trial else ""
        self._drawn.append(f'<{tag} class="{kind}"{whose}{given}/>')

    def _x(self, value: float) -> str:
        return f"{self._left + float(self.x.share(value)) * (self._right - self._left):.1f}"

    def _y(self, value: float) -> str:
        return f"{self._bottom - float(self.y.share(value)) * (self._bottom - self._top):.1f}"

    def _points(self, x: Values, y: Values) -> str:
        x_px = self._left + self.x.share(x) * (self._right - self._left)
        y_px = self._bottom - self.y.share(y) * (self._bottom - self._top)
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x_px, y_px, strict=True))

    def _frame(self) -> Iterable[str]:
        for value, text in self.y.ticks() if self.y.label else ():
            at = self._y(value)
            yield f'<line class="grid" x1="{self._left}" x2="{self._right}" y1="{at}" y2="{at}"/>'
            yield f'<text class="tick y" x="{self._left - 6}" y="{at}">{text}</text>'
        for value, text in self.x.ticks():
            yield f'<text class="tick x" x="{self._x(value)}" y="{self._bottom + 16}">{escape(text)}</text>'
        yield f'<line class="axis" x1="{self._left}" x2="{self._right}" y1="{self._bottom}" y2="{self._bottom}"/>'
        middle = (self._left + self._right) / 2
        yield f'<text class="label x" x="{middle}" y="{self._height - 6}">{escape(self.x.label)}</text>'
        middle = (self._top + self._bottom) / 2
        yield f'<text class="label y" transform="translate(11 {middle}) rotate(-90)">{escape(self.y.label)}</text>'


def figure(content: str, width: int, height: int, title: str, remark: str = "", legend: str = "") -> str:
    """SVG content as a figure below its title and `legend`, which is HTML, and above a remark."""
    broad = ' class="broad"' if width > WIDTH else ""
    head = f"<figcaption><b>{escape(title)}</b>{legend}</figcaption>"
    tail = f"<small>{escape(remark)}</small>" if remark else ""
    return f"<figure{broad}>{head}<div>{drawing(content, width, height, title)}</div>{tail}</figure>"


def drawing(content: str, width: int, height: int, title: str) -> str:
    """SVG content alone; `title` says what it shows to who cannot see it."""
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">{content}</svg>'


def legend(kinds: Mapping[str, str]) -> str:
    """What the classes of lines and dots mean."""
    keys = "".join(f'<span class="key {kind}">{escape(text)}</span>' for kind, text in kinds.items())
    return f'<span class="keys">{keys}</span>'
