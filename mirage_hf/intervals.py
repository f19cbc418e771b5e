"""Confidence intervals of a benchmark's metrics, by resampling images, and metrics under many weightings at once.

[`bootstrap_sets`] is what a benchmark calls. [`ranking_metrics`] and [`weighted_share`] also serve bootstraps that
draw otherwise, such as the evidence table's over photographs and seeds.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .benchmark_metrics import CALIBRATION_BINS, MAX_FPR, METRICS, bin_indices

# Weights computed at once, replicates x images. At most ten arrays of this many float64 live at the same time (draws,
# counts, one set's gathered weights, their sums and the terms of a metric), 80 B a weight: 80 MB. The columns of
# `_Scorer` add 21 float64 for each image of each set: 17 MB for 100,000 images, of which a chunk holds 10 replicates.
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
    if replicates < 1:
        raise ValueError(f"`replicates` must be at least 1, got {replicates}")
    if not 0 < level < 1:
        raise ValueError(f"`level` must lie in (0, 1), got {level!r}")
    members, strata = find_strata(sets)
    scorers = [_Scorer(data.scores, data.labels, threshold, calibrated_threshold) for data in sets.values()]
    values = {name: {key: np.empty(replicates) for key in METRICS} for name in sets}
    first = 0
    for weights in draw_weights(strata, replicates, seed):
        for name, images, scorer in zip(sets, members, scorers, strict=True):
            for key, column in scorer.metrics(weights, images).items():
                values[name][key][first : first + len(weights)] = column
        first += len(weights)
    both = [name for name, data in sets.items() if 0 < np.sum(data.labels) < len(data.labels)]
    means = {key: _mean_over_sets([values[name][key] for name in both or sets]) for key in METRICS}
    by_set = {name: _intervals(values[name], level) for name in sets}
    return by_set, _intervals(means, level)


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


def weighted_metrics(
    scores: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    threshold: float = 0.5,
    calibrated_threshold: float | None = None,
) -> dict[str, np.ndarray]:
    """
    [`~benchmark_metrics.set_metrics`] for many weightings of the same images: an image of weight 2 counts twice.

    Args:
        scores, labels (`np.ndarray` of shape `(N,)`): Probability of fake; 0 = real, 1 = fake.
        weights (`np.ndarray` of shape `(R, N)`): How often each image counts.
        threshold, calibrated_threshold: As in [`~benchmark_metrics.set_metrics`].

    Returns:
        `dict[str, np.ndarray]`, each of shape `(R,)`: Every metric of `METRICS`, NaN where it is undefined.
    """
    scorer = _Scorer(scores, labels, threshold, calibrated_threshold)
    return scorer.metrics(np.asarray(weights, dtype=np.float64), np.arange(len(scores)))


def ranking_metrics(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray, max_fpr: float
) -> dict[str, np.ndarray]:
    """
    Metrics that need no threshold, for many weightings of the same images. Ties count as scikit-learn counts them.

    Args:
        scores (`np.ndarray` of shape `(N,)`): Higher means fake.
        labels (`np.ndarray` of shape `(N,)`): 0 = real, 1 = fake.
        weights (`np.ndarray` of shape `(R, N)`): How often each image counts.
        max_fpr (`float`): Largest false-positive rate of `tpr`.

    Returns:
        `dict[str, np.ndarray]`, each of shape `(R,)`: `auc`; `ap`, the average precision; `tpr`, the largest share of
        fakes found at a threshold that calls at most `max_fpr` of these real images fake. NaN without a class.
    """
    return _Ranking(scores, labels).metrics(weights, np.arange(len(scores)), max_fpr)


def weighted_share(chosen: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """
    Args:
        chosen (`np.ndarray` of shape `(N,)`): Booleans.
        weights (`np.ndarray` of shape `(R, N)`): How often each image counts.

    Returns:
        `np.ndarray` of shape `(R,)`: Share of the weight that is chosen; NaN where there is none.
    """
    with np.errstate(invalid="ignore"):
        return weights @ chosen.astype(np.float64) / weights.sum(axis=1)


class _Ranking:
    """What ranking metrics need of scores and labels, found once for all weightings."""

    def __init__(self, scores: np.ndarray, labels: np.ndarray):
        order = np.argsort(-scores, kind="stable")
        self.fakes, self.reals = order[labels[order] == 1], order[labels[order] == 0]  # from the highest score down
        cuts = np.unique(-scores[self.fakes])  # (U,): only where a fake is found does a metric change
        self.found = np.searchsorted(-scores[self.fakes], cuts, side="right")  # fakes at or above each cut
        self.false_above = np.searchsorted(-scores[self.reals], cuts, side="left")
        self.false_found = np.searchsorted(-scores[self.reals], cuts, side="right")

    def metrics(self, weights: np.ndarray, images: np.ndarray, max_fpr: float) -> dict[str, np.ndarray]:
        """As [`ranking_metrics`], `images` being the column of `weights` of each row."""
        fakes, reals = (_sums(weights, images[rows]) for rows in (self.fakes, self.reals))
        all_fakes, all_reals = fakes[:, -1], reals[:, -1]
        fakes, reals_above, reals = fakes[:, self.found], reals[:, self.false_above], reals[:, self.false_found]
        new = np.diff(fakes, axis=1, prepend=0)  # (R, U)
        with np.errstate(invalid="ignore", divide="ignore"):
            auc = (new * (all_reals[:, None] - (reals_above + reals) / 2)).sum(axis=1) / (all_fakes * all_reals)
            ap = (new * np.nan_to_num(fakes / (fakes + reals))).sum(axis=1) / all_fakes
            allowed = reals <= max_fpr * all_reals[:, None] + 1e-9
            tpr = (fakes * allowed).max(axis=1, initial=0) / all_fakes
        ap[all_reals == 0] = tpr[all_reals == 0] = np.nan
        return {"auc": auc, "ap": ap, "tpr": tpr}


def _sums(weights: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Cumulative sums of some columns, behind a column of zeros: (R, 1 + len(columns))."""
    sums = np.zeros((len(weights), 1 + len(columns)))
    np.cumsum(weights[:, columns], axis=1, dtype=np.float64, out=sums[:, 1:])
    return sums


