"""Confidence intervals of a benchmark's metrics, and of the difference of two detectors, by resampling images."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .benchmark_metrics import METRICS
from .weighted_metrics import WeightedScorer

# Weights computed at once, replicates x images. At most ten arrays of this many float64 live at the same time (draws,
# counts, one set's gathered weights, their sums and the terms of a metric), 80 B a weight: 80 MB. The columns of
# `WeightedScorer` add 21 float64 for each image of each set: 17 MB for 100,000 images; a chunk then has 10 draws.
CHUNK = 1_000_000

# Every draw adds its own noise to the bins of the calibration error, which can't fall below 0: in small sets the
# percentiles lie above the estimate itself.
WITHOUT_INTERVAL = frozenset({"expected_calibration_error"})

Interval = tuple[float, float] | None


class ScoredSet(NamedTuple):
    """
    One test set, scored.

    Args:
        keys (`Sequence[str]` of length N): Name of each image. The same key in several sets is one image.
        labels (`np.ndarray` of shape `(N,)`): 0 = real, 1 = fake.
        scores (`np.ndarray` of shape `(N,)`): Probability of fake, in [0, 1].
    """

    keys: Sequence[str]
    labels: np.ndarray
    scores: np.ndarray


def bootstrap_sets(
    sets: Mapping[str, ScoredSet],
    threshold: float,
    calibrated_threshold: float | None = None,
    *,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[dict[str, dict[str, Interval]], dict[str, Interval]]:
    """
    Percentile intervals of every metric, for each set and for the mean over sets.

    Images are drawn with replacement within strata, the images of one label that the same sets hold: the numbers of
    real and of fake images of a set never vary, and an image that several sets share is drawn once for all of them. So
    the interval of the mean knows that sets with common reals rise and fall together. The images are the sample, not
    the generators: another generator may lie far outside.

    With the same sets and seed the same images are drawn, whatever the scores: two detectors can be compared draw by
    draw. A limit of percentiles: an accuracy of 100% gets (1, 1).

    Args:
        sets (`Mapping[str, ScoredSet]`):
            By name.
        threshold, calibrated_threshold:
            As in [`~benchmark_metrics.set_metrics`].
        replicates (`int`, *optional*, defaults to 1000):
            Number of draws.
        seed (`int`, *optional*, defaults to 0):
            Of the draws.
        level (`float`, *optional*, defaults to 0.95):
            Coverage aimed at, in (0, 1).

    Returns:
        `tuple`: Set -> metric -> (low, high), `None` where the metric is undefined or in `WITHOUT_INTERVAL`; and
        metric -> (low, high) of the plain mean over sets. The mean covers sets with both classes; if there is none,
        those where a metric is defined, as in [`~evaluation.evaluate_by_generator`].

    Raises:
        ValueError: `replicates` or `level` is out of range, or a set is malformed; the message names the set.
    """
    values, means = _draws(sets, threshold, calibrated_threshold, replicates, seed, level)
    return {name: _intervals(columns, level) for name, columns in values.items()}, _intervals(means, level)


def bootstrap_differences(
    first: Mapping[str, ScoredSet],
    second: Mapping[str, ScoredSet],
    threshold: float,
    calibrated_thresholds: tuple[float | None, float | None] = (None, None),
    *,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval]:
    """
    Percentile intervals of by how much one detector is above another, in the mean over the same sets: both are scored
    on the same draw of images, so that what makes a draw hard for both falls out.

    Args:
        first, second (`Mapping[str, ScoredSet]`):
            The same sets with the same keys in the same order; the difference is first less second.
        threshold (`float`):
            As in [`bootstrap_sets`].
        calibrated_thresholds (`tuple`, *optional*):
            Each detector's own.
        replicates, seed, level (*optional*):
            As in [`bootstrap_sets`].

    Returns:
        `dict`: Metric -> (low, high), `None` where it is undefined for either.

    Raises:
        ValueError: as [`bootstrap_sets`], or the sets or images differ.
    """
    if list(first) != list(second):
        raise ValueError(f"the detectors have different sets: {', '.join(first)} and {', '.join(second)}")
    for name in first:
        if list(first[name].keys) != list(second[name].keys):
            raise ValueError(f"the detectors have scores of different images of set {name!r}")
    sides = [
        _draws(sets, threshold, own, replicates, seed, level)[1]
        for sets, own in zip((first, second), calibrated_thresholds, strict=True)
    ]
    return _intervals({key: sides[0][key] - sides[1][key] for key in METRICS}, level)


def _draws(
    sets: Mapping[str, ScoredSet],
    threshold: float,
    calibrated_threshold: float | None,
    replicates: int,
    seed: int,
    level: float,
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Every metric of each set, and of the mean over sets, in each draw; arrays of shape (R,)."""
    if replicates < 1:
        raise ValueError(f"`replicates` must be at least 1, got {replicates}")
    if not 0 < level < 1:
        raise ValueError(f"`level` must lie in (0, 1), got {level!r}")
    members, strata = find_strata(sets)
    scorers = [WeightedScorer(data.scores, data.labels, threshold, calibrated_threshold) for data in sets.values()]
    values = {name: {key: np.empty(replicates) for key in METRICS} for name in sets}
    first = 0
    for weights in draw_weights(strata, replicates, seed):
        for name, images, scorer in zip(sets, members, scorers, strict=True):
            for key, column in scorer.metrics(weights, images).items():
                values[name][key][first : first + len(weights)] = column
        first += len(weights)
    both = [name for name, data in sets.items() if 0 < np.sum(data.labels) < len(data.labels)]
    means = {key: _mean_over_sets([values[name][key] for name in both or sets]) for key in METRICS}
    return values, means


