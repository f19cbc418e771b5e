"""The evidence table, from stored scores alone: `table.json` with every number, `table.md` to be read."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mirage_hf.files import write_atomically

from . import storage
from .bootstrap import EQUAL_FPR, draw_weights, interval
from .grid import Grid
from .markdown import render
from .scoring import average_groups, list_generators, score_setting

REPLICATES = 1000
COMPARED = ("ap", "auc", "balanced_chosen", "balanced_equal", "tpr")


def write_tables(grid: Grid, results: Path) -> None:
    """Writes `table.json` and `table.md` into the folder of results."""
    table = build_table(grid, results)
    write_atomically(results / "table.json", json.dumps(table, indent=1) + "\n")
    sweeps = results / "sweeps.json"
    runs = json.loads(sweeps.read_text(encoding="utf-8")) if sweeps.is_file() else []
    write_atomically(results / "table.md", render(table, summarise_sweeps(grid, runs)))


def build_table(grid: Grid, results: Path, replicates: int = REPLICATES) -> dict[str, Any]:
    """
    Metrics of every stored setting with intervals, and of its paired difference to the reference.

    Args:
        grid ([`Grid`]): Order and titles of the rows.
        results (`Path`): Folder of results.
        replicates (`int`, *optional*): Bootstrap draws.

    Returns:
        `dict`: `generators` (family of each), `seen`, `apart`, `groups`, `counts` and `settings`; a setting has
        `metrics` and `differences` (reference less it), `[estimate, low, high]` each, beside means over its runs.

    Raises:
        ValueError: stored results don't fit together, or the reference has none.
    """
    index = storage.read_index(results)
    rows, columns = index.select("test")
    families = list_generators(columns)
    seen = sorted(list_generators(index.select("validation")[1]))
    groups = average_groups(families, seen, grid.apart)
    names = [name for name in grid.settings if storage.has_results(results, name)]
    if grid.reference not in names:
        raise ValueError(f"there are no results of {grid.reference}, which the others are compared with")
    stored = {name: storage.read_scores(results, name, index) for name in names}
    seeds = [run["seed"] for run in stored[grid.reference][0]["runs"]]
    image_weights, seed_weights = draw_weights(columns["photo"].tolist(), len(seeds), replicates)
    values: dict[str, dict[str, np.ndarray]] = {}
    for name, (facts, scores) in stored.items():
        found = [run["seed"] for run in facts["runs"]]
        if found != seeds and len(found) > 1:
            raise ValueError(
                f"{name} has runs of the seeds {found}, {grid.reference} of {seeds}: they can't be paired"
            )
        cuts = [
            {"chosen": run["threshold"], "equal": run["equal_rate_threshold"], "half": 0.0} for run in facts["runs"]
        ]
        values[name] = score_setting(scores[:, rows], cuts, columns, groups, image_weights, seed_weights)
    settings = {}
    for name, (facts, _) in stored.items():
        compared = {
            metric: interval(values[grid.reference][metric] - values[name][metric])
            for metric in values[name]
            if metric.partition("/")[0] in COMPARED or metric.startswith("fpr_chosen")
        }
        settings[name] = {
            "title": grid.settings[name].title,
            "seeds": [run["seed"] for run in facts["runs"]],
            "metrics": {metric: interval(found) for metric, found in values[name].items()},
            "differences": compared,
            **_describe_runs(facts["runs"]),
        }
    kinds, counts = np.unique(columns["kind"], return_counts=True)
    return {
        "reference": grid.reference,
        "replicates": replicates,
        "equal_fpr": EQUAL_FPR,
        "photographs": len(np.unique(columns["photo"])),
        "counts": dict(zip(kinds.tolist(), counts.tolist(), strict=True)),
        "generators": families,
        "seen": seen,
        "apart": [name for name in grid.apart if name in families],
        "groups": groups,
        "settings": settings,
    }


def mean_of(values: Iterable[float]) -> float:
    return round(float(np.mean(list(values))), 5)


def _describe_runs(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over runs of what isn't resampled."""
    described: dict[str, Any] = {
        key: mean_of(run[key] for run in runs) for key in ("training_cpu_seconds", "test_cpu_seconds")
    }
    for part in ("validation", "representation"):
        if part in runs[0]:
            described[part] = {key: mean_of(run[part][key] for run in runs) for key in runs[0][part]}
    return described


def summarise_sweeps(grid: Grid, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Validation metrics of each varied setting and of what it varies, means over seeds.

    Args:
        grid ([`Grid`]): Names the sweeps.
        runs (`list[dict]`): From `sweeps.json`.
    """
    by_name: dict[str, list[dict[str, float]]] = {}
    for run in runs:
        by_name.setdefault(run["setting"], []).append(run["validation"])
    rows = []
    for name, found in by_name.items():
        setting = grid.settings.get(name) or grid.sweeps[name]
        means = {key: mean_of(one[key] for one in found) for key in found[0]}
        spread = round(float(np.ptp([one["selection"] for one in found])), 5)
        rows.append({"setting": name, "base": setting.base or name, "runs": len(found), "spread": spread} | means)
    return sorted(rows, key=lambda row: (list(grid.settings).index(row["base"]), row["setting"]))
