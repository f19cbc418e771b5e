"""Where "fake" begins: thresholds fixed on the validation split, and what a run is worth there."""

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from .bootstrap import EQUAL_FPR
from .images import CONTROLS

MAX_PHOTO_FPR = 0.15
MAX_CONTROL_FPR = 0.10


def choose_threshold(log_odds: np.ndarray, labels: np.ndarray, kinds: Sequence[str]) -> float:
    """
    The rule of the benchmark: of all thresholds that call at most `MAX_PHOTO_FPR` of the photographs and at most
    `MAX_CONTROL_FPR` of the controls fake, the one of highest balanced accuracy of fakes against photographs; the
    highest one among equals. There always is one: above every score nothing is called fake.

    Args:
        log_odds (`np.ndarray` of shape `(N,)`): Scores; fake means a score above the threshold.
        labels (`np.ndarray` of shape `(N,)`): 0 = real, 1 = fake.
        kinds (`Sequence[str]` of length N): As in `Split.kinds`.

    Returns:
        `float`: The middle between two neighbouring scores, or a step beyond the last one.
    """
    names = np.asarray(kinds)
    levels = np.unique(log_odds)
    candidates = np.concatenate([[levels[0] - 1], (levels[:-1] + levels[1:]) / 2, [levels[-1] + 1]])  # (C,)
    photo = _called_fake(log_odds[names == "photo"], candidates)
    control = _called_fake(log_odds[np.isin(names, CONTROLS)], candidates)
    balanced = (_called_fake(log_odds[labels == 1], candidates) + 1 - photo) / 2
    allowed = (photo <= MAX_PHOTO_FPR) & (control <= MAX_CONTROL_FPR)
    best = np.flatnonzero(allowed & (balanced == balanced[allowed].max()))[-1]
    return float(candidates[best])


def equal_rate_threshold(log_odds: np.ndarray, kinds: Sequence[str]) -> float:
    """The lowest threshold that calls at most `EQUAL_FPR` of the photographs fake, the same rate for all detectors."""
    scores = np.sort(log_odds[np.asarray(kinds) == "photo"])
    allowed = int(np.floor(EQUAL_FPR * len(scores)))
    return float(scores[len(scores) - 1 - allowed])  # an image at the threshold isn't above it


def _called_fake(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of the scores above each threshold."""
    return 1 - np.searchsorted(np.sort(scores), thresholds, side="right") / len(scores)


def validation_metrics(log_odds: np.ndarray, labels: np.ndarray, kinds: Sequence[str]) -> dict[str, float]:
    """
    What a run is worth on validation. `selection` is what settings are chosen by: the mean of the AUC of fakes
    against photographs and of that against controls, which needs no threshold.
    """
    names = np.asarray(kinds)
    threshold = choose_threshold(log_odds, labels, kinds)
    auc = {}
    for name, members in (("photo", names == "photo"), ("control", np.isin(names, CONTROLS))):
        chosen = members | (labels == 1)
        auc[name] = float(roc_auc_score(labels[chosen], log_odds[chosen]))
    plain = (names == "photo") | (labels == 1)
    above = log_odds > threshold
    photo_rate, fake_rate = above[names == "photo"].mean(), above[labels == 1].mean()
    return {
        "selection": (auc["photo"] + auc["control"]) / 2,
        "auc_photo": auc["photo"],
        "auc_control": auc["control"],
        "ap_photo": float(average_precision_score(labels[plain], log_odds[plain])),
        "balanced_accuracy": float((fake_rate + 1 - photo_rate) / 2),
        "fpr_photo": float(photo_rate),
        "fpr_control": float(above[np.isin(names, CONTROLS)].mean()),
    }
