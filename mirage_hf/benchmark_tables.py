"""The tables of a benchmark run, as data: what Markdown, LaTeX and HTML all print, decided once.

`results` is the content of a run's `results.json` (its schema is `benchmark.schema.json`). Values are fractions there
and percent in tables.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from .benchmark_captions import (
    AT_OWN_THRESHOLD,
    AT_THRESHOLD,
    Results,
    main_views,
    meaning_of_fake,
    meaning_of_mean,
    one_class_notes,
    published_notes,
    published_rows,
    refused_sets,
    run_notes,
    sentence,
    set_columns,
    skipped_images,
)
from .benchmark_metrics import METRICS

_NULL_MEANING = (
    "Metadata only is the balanced accuracy of a classifier that sees the files' format, size and compression and no "
    "pixel"
)


class Cell(NamedTuple):
    """
    A number with its interval, or a text.

    Args:
        value (`float`, *optional*):
            Fraction in [0, 1]; `None` where undefined.
        interval (`tuple[float, float]`, *optional*):
            95% interval, fractions as well.
        prints_interval (`bool`, *optional*, defaults to `False`):
            Whether the interval stands beside the number; where it does not, a hint may still give it.
        text (`str`, *optional*):
            Printed instead of the value.
    """

    value: float | None = None
    interval: tuple[float, float] | None = None
    prints_interval: bool = False
    text: str = ""

    @property
    def number(self) -> str:
        """The value in percent with one decimal, "–" where undefined, or the text."""
        return self.text or percent(self.value)

    @property
    def brackets(self) -> str:
        """The interval as `[low, high]` in percent where it is to be printed, otherwise nothing."""
        return self.range_text if self.prints_interval else ""

    @property
    def range_text(self) -> str:
        """The interval as `[low, high]` in percent, or nothing."""
        return f"[{percent(self.interval[0])}, {percent(self.interval[1])}]" if self.interval else ""


class Row(NamedTuple):
    """A row's name and its cells, one for each column after the first."""

    name: str
    cells: list[Cell]


@dataclass(frozen=True)
class Table:
    """
    A table, to be printed in any format; every text in it is plain and still has to be escaped.

    Args:
        key (`str`):
            Lower-case letters, digits and `-`: the anchor or label.
        title (`str`):
            A few words.
        caption (`list[str]`):
            Sentences.
        columns (`list[str]`):
            Titles; the first one is of the rows' names.
        groups (`list[list[Row]]`):
            Rows, with a rule between two groups.
    """

    key: str
    title: str
    caption: list[str]
    columns: list[str]
    groups: list[list[Row]]


def percent(value: float | None) -> str:
    """A fraction as percent with one decimal; "–" for `None`."""
    return "–" if value is None else f"{100 * value:.1f}"


