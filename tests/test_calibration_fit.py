"""Fitting a calibration, against other libraries, closed forms and the promises it makes."""

import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mirage_hf.benchmark_metrics import expected_calibration_error
from mirage_hf.calibration import sigmoid
from mirage_hf.calibration_fit import clopper_pearson, fit_calibration
from mirage_hf.thresholds import threshold_at_fpr


def draw(seed: int, n_real: int = 90, n_fake: int = 60, digits: int = 12):
    """Overlapping classes; with few digits there are ties."""
    rng = np.random.default_rng(seed)
    margins = np.concatenate([rng.normal(-1, 2, n_real), rng.normal(1.5, 2, n_fake)]).round(digits)
    return margins, np.repeat([0, 1], [n_real, n_fake])


# --------------------------------------------------------------------------------------------- temperature and bias


@pytest.mark.parametrize("prior", [0.5, 0.02, 0.9])
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1e3, 5e3), (1e-4, -1.0)])
def test_the_line_is_that_of_weighted_logistic_regression(prior, scale, shift):
    margins, labels = draw(1)
    found = fit_calibration(scale * margins + shift, labels, prior=prior)
    n_real, n_fake = 90, 60
    targets = np.where(labels == 1, (n_fake + 1) / (n_fake + 2), 1 / (n_real + 2))
    weights = np.where(labels == 1, prior / n_fake, (1 - prior) / n_real) * len(labels)
    # A target between 0 and 1 is two rows of a classifier that knows no such targets.
    rows, answers = np.tile(margins, 2)[:, None], np.repeat([1, 0], len(labels))
    reference = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000)
    reference.fit(rows, answers, sample_weight=np.concatenate([weights * targets, weights * (1 - targets)]))
    slope, level = reference.coef_[0, 0], reference.intercept_[0]
    assert found.temperature == pytest.approx(scale / slope, rel=1e-5)
    assert found.probability(scale * margins + shift) == pytest.approx(sigmoid(slope * margins + level), abs=1e-5)


def test_a_known_miscalibration_is_undone_whatever_the_share_of_fakes():
    rng = np.random.default_rng(2)
    true = rng.normal(0, 2, 60_000)  # log-odds at equal shares
    fakes = rng.random(60_000) < sigmoid(true)
    keep = ~fakes | (rng.random(60_000) < 0.25)  # now fakes are rare
    margins, labels = 3.0 * true[keep] - 2.0, fakes[keep].astype(int)
    found = fit_calibration(margins, labels)
    assert found.temperature == pytest.approx(3.0, rel=0.03) and found.bias == pytest.approx(2 / 3, abs=0.05)
    rare = fit_calibration(margins, labels, prior=0.2)
    assert rare.bias - found.bias == pytest.approx(math.log(0.2 / 0.8), abs=0.05)
    balanced = np.flatnonzero(rng.random(len(labels)) < np.where(labels == 1, 1, 0.25))
    errors = [
        expected_calibration_error(p[balanced], labels[balanced])
        for p in (sigmoid(margins), found.probability(margins))
    ]
    assert errors[0] > 0.1 > 0.02 > errors[1]


def test_classes_without_overlap_get_the_rule_of_succession():
    for n_real, n_fake in ((9, 4), (1, 1), (50, 50)):
        found = fit_calibration([-3.0] * n_real + [8.0] * n_fake, [0] * n_real + [1] * n_fake)
        assert found.probability([-3.0, 8.0]) == pytest.approx([1 / (n_real + 2), (n_fake + 1) / (n_fake + 2)])


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_margins_of_any_size_and_outliers(scale):
    margins, labels = draw(3)
    margins[0] = 50  # one real image that the detector is sure is fake
    found = fit_calibration(scale * margins, labels)
    assert 0 < found.temperature < math.inf and found.threshold < 1
    assert found.probability(scale * margins) == pytest.approx(fit_calibration(margins, labels).probability(margins))


# -------------------------------------------------------------------------------- threshold and operating points


