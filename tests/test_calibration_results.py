"""The committed evidence on calibration: its numbers are the code's, and what is said of it can be read off them."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import calibration as evidence
from benchmarks.minibench.evidence.storage import read_index, read_scores

STORED = Path(__file__).parents[1] / "benchmarks" / "results" / "calibration.json"


@pytest.fixture(scope="module")
def results() -> dict:
    return json.loads(STORED.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def stored_scores():
    index = read_index(evidence.RESULTS)
    return index, read_scores(evidence.RESULTS, evidence.SETTING, index)[1]


def close(stored):
    """Nested content that compares up to what another machine's arithmetic may do."""
    if isinstance(stored, dict):
        return {key: close(value) for key, value in stored.items()}
    return stored if isinstance(stored, str) else pytest.approx(stored, abs=1e-4)


def test_synthetic_numbers_are_the_codes(results):
    assert {"same": evidence.synthetic(), "shifted_reals": evidence.synthetic(real_mean=-1.5)} == close(
        results["synthetic"]
    )


def test_numbers_of_the_stored_scores_are_the_codes(results, stored_scores):
    index, scores = stored_scores
    stored = results["minibench"]
    assert evidence.from_validation_to_test(index, scores) == close(stored["validation_to_test"])
    assert stored["seeds"] == len(scores) and (stored["alpha"], stored["max_fpr"]) == (0.1, 0.05)
    few = evidence.halves(index, scores[0], draws=10)
    whole = stored["halves_of_seed_0"]["same"]
    assert few.keys() == whole.keys() and whole["draws"] == 200
    for name, values in few.items():
        if isinstance(values, dict):  # ten draws of the two hundred lie around their mean
            assert values["mean"] == pytest.approx(whole[name]["mean"], abs=0.03)


def test_on_known_scores_every_promise_is_kept(results):
    found = results["synthetic"]["same"]
    assert found["draws"] == 200 and found["ece_after"] < 0.03 < 0.1 < found["ece_before"]
    rank = 181  # ceil(201 * 0.9): 20 of 201 places lie beyond the end
    for name in ("reals_judged_fake", "fakes_judged_real"):
        low, high = found[name]["interval"]
        assert low <= 1 - rank / 201 <= high
    low, high = found["fpr"]["interval"]
    assert low <= 31 / 201 and 30 / 201 <= high  # 30 of 200 reals above: between 30 and 31 of 201 places
    for inside in found["fpr_in_its_interval"].values():
        assert inside["interval"][1] >= 0.95 <= inside["share"]


def test_a_shifted_calibration_set_keeps_none(results):
    found = results["synthetic"]["shifted_reals"]
    assert found["reals_judged_fake"]["interval"][0] > 2 * 0.1
    assert found["fpr"]["interval"][0] > 1.5 * found["max_fpr"]
    assert all(inside["interval"][1] < 0.5 for inside in found["fpr_in_its_interval"].values())
    real = results["minibench"]["halves_of_seed_0"]["calibrated_on_bicubic_x4"]
    assert real["photos_judged_fake"]["middle_95"][0] > 0.3 and real["ece_after"]["mean"] > real["ece_before"]["mean"]


def test_on_photographs_never_seen_they_are_kept_for_the_generator_that_was(results):
    for name in ("same", "band_alone"):
        found = results["minibench"]["halves_of_seed_0"][name]
        for share in ("reals_judged_fake", "fakes_judged_real"):
            assert found[share]["mean"] <= 0.11  # crops of one photograph aren't exchangeable with those of others
        assert found["ece_after"]["mean"] < 0.6 * found["ece_before"]["mean"]
    moved = results["minibench"]["validation_to_test"]
    assert moved["fakes"]["realesrgan"]["real"] <= 0.1 and moved["fakes"]["realesrgan"]["ece_after"] < 0.05
    assert all(found["above_threshold"] <= 0.05 and found["fake"] <= 0.1 for found in moved["reals"].values())


def test_for_generators_never_seen_they_are_not(results):
    fakes = results["minibench"]["validation_to_test"]["fakes"]
    broken = [name for name in evidence.UNSEEN if fakes[name]["real"] > 0.15]
    assert broken == ["realsr", "span", "datlight", "style", "selfstyle"]
    assert all(fakes[name]["ece_after"] > fakes["realesrgan"]["ece_after"] for name in evidence.UNSEEN)
    assert [name for name in evidence.UNSEEN if fakes[name]["ece_after"] > fakes[name]["ece_before"]] == [
        "style",
        "selfstyle",
    ]


def test_the_tables_show_every_row(results):
    text = evidence.to_markdown(results)
    for name in ("shifted_reals", "band_alone", "calibrated_on_bicubic_x4", *evidence.REALS, *evidence.UNSEEN):
        assert f"| {name} |" in text
