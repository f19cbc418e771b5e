"""Calibrates a detector: temperature and bias, a threshold, operating points and the band of verdict "unsure".

Temperature and bias after [Platt 1999](https://www.researchgate.net/publication/2594015) and [Guo et al.
2017](https://arxiv.org/abs/1706.04599); the band is split-conformal for each class on its own, after [Vovk
2012](https://arxiv.org/abs/1209.2673). Needs scipy, from the extra `benchmark`.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .calibration import Calibration, logit, sigmoid
from .thresholds import threshold_at_fpr

OPERATING_FPRS = (0.05, 0.01, 0.001)


def fit_calibration(
    margins,
    labels,
    groups: Sequence[str] | None = None,
    max_fpr: float = 0.05,
    alpha: float = 0.1,
    data: str = "",
    *,
    prior: float = 0.5,
    keys: Sequence[str] | None = None,
) -> Calibration:
    """
    Calibrate a detector on images that it wasn't trained on.

    Temperature and bias minimise the log loss, the classes weighted to shares `prior` and 1 - `prior` whatever their
    numbers: how many fakes a calibration set has says nothing about how many a user will meet, and the field's test
    sets have half. As by Platt, the loss asks for (n + 1) / (n + 2) of a class of n images in place of certainty. So
    there is a minimum even where the margins tell the classes apart without an error.

    Probabilities, threshold and band come from the same images. They may: a temperature leaves the ranks alone, and
    nothing but the images' ranks decides which of them lies above the threshold or outside of the band.

    Args:
        margins (array-like of shape `(N,)`):
            Logit of fake - logit of real.
        labels (array-like of shape `(N,)`):
            0 for real and 1 for fake.
        groups (`Sequence[str]` of length `N`, *optional*):
            What the false-positive rate must not be averaged over, see [`~thresholds.threshold_at_fpr`].
        max_fpr (`float`, *optional*, defaults to 0.05):
            Share of the real images, in every group, that may be labelled fake; in [0, 1).
        alpha (`float`, *optional*, defaults to 0.1):
            Share of a class that may get the other's verdict, in (0, 1). With fewer than 1 / alpha - 1 images of a
            class no image can be given the other's verdict.
        data (`str`, *optional*):
            What the images are, in words.
        prior (`float`, *optional*, defaults to 0.5):
            Share of fakes that the probabilities are to suppose, in (0, 1).
        keys (`Sequence[str]` of length `N`, *optional*):
            Name of each image. Rows of the same key, such as a real image that several generators are compared with,
            are one image: it has a say in each of its groups and counts once in all else.

    Returns:
        [`Calibration`]

    Raises:
        ValueError: lengths differ, a margin isn't finite, a class is missing, an argument is out of range, a key has
            two margins or labels, or higher margins don't mean more fakes.
    """
    scores, classes = np.asarray(margins, dtype=np.float64), np.asarray(labels)
    names = np.asarray([""] * len(scores) if groups is None else groups, dtype=object)
    marks = list(range(len(scores))) if keys is None else list(keys)
    if not scores.ndim == 1 or not len(scores) == len(classes) == len(names) == len(marks):
        sizes = f"{scores.shape}, {len(classes)}, {len(names)} and {len(marks)}"
        raise ValueError(f"`margins`, `labels`, `groups` and `keys` must be equally long, got {sizes}")
    if not np.isfinite(scores).all():
        raise ValueError("`margins` must be finite")
    if not np.isin(classes, (0, 1)).all():
        raise ValueError("`labels` must be 0 (real) or 1 (fake)")
    if not 0 < prior < 1:
        raise ValueError(f"`prior` must lie in (0, 1), got {prior!r}")
    if not 0 < alpha < 1:
        raise ValueError(f"`alpha` must lie in (0, 1), got {alpha!r}")
    rows: dict[Any, int] = {}
    for row, mark in enumerate(marks):
        first = rows.setdefault(mark, row)
        if (scores[first], classes[first]) != (scores[row], classes[row]):
            raise ValueError(f"`keys` holds {mark!r} twice, with different margins or labels")
    once = np.fromiter(rows.values(), dtype=np.int64)
    fake = classes[once] == 1
    if not 0 < fake.sum() < len(fake):
        raise ValueError(
            f"calibration needs real and fake images, got {int((~fake).sum())} real and {int(fake.sum())} fake"
        )
    temperature, bias = _fit_temperature_and_bias(scores[once], fake, prior)
    p_rows = sigmoid(scores / temperature + bias)
    reals, fakes = np.sort(p_rows[once][~fake]), np.sort(p_rows[once][fake])
    real_names = names[classes == 0]
    groups_of_reals = [p_rows[classes == 0][real_names == name] for name in sorted(set(real_names))]
    smallest = min(map(len, groups_of_reals))

    def threshold_for(rate: float) -> float:
        # Halfway between two images on the scale without calibration, where training's `threshold_fpr` puts it, too.
        raw = threshold_at_fpr(sigmoid(scores), classes, list(names), rate)
        if 0 < raw < 1:
            return float(sigmoid(logit(raw) / temperature + bias))
        return threshold_at_fpr(p_rows, classes, list(names), rate)

    def operating_point(rate: float) -> dict[str, Any]:
        threshold = threshold_for(rate)
        above = [(int((group > threshold).sum()), len(group)) for group in groups_of_reals]
        false_positives, n_real = max(above, key=lambda pair: (pair[0] / pair[1], -pair[1]))
        found = int((fakes > threshold).sum())
        return {
            "max_fpr": rate,
            "threshold": threshold,
            "fpr": false_positives / n_real,
            "fpr_interval": list(clopper_pearson(false_positives, n_real)),
            "tpr": found / len(fakes),
            "tpr_interval": list(clopper_pearson(found, len(fakes))),
            "supported": smallest * rate >= 1 - 1e-9,
        }

    threshold = threshold_for(max_fpr)
    return Calibration(
        temperature=temperature,
        bias=bias,
        prior=prior,
        threshold=threshold,
        max_fpr=max_fpr,
        unsure_alpha=alpha,
        unsure_low=min(threshold, _conformal_end(fakes[::-1], alpha, beyond=0.0)),
        unsure_high=max(threshold, _conformal_end(reals, alpha, beyond=1.0)),
        operating_points=[operating_point(rate) for rate in OPERATING_FPRS],
        n_real=len(reals),
        n_fake=len(fakes),
        data=data,
    )


def clopper_pearson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of a share, after [Clopper and Pearson 1934](https://doi.org/10.1093/biomet/26.4.404)."""
    from scipy.stats import beta

    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(beta.ppf(tail, successes, trials - successes + 1))
    high = 1.0 if successes == trials else float(beta.ppf(1 - tail, successes + 1, trials - successes))
    return low, high


