"""The table of a sweep, from stored runs alone: `results.json`, `table.md`, `table.csv` and, for `vary`, a figure."""

import json
from pathlib import Path
from typing import Any

from .benchmark_metrics import METRICS
from .files import write_atomically
from .sweep_figures import draw_figures
from .sweep_files import read_run, run_folder
from .sweep_grid import Grid, Setting
from .sweep_markdown import render_csv, render_markdown
from .sweep_statistics import bootstrap_settings, paired_interval, read_scores, student_interval

SCHEMA_VERSION = 1
# Places may differ: a table can be made where the data aren't.
MOVABLE = ("data", "model_name_or_path", "real_root")


def write_tables(grid: Grid, runs_dir: str | Path, output_dir: str | Path, replicates: int = 0) -> Path:
    """
    Writes the tables of all finished runs.

    Args:
        grid ([`Grid`]): Order and titles of the rows.
        runs_dir (`str` or `Path`): Where the runs are.
        output_dir (`str` or `Path`): Where the tables go.
        replicates (`int`, *optional*, defaults to 0): Draws of the bootstrap over images and seeds; 0 leaves it out.

    Returns:
        `Path`: `table.md`.

    Raises:
        ValueError: no run is finished, or stored runs don't fit the grid or each other.
    """
    output_dir = Path(output_dir)
    results = build_results(grid, Path(runs_dir), replicates)
    write_atomically(output_dir / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    write_atomically(output_dir / "table.csv", render_csv(results))
    figures = draw_figures(results, output_dir)
    write_atomically(output_dir / "table.md", render_markdown(results, figures))
    return output_dir / "table.md"


def build_results(grid: Grid, runs_dir: Path, replicates: int = 0) -> dict[str, Any]:
    """
    Everything that the tables show.

    Returns:
        `dict`: With a `schema_version`; `settings` holds, for each finished setting, `sets` (cells by generator and of
        their mean), `differences` to the reference, and `cost`. A cell is a dict of [`student_interval`], or `None`.

    Raises:
        ValueError: as [`write_tables`].
    """
    found = {setting.name: _finished(grid, setting, runs_dir) for setting in grid.settings.values()}
    runs = {name: by_seed for name, by_seed in found.items() if by_seed}
    if not runs:
        raise ValueError(f"no run of {grid.name} is finished in {runs_dir}; run the stage `train` first")
    everything = [run for by_seed in runs.values() for run in by_seed.values()]
    first = everything[0]
    if any(run["identity"]["test"] != first["identity"]["test"] for run in everything):
        raise ValueError(f"the runs in {runs_dir} were scored on different test sets: run them again with --redo")
    settings = {name: _describe(grid, grid.settings[name], runs, name) for name in runs}
    if replicates:
        for test in grid.test:
            scored = {
                name: {
                    seed: read_scores(run_folder(runs_dir, name, seed) / "scores" / f"{test}.csv", run["threshold"])
                    for seed, run in by_seed.items()
                }
                for name, by_seed in runs.items()
            }
            reference = grid.reference if grid.reference in runs else None
            for name, intervals in bootstrap_settings(scored, grid.metrics, reference, replicates=replicates).items():
                settings[name].setdefault("bootstrap", {})[test] = intervals
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "sweep",
        "grid": grid.name,
        "title": grid.title,
        "reference": grid.reference,
        "metrics": grid.metrics,
        "seeds": grid.seeds,
        "axes": grid.axes,
        "replicates": replicates,
        "sets": {
            test: {
                "generators": {
                    name: {key: facts[key] for key in ("n_real", "n_fake")}
                    for name, facts in first["sets"][test]["generators"].items()
                },
                "mean_over": first["sets"][test]["mean_over"],
            }
            for test in grid.test
        },
        "settings": settings,
        "missing": [f"{setting.name} seed{seed}" for setting, seed in grid.runs() if seed not in found[setting.name]],
        "environments": _distinct(run["environment"] for run in everything),
        "versions": _distinct(run["identity"]["versions"] for run in everything),
        "published": None if grid.published is None else _published(grid.published),
    }


def _finished(grid: Grid, setting: Setting, runs_dir: Path) -> dict[int, dict[str, Any]]:
    """Finished runs by seed, if they were made of what the grid says now."""
    runs = {}
    for seed in grid.seeds:
        run = read_run(run_folder(runs_dir, setting.name, seed))
        if run is None:
            continue
        names = [key for key in {*run["recipe"], *setting.arguments} if key not in MOVABLE]
        changed = sorted(key for key in names if run["recipe"].get(key) != setting.arguments.get(key))
        if changed:
            raise ValueError(
                f"{setting.name} seed{seed} in {runs_dir} was trained with another {', '.join(changed)} than the "
                "grid says now: give the same flags as for training, or train it again with --redo"
            )
        if set(run["sets"]) != set(grid.test):
            raise ValueError(
                f"{setting.name} seed{seed} was scored on {', '.join(run['sets'])}: run it again (--redo)"
            )
        runs[seed] = run
    return runs


def _describe(grid: Grid, setting: Setting, runs: dict[str, dict[int, dict[str, Any]]], name: str) -> dict[str, Any]:
    mine, others = runs[name], runs.get(grid.reference or "", {})
    sets, differences = {}, {}
    for test in grid.test:
        parts = [run["sets"][test] for run in mine.values()]
        sets[test] = {
            "generators": {
                generator: {
                    key: student_interval([part["generators"][generator]["metrics"][key] for part in parts])
                    for key in METRICS
                }
                for generator in parts[0]["generators"]
            },
            "mean": {key: student_interval([part["mean"][key] for part in parts]) for key in METRICS},
        }
        if others and name != grid.reference:
            values, reference = (
                {key: {seed: run["sets"][test]["mean"][key] for seed, run in side.items()} for key in METRICS}
                for side in (mine, others)
            )
            differences[test] = {key: paired_interval(values[key], reference[key]) for key in METRICS}
    trainings = [run["training"] for run in mine.values()]
    cost = {
        "training_minutes": student_interval([one["wall_seconds"] / 60 for one in trainings]),
        "training_cpu_minutes": student_interval([one["cpu_seconds"] / 60 for one in trainings]),
        "training_images_per_second": student_interval([one["images_per_second"] for one in trainings]),
        "peak_process_mib": student_interval([one["peak_memory_mib"]["process"] for one in trainings]),
        "peak_device_mib": student_interval([one["peak_memory_mib"]["device"] for one in trainings]),
        "latency_ms_per_image": student_interval(
            [one["latency_ms_per_image"] for run in mine.values() for one in list(run["scoring"].values())[:1]]
        ),
        "parameters": next(iter(mine.values()))["parameters"],
    }
    described = {"title": setting.title, "changes": setting.changes, "seeds": list(mine)}
    return described | {"sets": sets, "differences": differences, "cost": cost}


def _distinct(values) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _published(name: str) -> dict[str, Any]:
    from .published import TABLES, read_rows

    rows = read_rows(name)
    return {"name": name, "source": TABLES[name], "rows": rows}


__all__ = ["build_results", "write_tables"]