def printable(text: str) -> str:
    """A name on one line: line breaks become spaces, other characters that can't be printed a replacement sign."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in str(text)) or "(no name)"


def benchmark_tables(results: Results) -> list[Table]:
    """
    Every table of a run: one for each headline metric, details by set, the views, and the embeddings' statistics.

    Returns:
        `list[Table]`: in the order in which to print them.
    """
    tables = [_headline_table(results, metric) for metric in results["protocol"]["metrics"]]
    for view in main_views(results):
        tables += _detail_tables(results, view)
    tables += [*_views_table(results), *_representation_table(results)]
    return tables


def metric_cell(block: dict[str, Any], metric: str, prints_interval: bool = False) -> Cell:
    """The cell of a metric from a set's or a mean's `metrics` and `intervals`."""
    interval = block["intervals"].get(metric)
    return Cell(block["metrics"].get(metric), tuple(interval) if interval else None, prints_interval)


def _headline_table(results: Results, metric: str) -> Table:
    protocol, views = results["protocol"], results["views"]
    sets = set_columns(results, metric)
    ours, nulls = [], []
    for view in main_views(results):
        content = views[view]
        cells = [metric_cell(content["sets"][name], metric) if name in content["sets"] else Cell() for name in sets]
        ours.append(Row(f"{results['model']['name']}, {view}", [*cells, metric_cell(content["mean"], metric, True)]))
        nulls += _null_rows(f"metadata only, {view} ({METRICS['balanced_accuracy']})", content, sets)
    printed = published_rows(results, metric)
    rows = [Row(f"{name} (published)", _published_cells(row, [*sets, "mean"])) for name, row in printed]
    caption = [
        f"{protocol['title']}: {METRICS[metric]} in percent.",
        *meaning_of_fake(results, metric),
        *meaning_of_mean(results),
        *refused_sets(results),
        *skipped_images(results, main_views(results)),
        *published_notes(results, metric),
        *([f"{_NULL_MEANING}{_pooled_nulls(results)}."] if nulls else []),
        *run_notes(results["notes"]),
    ]
    groups = [group for group in (rows, ours, nulls) if group]
    title = f"{protocol['title']}: {METRICS[metric]}"
    return Table(_key(protocol["name"], metric), title, caption, ["method", *sets, "mean"], groups)


def _published_cells(row: dict[str, Any], names: Iterable[str]) -> list[Cell]:
    return [Cell(row["values"].get(name)) for name in names]


def _null_rows(name: str, content: dict[str, Any], sets: list[str]) -> list[Row]:
    cells = {key: _null_cell(value["null"]) for key, value in content["sets"].items()}
    if all(cell.value is None for cell in cells.values()):
        return []
    mean = _mean_if_complete([cells[key].value for key in content["mean"]["over"]])
    return [Row(name, [*(cells.get(key, Cell()) for key in sets), Cell(mean)])]


def _null_cell(null: dict[str, Any] | None, prints_interval: bool = False) -> Cell:
    if not null:
        return Cell()
    interval = null.get("interval")
    return Cell(null["balanced_accuracy"], tuple(interval) if interval else None, prints_interval)


def _pooled_nulls(results: Results) -> str:
    cells = {view: _null_cell(results["views"][view]["null"], True) for view in main_views(results)}
    texts = [f"{cell.number} {cell.brackets} ({view})" for view, cell in cells.items() if cell.value is not None]
    return f"; on all rows pooled it scores {' and '.join(texts)}" if texts else ""


def _detail_tables(results: Results, view: str) -> list[Table]:
    content, threshold, own = results["views"][view], results["protocol"]["threshold"], results["model"]["threshold"]
    free = [key for key in METRICS if key not in (*AT_THRESHOLD, *AT_OWN_THRESHOLD)]
    parts: list[tuple[str, str, Iterable[str]]] = [("threshold", f"at a threshold of {threshold:g}", AT_THRESHOLD)]
    if own is not None:
        parts.append(("own-threshold", f"at the detector's own threshold of {own:.4g}", AT_OWN_THRESHOLD))
    parts.append(("scores", "without a threshold", free))
    tables = []
    for index, (key, words, metrics) in enumerate(parts):
        metrics = list(metrics)
        counted = index == 0
        sets = [
            Row(name, [*(_counts(block) if counted else []), *(metric_cell(block, m, True) for m in metrics)])
            for name, block in content["sets"].items()
        ]
        over = content["mean"]["over"]
        blank = [Cell(text=" ")] * (3 if counted else 0)
        mean = Row(f"mean of {len(over)}", [*blank, *(metric_cell(content["mean"], m, True) for m in metrics)])
        caption = [
            f"By set, {words}, {view}: {sentence(content['description'])}",
            "Percent, with the 95% interval in brackets.",
            *(one_class_notes(content)),
        ]
        columns = ["set", *(["real", "fake", "skipped"] if counted else []), *(METRICS[m] for m in metrics)]
        title = f"By set, {view}, {words}"
        tables.append(Table(_key("by-set", view, key), title, caption, columns, [sets, [mean]]))
    return tables


def _counts(block: dict[str, Any]) -> list[Cell]:
    return [Cell(text=f"{block[key]:,}") for key in ("n_real", "n_fake", "skipped")]


def _views_table(results: Results) -> list[Table]:
    views = results["views"]
    if len(views) < 2:
        return []
    metrics, model = results["protocol"]["metrics"], results["model"]["name"]
    printed = {metric: published_rows(results, metric, "published_views") for metric in metrics}
    # Published tables of degradations end in a mean over them; ours covers the same views, or is left out.
    covered = {
        metric: list(dict.fromkeys(name for _, row in rows for name in row["values"] if name != "mean"))
        for metric, rows in printed.items()
    }
    columns = list(dict.fromkeys([*views, *(name for names in covered.values() for name in names)]))
    last = ["mean"] if any("mean" in row["values"] for rows in printed.values() for _, row in rows) else []
    groups = []
    for metric in metrics:
        suffix = f", {METRICS[metric]}"
        rows = [
            Row(f"{name}{suffix} (published)", _published_cells(row, columns + last)) for name, row in printed[metric]
        ]
        cells = [metric_cell(views[view]["mean"], metric, True) if view in views else Cell() for view in columns]
        if last:
            values = [
                views[view]["mean"]["metrics"].get(metric) if view in views else None for view in covered[metric]
            ]
            cells.append(Cell(_mean_if_complete(values)))
        groups += [rows, [Row(f"{model}{suffix}", cells)]] if rows else [[Row(f"{model}{suffix}", cells)]]
    nulls = [_null_cell(views[view]["null"], True) if view in views else Cell() for view in columns]
    if any(cell.value is not None for cell in nulls):
        groups.append(
            [
                Row(
                    f"metadata only, all rows pooled ({METRICS['balanced_accuracy']})",
                    [*nulls, *(Cell() for _ in last)],
                )
            ]
        )
    caption = [
        "Mean over the sets in each view, in percent, with its 95% interval.",
        *(sentence(f"{view}: {views[view]['description']}") for view in views),
        *skipped_images(results, views),
        *(["The last column is the mean over the views that published rows have."] if last else []),
        *(note for metric in metrics for note in published_notes(results, metric, "published_views")),
    ]
    return [Table("views", "Views and degradations", caption, ["method", *columns, *last], groups)]


def _mean_if_complete(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _representation_table(results: Results) -> list[Table]:
    titles = {
        "real_variation": "variation of reals",
        "fake_variation": "variation of fakes",
        "intra_class_variation": "largest variation",
        "inter_class_separation": "separation",
    }
    rows = [
        Row(f"{view}, {distance}", [_plain_cell(values[key]) for key in titles])
        for view, content in results["views"].items()
        for distance, values in (content["representation"] or {}).items()
    ]
    if not rows:
        return []
    caption = [
        "Distances of image embeddings to their class's text anchor (variation) and between the two classes "
        "(separation); MiraGe, Definitions 4.1 and 4.2."
    ]
    return [Table("representation", "Embeddings", caption, ["view, distance", *titles.values()], [rows])]


def _plain_cell(value: float | None) -> Cell:
    return Cell(text="–" if value is None else f"{value:.3f}")


def _key(*parts: str) -> str:
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in "-".join(parts).lower())
    return "-".join(part for part in kept.split("-") if part)


__all__ = ["Cell", "Row", "Table", "benchmark_tables", "percent", "printable"]
