"""Intervals by resampling: the weighted metrics against repeated rows, the draws against theory."""

from math import sqrt
from statistics import NormalDist

import numpy as np
import pytest

from mirage_hf import intervals
from mirage_hf.benchmark_metrics import METRICS, set_metrics
from mirage_hf.evaluation import evaluate_by_generator
from mirage_hf.intervals import ScoredSet, bootstrap_differences, bootstrap_sets, draw_weights, find_strata
from mirage_hf.weighted_metrics import weighted_metrics


def make_scores(seed, count=120, digits=8, gap=1.0):
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    return (1 / (1 + np.exp(-random.normal(size=count) - gap * (labels - 0.5)))).round(digits), labels


def make_set(name, seed, **arguments):
    scores, labels = make_scores(seed, **arguments)
    return ScoredSet([f"{name}/{row}" for row in range(len(scores))], labels, scores)


def check_row(found, row, expected):
    for key in METRICS:
        if expected[key] is None:
            assert np.isnan(found[key][row]), key
        else:
            assert found[key][row] == pytest.approx(expected[key], abs=1e-12), key


# ---------------------------------------------------------------------------------------------------- weighted metrics


@pytest.mark.parametrize("digits", [1, 2, 8])
@pytest.mark.parametrize("count", [7, 120, 200, 251])
def test_weights_of_one_are_the_plain_metrics(count, digits):
    scores, labels = make_scores(count, count, digits)
    for own in (None, 0.3):
        found = weighted_metrics(scores, labels, np.ones((2, count)), 0.5, own)
        assert set(found) == set(METRICS)
        for row in range(2):
            check_row(found, row, set_metrics(scores, labels, 0.5, own))


@pytest.mark.parametrize("digits", [1, 8])
def test_whole_weights_are_repeated_rows(digits):
    scores, labels = make_scores(3, 240, digits)
    weights = np.random.default_rng(4).integers(0, 4, size=(25, 240))
    found = weighted_metrics(scores, labels, weights, 0.5, 0.4)
    for row, weight in enumerate(weights):
        check_row(found, row, set_metrics(np.repeat(scores, weight), np.repeat(labels, weight), 0.5, 0.4))
    others = weighted_metrics(scores, labels, np.roll(weights, 1, axis=1), 0.5, 0.4)
    for key in METRICS:  # negative control: the weights of other images give other values
        assert not np.allclose(found[key], others[key], atol=1e-4), key


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1], [0, 1, 1]])
def test_a_weighting_without_a_class_has_what_a_set_without_it_has(labels):
    scores, labels = np.array([0.2, 0.6, 0.9]), np.array(labels)
    weights = np.array([[1, 1, 1], [0, 1, 1], [2, 0, 0]])
    found = weighted_metrics(scores, labels, weights, 0.5, 0.7)
    for row, weight in enumerate(weights):
        check_row(found, row, set_metrics(np.repeat(scores, weight), np.repeat(labels, weight), 0.5, 0.7))


# --------------------------------------------------------------------------------------------------------------- draws


def test_strata_are_the_label_and_the_sets_that_hold_an_image():
    sets = {
        "a": ScoredSet(["r1", "f1", "r2", "r3"], np.array([0, 1, 0, 0]), np.full(4, 0.5)),
        "b": ScoredSet(["r3", "f2", "r1"], np.array([0, 1, 0]), np.full(3, 0.5)),
    }
    members, strata = find_strata(sets)
    assert [images.tolist() for images in members] == [[0, 1, 2, 3], [3, 4, 0]]
    assert sorted(images.tolist() for images in strata) == [[0, 3], [1], [2], [4]]


