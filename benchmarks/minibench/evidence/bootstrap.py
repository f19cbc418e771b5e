"""Intervals by a two-level bootstrap, over photographs and over seeds."""

from collections.abc import Sequence

import numpy as np

from mirage_hf import weighted_metrics
from mirage_hf.weighted_metrics import weighted_share

EQUAL_FPR = 0.10  # of photographs, at which detectors are compared


def draw_weights(groups: Sequence[str], seeds: int, replicates: int) -> tuple[np.ndarray, np.ndarray]:
    """
    How often each image and each seed is drawn. Photographs are drawn with replacement and bring all their images;
    seeds are drawn apart from them. The first row is the sample as it is, every image and seed once.

    Args:
        groups (`Sequence[str]` of length N): Photograph of each image.
        seeds (`int`): S, number of seeds.
        replicates (`int`): R, number of draws.

    Returns:
        `tuple`: Weights of images, shape `(1 + R, N)`, and of seeds, shape `(1 + R, S)`; the latter sum to 1.
    """
    random = np.random.default_rng(0)
    names, member = np.unique(groups, return_inverse=True)
    photos = random.multinomial(len(names), np.full(len(names), 1 / len(names)), size=replicates)  # (R, P)
    runs = random.multinomial(seeds, np.full(seeds, 1 / seeds), size=replicates)  # (R, S)
    photos = np.concatenate([np.ones((1, len(names)), dtype=photos.dtype), photos])
    runs = np.concatenate([np.ones((1, seeds), dtype=runs.dtype), runs])
    return photos[:, member].astype(np.float32), runs / seeds


def ranking_metrics(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """[`~mirage_hf.weighted_metrics.ranking_metrics`] with `tpr` at a false-positive rate of at most `EQUAL_FPR`."""
    return weighted_metrics.ranking_metrics(scores, labels, weights, EQUAL_FPR)


def interval(values: np.ndarray) -> list[float]:
    """Estimate (the first value), then the 2.5th and 97.5th percentile of the others; NaN is left out."""
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    return [round(float(value), 5) for value in (values[0], low, high)]


__all__ = ["EQUAL_FPR", "draw_weights", "interval", "ranking_metrics", "weighted_share"]