class _Scorer:
    """Every metric of one set, for many weightings."""

    def __init__(self, scores, labels, threshold: float, calibrated_threshold: float | None):
        scores, fake = np.asarray(scores, dtype=np.float64), np.asarray(labels) == 1
        self.ranking = _Ranking(scores, fake.astype(int))
        self.calibrated = calibrated_threshold is not None
        cuts = [threshold, *([calibrated_threshold] if self.calibrated else [])]
        shares = [column for cut in cuts for column in (~fake & (scores <= cut), fake & (scores > cut))]
        gaps = (fake - scores)[:, None] * (bin_indices(scores)[:, None] == np.arange(CALIBRATION_BINS))
        # One matrix product gives all sums: of each class, of what is right in it, of the gap of each bin.
        self.columns = np.column_stack([~fake, fake, *shares, gaps]).astype(np.float64)  # (N, 2 + 2 or 4 + bins)

    def metrics(self, weights: np.ndarray, images: np.ndarray) -> dict[str, np.ndarray]:
        """As [`weighted_metrics`], `images` being the column of `weights` of each row."""
        sums = weights[:, images] @ self.columns  # (R, C)
        n_real, n_fake = sums[:, 0], sums[:, 1]
        undefined = (n_real == 0) | (n_fake == 0)
        ranking = self.ranking.metrics(weights, images, MAX_FPR)
        metrics = {key: np.full(len(weights), np.nan) for key in METRICS}
        prefixes = ["", "calibrated_"][: 1 + self.calibrated]
        with np.errstate(invalid="ignore"):
            for position, prefix in enumerate(prefixes):
                right_reals, right_fakes = sums[:, 2 + 2 * position], sums[:, 3 + 2 * position]
                real, fake = right_reals / n_real, right_fakes / n_fake
                accuracy = np.where(undefined, np.nan, (right_reals + right_fakes) / (n_real + n_fake))
                metrics |= {f"{prefix}accuracy": accuracy, f"{prefix}balanced_accuracy": (real + fake) / 2}
                metrics |= {f"{prefix}real_accuracy": real, f"{prefix}fake_accuracy": fake}
            error = np.abs(sums[:, -CALIBRATION_BINS:]).sum(axis=1) / (n_real + n_fake)
        metrics["expected_calibration_error"] = np.where(undefined, np.nan, error)
        return metrics | {
            "average_precision": ranking["ap"],
            "roc_auc": ranking["auc"],
            "tpr_at_fpr_1": ranking["tpr"],
        }


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
        if key in WITHOUT_INTERVAL or np.isnan(column).any():
            found[key] = None
        else:
            low, high = np.quantile(column, [(1 - level) / 2, (1 + level) / 2])
            found[key] = float(low), float(high)
    return found


__all__ = [
    "ScoredSet",
    "bootstrap_sets",
    "draw_weights",
    "find_strata",
    "ranking_metrics",
    "weighted_metrics",
    "weighted_share",
]