def test_every_draw_keeps_the_size_of_every_stratum(monkeypatch):
    strata = [np.array([0, 5, 6, 2]), np.array([1]), np.array([3, 4, 7])]
    weights = np.concatenate(list(draw_weights(strata, 4000, 0)))
    assert weights.shape == (4000, 8)
    for images in strata:
        assert (weights[:, images].sum(axis=1) == len(images)).all()
        # Binomial(n, 1/n), with the covariance of a multinomial.
        assert weights[:, images].mean(axis=0) == pytest.approx(1, abs=0.06)
        expected = np.eye(len(images)) - 1 / len(images)
        assert np.atleast_2d(np.cov(weights[:, images].T)) == pytest.approx(expected, abs=0.09)
    assert abs(np.corrcoef(weights[:, 0], weights[:, 3])[0, 1]) < 0.06  # strata are drawn apart
    monkeypatch.setattr(intervals, "CHUNK", 100)  # 12 draws at once: the same ones
    chunks = list(draw_weights(strata, 4000, 0))
    assert {len(chunk) for chunk in chunks} == {12, 4} and np.array_equal(np.concatenate(chunks), weights)
    monkeypatch.setattr(intervals, "CHUNK", 3)  # fewer than one draw needs
    assert np.array_equal(next(draw_weights(strata, 5, 0)), weights[:1])
    assert not np.array_equal(next(draw_weights(strata, 1, 1)), weights[:1])


def mirrored_sets(shared):
    """Two sets with the same reals in another order; a real that one set gets right the other gets wrong."""
    scores, labels = make_scores(0)
    order = np.random.default_rng(1).permutation(len(scores))
    keys = [f"{'real' if label == 0 else 'a'}{row}" for row, label in enumerate(labels)]
    other = [key if shared and key.startswith("real") else f"b{key}" for key in keys]
    turned = np.where(labels == 0, np.where(scores > 0.5, 0.2, 0.8), scores)
    return {
        "a": ScoredSet(keys, labels, scores),
        "b": ScoredSet([other[row] for row in order], labels[order], turned[order]),
    }


def test_a_shared_real_has_the_same_weight_in_each_set():
    by_set, mean = bootstrap_sets(mirrored_sets(shared=True), 0.5, replicates=300)
    assert mean["real_accuracy"] == (pytest.approx(0.5), pytest.approx(0.5))
    low, high = by_set["a"]["real_accuracy"]
    assert by_set["b"]["real_accuracy"] == (pytest.approx(1 - high), pytest.approx(1 - low)) and high - low > 0.1
    low, high = bootstrap_sets(mirrored_sets(shared=False), 0.5, replicates=300)[1]["real_accuracy"]
    assert high - low > 0.1  # control: drawn apart, the two errors don't cancel


def test_reals_that_sets_share_make_the_interval_of_the_mean_wider():
    """Six sets with the same reals know no more of them than one; six with their own know sqrt(6) times more."""
    scores, labels = make_scores(5, 200)

    def mean_width(shared, key):
        sets = {}
        for name in "abcdef":
            keys = [f"{'' if shared and label == 0 else name}{row}" for row, label in enumerate(labels)]
            sets[name] = ScoredSet(keys, labels, scores)
        by_set, mean = bootstrap_sets(sets, 0.5, replicates=1500)
        return np.ptp(mean[key]) / np.ptp(by_set["a"][key])

    assert mean_width(True, "real_accuracy") == pytest.approx(1.0, abs=1e-9)
    assert mean_width(False, "real_accuracy") == pytest.approx(1 / sqrt(6), rel=0.15)
    assert mean_width(True, "fake_accuracy") == pytest.approx(1 / sqrt(6), rel=0.15)  # fakes are never shared here
    assert mean_width(True, "roc_auc") > 1.4 * mean_width(False, "roc_auc")


# ----------------------------------------------------------------------------------------------------------- intervals


def test_intervals_are_the_percentiles_of_resampled_sets():
    """Against a loop that copies rows, with draws of its own: the ends agree within their noise."""
    data = make_set("a", 6, count=90, digits=2)
    by_set, mean = bootstrap_sets({"a": data}, 0.5, 0.4, replicates=3000, level=0.9)
    assert mean == by_set["a"] and set(mean) == set(METRICS)
    random, draws = np.random.default_rng(7), []
    reals, fakes = np.flatnonzero(data.labels == 0), np.flatnonzero(data.labels == 1)
    for _ in range(200):
        rows = np.concatenate([random.choice(reals, len(reals)), random.choice(fakes, len(fakes))])
        draws.append(set_metrics(data.scores[rows], data.labels[rows], 0.5, 0.4))
    assert by_set["a"]["expected_calibration_error"] is None
    for key in METRICS.keys() - intervals.WITHOUT_INTERVAL:
        values = np.array([draw[key] for draw in draws])
        assert by_set["a"][key] == pytest.approx(tuple(np.quantile(values, [0.05, 0.95])), abs=0.5 * values.std()), key
    wider = bootstrap_sets({"a": data}, 0.5, 0.4, replicates=3000, level=0.99)[1]
    assert wider["roc_auc"][0] < mean["roc_auc"][0] and wider["roc_auc"][1] > mean["roc_auc"][1]


