"""A benchmark run as one HTML page that holds everything it shows: nothing is fetched, nothing runs."""

import re
from html import escape
from typing import Any

from .benchmark_captions import Results
from .benchmark_tables import Cell, Table, benchmark_tables, printable

_STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --page: #fff; --soft: #59636e; --line: #d1d9e0; --link: #0550ae }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6edf3; --page: #0d1117; --soft: #9ba7b3; --line: #3d444d; --link: #6cb6ff }
}
body { margin: 0 auto; max-width: 72rem; padding: 1rem; color: var(--text); background: var(--page);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word }
a { color: var(--link) }
a:focus-visible, summary:focus-visible, .scroll:focus-visible { outline: 3px solid var(--link); outline-offset: 2px }
.skip { position: absolute; left: -99rem } .skip:focus { position: static }
.scroll { overflow-x: auto; margin: 1rem 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
.caption, figcaption { color: var(--soft); max-width: 60rem }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap; vertical-align: baseline }
th:first-child { text-align: left }
thead th { border-bottom: 2px solid var(--line) }
tbody + tbody tr:first-child > * { border-top: 2px solid var(--line) }
tbody th { font-weight: normal } small { color: var(--soft) }
@media (min-width: 40rem) { th:first-child { position: sticky; left: 0; background: var(--page) } }
figure { margin: 1rem 0 }
figure .scroll { background: #fff; color: #000; border: 1px solid var(--line); border-radius: .4rem; padding: .5rem }
dt { font-weight: 600 } dd { margin: 0 0 .5rem 1rem }
@media print { .scroll { overflow: visible } nav, .skip { display: none } }
"""


def to_html(results: Results, pictures: dict[str, str] | None = None) -> str:
    """
    A run's tables and pictures as one page, for a screen of any size and for print.

    Args:
        results (`dict`):
            Content of `results.json`.
        pictures (`dict[str, str]`, *optional*):
            Title -> SVG markup as [`figure_svg`] makes it; it is put into the page as it is.

    Returns:
        `str`: HTML that refers to nothing outside itself except in links.

    Raises:
        ValueError: a picture is no SVG.
    """
    protocol, model = results["protocol"], results["model"]
    tables = benchmark_tables(results)
    count = len(protocol["metrics"])
    drawn = [_picture(index, title, svg) for index, (title, svg) in enumerate((pictures or {}).items(), 1)]
    contents = [
        *((table.key, table.title) for table in tables[:count]),
        *((f"picture-{index}", title) for index, title in enumerate(pictures or {}, 1)),
        *((table.key, table.title) for table in tables[count:]),
        ("run", "The run"),
    ]
    title = _text(f"{model['name']} on {protocol['title']}")
    entries = "\n".join(f'<li><a href="#{key}">{_text(name)}</a></li>' for key, name in contents)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the tables</a>
<header>
<h1>{title}</h1>
<p>{_linked(protocol["source"])}</p>
</header>
<nav aria-labelledby="contents"><h2 id="contents">Contents</h2>
<ol>
{entries}
</ol></nav>
<main id="content">
{"".join(_table(table) for table in tables[:count])}
{"".join(drawn)}
{"".join(_table(table) for table in tables[count:])}
<section id="run"><h2>The run</h2>
<details><summary>Model, environment and arguments</summary>
{_definitions({"model": model, "layout": results["layout"], "environment": results["environment"]})}
{_definitions({"arguments": results["arguments"]})}
</details></section>
</main>
</body>
</html>
"""


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in table.columns)
    bodies = "".join(
        "<tbody>\n"
        + "".join(
            f'<tr><th scope="row">{_text(name)}</th>{"".join(map(_cell, cells))}</tr>\n' for name, cells in group
        )
        + "</tbody>\n"
        for group in table.groups
    )
    key = table.key
    return f"""<section id="{key}"><h2 id="{key}-title">{_text(table.title)}</h2>
<p class="caption" id="{key}-caption">{_linked(" ".join(table.caption))}</p>
<div class="scroll" role="region" tabindex="0" aria-labelledby="{key}-title">
<table aria-labelledby="{key}-title" aria-describedby="{key}-caption">
<thead><tr>{head}</tr></thead>
{bodies}</table>
</div></section>
"""


def _cell(cell: Cell) -> str:
    hint = f' title="95% interval {cell.range_text}"' if cell.interval else ""
    small = f" <small>{cell.brackets}</small>" if cell.brackets else ""
    return f"<td{hint}>{_text(cell.number)}{small}</td>"


def _picture(index: int, title: str, svg: str) -> str:
    start = svg.find("<svg")
    if start < 0:
        raise ValueError(f"`pictures`: {printable(title)!r} is no SVG markup")
    # A page needs ids of its own for each picture.
    svg = re.sub(r'((?:\bid="|href="#|url\(#))', rf"\g<1>p{index}-", svg[start:])
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{_text(title)}"', 1)
    return f"""<section id="picture-{index}"><h2>{_text(title)}</h2>
<figure><div class="scroll" role="region" tabindex="0" aria-label="{_text(title)}">
{svg}
</div><figcaption>{_text(title)}, from the same scores as the tables.</figcaption></figure></section>
"""


def _definitions(values: dict[str, Any]) -> str:
    """Nested values as definition lists."""
    items = (f"<dt>{_text(key)}</dt><dd>{_value(value)}</dd>\n" for key, value in values.items())
    return f"<dl>\n{''.join(items)}</dl>"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return _definitions(value)
    if isinstance(value, list | tuple):
        return _text(", ".join(map(str, value)) or "none")
    return _text("none" if value is None else str(value))


def _linked(text: str) -> str:
    """Text with its addresses as links."""
    parts = re.split(r"(https?://[\w./:%?=&#~+-]*[\w/])", printable(text))
    return "".join(
        f'<a href="{escape(part)}" rel="noreferrer">{escape(part)}</a>' if index % 2 else escape(part)
        for index, part in enumerate(parts)
    )


def _text(text: str) -> str:
    return escape(printable(text))


__all__ = ["to_html"]
