"""The carried demo detector: it loads, scores as stored, and its card says what was measured."""

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModel, pipeline

import mirage_hf
from mirage_hf.evaluation import EvaluationReport
from mirage_hf.evaluation_run import EvaluationArguments, run_evaluation

ROOT = Path(__file__).parent.parent
MINIBENCH = ROOT / "benchmarks" / "minibench"
MODEL = MINIBENCH / "mirage-tiny"
RESULTS = ROOT / "benchmarks" / "results" / "mirage-tiny"


@pytest.fixture(scope="module")
def stored():
    return json.loads((RESULTS / "evaluation.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def scores():
    with (RESULTS / "scores.csv").open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture(scope="module")
def detector():
    return pipeline("image-classification", model=str(MODEL))


def test_twenty_files_score_as_stored(detector, scores):
    """Through the pipeline, as users do; every kind of image is among the twenty."""
    step = len(scores) // 20
    chosen = scores[::step][:20]
    assert len({row["generator"] for row in chosen}) >= 8 and {row["label"] for row in chosen} == {"0", "1"}
    errors = []
    for row in chosen:
        with Image.open(MINIBENCH / "carried" / row["path"]) as image:
            answers = {answer["label"]: answer["score"] for answer in detector(image)}
        errors.append(abs(answers["fake"] - float(row["p_fake"])))
    assert max(errors) < 1e-3
    assert len({row["p_fake"] for row in chosen}) > 10  # and they aren't all alike


def test_another_checkpoint_does_not(scores):
    """The control: without what was learned, the scores are others."""
    model = AutoModel.from_pretrained(MODEL)
    with torch.no_grad():
        for parameter in model.prompt_learner.parameters():
            parameter.zero_()
    changed = pipeline("image-classification", model=model, image_processor=str(MODEL))
    row = next(row for row in scores if row["generator"] == "realesrgan" and row["label"] == "1")
    with Image.open(MINIBENCH / "carried" / row["path"]) as image:
        answers = {answer["label"]: answer["score"] for answer in changed(image)}
    assert abs(answers["fake"] - float(row["p_fake"])) > 1e-2


def test_checkpoint_is_small_and_safe():
    files = {path.name: path.stat().st_size for path in MODEL.iterdir()}
    assert files["model.safetensors"] < 9_000_000
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    config = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))
    assert config["tile_images"] and 0 < config["threshold"] < 1
    assert config["base_model_name_or_path"] is None  # complete, wherever it is copied


def test_stored_table_follows_from_the_stored_scores(stored, scores):
    report = mirage_hf.evaluation.evaluate_by_generator(
        [float(row["p_fake"]) for row in scores],
        [int(row["label"]) for row in scores],
        [row["generator"] for row in scores],
        threshold=stored["threshold"],
    )
    for name, metrics in stored["generators"].items():
        assert report.generators[name] == pytest.approx(metrics, abs=1e-4), name


def test_card_shows_the_stored_table(stored):
    card = (MODEL / "README.md").read_text(encoding="utf-8")
    fields = ("threshold", "generators", "mean", "mean_over", "overall")
    assert EvaluationReport(**{name: stored[name] for name in fields}).to_markdown().strip() in card


@pytest.mark.slow
def test_evaluation_again_gives_the_cards_numbers(stored, tmp_path):
    arguments = EvaluationArguments(str(MODEL), str(MINIBENCH / "carried"), str(tmp_path))
    report, _ = run_evaluation(arguments)
    assert report.threshold == stored["threshold"]
    for name, metrics in stored["generators"].items():
        assert report.generators[name] == pytest.approx(metrics, abs=1e-9), name
