"""The threshold for a false-positive rate, against trying every score."""

import numpy as np
import pytest

from mirage_hf.thresholds import threshold_at_fpr


def false_positive_rates(scores, labels, groups, threshold):
    return [np.mean(scores[(labels == 0) & (groups == name)] > threshold) for name in np.unique(groups[labels == 0])]


@pytest.mark.parametrize("max_fpr", [0.0, 0.1, 0.25, 0.9])
@pytest.mark.parametrize("digits", [1, 8])  # with many ties, and with none
def test_smallest_threshold_that_keeps_every_group(max_fpr, digits):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        scores, labels = rng.uniform(0, 0.94, 60).round(digits), rng.integers(2, size=60)
        groups = rng.choice(["photo", "x2", "x4"], 60)
        threshold = threshold_at_fpr(scores, labels, groups, max_fpr)
        assert max(false_positive_rates(scores, labels, groups, threshold)) <= max_fpr
        smaller = [score for score in (0.0, *scores) if score < threshold]
        brute = min(s for s in (0.0, *scores) if max(false_positive_rates(scores, labels, groups, s)) <= max_fpr)
        assert max(smaller) == brute and threshold not in scores


def test_the_worst_group_decides():
    scores, labels = [0.1, 0.2, 0.7, 0.8, 0.9, 0.9], [0, 0, 0, 0, 1, 1]
    assert threshold_at_fpr(scores, labels, ["a", "a", "b", "b", "a", "b"], 0.5) == pytest.approx(0.75)
    assert threshold_at_fpr(scores, labels, ["a"] * 6, 0.5) == pytest.approx(0.45)  # pooled, b's would be let through
    assert threshold_at_fpr([1.0, 1.0], [0, 1], ["a", "a"], 0.0) == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.1], [0], ["a"], 1.0), "`max_fpr`"),
        (([0.1], [0], ["a"], -0.1), "`max_fpr`"),
        (([0.1, 0.2], [0], ["a"], 0.1), "2, 1 and 1 rows"),
        (([0.1], [1], ["a"], 0.1), "needs real images"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        threshold_at_fpr(*arguments)
