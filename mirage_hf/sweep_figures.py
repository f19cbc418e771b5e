"""Figures of a sweep over one or two arguments: the first metric's mean over generators."""

from pathlib import Path
from typing import Any

from .benchmark_metrics import METRICS
from .sweep_grid import varied_name

Cell = dict[str, Any]
NOTHING: Cell = {"mean": None, "low": None, "high": None}


def draw_figures(results: dict[str, Any], output_dir: Path) -> list[str]:
    """
    A curve for one axis in `vary`, a heat map for two; nothing for other numbers, or before there are results of it.

    Returns:
        `list[str]`: Names of the files written into `output_dir`, one for each test set.
    """
    axes, metric = results["axes"], results["metrics"][0]
    written = []
    for test in results["sets"]:
        cells = {name: setting["sets"][test]["mean"][metric] for name, setting in results["settings"].items()}
        several = len(results["sets"]) > 1
        figure = _draw(axes, cells, f"{METRICS[metric]}, {test}" if several else METRICS[metric])
        if figure is not None:
            from .pictures import save_figure

            written.append(f"figure_{test}.png" if several else "figure.png")
            save_figure(figure, output_dir / written[-1])
    return written


def _draw(axes: dict[str, list[Any]], cells: dict[str, Cell | None], title: str) -> Any:
    def cell(**changes) -> Cell:
        return cells.get(varied_name(changes)) or NOTHING

    if len(axes) == 1:
        ((name, x),) = axes.items()
        line = [cell(**{name: value}) for value in x]
        if any(one["mean"] is not None for one in line):
            from .pictures import sweep_curve

            mean, low, high = ([one[key] for one in line] for key in ("mean", "low", "high"))
            return sweep_curve(x, mean, low, high, (name, title))
    if len(axes) == 2:
        (name, rows), (other, columns) = axes.items()
        means = [[cell(**{name: row, other: column})["mean"] for column in columns] for row in rows]
        if any(mean is not None for line in means for mean in line):
            from .pictures import heat_map

            row_names = [f"{name} {value}" for value in rows]
            return heat_map(means, row_names, [str(value) for value in columns], f"{title}, by {other}")
    return None


__all__ = ["draw_figures"]
