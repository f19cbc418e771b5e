"""Detectors side by side: the differences by hand, and what doesn't belong together refused."""

import json

import pytest
from brightness import brightness_detector, write_levels
from typer.testing import CliRunner

import mirage_hf.benchmark as benchmark
from mirage_hf.benchmark import BenchmarkArguments, run_benchmark
from mirage_hf.benchmark_compare import compare_benchmarks, comparison_markdown
from mirage_hf.benchmark_output import write_outputs
from mirage_hf_cli.main import app

pytestmark = pytest.mark.usefixtures("cache_of_its_own")
LEVELS = {"a/real": [20, 90, 140], "a/fake": [235, 160], "b/real": [20, 30], "b/fake": [110, 240]}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Three runs on the same images: a detector, one whose scores lie lower, and one on fewer images."""
    data = write_levels(tmp_path / "data", LEVELS)
    folders = []
    for name, bias, options in (("first", 0.0, {}), ("darker", 1.5, {}), ("few", 0.0, {"limit_per_class": 1})):
        monkeypatch.setattr(benchmark, "load_detector", lambda *args, bias=bias: brightness_detector(bias=bias))
        folder = tmp_path / name
        arguments = {"model": name, "data": str(data), "output_dir": str(folder), "device": "cpu", "replicates": 50}
        write_outputs(run_benchmark(BenchmarkArguments("folder", degrade=("jpeg_65",), **arguments | options)), folder)
        folders.append(folder)
    return folders


def test_differences_by_hand(runs):
    comparison = compare_benchmarks(runs[:2], replicates=200)
    assert list(comparison["views"]) == ["raw", "jpeg_65"] and comparison["reference"] == "first"
    first, darker = comparison["views"]["raw"].values()
    # At 0.5 the first calls levels from 128 on fake: a has 2 of 3 and 2 of 2 right, b 2 of 2 and 1 of 2. The second
    # calls those from 176 on fake: a has 3 of 3 and 1 of 2 right, b as before.
    assert first["metrics"]["balanced_accuracy"] == pytest.approx(((2 / 3 + 1) / 2 + 3 / 4) / 2, abs=1e-6)
    assert darker["metrics"]["balanced_accuracy"] == pytest.approx((3 / 4 + 3 / 4) / 2, abs=1e-6)
    difference = darker["differences"]["balanced_accuracy"]
    assert difference[0] == pytest.approx((5 / 6 - 3 / 4) / 2, abs=1e-5)
    assert difference[1] < difference[0] < difference[2]
    assert darker["differences"]["roc_auc"] == [0.0, 0.0, 0.0]  # a shift changes no order
    assert first["differences"] is None


def test_table(runs):
    lines = comparison_markdown(compare_benchmarks(runs[:2], replicates=50)).splitlines()
    row = next(line for line in lines if line.startswith("| darker |"))
    assert row.split(" | ")[1].startswith("75.0 [") and row.split(" | ")[3].startswith("+4.2 [")
    assert next(line for line in lines if line.startswith("| first |")).endswith("| – | – |")


def test_command(runs, tmp_path):
    arguments = ["compare", *map(str, runs[:2]), "--output-dir", str(tmp_path / "out"), "--replicates", "20", "--json"]
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout) == json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"comparison.md", "comparison.csv", "pictures"}
    assert "</svg>" in (tmp_path / "out" / "pictures" / "roc.svg").read_text(encoding="utf-8")
    answer = CliRunner().invoke(app, ["compare", str(runs[0]), str(runs[2]), "--output-dir", str(tmp_path / "out")])
    assert answer.exit_code == 1 and len(answer.stderr.splitlines()) == 1


def test_runs_that_do_not_belong_together_are_refused(runs, tmp_path):
    with pytest.raises(ValueError, match="has run on another limit_per_class than"):
        compare_benchmarks([runs[0], runs[2]])
    with pytest.raises(ValueError, match="two or more folders of different names"):
        compare_benchmarks([runs[0], runs[0]])
    with pytest.raises(ValueError, match="nothing' holds no finished benchmark run"):
        compare_benchmarks([runs[0], tmp_path / "nothing"])
