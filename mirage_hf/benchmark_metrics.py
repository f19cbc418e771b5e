"""Metrics of a benchmark's test set: accuracies, rankings, and how far the probabilities of fake can be believed.

[`metrics`] holds what they are built on; this page adds the detector's own threshold, the true-positive rate at a low
false-positive rate, and the calibration error.
"""

from typing import NamedTuple

import numpy as np

# Metric -> column title; the order of the tables.
METRICS = {
    "accuracy": "accuracy",
    "real_accuracy": "real acc.",
    "fake_accuracy": "fake acc.",
    "balanced_accuracy": "balanced acc.",
    "calibrated_accuracy": "accuracy, own thr.",
    "calibrated_real_accuracy": "real acc., own thr.",
    "calibrated_fake_accuracy": "fake acc., own thr.",
    "calibrated_balanced_accuracy": "balanced acc., own thr.",
    "average_precision": "AP",
    "roc_auc": "AUC",
    "tpr_at_fpr_1": "TPR at 1% FPR",
    "expected_calibration_error": "ECE",
}
ACCURACIES = ("accuracy", "real_accuracy", "fake_accuracy", "balanced_accuracy")
MAX_FPR = 0.01
CALIBRATION_BINS = 15


class ReliabilityBin(NamedTuple):
    """
    One bar of a reliability diagram.

    Args:
        mean_score (`float`, *optional*): Mean probability of fake in the bin; `None` where it is empty.
        share_of_fakes (`float`, *optional*): Share of its images that are fake; `None` where it is empty.
        size (`int`): Number of its images.
    """

    mean_score: float | None
    share_of_fakes: float | None
    size: int


def set_metrics(
    scores, labels, threshold: float = 0.5, calibrated_threshold: float | None = None
) -> dict[str, float | None]:
    """
    Every metric of [`METRICS`] of one test set. An image is called fake when its score is *above* the threshold.

    Args:
        scores (array-like of shape `(N,)`):
            Probability of fake, in [0, 1].
        labels (array-like of shape `(N,)`):
            0 for real and 1 for fake.
        threshold (`float`, *optional*, defaults to 0.5):
            The protocol's.
        calibrated_threshold (`float`, *optional*):
            The detector's own, fixed on validation images. Without it the `calibrated_*` accuracies are `None`.

    Returns:
        `dict[str, float | None]`: Fractions in [0, 1]. A set with one class only keeps the accuracy of that class. All
        else, plain accuracy and calibration error included, is `None`: it would only say how many fakes there are.

    Raises:
        ValueError: as [`detection_metrics`].

    Example:

    ```python
    >>> from mirage_hf.benchmark_metrics import set_metrics

    >>> set_metrics([0.1, 0.3, 0.4, 0.9], [0, 0, 1, 1], calibrated_threshold=0.35)["calibrated_accuracy"]
    1.0
    ```"""
    from .metrics import detection_metrics  # here, since it imports datasets and METRICS must be cheap to read

    detection = detection_metrics(scores, labels, threshold)
    metrics: dict[str, float | None] = dict.fromkeys(METRICS)
    metrics.update({key: detection[key] for key in (*ACCURACIES, "average_precision", "roc_auc")})
    if calibrated_threshold is not None:
        calibrated = detection_metrics(scores, labels, calibrated_threshold)
        metrics.update({f"calibrated_{key}": calibrated[key] for key in ACCURACIES})
    if detection["n_real"] and detection["n_fake"]:
        metrics["tpr_at_fpr_1"] = tpr_at_fpr(scores, labels, MAX_FPR)
        metrics["expected_calibration_error"] = expected_calibration_error(scores, labels)
    else:
        metrics["accuracy"] = metrics["calibrated_accuracy"] = None
    return metrics


def tpr_at_fpr(scores, labels, max_fpr: float) -> float:
    """
    The largest share of fakes found at a threshold that calls at most a share `max_fpr` of these reals fake. With
    fewer than `1 / max_fpr` reals no false positive is allowed.

    The threshold is fitted to these very images: this describes a ranking, it isn't a rate to expect in use.

    Args:
        scores (array-like of shape `(N,)`):
            Higher means fake.
        labels (array-like of shape `(N,)`):
            0 for real and 1 for fake, both present.
        max_fpr (`float`):
            Largest false-positive rate, in [0, 1).

    Returns:
        `float`

    Raises:
        ValueError: `max_fpr` is out of range, or a class is missing.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    reals, fakes = np.sort(scores[labels == 0])[::-1], scores[labels == 1]
    if not 0 <= max_fpr < 1:
        raise ValueError(f"`max_fpr` must lie in [0, 1), got {max_fpr!r}")
    if not len(reals) or not len(fakes):
        raise ValueError(f"`labels` must hold both classes, got {len(reals)} real and {len(fakes)} fake images")
    allowed = int(max_fpr * len(reals) + 1e-9)  # so many may lie above
    return float((fakes > reals[allowed]).mean())


def reliability_bins(scores, labels, bins: int = CALIBRATION_BINS) -> list[ReliabilityBin]:
    """
    Equal-width bins of the probability of fake, each with what was predicted and what was true.

    Bins are closed on the right: (0, 1/bins], (1/bins, 2/bins], …; a score of 0 is in the first.

    Args:
        scores (array-like of shape `(N,)`):
            Probability of fake, in [0, 1].
        labels (array-like of shape `(N,)`):
            0 for real and 1 for fake.
        bins (`int`, *optional*, defaults to 15):
            Number of bins.

    Returns:
        `list[ReliabilityBin]`: From the lowest probability to the highest, empty bins included.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    member = bin_indices(scores, bins)
    counts = np.bincount(member, minlength=bins)
    totals, fakes = (np.bincount(member, weights=column, minlength=bins) for column in (scores, labels))
    return [
        ReliabilityBin(float(total / count), float(fake / count), int(count))
        if count
        else ReliabilityBin(None, None, 0)
        for total, fake, count in zip(totals, fakes, counts, strict=True)
    ]


def bin_indices(scores: np.ndarray, bins: int = CALIBRATION_BINS) -> np.ndarray:
    """Number of the right-closed bin that holds each score, shape `(N,)`."""
    return np.searchsorted(np.arange(1, bins + 1) / bins, scores, side="left")


def expected_calibration_error(scores, labels, bins: int = CALIBRATION_BINS) -> float:
    """
    Mean over images of |share of fakes - mean probability of fake| of the image's bin.

    This is the calibration of a binary probability, after [Naeini et al.
    2015](https://doi.org/10.1609/aaai.v29i1.9602). The form of [Guo et al. 2017](https://arxiv.org/abs/1706.04599),
    confidence of the predicted class against accuracy, folds the two halves of [0, 1] onto each other, where errors
    cancel. The value depends on the share of fakes in the set: a detector that is calibrated on as many fakes as reals
    isn't on another mixture. It is never below 0 by chance, so small sets read too high.

    Args:
        scores, labels, bins: As in [`reliability_bins`].

    Returns:
        `float`: In [0, 1]; 0 is best.
    """
    rows = reliability_bins(scores, labels, bins)
    gaps = [row.size * abs(row.share_of_fakes - row.mean_score) for row in rows if row.size]  # type: ignore[operator]
    return float(sum(gaps) / sum(row.size for row in rows))


__all__ = [
    "METRICS",
    "ReliabilityBin",
    "expected_calibration_error",
    "reliability_bins",
    "set_metrics",
    "tpr_at_fpr",
]
