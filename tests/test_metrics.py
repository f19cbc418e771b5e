import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from mirage_hf.metrics import DetectionMetric, detection_metrics

CLASS_DEPENDENT = ("balanced_accuracy", "average_precision", "roc_auc")


def naive_average_precision(scores, labels):
    """Sum over distinct thresholds, from high to low, of (gain in recall) x precision; ties enter together."""
    total, previous_recall, n_fake = 0.0, 0.0, sum(labels)
    for threshold in sorted(set(scores), reverse=True):
        called = [label for score, label in zip(scores, labels, strict=True) if score >= threshold]
        recall = sum(called) / n_fake
        total += (recall - previous_recall) * sum(called) / len(called)
        previous_recall = recall
    return total


def naive_auc(scores, labels):
    """Probability that a fake outranks a real, a tie counting half."""
    fakes = [score for score, label in zip(scores, labels, strict=True) if label]
    reals = [score for score, label in zip(scores, labels, strict=True) if not label]
    return sum((f > r) + 0.5 * (f == r) for f in fakes for r in reals) / (len(fakes) * len(reals))


def test_hand_counted():
    metrics = detection_metrics(scores=[0.9, 0.4, 0.6, 0.1, 0.2], labels=[1, 1, 0, 0, 0])
    assert metrics["accuracy"] == 3 / 5  # 0.9, 0.1 and 0.2 are right
    assert metrics["fake_accuracy"] == 1 / 2 and metrics["real_accuracy"] == 2 / 3
    assert metrics["balanced_accuracy"] == pytest.approx(7 / 12)
    # From above: 0.9 is fake (precision 1), 0.6 is real, 0.4 is fake (precision 2/3).
    assert metrics["average_precision"] == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)
    assert metrics["roc_auc"] == pytest.approx(5 / 6)  # of 6 pairs only (0.4, 0.6) is the wrong way round
    assert (metrics["n_real"], metrics["n_fake"]) == (3, 2)


def test_average_precision_with_ties_by_hand():
    # A tie of one fake and one real at 0.8, then a fake at 0.3: 1/2 x 1/2 + 1/2 x 2/3, whatever the order of rows.
    for order in ([0, 1, 2], [1, 0, 2], [2, 1, 0]):
        scores, labels = np.array([0.8, 0.8, 0.3])[order], np.array([1, 0, 1])[order]
        assert detection_metrics(scores, labels)["average_precision"] == pytest.approx(7 / 12)


def test_all_one_score_is_chance():
    metrics = detection_metrics([0.5] * 10, [1] * 3 + [0] * 7)
    assert metrics["average_precision"] == pytest.approx(0.3)  # prevalence
    assert metrics["roc_auc"] == 0.5
    # A tie of the two classes goes to real, as with argmax.
    assert metrics["fake_accuracy"] == 0.0 and metrics["real_accuracy"] == 1.0


@pytest.mark.parametrize("levels", [3, 10, 10_000])
@pytest.mark.parametrize("seed", range(5))
def test_equals_naive_loops_with_ties(levels, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 60)
    scores = rng.integers(0, levels + 1, 60) / levels
    metrics = detection_metrics(scores, labels, threshold=0.3)
    assert metrics["average_precision"] == pytest.approx(naive_average_precision(scores, labels), abs=1e-12)
    assert metrics["roc_auc"] == pytest.approx(naive_auc(scores, labels), abs=1e-12)
    hits = [(score > 0.3) == bool(label) for score, label in zip(scores, labels, strict=True)]
    assert metrics["accuracy"] == pytest.approx(sum(hits) / 60)


def test_swapped_polarity_is_caught():
    """Negative control: scores of the other class turn every metric over."""
    scores, labels = np.array([0.9, 0.8, 0.2, 0.1]), [1, 1, 0, 0]
    assert detection_metrics(scores, labels)["roc_auc"] == 1.0
    swapped = detection_metrics(1 - scores, labels)
    assert swapped["roc_auc"] == 0.0 and swapped["accuracy"] == 0.0


@pytest.mark.parametrize(("label", "present", "missing"), [(0, "real", "fake"), (1, "fake", "real")])
def test_one_class_missing_gives_none_and_never_zero(label, present, missing):
    metrics = detection_metrics([0.1, 0.2, 0.7], [label] * 3)
    right = 2 / 3 if label == 0 else 1 / 3
    assert metrics["accuracy"] == metrics[f"{present}_accuracy"] == pytest.approx(right)
    assert metrics[f"{missing}_accuracy"] is None and metrics[f"n_{missing}"] == 0
    assert all(metrics[key] is None for key in CLASS_DEPENDENT)