@pytest.mark.parametrize("digits", [1, 12])
def test_threshold_and_points_are_counts(digits):
    margins, labels = draw(4, digits=digits)
    groups = np.where(np.arange(len(labels)) % 3, "photo", "resampled")
    found = fit_calibration(margins, labels, groups, max_fpr=0.1)
    p_fake = found.probability(margins)
    raw = threshold_at_fpr(1 / (1 + np.exp(-margins)), labels, groups, 0.1)
    assert found.raw_threshold == pytest.approx(raw, abs=1e-12)
    assert found.threshold != fit_calibration(margins, labels, max_fpr=0.1).threshold  # groups matter
    assert [point["max_fpr"] for point in found.operating_points] == [0.05, 0.01, 0.001]
    for point in found.operating_points:
        above = p_fake > point["threshold"]
        rates = {name: above[(labels == 0) & (groups == name)] for name in ("photo", "resampled")}
        worst = max(rates.values(), key=lambda group: (group.mean(), -len(group)))
        assert point["fpr"] == worst.mean() <= point["max_fpr"] and point["tpr"] == above[labels == 1].mean()
        assert point["fpr_interval"] == list(clopper_pearson(int(worst.sum()), len(worst)))
        assert point["tpr_interval"] == list(clopper_pearson(int(above[labels == 1].sum()), 60))
        assert point["supported"] is (point["max_fpr"] == 0.05)  # 60 and 30 reals: 20 are needed, 100, 1000


def test_a_point_needs_as_many_reals_in_every_group():
    for n_real, supported in ((19, False), (20, True)):
        margins, labels = draw(5, n_real=100 + n_real)
        groups = np.where(np.arange(len(labels)) < 100, "many", "few")
        groups[labels == 1] = "fakes"  # a group without reals has no say
        points = fit_calibration(margins, labels, groups).operating_points
        assert [point["supported"] for point in points] == [supported, False, False]
        assert fit_calibration(margins, labels).operating_points[1]["supported"]


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (10, 10), (1, 30), (7, 20), (0, 1)])
def test_clopper_pearson_inverts_the_binomial_tails(successes, trials):
    def at_least(count, share):
        return sum(math.comb(trials, k) * share**k * (1 - share) ** (trials - k) for k in range(count, trials + 1))

    low, high = clopper_pearson(successes, trials)
    assert low == 0 if successes == 0 else at_least(successes, low) == pytest.approx(0.025)
    assert high == 1 if successes == trials else at_least(successes + 1, high) == pytest.approx(0.975)
    narrow = clopper_pearson(successes, trials, level=0.5)
    assert low <= narrow[0] <= successes / trials <= narrow[1] <= high


def test_the_interval_holds_for_other_images_though_the_threshold_was_chosen_on_these():
    rng = np.random.default_rng(6)
    inside = 0
    for _ in range(300):
        reals, fakes = rng.uniform(-1, 0, 60), rng.uniform(-0.9, 1, 40)
        found = fit_calibration(np.concatenate([reals, fakes]), [0] * 60 + [1] * 40)
        point = found.operating_points[0]
        margin = found.temperature * (math.log(point["threshold"] / (1 - point["threshold"])) - found.bias)
        true_fpr = min(max(-margin, 0.0), 1.0)  # of all reals, uniform on (-1, 0)
        low, high = point["fpr_interval"]
        inside += low <= true_fpr <= high
    assert (
        inside >= 0.93 * 300
    )  # 95% are promised; fewer than 93% of 300 come by chance once in 20 tries of exactly 95%


# ------------------------------------------------------------------------------------------------------- the band


