"""The evidence table: thresholds, resampling and the metrics of a setting, against naive loops and closed forms."""

import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.minibench.evidence import thresholds
from benchmarks.minibench.evidence.bootstrap import draw_weights, interval, ranking_metrics, weighted_share
from benchmarks.minibench.evidence.scoring import average_groups, list_generators, score_setting

FAMILIES = {"realesrgan": "RRDB", "realsr": "RRDB", "span": "SPAN", "dcgan_face": "GAN"}
CUTS = {"chosen": 0.3, "equal": 0.1, "half": 0.0}


# ---------------------------------------------------------------------------------------------------------- thresholds


def make_scores(random, count=40, decimals=1):
    """Scores with ties, labels and kinds, fakes somewhat higher."""
    kinds = random.choice(["photo", "bicubic_x2", "bicubic_x4", "realesrgan"], size=count)
    kinds[:4] = ["photo", "bicubic_x2", "bicubic_x4", "realesrgan"]
    labels = (kinds == "realesrgan").astype(int)
    return np.round(random.normal(size=count) + labels, decimals), labels, kinds


def best_by_force(scores, labels, kinds, constrained=True):
    """Highest balanced accuracy of all thresholds that obey the rule, among many more than needed."""
    best = -1.0
    for threshold in np.arange(-5, 6, 0.05) + 0.025:
        above = scores > threshold
        photo, control = above[kinds == "photo"].mean(), above[np.isin(kinds, ("bicubic_x2", "bicubic_x4"))].mean()
        if not constrained or (photo <= 0.15 and control <= 0.10):
            best = max(best, (above[labels == 1].mean() + 1 - photo) / 2)
    return best


def test_the_chosen_threshold_is_the_best_that_obeys_the_rule():
    random = np.random.default_rng(0)
    unconstrained_is_better = 0
    for _ in range(25):
        scores, labels, kinds = make_scores(random)
        above = scores > thresholds.choose_threshold(scores, labels, kinds)
        photo = above[kinds == "photo"].mean()
        assert photo <= 0.15
        assert above[np.isin(kinds, ("bicubic_x2", "bicubic_x4"))].mean() <= 0.10
        found = (above[labels == 1].mean() + 1 - photo) / 2
        assert found == pytest.approx(best_by_force(scores, labels, kinds))
        unconstrained_is_better += best_by_force(scores, labels, kinds, constrained=False) > found + 1e-9
    assert unconstrained_is_better > 5  # the rule matters on these scores


def test_a_detector_that_is_always_wrong_calls_nothing_fake():
    scores, kinds = np.array([1.0, 2.0, 3.0, -1.0]), ["photo", "bicubic_x2", "photo", "realesrgan"]
    assert thresholds.choose_threshold(scores, np.array([0, 0, 0, 1]), kinds) > scores.max()


def test_the_equal_rate_threshold_is_the_lowest_of_its_rate():
    random = np.random.default_rng(1)
    for count in (7, 10, 23, 112):
        photos = np.round(random.normal(size=count), 1)
        threshold = thresholds.equal_rate_threshold(np.append(photos, 99.0), ["photo"] * count + ["span"])
        assert (photos > threshold).mean() <= thresholds.EQUAL_FPR
        lower = photos[photos < threshold]
        if len(lower):  # the next lower place for it would exceed the rate
            assert (photos > lower.max()).mean() > thresholds.EQUAL_FPR


def test_validation_metrics_agree_with_scikit_learn():
    scores, labels, kinds = make_scores(np.random.default_rng(2), count=200)
    plain = np.isin(kinds, ("photo", "realesrgan"))
    found = thresholds.validation_metrics(scores, labels, kinds)
    assert found["auc_photo"] == pytest.approx(roc_auc_score(labels[plain], scores[plain]))
    assert found["selection"] == pytest.approx((found["auc_photo"] + found["auc_control"]) / 2)


# ----------------------------------------------------------------------------------------------------------- bootstrap


def test_weighted_ranking_metrics_agree_with_scikit_learn():
    random = np.random.default_rng(3)
    scores, labels, _ = make_scores(random, count=120)
    assert len(np.unique(scores)) < len(scores)
    weights = random.integers(0, 4, size=(20, len(scores))).astype(np.float32)
    found = ranking_metrics(scores, labels, weights)
    for row, weight in enumerate(weights):
        assert found["auc"][row] == pytest.approx(roc_auc_score(labels, scores, sample_weight=weight))
        assert found["ap"][row] == pytest.approx(average_precision_score(labels, scores, sample_weight=weight))
        best = 0.0
        for threshold in (-9, *scores):
            above = scores > threshold
            if np.average(above[labels == 0], weights=weight[labels == 0]) <= 0.10 + 1e-9:
                best = max(best, np.average(above[labels == 1], weights=weight[labels == 1]))
        assert found["tpr"][row] == pytest.approx(best)
    shuffled = ranking_metrics(random.permutation(scores), labels, weights)
    assert not np.allclose(shuffled["auc"], found["auc"], atol=0.01)


