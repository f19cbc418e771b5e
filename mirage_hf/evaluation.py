"""Scoring a dataset and reporting on it generator by generator.

Two steps, so that scores can be kept and reported again: [`predict_scores`] runs the model over every row once,
[`evaluate_by_generator`] turns scores into a table.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from .metrics import detection_metrics
from .reading import load_rgb

SCHEMA_VERSION = 1
# Metric -> column title; the order of the table.
_COLUMNS = {
    "accuracy": "accuracy",
    "real_accuracy": "real acc.",
    "fake_accuracy": "fake acc.",
    "balanced_accuracy": "balanced acc.",
    "average_precision": "AP",
    "roc_auc": "AUC",
}

Metrics = dict[str, float | int | None]


@dataclass
class EvaluationReport:
    """
    Metrics of a test, generator by generator.

    Args:
        threshold (`float`):
            Score above which an image is called fake.
        generators (`dict[str, dict]`):
            [`detection_metrics`] of each generator, in order of first appearance. A generator with one class only
            keeps the accuracy of that class; everything else, plain accuracy included, is `None`.
        mean (`dict[str, float | None]`):
            Plain mean of each metric over `mean_over`.
        mean_over (`list[str]`):
            Generators that the means cover: those with both classes. If there is none, every generator, each metric's
            mean then covering those where it is defined.
        overall (`dict`):
            [`detection_metrics`] of all rows pooled.
    """

    threshold: float
    generators: dict[str, Metrics]
    mean: dict[str, float | None]
    mean_over: list[str]
    overall: Metrics

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable content, with a `schema_version`; undefined values are `None`."""
        return {
            "schema_version": SCHEMA_VERSION,
            "threshold": self.threshold,
            "generators": self.generators,
            "mean": self.mean,
            "mean_over": self.mean_over,
            "overall": self.overall,
        }

    def to_markdown(self) -> str:
        """A Markdown table: percent with one decimal, "–" where undefined, and what the means cover."""
        lines = [
            f"| generator | real | fake | {' | '.join(_COLUMNS.values())} |",
            "|---" + "|--:" * (len(_COLUMNS) + 2) + "|",
        ]
        for name, metrics in self.generators.items():
            lines.append(_row(name.replace("|", "\\|"), metrics, metrics["n_real"], metrics["n_fake"]))
        lines.append(_row(f"**mean of {len(self.mean_over)}**", self.mean, "", ""))
        lines.append(_row("**all rows**", self.overall, self.overall["n_real"], self.overall["n_fake"]))
        notes = [f"Fake means a score above {self.threshold:g}."]
        left_out = [name for name in self.generators if name not in self.mean_over]
        if left_out:
            notes.append(f"One class only, so outside the mean: {', '.join(left_out)}.")
        return "\n".join([*lines, "", " ".join(notes)]) + "\n"


def _row(name: str, metrics: dict[str, Any], n_real: Any, n_fake: Any) -> str:
    cells = ["–" if metrics[key] is None else f"{100 * metrics[key]:.1f}" for key in _COLUMNS]
    return f"| {name} | {n_real} | {n_fake} | {' | '.join(cells)} |"


def evaluate_by_generator(scores, labels, generators: Sequence[str], threshold: float = 0.5) -> EvaluationReport:
    """
    Report on scores, generator by generator, with the plain mean over generators that this field's tables give.

    Args:
        scores (array-like of shape `(N,)`):
            Probability of fake, in [0, 1].
        labels (array-like of shape `(N,)`):
            0 for real and 1 for fake.
        generators (`Sequence[str]` of length `N`):
            Test set that each row belongs to, reals included.
        threshold (`float`, *optional*, defaults to 0.5):
            Score above which an image is called fake.

    Returns:
        [`EvaluationReport`]

    Raises:
        ValueError: as [`detection_metrics`], or `generators` has another length.
    """
    overall = detection_metrics(scores, labels, threshold)
    if len(generators) != len(scores):
        raise ValueError(f"`generators` has {len(generators)} rows and `scores` has {len(scores)}")
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(generators):
        rows_of.setdefault(str(name), []).append(row)
    scores, labels = (torch.as_tensor(column, dtype=torch.float64).cpu().numpy() for column in (scores, labels))
    by_generator = {name: detection_metrics(scores[rows], labels[rows], threshold) for name, rows in rows_of.items()}
    for metrics in by_generator.values():
        if metrics["balanced_accuracy"] is None:
            # The accuracy of one class must not be read, or averaged, as an accuracy over both.
            metrics["accuracy"] = None
    covered = [name for name, metrics in by_generator.items() if metrics["balanced_accuracy"] is not None]
    covered = covered or list(by_generator)
    mean = {key: _mean_of_defined([by_generator[name][key] for name in covered]) for key in _COLUMNS}
    return EvaluationReport(float(threshold), by_generator, mean, covered, overall)


