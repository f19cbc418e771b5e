"""Metrics of the same scores under many weightings of the images at once, which a bootstrap is made of."""

import numpy as np

from .benchmark_metrics import CALIBRATION_BINS, MAX_FPR, METRICS, bin_indices


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
    scorer = WeightedScorer(scores, labels, threshold, calibrated_threshold)
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


class WeightedScorer:
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


__all__ = ["WeightedScorer", "ranking_metrics", "weighted_metrics", "weighted_share"]