def _fit_temperature_and_bias(margins: np.ndarray, fake: np.ndarray, prior: float) -> tuple[float, float]:
    from scipy.optimize import minimize

    centre, scale = margins.mean(), margins.std()
    if not scale > 0:
        raise ValueError("all margins are the same: the detector doesn't tell these images apart")
    n_fake, n_real = fake.sum(), (~fake).sum()
    weights = np.where(fake, prior / n_fake, (1 - prior) / n_real)
    targets = np.where(fake, (n_fake + 1) / (n_fake + 2), 1 / (n_real + 2))
    design = np.stack([(margins - centre) / scale, np.ones(len(margins))])  # (2, N)

    def loss(line: np.ndarray) -> float:
        log_odds = line @ design
        return float(weights @ (np.logaddexp(0, log_odds) - targets * log_odds))

    def gradient(line: np.ndarray) -> np.ndarray:
        return design @ (weights * (sigmoid(line @ design) - targets))

    def hessian(line: np.ndarray) -> np.ndarray:
        p = sigmoid(line @ design)
        return (design * (weights * p * (1 - p))) @ design.T

    start = np.array([0.0, math.log(prior / (1 - prior))])
    found = minimize(loss, start, jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-10})
    slope, level = map(float, found.x)
    if not slope > 1e-6:
        raise ValueError(
            "higher margins don't mean more fakes on these images: the detector is no better than chance here, or "
            "real and fake are swapped"
        )
    return scale / slope, level - slope * centre / scale


def _conformal_end(ordered: np.ndarray, alpha: float, beyond: float) -> float:
    """The ceil((n + 1)(1 - alpha))-th of n scores; `beyond` if there are fewer."""
    rank = max(1, math.ceil((len(ordered) + 1) * (1 - alpha) - 1e-9))  # 100 * (1 - 0.45) comes out above 55
    return float(ordered[rank - 1]) if rank <= len(ordered) else beyond


__all__ = ["OPERATING_FPRS", "clopper_pearson", "fit_calibration"]
