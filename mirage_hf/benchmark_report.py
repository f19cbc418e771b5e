r"""
A benchmark run's `results.json` as Markdown, LaTeX, CSV and HTML, and the check of its schema.

Published rows are always marked as such and stand above a rule; nothing is printed bold.
"""

import csv
import functools
import io
import json
import math
import re
from importlib import resources
from typing import Any

from .benchmark_captions import Results, published_rows
from .benchmark_html import to_html
from .benchmark_metrics import METRICS
from .benchmark_tables import Cell, Table, benchmark_tables, printable

_CSV_COLUMNS = ("view", "set", "metric", "value", "low", "high", "n_real", "n_fake", "source", "method", "note")
_LATEX_WIDTH = 84  # characters that fit on a line of a single-column article in \footnotesize
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "{''}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    # After \\ these two would be read as its arguments.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "\ufffd": "?",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "≤": r"$\leq$",
    "×": r"$\times$",
    "λ": r"$\lambda$",
    "σ": r"$\sigma$",
}


def validate_results(results: Results) -> None:
    """
    Checks a run's results against `benchmark.schema.json`, and what a schema can't say: that numbers are finite,
    intervals run upwards, and means are over sets that exist.

    Raises:
        ValueError: One line that names the first field that is wrong.
    """
    import jsonschema

    plain = _plain(results, "results")
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(_schema()).iter_errors(plain))
    if error is not None:
        field = "results" + error.json_path[1:]
        raise ValueError(f"{printable(field)}: {printable(_shortened(error.message))}")
    for view, content in plain["views"].items():
        missing = [name for name in content["mean"]["over"] if name not in content["sets"]]
        if missing:
            raise ValueError(f"{printable(f'results.views.{view}.mean.over')}: no set is called {missing[0]!r}")
        for name, block in [*content["sets"].items(), ("mean", content["mean"])]:
            for metric, interval in block["intervals"].items():
                if interval and interval[0] > interval[1]:
                    field = printable(f"results.views.{view}.{name}.intervals.{metric}")
                    raise ValueError(f"{field}: {interval} does not run upwards")


@functools.cache
def _schema() -> dict[str, Any]:
    return json.loads((resources.files(__package__) / "benchmark.schema.json").read_text(encoding="utf-8"))


