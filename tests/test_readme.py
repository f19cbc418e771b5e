"""What README and the stored results say agrees, with each other and with the code."""

import json
from pathlib import Path

import pytest

from mirage_hf.evaluation import SCHEMA_VERSION, EvaluationReport

ROOT = Path(__file__).parent.parent
OFFLINE = ROOT / "benchmarks" / "results" / "mirage-tiny"
EVIDENCE = ROOT / "benchmarks" / "results" / "minibench"
SIX_ROWS = ("zero_shot", "linear_probe", "text_prompts", "multimodal", "contrastive", "mirage")


@pytest.fixture(scope="module")
def stored() -> dict:
    return json.loads((OFFLINE / "evaluation.json").read_text(encoding="utf-8"))


def test_readme_shows_the_stored_table(stored):
    fields = ("threshold", "generators", "mean", "mean_over", "overall")
    table = EvaluationReport(**{name: stored[name] for name in fields}).to_markdown()
    assert table.strip() in (ROOT / "README.md").read_text(encoding="utf-8")


def test_stored_result_is_the_quickstarts(stored):
    assert stored["schema_version"] == SCHEMA_VERSION
    arguments = stored["arguments"]
    assert (arguments["model"], arguments["split"]) == ("benchmarks/minibench/mirage-tiny", "test")
    assert arguments["threshold"] is None  # the checkpoint's own
    assert arguments["data"] == "benchmarks/minibench/carried" and not stored["skipped"]
    assert "evaluate.py --model $(OUT) --data $(CARRIED)" in (ROOT / "Makefile").read_text()
    held_out = set(stored["mean_over"]) - {"realesrgan"}
    assert len(held_out) >= 3
    for metrics in stored["generators"].values():
        assert metrics["n_real"] + metrics["n_fake"] > 0


def test_stored_recipe_is_the_carried_one():
    training = json.loads((OFFLINE / "training_args.json").read_text(encoding="utf-8"))
    recipe = (ROOT / "training" / "recipes" / "mirage_tiny.yaml").read_text(encoding="utf-8")
    values = dict(line.split(": ", 1) for line in recipe.splitlines() if ": " in line and line[0] not in "# ")
    for name in ("learning_rate", "num_train_epochs", "discriminative_weight", "temperature", "memory_size", "seed"):
        assert float(values[name]) == training[name], name


def test_readme_shows_the_ablation_as_it_came_out():
    table = (EVIDENCE / "table.md").read_text(encoding="utf-8").split("## Unseen generators")[1].split("\n## ")[0]
    settings = json.loads((EVIDENCE / "table.json").read_text(encoding="utf-8"))["settings"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = table.splitlines()
    rows = [next(line for line in lines if line.startswith(f"| {settings[name]['title']} |")) for name in SIX_ROWS]
    header = lines.index(next(line for line in lines if line.startswith("| detector |")))
    assert "\n".join([*lines[header : header + 2], *rows]) in readme
    assert all(len(settings[name]["seeds"]) >= 5 for name in SIX_ROWS if name != "zero_shot")


def test_full_size_figures_keep_their_claims():
    figures = json.loads((ROOT / "benchmarks" / "results" / "full_size_cpu.json").read_text(encoding="utf-8"))
    assert figures["adapter"]["mib"] <= 40
    assert all(run["prompts_moved"] and run["clip_unchanged"] for run in figures["training"])
