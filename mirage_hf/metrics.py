"""Detection metrics.

Fake is the positive class (label 1) and scores are probabilities of fake. Needs the `train` extra (evaluate and
scikit-learn). Nothing here uses the network, `evaluate.Metric` included.
"""

from typing import Any

import datasets
import evaluate
import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score


def detection_metrics(scores, labels, threshold: float = 0.5) -> dict[str, float | int | None]:
    r"""
    Metrics of one test set: accuracies at a threshold, and two that need none (`average_precision`, `roc_auc`).

    An image is called fake when its score is *above* the threshold. At 0.5 this is the argmax over two classes, a tie
    going to real, as in Eq. 2 of [MiraGe](https://arxiv.org/abs/2508.01525).

    Args:
        scores (array-like of shape `(N,)`):
            Probability of fake of each image, in [0, 1].
        labels (array-like of shape `(N,)`):
            0 for real and 1 for fake.
        threshold (`float`, *optional*, defaults to 0.5):
            In [0, 1].

    Returns:
        `dict`: `accuracy`, `balanced_accuracy` (mean of the next two), `real_accuracy`, `fake_accuracy`,
        `average_precision`, `roc_auc`, `n_real`, `n_fake`. What needs a class that is missing is `None`, never 0.

    Raises:
        ValueError: empty, of unequal lengths, not finite, out of range; the message names the argument.

    Example:

    ```python
    >>> from mirage_hf.metrics import detection_metrics

    >>> detection_metrics(scores=[0.1, 0.6, 0.9], labels=[0, 0, 1])["real_accuracy"]
    0.5
    ```"""
    scores, labels = _checked_columns(scores, labels, "scores", "labels")
    if not 0.0 <= threshold <= 1.0:
        raise ValueError(f"`threshold` must lie in [0, 1], got {threshold!r}")
    is_fake = labels == 1
    correct = (scores > threshold) == is_fake
    n_fake = int(is_fake.sum())
    n_real = len(labels) - n_fake
    metrics: dict[str, float | int | None] = {
        "accuracy": float(correct.mean()),
        "balanced_accuracy": None,
        "real_accuracy": float(correct[~is_fake].mean()) if n_real else None,
        "fake_accuracy": float(correct[is_fake].mean()) if n_fake else None,
        "average_precision": None,
        "roc_auc": None,
        "n_real": n_real,
        "n_fake": n_fake,
    }
    if n_real and n_fake:
        metrics["balanced_accuracy"] = float((correct[~is_fake].mean() + correct[is_fake].mean()) / 2)
        metrics["average_precision"] = float(average_precision_score(labels, scores))
        metrics["roc_auc"] = float(roc_auc_score(labels, scores))
    return metrics


class DetectionMetric(evaluate.Metric):
    r"""
    [`detection_metrics`] as an `evaluate.Metric`: built directly, without `evaluate.load` and its download.

    Rows are kept in memory by default. evaluate would otherwise write them to its cache folder, and leave them and
    their lock there when a computation fails; in memory not even the folder is created.

    Args:
        keep_in_memory (`bool`, *optional*, defaults to `True`):
            Set to `False` only for evaluate's own distributed mode (`num_process` above 1).
        kwargs:
            Passed to `evaluate.Metric`.

    Inputs of `compute`: `predictions` (scores of fake in [0, 1]), `references` (0 or 1) and `threshold` (*optional*,
    defaults to 0.5). `add` and `add_batch` gather rows first.

    Raises:
        ValueError: as [`detection_metrics`], naming `predictions` or `references`.

    Example:

    ```python
    >>> from mirage_hf.metrics import DetectionMetric

    >>> metric = DetectionMetric()
    >>> metric.add_batch(predictions=[0.1, 0.8], references=[0, 1])
    >>> metric.compute()["accuracy"]
    1.0
    ```"""

    def __init__(self, *args, keep_in_memory: bool = True, **kwargs):
        self._creates_folder = not keep_in_memory
        super().__init__(*args, keep_in_memory=keep_in_memory, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Metrics of a detector of AI-generated images; fake (1) is the positive class.",
            citation="",
            inputs_description="predictions: probability of fake in [0, 1]; references: 0 for real, 1 for fake",
            # As int64 a reference of 0.7 would become 0 without a word; as float64 it is rejected by the checks.
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
            ),
        )

    def _build_data_dir(self) -> str:
        return super()._build_data_dir() if self._creates_folder else ""

    def _compute(self, *, predictions=None, references=None, threshold: float = 0.5, **kwargs) -> dict[str, Any]:
        if kwargs:
            raise ValueError(f"unexpected arguments {sorted(kwargs)}; `compute` takes `threshold` only")
        _checked_columns(predictions, references, "predictions", "references")
        return detection_metrics(predictions, references, threshold)


def _checked_columns(scores, labels, scores_name: str, labels_name: str) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = _as_float64(scores, scores_name), _as_float64(labels, labels_name)
    if len(scores) != len(labels):
        raise ValueError(f"`{scores_name}` has {len(scores)} rows and `{labels_name}` has {len(labels)}")
    if len(scores) == 0:
        raise ValueError(f"`{scores_name}` is empty")
    bad = np.flatnonzero(~((scores >= 0) & (scores <= 1)))  # NaN fails both comparisons
    if len(bad):
        raise ValueError(f"`{scores_name}` must lie in [0, 1], got {scores[bad[0]]} in row {bad[0]}")
    bad = np.flatnonzero((labels != 0) & (labels != 1))
    if len(bad):
        raise ValueError(f"`{labels_name}` must be 0 (real) or 1 (fake), got {labels[bad[0]]} in row {bad[0]}")
    return scores, labels.astype(np.int64)


def _as_float64(values, name: str) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().double()
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` must hold numbers: {error}") from error
    if array.ndim != 1:
        raise ValueError(f"`{name}` must be one-dimensional, got shape {array.shape}")
    return array