def find_strata(sets: Mapping[str, ScoredSet]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """
    Number the images of all sets, a key being one image, and group them by label and by the sets that hold them.

    Returns:
        `tuple`: For each set the image of each of its rows; and the images of each stratum.

    Raises:
        ValueError: a set is empty, has columns of unequal length, a label or score out of range, or a key twice; or a
            key has two labels.
    """
    number: dict[str, int] = {}
    labels: list[int] = []
    holders: list[list[str]] = []
    members = []
    for name, data in sets.items():
        _check(name, data)
        images = np.array([number.setdefault(key, len(number)) for key in data.keys])
        if len(np.unique(images)) < len(images):
            raise ValueError(f"set {name!r} holds a key twice: give each image of a set its own key")
        for key, image, label in zip(data.keys, images, data.labels, strict=True):
            if image == len(labels):
                labels.append(int(label))
                holders.append([])
            elif labels[image] != label:
                raise ValueError(f"{key!r} is real in one set and fake in another (set {name!r})")
            holders[image].append(name)
        members.append(images)
    strata: dict[tuple[int, tuple[str, ...]], list[int]] = {}
    for image, (label, names) in enumerate(zip(labels, holders, strict=True)):
        strata.setdefault((label, tuple(names)), []).append(image)
    return members, [np.array(images) for images in strata.values()]


def draw_weights(strata: Sequence[np.ndarray], replicates: int, seed: int) -> Iterator[np.ndarray]:
    """
    How often each image is drawn, images being drawn with replacement within their stratum.

    Args:
        strata (`Sequence[np.ndarray]`): Image numbers of each stratum, together 0 to N - 1.
        replicates (`int`): Number of draws in all.
        seed (`int`): The draws depend on it and on the strata's sizes and order, never on the chunks.

    Yields:
        `np.ndarray` of shape `(r, N)`, float64: The next r draws, at most `CHUNK` numbers and at least one draw.
    """
    size = sum(map(len, strata))
    rows = max(1, CHUNK // max(size, 1))
    generators = [np.random.default_rng([seed, index]) for index in range(len(strata))]
    for first in range(0, replicates, rows):
        count = min(rows, replicates - first)
        weights = np.empty((count, size))
        for images, generator in zip(strata, generators, strict=True):
            drawn = generator.integers(len(images), size=(count, len(images)))
            drawn += len(images) * np.arange(count)[:, None]
            times = np.bincount(drawn.ravel(), minlength=count * len(images))
            weights[:, images] = times.reshape(count, len(images))
        yield weights


def _check(name: str, data: ScoredSet) -> None:
    labels, scores = np.asarray(data.labels), np.asarray(data.scores)
    if not len(data.keys) == len(labels) == len(scores):
        raise ValueError(f"set {name!r} has {len(data.keys)} keys, {len(labels)} labels and {len(scores)} scores")
    if not len(labels):
        raise ValueError(f"set {name!r} is empty: leave it out")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels of set {name!r} must be 0 (real) or 1 (fake)")
    if not ((scores >= 0) & (scores <= 1)).all():  # NaN fails both comparisons
        raise ValueError(f"scores of set {name!r} must lie in [0, 1]")


def _mean_over_sets(columns: list[np.ndarray]) -> np.ndarray:
    """Mean over the sets where the metric is defined, draw by draw; shape (R,)."""
    defined = [column for column in columns if not np.isnan(column).any()]
    return np.mean(defined, axis=0) if defined else np.full(1, np.nan)


def _intervals(columns: dict[str, np.ndarray], level: float) -> dict[str, Interval]:
    found: dict[str, Interval] = {}
    for key, column in columns.items():
        found[key] = None if key in WITHOUT_INTERVAL else percentiles(column, level)
    return found


def percentiles(column: np.ndarray, level: float) -> Interval:
    """The middle part of draws, shape `(R,)`, that holds a share `level` of them; `None` if a draw is undefined."""
    if np.isnan(column).any():
        return None
    low, high = np.quantile(column, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


__all__ = [
    "ScoredSet",
    "bootstrap_differences",
    "bootstrap_sets",
    "draw_weights",
    "find_strata",
    "percentiles",
]