def test_the_interval_of_an_accuracy_has_the_width_of_a_binomial():
    labels = np.repeat([0, 1], 400)
    scores = np.concatenate([np.where(np.arange(400) < 100, 0.9, 0.1), np.full(400, 0.8)])  # 75% of reals are right
    interval = bootstrap_sets({"a": ScoredSet([str(row) for row in range(800)], labels, scores)}, 0.5)[0]["a"]
    error = 1.96 * sqrt(0.75 * 0.25 / 400)
    assert interval["real_accuracy"] == pytest.approx((0.75 - error, 0.75 + error), abs=0.008)
    assert interval["accuracy"] == pytest.approx((0.875 - error / 2, 0.875 + error / 2), abs=0.004)
    assert interval["fake_accuracy"] == (1.0, 1.0)


def test_the_interval_covers_the_true_auc_about_as_often_as_it_says():
    true_auc = NormalDist().cdf(1.0 / sqrt(2))  # of two unit normals one apart
    ends = [bootstrap_sets({"a": make_set("a", seed, count=160)}, 0.5, replicates=150) for seed in range(150)]
    covered = [low <= true_auc <= high for low, high in (mean["roc_auc"] for _, mean in ends)]
    assert 0.88 <= np.mean(covered) <= 0.99
    narrow = [
        bootstrap_sets({"a": make_set("a", seed, count=160)}, 0.5, replicates=150, level=0.5) for seed in range(60)
    ]
    covered = [low <= true_auc <= high for low, high in (mean["roc_auc"] for _, mean in narrow)]
    assert 0.3 <= np.mean(covered) <= 0.7


def test_the_mean_covers_what_the_report_covers():
    sets = {
        "both": make_set("both", 8),
        "also": make_set("also", 9, gap=3.0),
        "fakes": ScoredSet(["x", "y"], np.array([1, 1]), np.array([0.1, 0.2])),
    }
    by_set, mean = bootstrap_sets(sets, 0.5, replicates=400)
    scores, labels = (np.concatenate([getattr(data, name) for data in sets.values()]) for name in ("scores", "labels"))
    generators = [name for name, data in sets.items() for _ in data.keys]
    report = evaluate_by_generator(scores, labels, generators)
    assert report.mean_over == ["both", "also"]
    for key in ("accuracy", "fake_accuracy", "roc_auc"):
        low, high = mean[key]
        assert low < report.mean[key] < high
    # With the two fakes, both wrong, the mean of fake accuracies would be a third lower.
    assert (
        mean["fake_accuracy"]
        == bootstrap_sets({k: sets[k] for k in ("both", "also")}, 0.5, replicates=400)[1]["fake_accuracy"]
    )
    assert {key for key, value in by_set["fakes"].items() if value is not None} == {"fake_accuracy"}
    assert by_set["both"]["calibrated_accuracy"] is None and mean["calibrated_accuracy"] is None


def test_without_a_set_of_both_classes_the_mean_covers_all():
    sets = {
        "fakes": ScoredSet(["x", "y"], np.array([1, 1]), np.array([0.1, 0.2])),
        "other fakes": ScoredSet(["z"], np.array([1]), np.array([0.9])),
        "reals": ScoredSet(["r"], np.array([0]), np.array([0.1])),
    }
    by_set, mean = bootstrap_sets(sets, 0.5, replicates=20)
    assert mean["fake_accuracy"] == (0.5, 0.5) and mean["real_accuracy"] == (1.0, 1.0)
    assert mean["accuracy"] is None and by_set["reals"]["accuracy"] is None


