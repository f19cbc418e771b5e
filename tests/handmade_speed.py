"""A section of measurements made up by hand, and the harness that reads it."""

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def load_harness(monkeypatch) -> SimpleNamespace:
    """The modules of the harness, imported as `python benchmarks/speed.py` does."""
    return load_sections(monkeypatch, "kernels", "page", "records", "turns")


def load_sections(monkeypatch, *names: str) -> SimpleNamespace:
    """Modules of `speed_sections` by name, and the harness's `Settings`."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    settings = import_module("speed_sections.turns").Settings
    return SimpleNamespace(Settings=settings, **{name: import_module(f"speed_sections.{name}") for name in names})


def make_section(harness):
    """Two ways in four rounds, the third disturbed; ratios 0.5, 0.4, 0.25 in the quiet ones."""
    turns = harness.turns.Turns({"fast": [1.0, 2.0, 9.0, 1.0], "slow": [2.0, 5.0, 9.0, 4.0]}, [0.0, 0.05, 0.06, 0.01])
    common = {"case": "small", "items": 10, "count": "2 against 5 products.", "held_by": "Products take 90%."}
    rows = [
        harness.records.compare(turns, "fast", "slow", bar=0.3, limit=0.2, **common),
        harness.records.compare(turns, "fast", "slow", goal="at least", bar=2.5, limit=5, **common),
        harness.records.compare(turns, "slow", "fast", **common),
    ]
    return harness.records.Section(
        "A section",
        rows,
        {"small": turns},
        {"small": 10},
        profiles={"fast": {"mm": 0.9, "all others": 0.1}},
        equality={"output": 1e-7},
        notes=["A note."],
    )


def facts():
    machine = {"device": "cpu", "cuda": None, "cores": 2, "cpu": "a processor", "threads": 1}
    machine |= {"torch": "2.13.0", "transformers": "5.23.0"}
    return {"name": "small", "command": "python benchmarks/speed.py small", "dry": False, "environment": machine}
