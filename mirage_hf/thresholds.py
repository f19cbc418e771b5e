"""The probability above which an image is called fake, fixed on validation images."""

from collections.abc import Sequence

import numpy as np


def threshold_at_fpr(scores, labels, groups: Sequence[str], max_fpr: float) -> float:
    """
    The smallest threshold that calls at most a share `max_fpr` of the real images fake, in every group of them.

    Groups are what must not be averaged over: plain photographs and resampled ones, or the real images of each
    generator. The threshold lies halfway between two neighbouring scores, so that rounding moves no image across it.

    Args:
        scores (array-like of shape `(N,)`):
            Probability of fake, in [0, 1].
        labels (array-like of shape `(N,)`):
            0 for real and 1 for fake.
        groups (`Sequence[str]` of length `N`):
            Test set that each row belongs to; those without real images have no say.
        max_fpr (`float`):
            Largest false-positive rate, in [0, 1).

    Returns:
        `float`: Call an image fake when its score is above.

    Raises:
        ValueError: `max_fpr` is out of range, lengths differ, or there is no real image.
    """
    scores, labels, names = np.asarray(scores, float), np.asarray(labels), np.asarray(groups, dtype=object)
    if not 0 <= max_fpr < 1:
        raise ValueError(f"`max_fpr` must lie in [0, 1), got {max_fpr!r}")
    if not len(scores) == len(labels) == len(names):
        raise ValueError(f"`scores`, `labels` and `groups` have {len(scores)}, {len(labels)} and {len(names)} rows")
    real = labels == 0
    if not real.any():
        raise ValueError("a threshold for a false-positive rate needs real images")
    lowest = 0.0
    for name in set(names[real]):
        ordered = np.sort(scores[real & (names == name)])[::-1]
        allowed = int(max_fpr * len(ordered) + 1e-9)  # so many may lie above
        lowest = max(lowest, float(ordered[allowed]))
    above = scores[scores > lowest]
    return (lowest + (float(above.min()) if len(above) else 1.0)) / 2


__all__ = ["threshold_at_fpr"]
