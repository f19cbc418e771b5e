"""The committed benchmark of the demo detector: its numbers are those of its scores, and README's are its own."""

import json
from pathlib import Path

import pytest

from mirage_hf.benchmark_files import load_scores
from mirage_hf.benchmark_metrics import set_metrics
from mirage_hf.benchmark_report import to_csv, to_markdown, validate_results
from mirage_hf.degradations import DEGRADATIONS
from mirage_hf.detector_loading import load_detector

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "benchmarks" / "results" / "benchmark" / "mirage-tiny"


@pytest.fixture(scope="module")
def results() -> dict:
    return json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))


def test_every_view_was_run_and_fits_the_schema(results):
    validate_results(results)
    assert list(results["views"]) == ["raw", "aligned", *DEGRADATIONS]
    assert results["refused"] == {} and results["arguments"]["limit_per_class"] is None


def test_metrics_are_those_of_the_stored_scores(results):
    threshold, own = results["protocol"]["threshold"], results["model"]["threshold"]
    for view, described in results["views"].items():
        for name, found in described["sets"].items():
            stored = load_scores(FOLDER, view, name)
            again = set_metrics(stored.scores, stored.labels, threshold, own)
            assert found["metrics"] == {key: pytest.approx(value, abs=1e-6) for key, value in again.items()}
            assert (found["n_real"], found["n_fake"]) == (sum(stored.labels == 0), sum(stored.labels == 1))


def test_scores_are_the_carried_detectors(results):
    identity = json.loads((FOLDER / "identity.json").read_text(encoding="utf-8"))
    detector = load_detector(str(ROOT / "benchmarks" / "minibench" / "mirage-tiny"))
    assert identity["detector"] == detector.fingerprint and results["model"]["threshold"] == detector.threshold


def test_tables_are_made_of_the_results(results):
    assert (FOLDER / "results.md").read_text(encoding="utf-8") == to_markdown(results)
    assert (FOLDER / "results.csv").read_text(encoding="utf-8") == to_csv(results)


def test_readme_shows_the_table_of_views(results):
    table = (FOLDER / "results.md").read_text(encoding="utf-8").split("## Views and degradations")[1].split("\n## ")[0]
    rows = "\n".join(line for line in table.splitlines() if line.startswith("|"))
    assert rows in (ROOT / "README.md").read_text(encoding="utf-8")