def test_threshold_is_exclusive_and_moves_accuracy_only():
    scores, labels = [0.2, 0.5, 0.7], [0, 1, 1]
    at_half, below = detection_metrics(scores, labels), detection_metrics(scores, labels, threshold=0.49)
    assert at_half["fake_accuracy"] == 0.5 and below["fake_accuracy"] == 1.0
    assert at_half["average_precision"] == below["average_precision"] == 1.0
    assert detection_metrics(scores, labels, threshold=1.0)["fake_accuracy"] == 0.0


def test_tensors_arrays_and_lists_agree():
    scores, labels = [0.25, 0.75, 0.5], [0, 1, 0]
    expected = detection_metrics(scores, labels)
    assert detection_metrics(torch.tensor(scores, dtype=torch.bfloat16), torch.tensor(labels)) == expected
    assert detection_metrics(torch.tensor(scores, requires_grad=True), np.array(labels, dtype=bool)) == expected


BAD = [
    ("scores", [0.1, float("nan")], [0, 1]),
    ("scores", [0.1, float("inf")], [0, 1]),
    ("scores", [0.1, -0.01], [0, 1]),
    ("scores", [0.1, 1.01], [0, 1]),
    ("scores", [0.1, 0.2, 0.3], [0, 1]),
    ("scores", [], []),
    ("labels", [0.1, 0.2], [0, 2]),
    ("labels", [0.1, 0.2], [0, -1]),
    ("labels", [0.1, 0.2], [0, 0.7]),
    ("labels", [0.1, 0.2], [0, float("nan")]),
]


@pytest.mark.parametrize(("field", "scores", "labels"), BAD)
def test_bad_values_name_the_argument(field, scores, labels):
    with pytest.raises(ValueError, match=f"`{field}`"):
        detection_metrics(scores, labels)


def test_other_bad_arguments():
    with pytest.raises(ValueError, match="`labels`"):
        detection_metrics([0.1], ["fake"])
    with pytest.raises(ValueError, match="`scores` must be one-dimensional"):
        detection_metrics([[0.1, 0.9]], [1])
    with pytest.raises(ValueError, match="`threshold`"):
        detection_metrics([0.1], [1], threshold=float("nan"))


def test_metric_equals_the_function():
    rng = np.random.default_rng(0)
    scores, labels = rng.random(50), rng.integers(0, 2, 50)
    metric = DetectionMetric()
    expected = detection_metrics(scores, labels, 0.4)
    assert metric.compute(predictions=scores, references=labels, threshold=0.4) == expected
    metric.add_batch(predictions=scores[:20], references=labels[:20])
    metric.add_batch(predictions=torch.tensor(scores[20:49]), references=torch.tensor(labels[20:49]))
    metric.add(prediction=scores[49], reference=labels[49])
    assert metric.compute(threshold=0.4) == expected


@pytest.mark.parametrize(("field", "scores", "labels"), [bad for bad in BAD if len(bad[1])])
def test_metric_names_the_column_and_recovers(field, scores, labels):
    metric = DetectionMetric()
    with pytest.raises(ValueError, match={"scores": "predictions", "labels": "references"}[field]):
        metric.compute(predictions=scores, references=labels)
    again = metric.compute(predictions=[0.1, 0.8], references=[0, 1])
    assert (again["n_real"], again["n_fake"], again["accuracy"]) == (1, 1, 1.0)


def test_metric_rejects_unknown_arguments():
    with pytest.raises(ValueError, match="thresold"):
        DetectionMetric().compute(predictions=[0.1], references=[0], thresold=0.4)


def test_metric_pickles():
    metric = pickle.loads(pickle.dumps(DetectionMetric()))
    assert metric.compute(predictions=[0.1], references=[0])["real_accuracy"] == 1.0


def test_metric_leaves_nothing_on_disk_and_needs_no_network(tmp_path):
    code = (
        "import socket\n"
        "def refuse(*args, **kwargs): raise AssertionError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from mirage_hf.metrics import DetectionMetric\n"
        "metric = DetectionMetric()\n"
        "print(metric.compute(predictions=[.1, .9], references=[0, 1])['accuracy'])\n"
        "try: metric.compute(predictions=[2.0], references=[0])\n"
        "except ValueError: print('refused')\n"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    for variable in ("HF_METRICS_CACHE", "HF_EVALUATE_CACHE", "HF_MODULES_CACHE", "XDG_CACHE_HOME"):
        environment.pop(variable, None)
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["1.0", "refused"]
    assert [path for path in tmp_path.rglob("*") if path.is_file() or "metrics" in path.parts] == []
