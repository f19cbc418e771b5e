"""The section on start-up: it runs, its parts add up, and what is stored of it keeps the bars."""

import json
from types import SimpleNamespace

import pytest
from handmade_speed import BENCHMARKS, load_sections

STORED = BENCHMARKS / "results" / "speed" / "startup-cpu.json"


@pytest.fixture
def startup(monkeypatch) -> SimpleNamespace:
    found = load_sections(monkeypatch, "startup")
    return SimpleNamespace(module=found.startup, Settings=found.Settings)


def test_section(startup):
    section = startup.module.run(startup.Settings("cpu", dry=True, repeats=2))
    found = [(row.what, row.alternative, row.case, row.goal, row.bar) for row in section.rows]
    auto = "from transformers import AutoModelForImageClassification"
    assert found == [
        ("import mirage_hf", "import transformers", "the package", "at most", 1.1),
        (f"import mirage_hf; {auto}", auto, "an auto class", "at most", None),
        (
            "from mirage_hf import MiraGeForImageDetection",
            "from transformers import CLIPModel",
            "a model",
            "at most",
            None,
        ),
        ("mirage-hf --help", "python -c pass", "a command", "at most", None),
        ("Detector", "pipeline()", "first score", "at most", None),
        ("mirage-hf predict", "pipeline()", "first score", "at most", None),
    ]
    assert section.rows[0].limit < 0.5  # a count of modules: the package imports hardly any
    assert len(section.equality) == 2 and max(section.equality.values()) < 1e-6
    parts = section.profiles["first score by Detector"]
    assert list(parts) == list(startup.module.PARTS) and sum(parts.values()) == pytest.approx(1, abs=0.01)
    assert min(part["least"] for part in section.details["first_score_seconds"].values()) > 0
    whole = sum(part["median"] for part in section.details["first_score_seconds"].values())
    assert whole == pytest.approx(section.turns["first score"].seconds["Detector"][0], rel=0.01)
    assert section.details["help_seconds"]["median"] > 0 and section.details["help_bar_seconds"] == 0.5


def test_seconds_and_modules_are_those_of_the_statement(startup):
    slow = startup.module.Import("time.sleep(0.2)")
    assert slow() >= 0.2 and slow.modules == 0
    quick = startup.module.Import("import colorsys")
    assert quick() < 0.2 and quick.modules == 1


@pytest.mark.skipif(not STORED.is_file(), reason="not measured yet")
def test_help_is_fast_in_what_is_stored():
    details = json.loads(STORED.read_text(encoding="utf-8"))["details"]
    assert details["help_seconds"]["most"] < details["help_bar_seconds"] == 0.5