def naive_band(p_fake, labels, alpha):
    """By definition: the lowest score that a share 1 - alpha of n + 1 reals don't pass, the new one being highest."""
    reals, fakes = p_fake[labels == 0], p_fake[labels == 1]
    needed = (1 - alpha) * (len(reals) + 1) - 1e-9
    high = min((s for s in [*reals, 1.0] if sum(reals <= s) + (s == 1.0) >= needed), default=1.0)
    needed = (1 - alpha) * (len(fakes) + 1) - 1e-9
    low = max((s for s in [*fakes, 0.0] if sum(fakes >= s) + (s == 0.0) >= needed), default=0.0)
    return low, high


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3, 0.45])
@pytest.mark.parametrize("sizes", [(99, 60, 12), (9, 19, 12), (8, 18, 12), (60, 50, 0), (2, 3, 1)])
def test_the_band_is_the_conformal_one_widened_to_the_threshold(alpha, sizes):
    for seed, max_fpr in ((0, 0.05), (1, 0.6), (2, 0.6), (3, 0.05)):  # the threshold above the band's ends, and below
        margins, labels = draw(seed, *sizes)
        if np.mean(margins[labels == 1]) <= np.mean(margins[labels == 0]):
            continue
        found = fit_calibration(margins, labels, max_fpr=max_fpr, alpha=alpha)
        low, high = naive_band(found.probability(margins), labels, alpha)
        assert found.unsure_low == min(low, found.threshold) and found.unsure_high == max(high, found.threshold)


def test_too_few_images_never_get_the_other_verdict():
    margins, labels = draw(7, n_real=8, n_fake=9)  # 9 are needed at alpha 0.1
    found = fit_calibration(margins, labels)
    assert found.unsure_high == 1.0 and found.unsure_low > 0
    assert "fake" not in found.verdicts(found.probability(np.linspace(-50, 50, 99)))


def misjudged(margins, labels, alpha, max_fpr=0.3, shift=0.0):
    """Images of each class that a calibration on all others gives the other class's verdict."""
    wrong = [0, 0]
    for row in range(len(labels)):
        rest = np.arange(len(labels)) != row
        found = fit_calibration(
            margins[rest] + shift * (labels[rest] == 0), labels[rest], max_fpr=max_fpr, alpha=alpha
        )
        (verdict,) = found.verdicts(found.probability(margins[[row]]))
        wrong[labels[row]] += verdict == ("fake", "real")[labels[row]]
    return wrong


@pytest.mark.parametrize("digits", [12, 0])  # without ties and with many
def test_leaving_each_image_out_in_turn_the_promise_is_kept_to_the_image(digits):
    for seed, alpha in ((8, 0.1), (9, 0.25)):
        margins, labels = draw(seed, 39, 29, digits)
        wrong = misjudged(margins, labels, alpha)
        # Exchangeability in full: of n + 1 images, each the new one once, at most alpha (n + 1) lie outside.
        assert wrong[0] <= alpha * 39 and wrong[1] <= alpha * 29
        if digits:
            # nor is anything given away
            assert wrong == [math.floor(alpha * 39 + 1e-9), math.floor(alpha * 29 + 1e-9)]


def test_a_shifted_calibration_set_breaks_the_promise():
    margins, labels = draw(8, 39, 29)
    assert misjudged(margins, labels, 0.1, shift=-2.0)[0] > 3 * 0.1 * 39


def test_the_temperature_decides_nothing_about_verdicts():
    """Only ranks do: the margins themselves, or any rising function of them, give the same verdicts."""
    margins, labels = draw(10)
    new = np.random.default_rng(0).choice(margins, 500)  # between two neighbours the middle may move, at them nothing
    first = fit_calibration(margins, labels)
    verdicts = first.verdicts(first.probability(new))
    assert set(verdicts) == {"real", "fake", "unsure"}
    for change in (lambda m: 7 * m + 3, np.arcsinh, lambda m: np.exp(m / 3)):
        other = fit_calibration(change(margins), labels)
        assert other.verdicts(other.probability(change(new))) == verdicts
        assert ((other.probability(change(new)) > other.threshold) == (first.probability(new) > first.threshold)).all()
    for prior in (0.1, 0.8):
        other = fit_calibration(margins, labels, prior=prior)
        assert other.verdicts(other.probability(new)) == verdicts