def _mean_of_defined(values: list[float | int | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


class Predictions(NamedTuple):
    """
    What [`predict_scores`] returns. The first four are aligned and in the dataset's order, skipped rows left out.

    Args:
        scores (`np.ndarray` of shape `(N,)`, float64): probability of fake.
        labels (`np.ndarray` of shape `(N,)`, int64): 0 for real and 1 for fake.
        generators (`list[str]`): from the column `generator`, `""` where there is none.
        paths (`list[str | None]`): from the column `path`.
        skipped (`list[dict]`): `index`, `path` and `error` of every row whose image could not be decoded.
    """

    scores: np.ndarray
    labels: np.ndarray
    generators: list[str]
    paths: list[str | None]
    skipped: list[dict[str, Any]]


def predict_scores(
    model: torch.nn.Module,
    dataset,
    transform: Callable[[Image.Image], torch.Tensor],
    batch_size: int = 64,
    device: str | torch.device | None = None,
    num_workers: int = 0,
    dtype: torch.dtype | None = None,
    quiet: bool = False,
) -> Predictions:
    """
    Score every row of a dataset exactly once, in order. One process: nothing is padded or repeated.

    Args:
        model (`torch.nn.Module`):
            `model(pixel_values=...).logits` has shape `(B, 2)`: real, fake. Its training mode is restored afterwards.
        dataset (map-style dataset):
            `len(dataset)`, and rows with `image` and `label`, `generator` and `path` where known.
        transform (`Callable[[PIL.Image.Image], torch.Tensor]`):
            Such as [`EvalTransform`].
        batch_size (`int`, *optional*, defaults to 64):
            Images for each forward pass.
        device (`str` or `torch.device`, *optional*):
            The model is moved there. By default it stays where it is.
        num_workers (`int`, *optional*, defaults to 0):
            Processes that decode and transform.
        dtype (`torch.dtype`, *optional*):
            Run under autocast to this type, such as `torch.bfloat16`. The softmax is in float32 in any case.
        quiet (`bool`, *optional*, defaults to `False`):
            No progress bar. There is none either when stderr is not a terminal.

    Returns:
        [`Predictions`]: `(scores, labels, generators, paths, skipped)`.

    Raises:
        ValueError: no image could be decoded, or the logits are not finite or not of shape `(B, 2)`.
    """
    if device is not None:
        model.to(device)
    device = next(model.parameters()).device
    loader: DataLoader = DataLoader(
        _ScoringRows(dataset, transform),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=_collate_scoring,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # a loader draws a seed: not from the global generator of a training run
    )
    autocast = nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)
    probabilities: list[torch.Tensor] = []
    kept: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []
    was_training = model.training
    model.eval()
    try:
        # disable=None: tqdm looks for a terminal itself.
        with tqdm(total=len(dataset), unit=" images", disable=True if quiet else None) as progress:
            for pixel_values, rows, failures in loader:
                skipped.extend(failures)
                if rows:
                    with torch.inference_mode(), autocast:
                        logits = model(pixel_values=pixel_values.to(device, non_blocking=True)).logits
                    if logits.shape != (len(rows), 2):
                        raise ValueError(f"`logits` must have shape ({len(rows)}, 2), got {tuple(logits.shape)}")
                    probabilities.append(logits.float().softmax(dim=-1)[:, 1].cpu())  # (B,)
                    kept.extend(rows)
                progress.update(len(rows) + len(failures))
    finally:
        model.train(was_training)
    if not kept:
        reason = f"; the first error: {skipped[0]['error']}" if skipped else ": it is empty"
        raise ValueError(f"no row of `dataset` could be scored{reason}")
    scores = torch.cat(probabilities).double().numpy()
    if not np.isfinite(scores).all():
        row = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise ValueError(f"the model's logits are not finite for {kept[row]['path'] or f'row {row}'}")
    labels = np.array([row["label"] for row in kept], dtype=np.int64)
    return Predictions(scores, labels, [r["generator"] for r in kept], [r["path"] for r in kept], skipped)


class _ScoringRows(Dataset):
    """Rows ready for the model, or the reason why one is not."""

    def __init__(self, dataset, transform):
        # Without the format, rows hold the encoded image, and a failure to decode it keeps its reason.
        self.dataset = dataset.with_format(None) if isinstance(dataset, datasets.Dataset) else dataset
        self.transform = transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = None
        try:
            row = self.dataset[index]
            path = row.get("path")
            image = load_rgb(row["image"])
        except Exception as error:  # decoders of damaged files raise almost anything
            return {"index": index, "path": path, "error": f"{type(error).__name__}: {error}"}
        # Outside the try: an error of the transform is a bug, not a damaged file.
        return {
            "pixel_values": self.transform(image),
            "label": row["label"],
            "generator": row.get("generator", ""),
            "path": path,
        }


def _collate_scoring(items: list[dict[str, Any]]) -> tuple[torch.Tensor | None, list[dict], list[dict]]:
    failures = [item for item in items if "error" in item]
    rows = [item for item in items if "error" not in item]
    pixel_values = torch.stack([row.pop("pixel_values") for row in rows]) if rows else None  # (B, 3, H, W)
    return pixel_values, rows, failures
