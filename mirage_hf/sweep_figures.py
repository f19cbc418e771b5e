"""Figures of a sweep over one or two arguments: the first metric's mean over generators, in percent."""

from pathlib import Path
from typing import Any

from .benchmark_metrics import METRICS
from .sweep_grid import varied_name

Cell = dict[str, Any]


def draw_figures(results: dict[str, Any], output_dir: Path) -> list[str]:
    """
    A curve for one axis of numbers in `vary`, a heat map for two axes; nothing for other axes, or before all of their
    settings have results.

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
    names = list(axes)
    if len(axes) == 2:
        rows, columns = axes.values()
        places = [[varied_name({names[0]: row, names[1]: column}) for column in columns] for row in rows]
        grid = [[cell for name in line if (cell := cells.get(name)) is not None] for line in places]
        if all(len(line) == len(columns) for line in grid):
            from .pictures import heat_map

            means = [[100 * cell["mean"] for cell in line] for line in grid]
            row_names, column_names = ([f"{n} {value}" for value in axes[n]] for n in names)
            return heat_map(means, row_names, column_names, f"{title}, %")
    if len(axes) == 1 and all(isinstance(value, int | float) for value in axes[names[0]]):
        x = sorted(axes[names[0]])
        line = [cell for value in x if (cell := cells.get(varied_name({names[0]: value}))) is not None]
        if len(line) == len(x):
            from .pictures import sweep_curve

            # A single run has no interval: a band of no width.
            mean, low, high = (
                [100 * (cell["mean"] if cell[key] is None else cell[key]) for cell in line]
                for key in ("mean", "low", "high")
            )
            return sweep_curve(x, mean, low, high, (names[0], f"{title}, %"))
    return None


__all__ = ["draw_figures"]
