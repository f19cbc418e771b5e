"""The sections of `benchmarks/speed.py` that time the network: they run, and compare what gives the same answers."""

import importlib

import pytest
import torch
from conftest import make_model
from handmade_speed import load_sections


@pytest.fixture
def section(monkeypatch):
    def run(name: str):
        sections = load_sections(monkeypatch, name)
        return getattr(sections, name).run(sections.Settings("cpu", dry=True, repeats=2))

    return run


def bars(section) -> dict[tuple[str, str, str], float]:
    return {(row.what, row.alternative, row.case): row.bar for row in section.rows if row.bar is not None}


def test_vision(section):
    found = section("vision")
    by_case = {}
    for (_, alternative, case), bar in bars(found).items():
        assert alternative == "CLIPModel.get_image_features"
        by_case.setdefault(case, set()).add(bar)
    assert by_case == {"ViT-B/32": {1.08}, "ViT-L/14": {1.03}}
    assert found.equality and max(found.equality.values()) < 1e-6
    assert min(found.details[f"{name}, without prompts, against hooks"] for name in by_case) > 1e-3  # the control
    hooks, lean = found.rows[0], found.rows[1]
    assert lean.limit < 1 < hooks.limit  # prompts cost arithmetic, which the inference network more than saves
    assert found.profiles and all(
        sum(shares.values()) == pytest.approx(1, abs=0.01) for shares in found.profiles.values()
    )


def test_logits(section):
    found = section("logits")
    assert set(bars(found).values()) == {1.02}
    assert {alternative for _, alternative, _ in bars(found)} == {"zero-shot CLIP, text cached"}
    assert {case for _, _, case in bars(found)} == {
        "ViT-B/32, batch of 1",
        "ViT-B/32, batch of 8",
        "ViT-L/14, batch of 1",
    }
    assert found.equality and max(found.equality.values()) < 5e-5  # of logits around 100
    assert min(value for name, value in found.details.items() if "zero-shot" in name) > 0.1  # the control
    unbaked = next(row for row in found.rows if row.what == "MiraGe, not baked")
    assert unbaked.limit > 1.1  # the text encoder's arithmetic is counted


def test_training(section):
    found = section("training")
    expected = {"plain forward pass": 2.1, "full fine-tuning step": 0.65, "the same with 77 tokens of text": 1.0}
    assert {alternative: bar for (_, alternative, _), bar in bars(found).items()} == expected
    assert len(bars(found)) == 2 * len(expected)
    assert found.equality and max(found.equality.values()) < 1e-4
    limits = {row.alternative: row.limit for row in found.rows}
    assert 1.5 < limits["plain forward pass"] < 2.1 and limits["the same with 77 tokens of text"] < 1


def test_text_is_padded_to_the_encoders_places_without_a_change(section):
    """The reference's longer text gives the same anchors: it reads the first end token."""
    pad_text = importlib.import_module("speed_sections.training").pad_text
    model = make_model()
    with torch.no_grad():
        short, places = model.get_text_features(), model.class_input_ids.shape[1]
        model.class_input_ids = pad_text(model.class_input_ids, 16)
        assert places < model.class_input_ids.shape[1] == 16
        torch.testing.assert_close(model.get_text_features(), short, atol=1e-6, rtol=0)
