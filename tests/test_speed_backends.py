"""The section on ways to run a detector on the CPU, dry: its rows, its scores, and that it leaves no trace."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from exported import random_images, save_detector
from handmade_speed import load_sections
from huggingface_hub import constants

from mirage_hf.detector_loading import load_detector

CASES = ("mirage-tiny", "ViT-B/32, random weights")
WAYS = [
    "torch bfloat16",
    "torch int8",
    "onnx float32",
    "onnx int8",
    "openvino float32",
    "openvino bfloat16",
]

for package in ("onnx", "onnxruntime", "onnxscript", "openvino", "sklearn"):
    if find_spec(package) is None:  # not imported, which openvino would report
        pytest.skip(f"needs {package}", allow_module_level=True)


@pytest.fixture
def modules(monkeypatch):
    return vars(load_sections(monkeypatch, "backends", "records", "turns"))


def test_the_section_dry(modules, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    section = modules["backends"].run(modules["turns"].Settings("cpu", dry=True, repeats=2))
    assert [(row.case, row.what) for row in section.rows] == [(case, way) for case in CASES for way in WAYS]
    for row in section.rows:
        assert (row.alternative, row.bar, row.goal) == ("torch float32", None, "at least")
        assert row.limit > 0 and "GFLOP/s in " in row.count and " of the peak of its type; most of" in row.held_by
    for case in CASES:
        part = section.details[case]
        assert (part["n_real"], part["n_fake"]) == (4, 4) and part["bytes"]["int8"] < part["bytes"]["float32"]
        assert list(part["scores"]) == ["torch float32", *WAYS]
        for way, found in part["scores"].items():
            assert section.equality[f"{case}, p_fake, {way}"] == found["max_difference_p_fake"]
            assert found["mean_difference_p_fake"] <= found["max_difference_p_fake"]
            if way.endswith("float32"):
                assert found["max_difference_p_fake"] < 1e-5 and found["flipped"] == 0
            else:  # the control: the comparison sees the type
                assert 1e-5 < found["max_difference_p_fake"] < 0.1
                assert found["max_difference_log_odds_synthetic"] > 1e-4
        assert set(part["auto"]) == {"0.001", "0.05"}
        assert all(found["way"] in part["scores"] for found in part["auto"].values())
        # What is chosen obeys its limit, by the section's own comparison.
        for limit, chosen in part["auto"].items():
            assert part["scores"][chosen["way"]]["max_difference_p_fake"] <= float(limit)
    assert part["auto"]["0.05"]["seconds"] < 2  # remembered
    assert not (tmp_path / "assets").exists() and str(tmp_path / "assets") == constants.HF_ASSETS_CACHE
    assert all(0.99 < sum(shares.values()) < 1.01 for shares in section.profiles.values())
    assert len(section.profiles) == 2 * (len(WAYS) + 1)
    stored = json.loads(json.dumps(modules["records"].section_to_dict(section), allow_nan=False))
    assert modules["records"].section_from_dict(stored).rows == section.rows
    assert sum(line.startswith("| onnx int8 | ") for line in section.notes) == 2


def test_scores_are_compared_as_the_detector_states_them(modules, tmp_path):
    """With a calibration, whose temperature is 2, and a threshold of its own; a way that is off by a constant."""
    loaded = load_detector(save_detector("tiled", tmp_path))
    pixels = torch.stack([loaded.transform(image) for image in random_images(6)])
    photographs = modules["backends"].Photographs(pixels, [0, 1, 0, 1, 0, 1], loaded)
    margins = {
        "torch float32": lambda pixel_values: np.arange(len(pixel_values)) - 2.0,
        "other": lambda pixel_values: np.arange(len(pixel_values)) - 1.5,
    }
    found = modules["backends"].compare_scores(margins, photographs, [pixels])["other"]
    calibrated = [1 / (1 + np.exp(-((np.arange(6) - shift) / 2 + 0.3))) for shift in (1.5, 2.0)]
    difference = calibrated[0] - calibrated[1]
    assert found["max_difference_p_fake"] == pytest.approx(difference.max())
    assert found["mean_difference_p_fake"] == pytest.approx(difference.mean())
    assert found["max_difference_log_odds"] == found["max_difference_log_odds_synthetic"] == 0.5
    assert found["auroc"] == pytest.approx(6 / 9)
    threshold = loaded.config.calibration["threshold"]
    assert found["flipped"] == sum((calibrated[0] > threshold) != (calibrated[1] > threshold))
    assert found["max_difference_p_fake_alone"] == pytest.approx((calibrated[0] - calibrated[0][0]).max())