def test_the_seed_decides_the_draws_and_the_chunk_does_not(monkeypatch):
    sets = {"a": make_set("a", 1), "b": make_set("b", 2)}
    first = bootstrap_sets(sets, 0.5, replicates=50, seed=3)
    assert first != bootstrap_sets(sets, 0.5, replicates=50, seed=4)
    monkeypatch.setattr(intervals, "CHUNK", 2000)
    again, mean = bootstrap_sets(sets, 0.5, replicates=50, seed=3)
    for key in METRICS:
        assert mean[key] == (None if first[1][key] is None else pytest.approx(first[1][key], abs=1e-12))
        assert again["b"][key] == (
            None if first[0]["b"][key] is None else pytest.approx(first[0]["b"][key], abs=1e-12)
        )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((["a"], [0, 1], [0.1, 0.2]), "set 'x' has 1 keys, 2 labels and 2 scores"),
        (([], [], []), "set 'x' is empty"),
        ((["a", "a"], [0, 0], [0.1, 0.2]), "set 'x' holds a key twice"),
        ((["a", "b"], [0, 2], [0.1, 0.2]), "labels of set 'x'"),
        ((["a", "b"], [0, 1], [0.1, np.nan]), "scores of set 'x'"),
        ((["a", "shared"], [0, 1], [0.1, 0.2]), "'shared' is real in one set and fake in another"),
    ],
)
def test_malformed_sets_are_named(data, message):
    keys, labels, scores = data
    sets = {"first": ScoredSet(["shared"], np.array([0]), np.array([0.1]))}
    with pytest.raises(ValueError, match=message):
        bootstrap_sets({**sets, "x": ScoredSet(keys, np.array(labels), np.array(scores))}, 0.5)


def test_bad_arguments_are_named():
    sets = {"a": make_set("a", 0)}
    with pytest.raises(ValueError, match="`replicates`"):
        bootstrap_sets(sets, 0.5, replicates=0)
    with pytest.raises(ValueError, match="`level`"):
        bootstrap_sets(sets, 0.5, level=95)


# --------------------------------------------------------------------------------------------------------- differences


def test_differences_are_of_the_same_draws():
    """The percentiles of the two detectors' draws, less each other, found by a loop over the same weights."""
    first = {"a": make_set("a", 1), "b": make_set("b", 2)}
    noise = np.random.default_rng(0)
    second = {
        name: data._replace(scores=np.clip(data.scores + noise.normal(scale=0.1, size=len(data.scores)), 0, 1))
        for name, data in first.items()
    }
    found = bootstrap_differences(first, second, 0.5, (0.4, 0.6), replicates=60, seed=5)
    members, strata = find_strata(first)
    differences = {key: [] for key in METRICS}
    for weights in draw_weights(strata, 60, 5):
        for draw in weights:
            means = [
                {
                    key: np.mean([weighted_metrics(d.scores, d.labels, draw[m][None], 0.5, own)[key] for d, m in rows])
                    for key in METRICS
                }
                for rows, own in (
                    (list(zip(first.values(), members, strict=True)), 0.4),
                    (list(zip(second.values(), members, strict=True)), 0.6),
                )
            ]
            for key in METRICS:
                differences[key].append(means[0][key] - means[1][key])
    for key in METRICS.keys() - intervals.WITHOUT_INTERVAL:
        assert found[key] == pytest.approx(tuple(np.quantile(differences[key], [0.025, 0.975])), abs=1e-9), key


def test_pairing_makes_the_interval_narrower_and_equal_detectors_differ_by_nothing():
    data = {"a": make_set("a", 1, count=200)}
    noise = np.random.default_rng(0).normal(scale=0.02, size=200)
    near = {"a": data["a"]._replace(scores=np.clip(data["a"].scores + noise, 0, 1))}
    low, high = bootstrap_differences(data, near, 0.5, replicates=200)["roc_auc"]
    ends = [bootstrap_sets(sets, 0.5, replicates=200)[1]["roc_auc"] for sets in (data, near)]
    assert high - low < 0.3 * min(end[1] - end[0] for end in ends)
    assert bootstrap_differences(data, data, 0.5, replicates=20)["accuracy"] == (0.0, 0.0)


def test_differences_need_the_same_images():
    data = make_set("a", 1)
    with pytest.raises(ValueError, match="the detectors have different sets: a and b"):
        bootstrap_differences({"a": data}, {"b": data}, 0.5)
    other = data._replace(keys=[f"x{key}" for key in data.keys])
    with pytest.raises(ValueError, match="scores of different images of set 'a'"):
        bootstrap_differences({"a": data}, {"a": other}, 0.5)
