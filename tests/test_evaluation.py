import json

import pytest
import torch

from mirage_hf.evaluation import evaluate_by_generator
from mirage_hf.metrics import detection_metrics

# b has both classes, a too; "control" holds reals only, "extra" fakes only.
SCORES = [0.9, 0.2, 0.6, 0.4, 0.8, 0.7, 0.1, 0.3, 0.95]
LABELS = [1, 0, 0, 1, 1, 0, 0, 0, 1]
GENERATORS = ["b", "b", "b", "b", "a", "control", "a", "control", "extra"]


def test_report_by_hand():
    report = evaluate_by_generator(SCORES, LABELS, GENERATORS)
    assert list(report.generators) == ["b", "a", "control", "extra"]
    assert report.generators["b"] == detection_metrics([0.9, 0.2, 0.6, 0.4], [1, 0, 0, 1])
    assert report.generators["a"]["accuracy"] == 1.0
    assert report.mean_over == ["b", "a"]
    assert report.mean["accuracy"] == pytest.approx((0.5 + 1.0) / 2)  # a plain mean: not weighted by 4 and 2 rows
    assert report.mean["real_accuracy"] == pytest.approx((0.5 + 1.0) / 2)  # the control stays out
    # b from above: fake, real, fake, real, so AP is (1 + 2/3) / 2.
    assert report.mean["average_precision"] == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
    assert report.overall == detection_metrics(SCORES, LABELS)


def test_one_class_generators_show_that_class_only():
    report = evaluate_by_generator(SCORES, LABELS, GENERATORS)
    control, extra = report.generators["control"], report.generators["extra"]
    assert control["real_accuracy"] == 0.5 and extra["fake_accuracy"] == 1.0
    for metrics, present in ((control, "real_accuracy"), (extra, "fake_accuracy")):
        defined = {key for key, value in metrics.items() if value is not None}
        assert defined == {present, "n_real", "n_fake"}


def test_without_any_two_class_generator_each_mean_covers_what_is_defined():
    report = evaluate_by_generator([0.9, 0.1, 0.8, 0.3], [1, 1, 1, 0], ["a", "a", "b", "real"])
    assert report.mean["fake_accuracy"] == pytest.approx((0.5 + 1.0) / 2)
    assert report.mean["real_accuracy"] == 1.0
    assert report.mean["accuracy"] is None and report.mean["average_precision"] is None
    assert report.mean_over == ["a", "b", "real"]


def test_report_is_json_and_markdown():
    report = evaluate_by_generator(torch.tensor(SCORES), torch.tensor(LABELS), GENERATORS, threshold=0.5)
    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert content["schema_version"] == 1 and content["threshold"] == 0.5
    assert content["generators"]["control"]["average_precision"] is None
    assert report.to_markdown().splitlines() == [
        "| generator | real | fake | accuracy | real acc. | fake acc. | balanced acc. | AP | AUC |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
        "| b | 2 | 2 | 50.0 | 50.0 | 50.0 | 50.0 | 83.3 | 75.0 |",
        "| a | 1 | 1 | 100.0 | 100.0 | 100.0 | 100.0 | 100.0 | 100.0 |",
        "| control | 2 | 0 | – | 50.0 | – | – | – | – |",
        "| extra | 0 | 1 | – | – | 100.0 | – | – | – |",
        "| **mean of 2** |  |  | 75.0 | 75.0 | 75.0 | 75.0 | 91.7 | 87.5 |",
        "| **all rows** | 5 | 4 | 66.7 | 60.0 | 75.0 | 67.5 | 91.7 | 90.0 |",
        "",
        "Fake means a score above 0.5. One class only, so outside the mean: control, extra.",
    ]


def test_a_pipe_in_a_name_does_not_break_the_table():
    assert "| a\\|b |" in evaluate_by_generator([0.1, 0.9], [0, 1], ["a|b", "a|b"]).to_markdown()


def test_report_names_a_bad_argument():
    with pytest.raises(ValueError, match="`generators`"):
        evaluate_by_generator([0.1, 0.9], [0, 1], ["a"])
    with pytest.raises(ValueError, match="`scores`"):
        evaluate_by_generator([0.1, float("nan")], [0, 1], ["a", "a"])
