"""Reports on scores, generator by generator: [`~mirage_hf.prediction.predict_scores`] gives the scores."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .metrics import detection_metrics

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
    mean = {key: mean_of_defined([by_generator[name][key] for name in covered]) for key in _COLUMNS}
    return EvaluationReport(float(threshold), by_generator, mean, covered, overall)


def mean_of_defined(values: Iterable[float | int | None]) -> float | None:
    """Plain mean of the values that are defined, `None` if none is."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


__all__ = ["EvaluationReport", "evaluate_by_generator", "mean_of_defined"]
