"""What all pictures share: one look, in print and without colours too, and files that are equal byte by byte.

Pictures are made as `Figure` objects without pyplot, so that none stays open, and global settings are left alone.
"""

import functools
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np

from .benchmark_tables import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours without the yellow, which is too light for lines; markers and dashes tell the rest apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
MARKERS = "os^DvPX<>hp*"
DASHES = ("-", "--", "-.", ":")
REAL, FAKE = "#56B4E9", "#D55E00"
WIDTH = 7.0  # inches: both columns of a paper
_STYLE = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelsize": 8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 8,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica", "sans-serif"],
    "font.size": 8,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "savefig.dpi": 200,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "mirage_hf",
    "text.parse_math": False,  # a set may be called $x$
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
}
# Without dates and versions the same picture is the same file.
_METADATA: dict[str, dict[str, Any]] = {
    ".svg": dict.fromkeys(("Creator", "Date", "Format", "Type")),
    ".png": {"Software": None},
    ".pdf": dict.fromkeys(("CreationDate", "Creator", "Producer")),
}

P = ParamSpec("P")
Look = dict[str, Any]  # keyword arguments of an artist


def styled(draw: "Callable[P, Figure]") -> "Callable[P, Figure]":
    """A function that makes a figure, run in our style and in no other; its layout is settled once."""

    @functools.wraps(draw)
    def in_style(*args: P.args, **kwargs: P.kwargs) -> "Figure":
        with _style():
            figure = draw(*args, **kwargs)
            figure.draw_without_rendering()
        figure.set_layout_engine("none")  # or it would move things a little each time the figure is written
        return figure

    return in_style


def _style():
    import matplotlib.style

    return matplotlib.style.context(["default", _STYLE])


def new_figure(height: float, width: float = WIDTH) -> "Figure":
    """An empty figure, inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def panels(figure: "Figure", count: int, columns: int, **options) -> list["Axes"]:
    """`count` axes in rows of `columns`; what remains of the last row stays empty."""
    rows = -(-count // columns)
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    for axes in grid.flat[count:]:
        axes.remove()
    return list(grid.flat[:count])


def label(text: str, length: int = 28) -> str:
    """A name for a picture: on one line and not too long."""
    text = printable(text)
    return text if len(text) <= length else text[: length - 1] + "…"


def percent_axis(axis) -> None:
    """Ticks in percent on an axis of fractions, with as many decimals as they need."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.6g}"))


def interval_bars(axes: "Axes", positions, lows, highs, **options) -> None:
    """Bars from `lows` to `highs`, wherever the value itself lies; NaN draws none."""
    lows, highs = np.asarray(lows, dtype=float), np.asarray(highs, dtype=float)
    look: Look = {"ecolor": "black", "elinewidth": 0.9, "capsize": 2, "capthick": 0.9} | options
    axes.errorbar(positions, (lows + highs) / 2, yerr=(highs - lows) / 2, fmt="none", **look)


def checked_scores(labels, scores, name: str) -> tuple[np.ndarray, np.ndarray]:
    """
    Labels and scores as arrays.

    Raises:
        ValueError: lengths differ, a label is no 0 or 1, or a score isn't in [0, 1]; the message begins with `name`.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=float)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(f"{name}: labels of shape {labels.shape} and scores of shape {scores.shape} don't fit")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"{name}: labels must be 0 (real) or 1 (fake)")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError(f"{name}: scores must lie in [0, 1]")
    return labels, scores


def figure_svg(figure: "Figure") -> str:
    """
    The figure as SVG markup, text as text, to be put into a page; equal figures give equal markup.

    Returns:
        `str`: From `<svg` on, without the XML heading and its reference to a DTD.
    """
    stream = io.StringIO()
    with _style():
        figure.savefig(stream, format="svg", metadata=_METADATA[".svg"])
    markup = stream.getvalue()
    return re.sub(r"[ \t]+\n", "\n", markup[markup.index("<svg") :])


def save_figure(figure: "Figure", path: str | Path) -> None:
    """
    Write the figure as SVG, PNG or PDF, by the suffix of `path`; equal figures give equal files.

    Raises:
        ValueError: another suffix.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _METADATA:
        raise ValueError(f"{path}: the suffix must be one of {', '.join(_METADATA)}")
    if suffix == ".svg":
        path.write_text(figure_svg(figure), encoding="utf-8")
        return
    with _style():
        figure.savefig(path, format=suffix[1:], metadata=_METADATA[suffix])


__all__ = ["figure_svg", "save_figure"]