def test_a_draw_without_a_class_is_undefined():
    found = ranking_metrics(np.array([0.1, 0.9]), np.array([0, 1]), np.array([[1, 1], [0, 1], [1, 0]], dtype=float))
    for values in found.values():
        assert values[0] == 1.0
        assert np.isnan(values[1:]).all()
    assert interval(np.array([0.5, np.nan, 0.4, 0.4]))[:2] == [0.5, 0.4]


def test_the_bootstrap_spreads_as_theory_says():
    """The mean over P photographs of k equal images each: its deviation is one's / sqrt(P), not / sqrt(kP)."""
    random = np.random.default_rng(4)
    photos, copies, seeds = 60, 5, 8
    of_photo, of_seed = random.random(photos), random.normal(size=seeds)
    groups = np.repeat([f"photo{index}" for index in range(photos)], copies)
    weights, seed_weights = draw_weights(groups.tolist(), seeds, 4000)
    _, member = np.unique(groups, return_inverse=True)
    means = (weights @ of_photo[member]) / weights.sum(axis=1)
    assert means[0] == pytest.approx(of_photo.mean(), rel=1e-5)
    assert means[1:].std() == pytest.approx(of_photo.std() / np.sqrt(photos), rel=0.05)
    assert means[1:].std() > 1.5 * of_photo.std() / np.sqrt(photos * copies)  # what drawing single images would give
    assert (seed_weights @ of_seed)[1:].std() == pytest.approx(of_seed.std() / np.sqrt(seeds), rel=0.05)
    assert weights[0].tolist() == [1.0] * len(groups)
    assert seed_weights.sum(axis=1) == pytest.approx(1.0)


# ------------------------------------------------------------------------------------------------ metrics of a setting


def make_columns(photos=12):
    """Columns of a test split: photographs, controls, three generators, and one apart with partners of its own."""
    rows = []
    for index in range(photos):
        photo = f"photo{index:02d}"
        rows.append((photo, 0, "photo", "realesrgan realsr span", ""))
        rows += [(photo, 0, kind, kind, "") for kind in ("bicubic_x2", "bicubic_x4")]
        rows += [(photo, 1, name, name, FAMILIES[name]) for name in ("realesrgan", "realsr", "span")]
        rows.append((f"face{index:02d}", 0, "partner", "dcgan_face", ""))
        rows.append((f"face{index:02d}", 1, "dcgan_face", "dcgan_face", "GAN"))
    names = ("photo", "label", "kind", "generators", "family")
    return {name: np.array(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}


def make_setting_scores(columns, seeds, seed):
    random = np.random.default_rng(seed)
    return np.round(random.normal(size=(seeds, len(columns["label"]))) + columns["label"], 2)


def test_groups_leave_out_what_was_seen_and_what_is_apart():
    groups = average_groups(list_generators(make_columns()), seen=["realesrgan"], apart=["dcgan_face"])
    assert groups == {
        "unseen": [["realsr"], ["span"]],
        "unseen families": [["span"]],
        "family RRDB": [["realesrgan", "realsr"]],
        "family SPAN": [["span"]],
    }


def test_replicates_equal_a_loop_that_copies_images():
    columns, seeds = make_columns(), 3
    scores = make_setting_scores(columns, seeds, 0)
    groups = average_groups(list_generators(columns), ["realesrgan"], ["dcgan_face"])
    weights, seed_weights = draw_weights(columns["photo"].tolist(), seeds, 15)
    found = score_setting(scores, [CUTS] * seeds, columns, groups, weights, seed_weights)
    for row in range(len(weights)):
        copies = np.repeat(np.arange(len(scores[0])), weights[row].astype(int))
        kinds, labels = columns["kind"][copies], columns["label"][copies]
        expected = {"auc/span": 0.0, "balanced_chosen/dcgan_face": 0.0, "fpr_equal/bicubic_x2": 0.0, "ap/unseen": 0.0}
        for share, run_scores in zip(seed_weights[row], scores[:, copies], strict=True):
            pair = np.isin(kinds, ("photo", "span"))
            expected["auc/span"] += share * roc_auc_score(labels[pair], run_scores[pair])
            above = run_scores > CUTS["chosen"]
            hit, alarm = above[kinds == "dcgan_face"].mean(), above[kinds == "partner"].mean()
            expected["balanced_chosen/dcgan_face"] += share * (hit + 1 - alarm) / 2
            expected["fpr_equal/bicubic_x2"] += share * (run_scores[kinds == "bicubic_x2"] > CUTS["equal"]).mean()
            for name in ("realsr", "span"):
                pair = np.isin(kinds, ("photo", name))
                expected["ap/unseen"] += share * average_precision_score(labels[pair], run_scores[pair]) / 2
        for name, value in expected.items():
            assert found[name][row] == pytest.approx(value), name


def test_one_run_stands_for_all_seeds():
    columns = make_columns()
    scores = make_setting_scores(columns, 1, 0)
    weights, seed_weights = draw_weights(columns["photo"].tolist(), 3, 10)
    one = score_setting(scores, [CUTS], columns, {}, weights, seed_weights)
    three = score_setting(scores.repeat(3, axis=0), [CUTS] * 3, columns, {}, weights, seed_weights)
    for name in one:
        assert one[name] == pytest.approx(three[name])


def test_weighted_share_without_weight_is_undefined():
    assert np.isnan(weighted_share(np.array([True]), np.zeros((1, 1))))[0]
