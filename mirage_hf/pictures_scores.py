"""Pictures of scores: histograms, calibration, ROC curves."""

from typing import TYPE_CHECKING

import numpy as np

from .benchmark_metrics import expected_calibration_error, reliability_bins
from .pictures_style import (
    COLOURS,
    DASHES,
    FAKE,
    MARKERS,
    REAL,
    WIDTH,
    Look,
    checked_scores,
    label,
    new_figure,
    panels,
    percent_axis,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HISTOGRAM_BINS = 20
_MARKED_RATES = (0.01, 0.1)


@styled
def score_histograms(
    sets: dict[str, tuple[np.ndarray, np.ndarray]], threshold: float, calibrated_threshold: float | None = None
) -> "Figure":
    """
    Histograms of the scores of real and of fake images, a panel for each set.

    Args:
        sets (`dict[str, tuple]`):
            Name -> labels and scores, both `(N,)`; a set may have one class only, or no image.
        threshold (`float`):
            The protocol's; a dashed line.
        calibrated_threshold (`float`, *optional*):
            The detector's own; a dotted line.

    Raises:
        ValueError: there is no set, or labels and scores don't fit; the message names the set.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    if not sets:
        raise ValueError("`sets` is empty")
    columns = min(len(sets), 4)
    figure = new_figure(0.7 + 1.4 * -(-len(sets) // columns))
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    real: Look = {"facecolor": REAL, "edgecolor": "#1f5a80", "linewidth": 0.6}
    fake: Look = {"facecolor": "none", "edgecolor": FAKE, "linewidth": 0.8, "hatch": "/////"}
    lines = {f"threshold ({threshold:.4g})": (threshold, "--")}
    if calibrated_threshold is not None:
        lines[f"the detector's own threshold ({calibrated_threshold:.4g})"] = (calibrated_threshold, ":")
    grid = panels(figure, len(sets), columns, sharex=True)
    for axes, (name, (labels, scores)) in zip(grid, sets.items(), strict=True):
        labels, scores = checked_scores(labels, scores, repr(name))
        axes.set_title(label(name))
        axes.set_xlim(0, 1)
        axes.xaxis.set_tick_params(labelbottom=True)
        if not len(scores):
            axes.text(0.5, 0.5, "no images", ha="center", va="center", transform=axes.transAxes)
            axes.set_yticks([])
            continue
        for class_id, look in ((0, real), (1, fake)):
            counts, _ = np.histogram(scores[labels == class_id], bins=edges)
            axes.bar(edges[:-1], counts, width=1 / HISTOGRAM_BINS, align="edge", **look)
        for value, dash in lines.values():
            axes.axvline(value, color="black", linestyle=dash, linewidth=1)
    figure.supxlabel("probability of fake", fontsize=8)
    figure.supylabel("images", fontsize=8)
    looks: list[Look] = [{"color": "black", "linestyle": dash, "linewidth": 1} for _, dash in lines.values()]
    handles = [Patch(**real), Patch(**fake), *(Line2D([], [], **look) for look in looks)]
    figure.legend(handles, ["real", "fake", *lines], loc="outside upper center", ncols=4)
    return figure


@styled
def reliability_diagram(labels, scores) -> "Figure":
    """
    Share of fakes against the mean probability of fake in each of 15 bins, over the number of images of each.

    Args:
        labels (array-like of shape `(N,)`):
            0 for real and 1 for fake. With one class only there is nothing to compare with: no line, only counts.
        scores (array-like of shape `(N,)`):
            Probability of fake, in [0, 1].

    Raises:
        ValueError: labels and scores don't fit.
    """
    labels, scores = checked_scores(labels, scores, "`scores`")
    bins = reliability_bins(scores, labels)
    figure = new_figure(3.6, WIDTH / 2)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="#777777", linestyle="--", linewidth=0.8, label="calibrated")
    if len(np.unique(labels)) < 2:
        upper.text(0.5, 0.4, "one class only", ha="center", va="center")
    else:
        filled = [found for found in bins if found.size]
        upper.plot(
            [found.mean_score for found in filled],  # type: ignore[misc]
            [found.share_of_fakes for found in filled],  # type: ignore[misc]
            color=COLOURS[0],
            marker="o",
            label=f"ECE {100 * expected_calibration_error(scores, labels):.1f}%",
        )
    upper.set(xlim=(0, 1), ylim=(-0.02, 1.02), ylabel="share of fakes (%)")
    percent_axis(upper.yaxis)
    upper.legend(loc="upper left")
    width = 1 / len(bins)
    lower.bar(
        [(place + 0.5) * width for place in range(len(bins))],
        [found.size for found in bins],
        width=width,
        facecolor="#bbbbbb",
        edgecolor="#444444",
        linewidth=0.6,
    )
    lower.set(xlabel="probability of fake", ylabel="images")
    return figure


@styled
def roc_curves(curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> "Figure":
    """
    ROC curves on a linear and on a logarithmic axis, 1% and 10% of false positives marked, areas in the legend.

    Args:
        curves (`dict[str, tuple]`):
            Name -> labels and scores, both `(N,)`; one with a single class has no curve, and the legend says so.

    Raises:
        ValueError: there is no curve to draw, or labels and scores don't fit; the message names the curve.
    """
    from matplotlib.lines import Line2D
    from sklearn.metrics import roc_auc_score, roc_curve

    if not curves:
        raise ValueError("`curves` is empty")
    columns = {name: checked_scores(labels, scores, repr(name)) for name, (labels, scores) in curves.items()}
    if all(len(np.unique(labels)) < 2 for labels, _ in columns.values()):
        raise ValueError("`curves`: none has both real and fake images")
    rows = -(-len(curves) // 3)
    figure = new_figure(2.9 + 0.17 * rows)
    linear, log = figure.subplots(1, 2, sharey=True)
    linear.plot([0, 1], [0, 1], color="#777777", linestyle="--", linewidth=0.8)
    handles, names = [], []
    for place, (name, (labels, scores)) in enumerate(columns.items()):
        if len(np.unique(labels)) < 2:
            handles.append(Line2D([], [], linestyle="none"))
            names.append(f"{label(name)}: one class only")
            continue
        false, true, _ = roc_curve(labels, scores)
        look: Look = {
            "color": COLOURS[place % len(COLOURS)],
            "linestyle": DASHES[place % len(DASHES)],
            "marker": MARKERS[place % len(MARKERS)],
            "markevery": (0.03 * (place % 7), 0.21),  # shares of the picture's diagonal
        }
        handles.append(linear.plot(false, true, **look)[0])
        log.plot(false, true, **look)
        names.append(f"{label(name)}: AUC {100 * roc_auc_score(labels, scores):.1f}")
    for axes in (linear, log):
        for rate in _MARKED_RATES:
            axes.axvline(rate, color="black", linewidth=0.8, linestyle=":")
    linear.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), ylabel="fakes found (%)", xlabel="reals called fake (%)")
    log.set_xscale("log")
    log.set(xlim=(1e-3, 1), xlabel="reals called fake (%), logarithmic")
    log.set_xticks([0.001, 0.01, 0.1, 1], ["0.1", "1", "10", "100"])
    percent_axis(linear.xaxis)
    percent_axis(linear.yaxis)
    figure.legend(handles, names, loc="outside lower center", ncols=min(3, len(names)))
    return figure


__all__ = ["reliability_diagram", "roc_curves", "score_histograms"]
