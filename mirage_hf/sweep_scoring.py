"""Scores of one run of a sweep: its test sets, each image once, their metrics, and how long a forward pass takes."""

import csv
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .benchmark_metrics import set_metrics
from .data import load_detection_dataset
from .detector_loading import LoadedDetector
from .evaluation import evaluate_by_generator, mean_of_defined
from .prediction import Predictions, predict_scores
from .training_args import MiraGeTrainingArguments


def score_set(
    detector: LoadedDetector, options: Mapping[str, Any], args: MiraGeTrainingArguments
) -> tuple[Predictions, dict[str, Any]]:
    """
    Scores a test set, an image that several generators share once.

    Args:
        detector ([`LoadedDetector`]): From [`load_detector`].
        options (`Mapping`): Arguments of [`load_detection_dataset`], its `data` among them.
        args ([`MiraGeTrainingArguments`]): Device, batch size and workers.

    Returns:
        `tuple`: [`Predictions`], one for each row, and seconds.
    """
    options = dict(options)
    dataset, report = load_detection_dataset(options.pop("data"), return_report=True, **options)
    paths = dataset["path"]
    first = {path: row for row, path in reversed(list(enumerate(paths)))}
    images = dataset.select(sorted(first.values()))
    forward: list[float] = []  # seconds for each image, batch by batch
    handles = _time_forward(detector.model, forward)
    start = time.perf_counter()
    found = predict_scores(
        detector.model,
        images,
        detector.transform,
        batch_size=args.per_device_eval_batch_size,
        device=args.device,
        num_workers=args.dataloader_num_workers,
    )
    wall = time.perf_counter() - start
    for handle in handles:
        handle.remove()
    score_of = dict(zip(found.paths, found.scores.tolist(), strict=True))
    rows = [row for row, path in enumerate(paths) if path in score_of]
    labels, generators = dataset["label"], dataset["generator"]
    predictions = Predictions(
        np.array([score_of[paths[row]] for row in rows]),
        np.array([labels[row] for row in rows]),
        [generators[row] for row in rows],
        [paths[row] for row in rows],
        found.skipped + [{"index": None, "path": path, "error": error} for path, error in report.skipped],
    )
    seconds = {
        "images": len(images),
        "wall_seconds": round(wall, 2),
        "images_per_second": round(len(images) / wall, 2),
        "latency_ms_per_image": round(1000 * statistics.median(forward), 4),  # the model alone, nothing is read
    }
    return predictions, seconds


def _time_forward(model: torch.nn.Module, seconds: list[float]) -> list[Any]:
    """Appends the seconds for each image to a list at every forward pass, until the handles are removed."""
    started: list[float] = []

    def clock() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def before(module, args, kwargs) -> None:
        started.append(clock())

    def after(module, args, kwargs, output) -> None:
        seconds.append((clock() - started.pop()) / len(kwargs["pixel_values"]))

    return [
        model.register_forward_pre_hook(before, with_kwargs=True),
        model.register_forward_hook(after, with_kwargs=True),
    ]


def describe_scores(predictions: Predictions, threshold: float | None) -> dict[str, Any]:
    """
    Metrics of each generator of a test set, and their plain mean over the generators with both classes.

    Args:
        predictions ([`Predictions`]): One score for each row.
        threshold (`float`, *optional*): The detector's own; what needs it is `None` without.
    """
    report = evaluate_by_generator(predictions.scores, predictions.labels, predictions.generators)
    names = np.array(predictions.generators, dtype=object)
    generators: dict[str, dict[str, Any]] = {}
    for name, counts in report.generators.items():
        rows = names == name
        metrics = set_metrics(predictions.scores[rows], predictions.labels[rows], 0.5, threshold)
        generators[name] = {"n_real": counts["n_real"], "n_fake": counts["n_fake"], "metrics": metrics}
    keys = next(iter(generators.values()))["metrics"]
    return {
        "generators": generators,
        "mean": {key: mean_of_defined(generators[name]["metrics"][key] for name in report.mean_over) for key in keys},
        "mean_over": report.mean_over,
        "skipped": [{"path": item["path"], "error": item["error"]} for item in predictions.skipped],
    }


def write_scores(path: Path, predictions: Predictions) -> None:
    """Writes scores as they are, to the last digit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = (predictions.paths, predictions.generators, predictions.labels, predictions.scores.tolist())
    with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "generator", "label", "p_fake"])
        writer.writerows(zip(*columns, strict=True))


__all__ = ["describe_scores", "score_set", "write_scores"]
