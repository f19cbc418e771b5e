"""Writes what a benchmark found: JSON, Markdown, LaTeX, CSV, pictures, and one page that holds them all."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .benchmark_files import SetScores, join_sets, load_scores
from .benchmark_html import to_html
from .benchmark_report import to_csv, to_latex, to_markdown, validate_results
from .files import write_atomically
from .pictures import (
    degradation_curves,
    embedding_map,
    figure_svg,
    generator_bars,
    reliability_diagram,
    roc_curves,
    score_histograms,
    variation_against_accuracy,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAPPED_IMAGES = 1200  # t-SNE of so many takes seconds


def write_outputs(results: dict[str, Any], folder: str | Path) -> None:
    """
    Writes `results.json`, `.md`, `.tex`, `.csv`, `.html` and `pictures/*.svg` beside the scores.

    Args:
        results (`dict`):
            From [`run_benchmark`].
        folder (`str` or `Path`):
            Its `output_dir`, where the scores are.

    Raises:
        ValueError: the results don't fit their schema.
    """
    folder = Path(folder)
    validate_results(results)
    pictures = {title: (name, figure_svg(figure)) for title, (name, figure) in draw_pictures(results, folder).items()}
    write_atomically(folder / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    write_atomically(folder / "results.md", to_markdown(results))
    write_atomically(folder / "results.tex", to_latex(results))
    write_atomically(folder / "results.csv", to_csv(results))
    for name, svg in pictures.values():
        write_atomically(folder / "pictures" / f"{name}.svg", svg)
    write_atomically(folder / "results.html", to_html(results, {title: svg for title, (_, svg) in pictures.items()}))


def draw_pictures(results: dict[str, Any], folder: Path) -> dict[str, tuple[str, "Figure"]]:
    """
    Every picture that the results and the scores beside them allow.

    Returns:
        `dict`: Title -> file name without suffix, and figure.
    """
    metrics, model = results["protocol"]["metrics"], results["model"]
    raw = results["views"]["raw"]
    scored = {name: load_scores(folder, "raw", name) for name in raw["sets"]}
    pictures: dict[str, tuple[str, Figure]] = {}
    for metric in metrics:
        pictures[f"{_title(metric)} by set"] = (f"sets_{metric}", generator_bars(results, metric))
    pictures["Scores of real and fake images"] = (
        "scores",
        score_histograms(
            {name: (found.labels, found.scores) for name, found in scored.items()},
            results["protocol"]["threshold"],
            model["threshold"],
        ),
    )
    both = [name for name in raw["sets"] if name in raw["mean"]["over"]]
    if both:
        pictures["ROC curves"] = (
            "roc",
            roc_curves({name: (scored[name].labels, scored[name].scores) for name in both}),
        )
    images = join_sets(scored)
    pictures["Reliability"] = ("reliability", reliability_diagram(images.labels, images.scores))
    degraded = [view for view in results["views"] if view not in ("raw", "aligned")]
    for metric in metrics:
        if degraded and raw["mean"]["metrics"][metric] is not None:
            printed = [row for row in results["published_views"] if row["metric"] == metric]
            curves = degradation_curves(results, metric, printed or None)
            pictures[f"{_title(metric)} of degraded images"] = (f"degraded_{metric}", curves)
    if raw["representation"] is not None and len(images.paths) >= 20:
        pictures["Image embeddings and text anchors"] = (
            "embeddings",
            embedding_map({model["name"]: sample_embeddings(images, scored)}),
        )
    rows = [
        (
            name,
            found["representation"]["euclidean"]["intra_class_variation"],
            found["representation"]["euclidean"]["inter_class_separation"],
            found["metrics"]["balanced_accuracy"],
        )
        for name, found in raw["sets"].items()
        if found["representation"] is not None and found["metrics"]["balanced_accuracy"] is not None
    ]
    if rows:
        pictures["Variation, separation and accuracy"] = ("representation", variation_against_accuracy(rows))
    return pictures


def _title(metric: str) -> str:
    return {"average_precision": "Average precision", "roc_auc": "ROC AUC"}.get(
        metric, metric.replace("_", " ").capitalize()
    )


def sample_embeddings(images: SetScores, scored: dict[str, SetScores]) -> tuple[np.ndarray, ...]:
    """
    What [`embedding_map`] takes: image embeddings (N, D), labels (N,), sets (N,), anchors (2, D); of many images an
    evenly drawn part.
    """
    count = len(images.paths)
    chosen = np.arange(count)
    if count > MAPPED_IMAGES:
        chosen = np.sort(np.random.default_rng(0).choice(count, MAPPED_IMAGES, replace=False))
    anchors = next(iter(scored.values())).arrays["text_embeds"]
    embeds = images.arrays["image_embeds"][chosen].astype(np.float32)
    return embeds, images.labels[chosen], images.arrays["sets"][chosen], anchors


__all__ = ["draw_pictures", "sample_embeddings", "write_outputs"]
