"""Metrics of a test set against scikit-learn, naive loops and counts by hand."""

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)

from mirage_hf.benchmark_metrics import (
    METRICS,
    ReliabilityBin,
    expected_calibration_error,
    reliability_bins,
    set_metrics,
    tpr_at_fpr,
)

RANDOM = np.random.default_rng(0)
CASES = {
    "random": (RANDOM.random(300), RANDOM.integers(0, 2, 300)),
    "few levels": (RANDOM.integers(0, 6, 300) / 5, RANDOM.integers(0, 2, 300)),
    "good detector": (np.clip(RANDOM.normal(0.3, 0.1, 300) + 0.3 * (np.arange(300) % 2), 0, 1), np.arange(300) % 2),
    "all ties": (np.full(20, 0.7), np.arange(20) % 2),
    "at the threshold": (np.array([0.5, 0.5, 0.5, 0.3, 0.3, 0.3, 0.9]), np.array([0, 1, 1, 0, 1, 0, 1])),
    "turned over": (np.array([0.9, 0.8, 0.1, 0.0]), np.array([0, 0, 1, 1])),
    "one of each": (np.array([0.0, 1.0]), np.array([0, 1])),
    "many reals, one fake": (np.append(np.linspace(0, 1, 250), 0.996), np.append(np.zeros(250, int), 1)),
}


def tpr_of_roc_curve(scores, labels, max_fpr):
    false_rates, rates, _ = roc_curve(labels, scores, drop_intermediate=False)
    return rates[false_rates <= max_fpr].max()


def naive_ece(scores, labels, bins=15):
    """One image at a time; a score on the border of two bins belongs to the lower one."""
    members = {}
    for score, label in zip(scores, labels, strict=True):
        index = next(index for index in range(bins) if score <= (index + 1) / bins)
        members.setdefault(index, []).append((score, label))
    gaps = [abs(sum(label - score for score, label in rows)) for rows in members.values()]
    return sum(gaps) / len(scores)


