"""Intervals by a two-level bootstrap, over photographs and over seeds, and the weighted metrics it needs."""

from collections.abc import Sequence

import numpy as np

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
    """
    Metrics that need no threshold, for many weightings of the same images. Ties count as scikit-learn counts them.

    Args:
        scores (`np.ndarray` of shape `(N,)`): Higher means fake.
        labels (`np.ndarray` of shape `(N,)`): 0 = real, 1 = fake.
        weights (`np.ndarray` of shape `(R, N)`): How often each image counts.

    Returns:
        `dict[str, np.ndarray]`, each of shape `(R,)`: `auc`; `ap`, the average precision; `tpr`, the largest share of
        fakes found at a threshold that calls at most `EQUAL_FPR` of these real images fake. NaN without a class.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # last image of each run of equal scores
    drawn, is_fake = weights[:, order].astype(np.float64), labels[order] == 1
    fakes = np.cumsum(drawn * is_fake, axis=1)[:, ends]  # (R, E): found above each threshold
    reals = np.cumsum(drawn * ~is_fake, axis=1)[:, ends]
    new_fakes, new_reals = np.diff(fakes, axis=1, prepend=0), np.diff(reals, axis=1, prepend=0)
    all_fakes, all_reals = fakes[:, -1], reals[:, -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        auc = (new_fakes * (all_reals[:, None] - reals + new_reals / 2)).sum(axis=1) / (all_fakes * all_reals)
        ap = (new_fakes * np.nan_to_num(fakes / (fakes + reals))).sum(axis=1) / all_fakes
        allowed = reals <= EQUAL_FPR * all_reals[:, None] + 1e-9
        tpr = (fakes * allowed).max(axis=1) / all_fakes
        return {"auc": auc, "ap": np.where(all_reals > 0, ap, np.nan), "tpr": np.where(all_reals > 0, tpr, np.nan)}


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


def interval(values: np.ndarray) -> list[float]:
    """Estimate (the first value), then the 2.5th and 97.5th percentile of the others; NaN is left out."""
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    return [round(float(value), 5) for value in (values[0], low, high)]