@pytest.mark.parametrize("max_fpr", [0.0, 0.02, 0.2, 0.6])
def test_no_verdict_contradicts_its_label(max_fpr):
    for seed in range(6):
        margins, labels = draw(seed)
        margins += 4 * (seed % 2) * labels  # classes far apart, too
        found = fit_calibration(margins, labels, max_fpr=max_fpr)
        assert found.unsure_low <= found.threshold <= found.unsure_high
        p_fake = np.concatenate([np.linspace(0, 1, 301), [found.threshold, found.unsure_low, found.unsure_high]])
        for p, verdict in zip(p_fake, found.verdicts(p_fake), strict=True):
            assert verdict in ("unsure", "fake" if p > found.threshold else "real")


def test_classes_far_apart_leave_nothing_unsure_but_the_threshold():
    margins = np.concatenate([np.linspace(-9, -6, 100), np.linspace(6, 9, 100)])
    found = fit_calibration(margins, np.repeat([0, 1], 100), max_fpr=0.0)
    assert found.unsure_low == found.threshold == found.unsure_high
    assert "unsure" not in found.verdicts(found.probability(margins))


# ------------------------------------------------------------------------------------------- keys and bad arguments


def test_rows_of_one_key_are_one_image_in_each_of_its_groups():
    margins, labels = draw(11)
    rows = np.concatenate([np.arange(len(labels)), np.arange(30), np.arange(30)])  # 30 reals in three groups
    groups = np.array(["a"] * len(labels) + ["b"] * 30 + ["c"] * 30)
    found = fit_calibration(margins[rows], labels[rows], groups, keys=[f"{row}.png" for row in rows])
    once = fit_calibration(margins, labels)
    assert (found.n_real, found.n_fake) == (90, 60)
    assert (found.temperature, found.bias) == (once.temperature, once.bias)
    p_fake = found.probability(margins)
    raw = threshold_at_fpr(1 / (1 + np.exp(-margins[rows])), labels[rows], groups, 0.05)
    assert found.raw_threshold == pytest.approx(raw, abs=1e-12)
    low, high = naive_band(p_fake, labels, 0.1)
    assert (found.unsure_low, found.unsure_high) == (min(low, found.threshold), max(high, found.threshold))
    assert fit_calibration(margins[rows], labels[rows], groups).temperature != once.temperature


GOOD = {"margins": [-1.0, 2.0, -2.0, 1.0], "labels": [0, 1, 0, 1]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"margins": [-1.0, float("nan"), -2.0, 1.0]}, "`margins` must be finite"),
        ({"margins": [-1.0, float("inf"), -2.0, 1.0]}, "`margins` must be finite"),
        ({"margins": [[-1.0], [2.0], [-2.0], [1.0]]}, "equally long"),
        ({"margins": [], "labels": []}, "0 real and 0 fake"),
        ({"labels": [0, 1, 0]}, r"got \(4,\), 3, 4 and 4"),
        ({"groups": ["a"]}, r"got \(4,\), 4, 1 and 4"),
        ({"keys": ["a"]}, r"got \(4,\), 4, 4 and 1"),
        ({"labels": [0, 2, 0, 1]}, "`labels` must be 0"),
        ({"labels": [0, 0, 0, 0]}, "4 real and 0 fake"),
        ({"labels": [1, 1, 1, 1]}, "0 real and 4 fake"),
        ({"labels": [1, 0, 1, 0]}, "no better than chance"),
        ({"margins": [1.0, 1.0, 1.0, 1.0]}, "all margins are the same"),
        ({"margins": [-1.0, -1.0, 1.0, 1.0]}, "no better than chance"),
        ({"prior": 0.0}, "`prior`"),
        ({"prior": 1.0}, "`prior`"),
        ({"alpha": 0.0}, "`alpha`"),
        ({"alpha": 1.0}, "`alpha`"),
        ({"max_fpr": 1.0}, "`max_fpr`"),
        ({"keys": ["a", "b", "a", "c"]}, "holds 'a' twice"),
        ({"margins": [1.0, 1.0, -2.0, 1.0], "keys": ["a", "a", "b", "c"]}, "holds 'a' twice"),
    ],
)
def test_bad_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        fit_calibration(**(GOOD | change))
    fit_calibration(**GOOD)
