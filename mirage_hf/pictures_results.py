"""Pictures of a benchmark's results and of sweeps: bars by set, curves by degradation, heat maps."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .benchmark_captions import Results, main_views, published_rows, set_columns
from .benchmark_metrics import METRICS
from .pictures_style import (
    COLOURS,
    DASHES,
    MARKERS,
    WIDTH,
    Look,
    interval_bars,
    label,
    new_figure,
    panels,
    percent_axis,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SETS_IN_A_ROW = 12  # at most
_OTHER = "other"
_BAR_LOOKS = ({"facecolor": "#0072B2"}, {"facecolor": "#cfe3f0", "hatch": "/////"})


@styled
def generator_bars(results: Results, metric: str) -> "Figure":
    """
    A metric by set and its mean: bars with 95% intervals for the run, hollow markers for published rows.

    Args:
        results (`dict`):
            Content of `results.json`.
        metric (`str`):
            Key of `METRICS`.

    Raises:
        ValueError: the metric is unknown.
    """
    _check_metric(metric)
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    names = [*set_columns(results, metric), "mean"]
    printed = published_rows(results, metric)
    views = main_views(results)
    width = (0.36 if printed else 0.8) / len(views)
    slot = 0.5 / max(len(printed), 1)
    looks: list[Look] = [{"edgecolor": "black", "linewidth": 0.6} | look for look in _BAR_LOOKS]
    marks = [_hollow(place) for place in range(len(printed))]
    rows = -(-len(names) // _SETS_IN_A_ROW)
    in_a_row = -(-len(names) // rows)
    figure = new_figure(0.5 + 1.9 * rows + 0.17 * -(-(len(views) + len(printed)) // 4))
    for row, axes in enumerate(panels(figure, rows, 1, sharey=True)):
        shown = names[row * in_a_row : (row + 1) * in_a_row]
        for place, view in enumerate(views):
            blocks = [_block(results, view, name) for name in shown]
            positions = np.arange(len(shown)) - (0.43 if printed else 0.4) + (place + 0.5) * width
            _bars_with_intervals(axes, positions, blocks, metric, width, looks[place])
        for place, (_, published) in enumerate(printed):
            positions = np.arange(len(shown)) - 0.07 + (place + 0.5) * slot
            axes.plot(positions, [published["values"].get(name, np.nan) for name in shown], **marks[place])
        if "mean" in shown:
            axes.axvline(len(shown) - 1.5, color="black", linewidth=0.8)
        axes.set_xticks(range(len(shown)), [label(name, 18) for name in shown], rotation=25, ha="right")
        axes.tick_params(axis="x", length=0)
        axes.set(xlim=(-0.6, in_a_row - 0.4), ylim=(0, 1.03), ylabel=_axis_title(metric))
        percent_axis(axes.yaxis)
    handles = [Patch(**look) for look in looks[: len(views)]] + [Line2D([], [], **mark) for mark in marks]
    texts = [f"{label(results['model']['name'])}, {view}" for view in views]
    texts += [f"{label(name)} (published)" for name, _ in printed]
    figure.legend(handles, texts, loc="outside lower center", ncols=min(4, len(texts)))
    return figure


def _check_metric(metric: str) -> None:
    if metric not in METRICS:
        raise ValueError(f"`metric` is {metric!r}: choose one of {', '.join(METRICS)}")


def _axis_title(metric: str) -> str:
    return f"{METRICS[metric]} (%)"


def _hollow(place: int) -> Look:
    colour = COLOURS[(place + 1) % len(COLOURS)]
    marker = MARKERS[place % len(MARKERS)]
    return {"linestyle": "none", "marker": marker, "markerfacecolor": "white", "markeredgecolor": colour}


def _block(results: Results, view: str, name: str) -> dict[str, Any] | None:
    content = results["views"][view]
    return content["mean"] if name == "mean" else content["sets"].get(name)


def _value(block: dict[str, Any] | None, metric: str) -> float:
    value = None if block is None else block["metrics"].get(metric)
    return np.nan if value is None else value


def _interval(block: dict[str, Any] | None, metric: str) -> tuple[float, float]:
    interval = None if block is None else block["intervals"].get(metric)
    return (np.nan, np.nan) if interval is None else tuple(interval)


def _bars_with_intervals(axes: "Axes", positions, blocks, metric: str, width: float, look: Look) -> None:
    """Bars of the values that are defined, a dash where one is not."""
    values = np.array([_value(block, metric) for block in blocks])
    defined = ~np.isnan(values)
    axes.bar(positions[defined], values[defined], width=width, **look)
    for position in positions[~defined]:
        axes.text(position, 0.01, "–", ha="center", va="bottom")
    lows, highs = zip(*(_interval(block, metric) for block in blocks), strict=True)
    interval_bars(axes, positions, lows, highs)


@styled
def degradation_curves(results: Results, metric: str, published: list[dict[str, Any]] | None = None) -> "Figure":
    """
    The mean of a metric in each view: a panel for each kind of degradation, starting with images as they are.

    Args:
        results (`dict`):
            Content of `results.json`.
        metric (`str`):
            Key of `METRICS`.
        published (`list[dict]`, *optional*):
            Published rows, `values` by view; those of the results by default.

    Raises:
        ValueError: the metric is unknown, or there is one view only.
    """
    _check_metric(metric)
    if published is not None:
        results = {**results, "published_views": published}
    views = results["views"]
    if len(views) < 2:
        raise ValueError(f"`results` hold one view ({next(iter(views))}): a curve needs degradations beside it")
    printed = published_rows(results, metric, "published_views")
    kinds = _kinds_of_views(list(views))
    names = [f"{label(results['model']['name'])}, this run", *(f"{label(name)} (published)" for name, _ in printed)]
    figure = new_figure(2.1 + 0.17 * -(-len(names) // 4))
    handles: list = []
    columns = panels(figure, len(kinds), len(kinds), sharey=True, width_ratios=[len(k) + 0.5 for k in kinds.values()])
    for axes, (kind, members) in zip(columns, kinds.items(), strict=True):
        blocks = [views[view]["mean"] for view in members]
        lows, highs = zip(*(_interval(block, metric) for block in blocks), strict=True)
        values = [_value(block, metric) for block in blocks]
        own = axes.plot(range(len(members)), values, color=COLOURS[0], marker="o", zorder=3)
        interval_bars(axes, range(len(members)), lows, highs, ecolor=COLOURS[0], zorder=3)
        lines = list(own)
        for place, (_, row) in enumerate(printed):
            look = _hollow(place) | {"linestyle": DASHES[1 + place % 3], "linewidth": 0.8}
            values = [row["values"].get(view, np.nan) for view in members]
            lines += axes.plot(range(len(members)), values, color=look["markeredgecolor"], **look)
        if kind == _OTHER:  # no levels of one thing
            for line in lines:
                line.set_linestyle("none")
        handles = handles or lines
        axes.set_title(kind)
        axes.set_xticks(range(len(members)), [_tick(view, kind) for view in members])
        axes.set_xlim(-0.4, len(members) - 0.6)
    columns[0].set_ylabel(f"mean {_axis_title(metric)}")
    percent_axis(columns[0].yaxis)
    figure.legend(handles, names, loc="outside lower center", ncols=min(4, len(names)))
    return figure


def _kinds_of_views(views: list[str]) -> dict[str, list[str]]:
    """Views by the part of their name before `_`, each led by `raw`; those without such a part together."""
    kinds: dict[str, list[str]] = {}
    for view in views:
        if view != "raw":
            kind, _, level = view.partition("_")
            kinds.setdefault(kind if level else _OTHER, []).append(view)
    start = [view for view in views if view == "raw"]
    ordered = sorted(kinds, key=lambda kind: kind == _OTHER)  # last, otherwise as they come
    return {kind: start + kinds[kind] for kind in ordered}


def _tick(view: str, kind: str) -> str:
    return view.removeprefix(f"{kind}_")


@styled
def variation_against_accuracy(rows: Sequence[tuple[str, float, float, float]]) -> "Figure":
    """
    Accuracy against intra-class variation, and against inter-class separation.

    Args:
        rows (`Sequence[tuple]`):
            Name, variation, separation and accuracy (a fraction) of each detector or set; `None` where undefined.

    Raises:
        ValueError: there is no row.
    """
    if not rows:
        raise ValueError("`rows` is empty")
    numbers = np.array([row[1:] for row in rows], dtype=float)  # (R, 3), NaN for `None`
    figure = new_figure(2.6 + 0.17 * -(-len(rows) // 4))
    handles: list = []
    pair = panels(figure, 2, 2, sharey=True)
    for axes, column, title in zip(pair, (0, 1), ("intra-class variation", "inter-class separation"), strict=True):
        points = [
            axes.plot(
                *numbers[place, [column, 2]],
                linestyle="none",
                marker=MARKERS[place % len(MARKERS)],
                color=COLOURS[place % len(COLOURS)],
                markersize=6,
            )[0]
            for place in range(len(rows))
        ]
        handles = handles or points
        axes.set_xlabel(title)
        axes.grid(True, axis="both")
        axes.margins(0.1)
    pair[0].set_ylabel("accuracy (%)")
    percent_axis(pair[0].yaxis)
    figure.legend(handles, [label(row[0]) for row in rows], loc="outside lower center", ncols=min(4, len(rows)))
    return figure


@styled
def heat_map(values, row_names: Sequence[str], column_names: Sequence[str], title: str) -> "Figure":
    """
    Fractions as a map with each number, in percent, in its cell.

    Args:
        values (array-like of shape `(R, C)`):
            Fractions; NaN or `None` where there is none.
        row_names, column_names (`Sequence[str]`):
            As many as there are rows and columns.
        title (`str`):
            What is shown; "(%)" is put behind it.

    Raises:
        ValueError: the names don't fit the values, or no value is there.
    """
    values = np.asarray(values, dtype=float)
    if values.shape != (len(row_names), len(column_names)):
        raise ValueError(
            f"`values` of shape {values.shape} don't fit {len(row_names)} rows and {len(column_names)} columns"
        )
    if np.isnan(values).all():
        raise ValueError("`values` holds no number")
    figure = new_figure(0.9 + 0.38 * len(row_names), min(WIDTH, 1.6 + 0.62 * len(column_names)))
    axes = figure.subplots()
    axes.pcolormesh(np.ma.masked_invalid(values), cmap="cividis", edgecolors="white", linewidth=1)
    axes.set_facecolor("#eeeeee")
    for (row, column), value in np.ndenumerate(values):
        text = "–" if np.isnan(value) else f"{100 * value:.1f}"
        dark = value < (np.nanmin(values) + np.nanmax(values)) / 2
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color="white" if dark else "black")
    axes.set_xticks(np.arange(len(column_names)) + 0.5, [label(name, 14) for name in column_names])
    axes.set_yticks(np.arange(len(row_names)) + 0.5, [label(name) for name in row_names])
    axes.invert_yaxis()
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(f"{label(title, 76)} (%)")
    return figure


@styled
def sweep_curve(x: Sequence, mean, low, high, labels: tuple[str, str]) -> "Figure":
    """
    A metric over the values of one setting, evenly spaced, with intervals.

    Args:
        x (`Sequence` of length `N`):
            Values of the setting, in order.
        mean, low, high (array-like of shape `(N,)`):
            Fractions; NaN or `None` where there is none.
        labels (`tuple[str, str]`):
            Titles of the two axes.

    Raises:
        ValueError: lengths differ, or there is no value.
    """
    columns = [np.asarray(column, dtype=float) for column in (mean, low, high)]
    if not len(x) or any(column.shape != (len(x),) for column in columns):
        shapes = ", ".join(str(column.shape) for column in columns)
        raise ValueError(f"`mean`, `low` and `high` of shapes {shapes} don't fit {len(x)} values of `x`")
    figure = new_figure(2.4, WIDTH / 2)
    axes = figure.subplots()
    axes.plot(range(len(x)), columns[0], color=COLOURS[0], marker="o")
    interval_bars(axes, range(len(x)), columns[1], columns[2], ecolor=COLOURS[0])
    axes.set_xticks(range(len(x)), [label(str(value), 12) for value in x])
    axes.set(xlabel=label(labels[0], 60), ylabel=f"{label(labels[1], 40)} (%)")
    axes.margins(x=0.08)
    percent_axis(axes.yaxis)
    return figure


__all__ = ["degradation_curves", "generator_bars", "heat_map", "sweep_curve", "variation_against_accuracy"]