def _plain(value: Any, field: str) -> Any:
    """The value as JSON gives it back: tuples as lists, and no NaN."""
    if isinstance(value, dict):
        return {key: _plain(item, f"{field}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{field}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{printable(field)}: {value} is not finite; use null for what is undefined")
    return value


def _shortened(text: str, length: int = 200) -> str:
    return text if len(text) <= length else f"{text[: length // 2]} … {text[-length // 2 :]}"


def to_markdown(results: Results) -> str:
    """The tables of a run in Markdown (GitHub's tables), each with a heading and a caption."""
    protocol, model = results["protocol"], results["model"]
    lines = [f"# {_markdown(model['name'])} on {_markdown(protocol['title'])}", "", _markdown(protocol["source"]), ""]
    for table in benchmark_tables(results):
        lines += [f"## {_markdown(table.title)}", "", _markdown(" ".join(table.caption)), ""]
        lines.append(f"| {' | '.join(_markdown(name) for name in table.columns)} |")
        lines.append("|---" + "|--:" * (len(table.columns) - 1) + "|")
        for row in (row for group in table.groups for row in group):
            cells = [_markdown(row.name), *(_with_brackets(cell, _markdown) for cell in row.cells)]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _with_brackets(cell: Cell, escape) -> str:
    return " ".join(part for part in (escape(cell.number), cell.brackets) if part.strip())


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|&~$#])", r"\\\1", printable(text))


def to_latex(results: Results) -> str:
    r"""
    The tables of a run in LaTeX, one `table` each, that need `\usepackage{booktabs}` and nothing else.

    Tables too wide for the page are continued below with the columns that remain. Rules part published rows, the run
    and metadata only.
    """
    heading = printable(f"{results['model']['name']} on {results['protocol']['title']}")
    return "\n".join([f"% {heading}; needs \\usepackage{{booktabs}}", *map(_latex_table, benchmark_tables(results))])


def _latex_table(table: Table) -> str:
    cells = [[[_with_brackets(c, _latex) for c in row.cells] for row in group] for group in table.groups]
    names = [[_latex(row.name) for row in group] for group in table.groups]
    rows = [
        table.columns[1:],
        *([f"{c.number} {c.brackets}" for c in r.cells] for group in table.groups for r in group),
    ]
    name_width = max(len(row.name) for group in table.groups for row in group)
    widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
    lines = [r"\begin{table}[tbp]", r"\centering", r"\footnotesize", r"\setlength{\tabcolsep}{3pt}"]
    lines += [f"\\caption{{{_latex(' '.join(table.caption))}}}", f"\\label{{tab:{table.key}}}"]
    for block in _column_blocks(widths, _LATEX_WIDTH - name_width):
        lines += [f"\\begin{{tabular}}{{l{'r' * len(block)}}}", r"\toprule"]
        lines.append(_latex_row([_latex(table.columns[0]), *(_latex(table.columns[1 + column]) for column in block)]))
        for group_names, group_cells in zip(names, cells, strict=True):
            lines.append(r"\midrule")
            for name, values in zip(group_names, group_cells, strict=True):
                lines.append(_latex_row([name, *(values[column] for column in block)]))
        lines += [r"\bottomrule", r"\end{tabular}", "", r"\medskip"]
    return "\n".join([*lines[:-2], r"\end{table}", ""])


def _column_blocks(widths: list[int], line: int) -> list[list[int]]:
    """Columns, in order, in as many blocks as are needed for each to fit on a line."""
    blocks: list[list[int]] = [[]]
    for column, width in enumerate(widths):
        if blocks[-1] and sum(widths[c] for c in blocks[-1]) + width > line:
            blocks.append([])
        blocks[-1].append(column)
    return blocks


def _latex_row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in printable(text))


def to_csv(results: Results) -> str:
    """
    Every number of a run in long form, as fractions and exactly as they are.

    Columns are `view, set, metric, value, low, high, n_real, n_fake, source, method, note`. `source` is `run`,
    `published` or `null` (metadata only); the set `mean` is the mean over sets and `all rows` all rows pooled;
    published rows of degradations have the view they are of, other published rows none. What is undefined is empty.
    """
    lines: list[tuple] = []
    model = results["model"]["name"]
    for view, content in results["views"].items():
        for name, block in [*content["sets"].items(), ("mean", content["mean"])]:
            counts = (block.get("n_real"), block.get("n_fake"))
            for metric in METRICS:
                interval = block["intervals"].get(metric) or (None, None)
                lines.append(
                    (view, name, metric, block["metrics"].get(metric), *interval, *counts, "run", model, None)
                )
            lines += _null_lines(view, name, block.get("null"), counts)
        lines += _null_lines(view, "all rows", content["null"], (None, None))
    for field in ("published", "published_views"):
        for metric in METRICS:
            for _, row in published_rows(results, metric, field):
                note = "; ".join(text for text in (row["source"], row.get("note")) if text)
                for key, value in row["values"].items():
                    place = (None, key) if field == "published" else (None if key == "mean" else key, "mean")
                    lines.append((*place, metric, value, None, None, None, None, "published", row["method"], note))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows(
        [_CSV_COLUMNS, *(["" if value is None else _encodable(value) for value in line] for line in lines)]
    )
    return stream.getvalue()


def _null_lines(view: str, name: str, null: dict[str, Any] | None, counts: tuple) -> list[tuple]:
    if not null:
        return []
    low_high = null.get("interval") or (None, None)
    shared = (*counts, "null", "metadata only", None)
    return [
        (view, name, "balanced_accuracy", null["balanced_accuracy"], *low_high, *shared),
        (view, name, "roc_auc", null["roc_auc"], None, None, *shared),
    ]


def _encodable(value: Any) -> Any:
    """Names of folders may hold what UTF-8 can't."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


__all__ = ["to_csv", "to_html", "to_latex", "to_markdown", "validate_results"]
