"""The page about a search: its template, and the pieces that every section is made of.

One file without anything from the network: the style and the one script stand in it, and its policy lets nothing else
run. Whatever is no `Html` is escaped on its way into a table or a tile.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from string import Template

from data_prep import page

_STYLE, _SCRIPT = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
_PAGE = Template("""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="$policy">
<link rel="icon" href="data:,"><title>$title</title>
<style>
$style</style></head><body>
$body
<p id="picked" role="status" hidden></p>
<script>
$script</script></body></html>
""")


def render(title: str, body: Iterable[str]) -> str:
    """The whole page, from the sections of its body, which are HTML."""
    script = f"\n{_SCRIPT}"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    return _PAGE.substitute(title=escape(title), body="\n".join(body), policy=policy, style=_STYLE, script=_SCRIPT)


def section(name: str, title: str, *content: str) -> str:
    """A section of the page, which its head links to by `name`."""
    return f'<section id="{name}"><h2>{escape(title)}</h2>\n' + "\n".join(content) + "\n</section>"


def quiet(text: str) -> str:
    """A remark, such as why there is nothing to show yet."""
    return f'<p class="quiet">{escape(text)}</p>'


def tiles(facts: Mapping[str, tuple[object, str]]) -> str:
    """Large figures, each with its name above and a remark below."""
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{page.text(value)}</dd><dd class='quiet'>{escape(remark)}</dd></div>"
        for name, (value, remark) in facts.items()
    )
    return f"<dl class='tiles'>{cells}</dl>"


def grid(*figures: str, columns: int = 2) -> str:
    """Figures side by side, where there is room."""
    return f'<div class="grid of{columns}">{"".join(figures)}</div>'


def command(text: str) -> str:
    """A command to be copied."""
    return f"<pre><code>{escape(text)}</code></pre>"