@pytest.mark.parametrize("case", CASES)
def test_equals_scikit_learn(case):
    scores, labels = CASES[case]
    metrics = set_metrics(scores, labels, 0.5, 0.3)
    assert list(metrics) == list(METRICS)
    for prefix, threshold in (("", 0.5), ("calibrated_", 0.3)):
        called = scores > threshold
        assert metrics[f"{prefix}accuracy"] == pytest.approx(accuracy_score(labels, called), abs=1e-12)
        assert metrics[f"{prefix}balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, called))
        assert metrics[f"{prefix}fake_accuracy"] == pytest.approx(recall_score(labels, called))
        assert metrics[f"{prefix}real_accuracy"] == pytest.approx(recall_score(labels, called, pos_label=0))
    assert metrics["average_precision"] == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert metrics["roc_auc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert metrics["tpr_at_fpr_1"] == pytest.approx(tpr_of_roc_curve(scores, labels, 0.01), abs=1e-12)
    assert metrics["expected_calibration_error"] == pytest.approx(naive_ece(scores, labels), abs=1e-12)


def test_the_cases_tell_the_metrics_apart():
    """Negative control: on ordinary scores no two metrics agree, so none could stand in for another."""
    scores, labels = RANDOM.random(301), np.append(RANDOM.integers(0, 2, 300), 1)
    values = list(set_metrics(scores, labels, 0.5, 0.3).values())
    assert len({round(value, 9) for value in values}) == len(METRICS)


@pytest.mark.parametrize(("label", "present", "missing"), [(0, "real", "fake"), (1, "fake", "real")])
@pytest.mark.parametrize("count", [1, 3])
def test_one_class_keeps_its_accuracy_only(label, present, missing, count):
    metrics = set_metrics([0.1, 0.4, 0.7][-count:], [label] * count, 0.5, 0.3)
    right = [0.7, 0.4, 0.1][:count]
    share = {threshold: np.mean([(score > threshold) == label for score in right]) for threshold in (0.5, 0.3)}
    defined = {key: value for key, value in metrics.items() if value is not None}
    assert defined == {f"{present}_accuracy": share[0.5], f"calibrated_{present}_accuracy": share[0.3]}
    assert metrics[f"{missing}_accuracy"] is None and list(metrics) == list(METRICS)


def test_without_an_own_threshold_its_accuracies_are_undefined():
    metrics = set_metrics([0.1, 0.9], [0, 1])
    assert {key for key, value in metrics.items() if value is None} == {k for k in METRICS if "calibrated" in k}


def test_at_most_one_percent_by_hand():
    # Of 200 reals the two highest may be called fake, 0.99 and 0.98; so fakes count above 0.97, the third.
    reals = [0.99, 0.98, 0.97] + [0.1] * 197
    fakes = [0.98, 0.975, 0.97, 0.2]
    scores, labels = reals + fakes, [0] * 200 + [1] * 4
    assert tpr_at_fpr(scores, labels, 0.01) == 2 / 4
    assert tpr_at_fpr(scores[1:], labels[1:], 0.01) == 2 / 4  # of 199 one may, 0.98, so again above 0.97
    # Below 100 reals none may: above 0.98.
    assert tpr_at_fpr([0.98, *reals[3:101], 0.98, 0.981], [0] * 99 + [1, 1], 0.01) == 1 / 2
    assert set_metrics(scores, labels)["tpr_at_fpr_1"] == 2 / 4
    # A tie of reals at the border: neither may, since both or none would.
    assert tpr_at_fpr([0.9, 0.9] + [0.1] * 98 + [0.9, 0.95], [0] * 100 + [1, 1], 0.01) == 1 / 2


@pytest.mark.parametrize("max_fpr", [0.0, 0.01, 0.1, 0.29, 0.57])
@pytest.mark.parametrize("count", [100, 99, 7])
def test_tpr_equals_the_roc_curve(max_fpr, count):
    for digits in (1, 3):
        scores = RANDOM.random(2 * count).round(digits)
        labels = np.repeat([0, 1], count)
        assert tpr_at_fpr(scores, labels, max_fpr) == pytest.approx(tpr_of_roc_curve(scores, labels, max_fpr + 1e-9))


def test_reliability_bins_by_hand():
    # Two bins, (0, 0.5] and (0.5, 1]: 0 and 0.5 are in the first.
    scores, labels = [0.0, 0.5, 0.4, 0.6, 1.0], [0, 1, 0, 1, 1]
    first, second = reliability_bins(scores, labels, bins=2)
    assert first == (pytest.approx(0.3), pytest.approx(1 / 3), 3)
    assert second == (pytest.approx(0.8), 1.0, 2)
    assert expected_calibration_error(scores, labels, bins=2) == pytest.approx(3 / 5 * (1 / 3 - 0.3) + 2 / 5 * 0.2)
    empty = ReliabilityBin(None, None, 0)
    assert reliability_bins([0.0, 1.0], [0, 1]) == [(0.0, 0.0, 1), *[empty] * 13, (1.0, 1.0, 1)]


def test_every_border_belongs_to_the_bin_below():
    borders = np.arange(1, 16) / 15
    assert [row.size for row in reliability_bins(borders, np.zeros(15, int))] == [1] * 15
    above = np.nextafter(borders[:-1], 1)
    assert [row.size for row in reliability_bins(above, np.zeros(14, int))] == [0, *[1] * 14]


def test_a_calibrated_detector_has_no_error_and_a_shifted_one_has():
    """In bin k a score of s = (2k + 1) / 30 is given to 30 images, of which 30 s are fake."""
    levels = (2 * np.arange(15) + 1) / 30
    scores = np.repeat(levels, 30)
    labels = np.concatenate([np.arange(30) < 2 * k + 1 for k in range(15)]).astype(int)
    assert expected_calibration_error(scores, labels) == pytest.approx(0.0, abs=1e-12)
    assert set_metrics(scores, labels)["expected_calibration_error"] == pytest.approx(0.0, abs=1e-12)
    assert expected_calibration_error(scores - 1 / 60, labels) == pytest.approx(1 / 60)
    assert expected_calibration_error(1 - scores, labels) == pytest.approx(np.abs(1 - 2 * levels).mean())
    assert expected_calibration_error([1.0, 1.0, 0.0], [0, 0, 1]) == 1.0


def test_the_error_does_not_fold_the_two_halves_of_the_scores():
    """Half of the images at 0.2 and at 0.8 are fake. Confidence against accuracy would give the same gap of 0.3 ..."""
    scores, labels = np.repeat([0.2, 0.8], 10), np.tile([0, 1], 10)
    assert expected_calibration_error(scores, labels) == pytest.approx(0.3)
    # ... and none where the gaps have opposite signs: confidence 0.8 and accuracies 1 and 0.6, 0.8 together.
    labels = np.concatenate([np.zeros(10), np.arange(10) < 6]).astype(int)
    assert expected_calibration_error(scores, labels) == pytest.approx(0.2)


def test_bad_values_name_the_argument():
    with pytest.raises(ValueError, match="`scores`"):
        set_metrics([0.1, 1.5], [0, 1])
    with pytest.raises(ValueError, match="`labels`"):
        set_metrics([0.1, 0.5], [0, 2])
    with pytest.raises(ValueError, match="`threshold`"):
        set_metrics([0.1, 0.5], [0, 1], calibrated_threshold=1.5)
    with pytest.raises(ValueError, match="`max_fpr`"):
        tpr_at_fpr([0.1, 0.5], [0, 1], 1.0)
    with pytest.raises(ValueError, match="both classes, got 2 real and 0 fake"):
        tpr_at_fpr([0.1, 0.5], [0, 0], 0.1)
