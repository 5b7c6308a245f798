"""What every page of this package shares: its template, tables of escaped cells, and figures drawn into it as SVG.

A page is one file without anything from the network; the same content gives the same bytes. Whatever is no `Html` is
escaped on its way into a table, and text that comes from files never goes into a figure.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from html import escape
from string import Template
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a97a3",
    "axes.grid": True,
    "grid.color": "#e6eaee",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "report",
}
_PAGE = Template("""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body{font:1rem/1.5 system-ui,sans-serif;color:#22303c;background:#fff;max-width:72rem;margin:0 auto;padding:1rem}
h1{font-size:1.7rem;line-height:1.2;margin:.5rem 0}h2{font-size:1.2rem;margin:2.5rem 0 .5rem;color:#1f4e79}
h3{font-size:1rem;margin:1.5rem 0 .3rem}p,li{max-width:44rem}small,figcaption,.quiet{color:#56636f;font-size:.85rem}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(7rem,1fr));gap:.4rem;margin:1rem 0}
dl div{background:#f3f6f8;padding:.5rem .6rem}dt{font-size:.8rem;color:#56636f}
dd{margin:0;font-size:1.1rem;white-space:nowrap}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem;margin:.5rem 0}td:first-child{min-width:8rem}
th,td{text-align:left;padding:.3rem .9rem .3rem 0;border-bottom:1px solid #d9dfe4;vertical-align:top}
.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.track{display:block;width:clamp(4rem,20vw,14rem)}.bar{display:block;height:.8rem;margin-top:.35rem;background:#4c78a8}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,var(--column,24rem)),1fr));gap:1.5rem}
.three{--column:20rem}
figure{margin:0;break-inside:avoid}img{width:100%;height:auto;display:block}figcaption{overflow-wrap:anywhere}
.doubt{border-left:4px solid #8a97a3;padding:.1rem 0 .1rem .8rem;margin:.8rem 0;max-width:44rem;break-inside:avoid}
.serious{border-color:#b3364a}a{color:#1f4e79}
@media(max-width:36rem){table{font-size:.8rem}th,td{padding-right:.6rem}.n small{display:block}
td:first-child{min-width:6rem}}
@media print{html{font-size:10px}body{padding:0;print-color-adjust:exact;-webkit-print-color-adjust:exact}
h2,h3{break-after:avoid}tr{break-inside:avoid}.wide{overflow:visible}}
</style></head><body>
$body
</body></html>
""")


class Html(str):
    """Text that is HTML already and not to be escaped."""


class Number(Html):
    """HTML to be aligned as a number."""


def render(title: str, body: Iterable[str]) -> str:
    """The whole page, from the sections of its body, which are HTML."""
    return _PAGE.substitute(title=escape(title), body="\n".join(body))


def table(head: Sequence[str], body: Iterable[Sequence[object]]) -> str:
    """Table with every cell escaped; numbers are rounded and aligned right."""
    lines = [[_cell(value) for value in line] for line in body]
    numeric = [any("class='n'" in line[i] for line in lines) for i in range(len(head))]
    titles = "".join(f"<th{' class=n' if n else ''}>{escape(name)}</th>" for name, n in zip(head, numeric, strict=True))
    cells = "".join(f"<tr>{''.join(line)}</tr>" for line in lines)
    return f"<div class='wide'><table><thead><tr>{titles}</tr></thead><tbody>{cells}</tbody></table></div>"


def _cell(value: object) -> str:
    align = " class='n'" if isinstance(value, (int, float, np.integer, Number)) else ""
    return f"<td{align}>{text(value)}</td>"


def text(value: Any) -> str:
    """Escaped text of a value; a number to three digits, or whole from a thousand on."""
    if isinstance(value, Html):
        return value
    if isinstance(value, float):  # numpy's float64 is one
        return "–" if not np.isfinite(value) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value + 0.0:.3g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int | np.integer) else escape(str(value))


def noted(name: str, note: str) -> Html:
    """A name with a note below it in small."""
    return Html(f"{escape(name)}<br><small>{escape(note)}</small>")


def share(count: Any, total: Any) -> Number:
    """A count and its share of a total, where there is one."""
    return Number(f"{count:,}" + (f" <small>({count / total:.0%})</small>" if total else ""))


def bar(part: float) -> Html:
    """A bar as long as `part`, from 0 to 1, of the room there is."""
    return Html(f"<span class='track'><span class='bar' style='width:{part:.1%}'></span></span>")


def figure_style() -> AbstractContextManager[None]:
    """The look of figures, whatever the user's own settings of matplotlib; figures are made and embedded within."""
    return style.context(["default", _STYLE])


def new_figure(height: float) -> tuple[Figure, Axes]:
    """An empty figure, `height` in inches, with room for the labels of its axes."""
    figure = Figure(figsize=(4.8, height))  # no automatic layout: it draws everything twice
    return figure, figure.add_axes((0.14, 0.47 / height, 0.83, 1 - 0.77 / height))


def image(figure: Figure, caption: str) -> str:
    """The figure as SVG inside the page; `caption` is HTML."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", dpi=200, metadata={"Date": None})
    data = base64.b64encode(file.getvalue()).decode()
    alt = escape(caption.split("<")[0])
    return (
        f'<figure><img alt="{alt}" src="data:image/svg+xml;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )
