"""Detectors beside each other on one benchmark: means, paired differences, and pictures that show them together.

    mirage-hf compare outputs/benchmark/mirage outputs/benchmark/clip --output-dir outputs/comparison

Each folder is the output of one `mirage-hf benchmark`; all must have run the same protocol on the same images.
"""

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .benchmark_files import SetScores, join_sets, load_scores
from .benchmark_metrics import METRICS
from .benchmark_output import sample_embeddings
from .benchmark_report import validate_results
from .files import write_atomically
from .intervals import ScoredSet, bootstrap_differences
from .pictures import embedding_map, figure_svg, roc_curves, variation_against_accuracy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA_VERSION = 1


def compare_benchmarks(folders: list[str | Path], replicates: int = 1000) -> dict[str, Any]:
    """
    Compare finished benchmark runs, the first being the reference.

    Args:
        folders (`list[str | Path]`):
            Output folders; names of detectors come from the folders' names, and must differ.
        replicates (`int`, *optional*, defaults to 1000):
            Bootstrap draws for the differences.

    Returns:
        `dict`: `schema_version`, `protocol`, `reference`, and `views`: view -> detector -> `metrics` and `intervals`
        of the mean over the sets, and `differences` (reference less detector; `[estimate, low, high]` or `None`).

    Raises:
        OSError, ValueError: a folder holds no finished run, or the runs don't fit together; the folder is named.
    """
    paths = [Path(folder) for folder in folders]
    names = [path.resolve().name for path in paths]
    if len(paths) < 2 or len(set(names)) < len(names):
        raise ValueError("a comparison needs two or more folders of different names")
    runs = [read_run(path) for path in paths]
    first, identity = runs[0]
    for path, (_, other) in zip(paths, runs, strict=True):
        for key in ("protocol", "data", "limit_per_class", "alignment"):
            if other[key] != identity[key]:
                raise ValueError(f"'{path}' has run on another {key} than '{paths[0]}'")
    views = {}
    for view in first["views"]:
        present = [index for index, (results, _) in enumerate(runs) if view in results["views"]]
        if len(present) > 1:
            views[view] = _compare_view(view, [(paths[i], names[i], runs[i][0]) for i in present], replicates)
    return {"schema_version": SCHEMA_VERSION, "protocol": first["protocol"], "reference": names[0], "views": views}


def read_run(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    Results and identity of a finished run.

    Raises:
        ValueError: there is none.
    """
    if not (folder / "results.json").is_file() or not (folder / "identity.json").is_file():
        raise ValueError(f"'{folder}' holds no finished benchmark run")
    results, identity = (
        json.loads((folder / name).read_text(encoding="utf-8")) for name in ("results.json", "identity.json")
    )
    validate_results(results)
    return results, identity


def _compare_view(view: str, runs: list[tuple[Path, str, dict[str, Any]]], replicates: int) -> dict[str, Any]:
    scored = []
    covered = runs[0][2]["views"][view]["mean"]["over"]
    for path, _, results in runs:
        if results["views"][view]["mean"]["over"] != covered:
            raise ValueError(f"the means of '{path}' cover other sets than those of '{runs[0][0]}' (view {view})")
        found = {name: load_scores(path, view, name) for name in covered}
        scored.append({name: ScoredSet(one.paths, one.labels, one.scores) for name, one in found.items()})
    compared = {}
    threshold, reference = runs[0][2]["protocol"]["threshold"], runs[0][2]
    for (_, name, results), sets in zip(runs, scored, strict=True):
        mean = results["views"][view]["mean"]
        entry = {"metrics": mean["metrics"], "intervals": mean["intervals"], "differences": None}
        if results is not reference:
            own = (reference["model"]["threshold"], results["model"]["threshold"])
            intervals = bootstrap_differences(scored[0], sets, threshold, own, replicates=replicates)
            estimates = reference["views"][view]["mean"]["metrics"]
            entry["differences"] = {
                key: _difference(estimates[key], mean["metrics"][key], intervals[key]) for key in METRICS
            }
        compared[name] = entry
    return compared


def _difference(first: float | None, second: float | None, ends: tuple[float, float] | None) -> list[float] | None:
    if first is None or second is None or ends is None:
        return None
    return [round(value, 6) for value in (first - second, *ends)]


def comparison_markdown(comparison: dict[str, Any]) -> str:
    """A table for each view: the headline metrics of each detector, and by how much the reference is above."""
    protocol, reference = comparison["protocol"], comparison["reference"]
    metrics = protocol["metrics"]
    lines = [f"# {protocol['title']}: detectors compared", ""]
    for view, compared in comparison["views"].items():
        titles = [METRICS[metric] for metric in metrics]
        lines += [f"## View: {view}", ""]
        lines.append(f"| detector | {' | '.join(titles)} | {' | '.join(f'{title}, difference' for title in titles)} |")
        lines.append("|---" + "|--:" * (2 * len(metrics)) + "|")
        for name, entry in compared.items():
            cells = [_cell(entry["metrics"][key], entry["intervals"][key]) for key in metrics]
            differences = entry["differences"] or {}
            cells += [_cell(*_split(differences.get(key)), sign="+") for key in metrics]
            lines.append(f"| {name.replace('|', chr(92) + '|')} | {' | '.join(cells)} |")
        lines.append("")
    lines.append(
        f"Percent, means over the sets, with 95% intervals by images. Differences: {reference} less the row, both on "
        f"the same draws of images; accuracies at a threshold of {protocol['threshold']:g}."
    )
    return "\n".join(lines) + "\n"


def _split(difference: list[float] | None) -> tuple[float | None, list[float] | None]:
    return (None, None) if difference is None else (difference[0], difference[1:])


def _cell(value: float | None, ends: list[float] | None, sign: str = "") -> str:
    if value is None:
        return "–"
    shown = f"{100 * value:{sign}.1f}"
    return shown if ends is None else f"{shown} [{100 * ends[0]:{sign}.1f}, {100 * ends[1]:{sign}.1f}]"


def comparison_csv(comparison: dict[str, Any]) -> str:
    """Long form: view, detector, metric, value, low, high, difference, difference_low, difference_high."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["view", "detector", "metric", "value", "low", "high", "difference", "difference_low", "difference_high"]
    )
    for view, compared in comparison["views"].items():
        for name, entry in compared.items():
            for key in METRICS:
                ends = entry["intervals"][key] or ("", "")
                difference = (entry["differences"] or {}).get(key) or ("", "", "")
                value = "" if entry["metrics"][key] is None else entry["metrics"][key]
                writer.writerow([view, name, key, value, *ends, *difference])
    return text.getvalue()


def draw_comparison(folders: list[str | Path]) -> dict[str, "Figure"]:
    """
    Pictures of several runs: ROC curves over all images, embedding maps side by side (Figure 2 of the paper), and
    variation and separation against accuracy. What a run has no embeddings for is left out.
    """
    curves: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    maps, rows = {}, []
    for folder in map(Path, folders):
        name = folder.resolve().name
        results, _ = read_run(folder)
        raw = results["views"]["raw"]
        scored: dict[str, SetScores] = {key: load_scores(folder, "raw", key) for key in raw["sets"]}
        images = join_sets(scored)
        curves[name] = (images.labels, images.scores)
        accuracy = raw["mean"]["metrics"]["balanced_accuracy"]
        if raw["representation"] is not None and accuracy is not None:
            maps[name] = sample_embeddings(images, scored)
            measured = raw["representation"]["euclidean"]
            rows.append((name, measured["intra_class_variation"], measured["inter_class_separation"], accuracy))
    pictures = {"roc": roc_curves(curves)}
    if maps:
        pictures["embeddings"] = embedding_map(maps)
        pictures["representation"] = variation_against_accuracy(rows)
    return pictures


def write_comparison(folders: list[str | Path], output_dir: str | Path, replicates: int = 1000) -> dict[str, Any]:
    """Writes `comparison.json`, `.md`, `.csv` and `pictures/*.svg`, and gives the comparison."""
    output, comparison = Path(output_dir), compare_benchmarks(folders, replicates)
    pictures = {name: figure_svg(figure) for name, figure in draw_comparison(folders).items()}
    write_atomically(output / "comparison.json", json.dumps(comparison, indent=1, ensure_ascii=False) + "\n")
    write_atomically(output / "comparison.md", comparison_markdown(comparison))
    write_atomically(output / "comparison.csv", comparison_csv(comparison))
    for name, svg in pictures.items():
        write_atomically(output / "pictures" / f"{name}.svg", svg)
    return comparison


__all__ = ["compare_benchmarks", "comparison_csv", "comparison_markdown", "write_comparison"]
