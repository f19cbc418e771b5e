"""The benchmark of the ways to run a detector: what is committed of it, and that its script runs."""

import json
import runpy
from pathlib import Path

import pytest
from exported import save_detector
from jsonschema import validate

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "benchmarks" / "backends.py"
RESULTS = ROOT / "benchmarks" / "results"

NUMBER, WHOLE = {"type": "number", "minimum": 0}, {"type": "integer", "minimum": 0}
SHARE = {"type": "number", "minimum": 0, "maximum": 1}


def record(**fields):
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


SPREAD = record(median=NUMBER, min=NUMBER, max=NUMBER)
WAY = record(
    max_difference_p_fake=SHARE,
    mean_difference_p_fake=SHARE,
    max_difference_margin=NUMBER,
    max_difference_p_fake_alone=SHARE,
    auroc=SHARE,
    flipped=WHOLE,
    images_per_second=SPREAD,
    times_torch=SPREAD,
)
MODEL = record(
    command={"type": "string", "pattern": "python benchmarks/backends.py"},
    weights={"enum": ["trained", "random"]},
    pixel_values={"type": "array", "items": WHOLE, "minItems": 3, "maxItems": 3},
    parameters=WHOLE,
    n_real=WHOLE,
    n_fake=WHOLE,
    threshold=SHARE,
    batch_size=WHOLE,
    timed_images=WHOLE,
    repeats=WHOLE,
    threads=WHOLE,
    share_of_the_threads=NUMBER,
    bytes=record(float32=WHOLE, int8=WHOLE),
    environment={"type": "object", "required": ["cpu", "torch", "transformers", "onnx", "onnxruntime", "openvino"]},
    ways={"type": "object", "additionalProperties": WAY},
)
SCHEMA = record(schema_version={"const": 1}, models={"type": "object", "additionalProperties": MODEL})
WAYS = [
    "torch float32",
    "torch float32, not baked",
    "torch, autocast to bfloat16",
    "ONNX Runtime float32",
    "ONNX Runtime int8",
    "OpenVINO f32",
]


@pytest.fixture(scope="module")
def stored() -> dict:
    return json.loads((RESULTS / "backends.json").read_text(encoding="utf-8"))


def check(results, to_markdown, markdown):
    """What must hold wherever it was measured."""
    validate(results, SCHEMA)
    assert markdown == to_markdown(results)
    for entry in results["models"].values():
        first = entry["ways"]["torch float32"]
        assert first["max_difference_p_fake"] == 0 and first["times_torch"] == {"median": 1, "min": 1, "max": 1}
        for way, row in entry["ways"].items():
            assert row["mean_difference_p_fake"] <= row["max_difference_p_fake"]
            for spread in (row["images_per_second"], row["times_torch"]):
                assert 0 < spread["min"] <= spread["median"] <= spread["max"]
            if way.endswith(("float32", "f32", "not baked")):
                assert row["max_difference_p_fake"] < 1e-4
        assert entry["bytes"]["int8"] < entry["bytes"]["float32"]
        assert any(way.startswith("OpenVINO by default (") for way in entry["ways"])


def test_committed_results_and_their_claims(stored, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    script = runpy.run_path(str(SCRIPT))
    check(stored, script["to_markdown"], (RESULTS / "backends.md").read_text(encoding="utf-8"))
    assert list(stored["models"]) == ["mirage-tiny", "vit-b-32"]
    tiny = stored["models"]["mirage-tiny"]
    assert [way for way in tiny["ways"] if not way.startswith("OpenVINO by")] == WAYS
    assert (tiny["n_real"], tiny["n_fake"], tiny["weights"], tiny["threads"]) == (100, 100, "trained", 1)
    assert tiny["ways"]["torch float32, not baked"]["max_difference_p_fake"] < 1e-6
    auroc = tiny["ways"]["torch float32"]["auroc"]
    assert all(abs(row["auroc"] - auroc) < 0.01 for row in tiny["ways"].values())
    assert max(tiny["ways"]["ONNX Runtime int8"][f"{kind}_difference_p_fake"] for kind in ("max", "mean")) > 1e-3
    assert stored["models"]["vit-b-32"]["weights"] == "random"


def test_the_script_runs_and_keeps_other_models_entries(stored, tmp_path, monkeypatch, capsys):
    checkpoint = tmp_path / "turned"
    save_detector("turned", checkpoint)
    (tmp_path / "backends.json").write_text(json.dumps(stored), encoding="utf-8")
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    options = ["--model", checkpoint, "--images", 8, "--timed-images", 4, "--repeats", 2, "--batch-size", 4]
    monkeypatch.setattr("sys.argv", [str(part) for part in (SCRIPT, "--out", tmp_path, *options)])
    script = runpy.run_path(str(SCRIPT), run_name="__main__")
    found = json.loads((tmp_path / "backends.json").read_text(encoding="utf-8"))
    check(found, script["to_markdown"], (tmp_path / "backends.md").read_text(encoding="utf-8"))
    assert list(found["models"]) == ["mirage-tiny", "vit-b-32", "turned"]
    entry = found["models"]["turned"]
    assert "torch float32, not baked" not in entry["ways"]  # which MiraGe alone has
    assert (entry["n_real"], entry["n_fake"], entry["timed_images"], entry["repeats"]) == (4, 4, 4, 2)
    assert entry["command"].endswith("--images 8 --timed-images 4 --repeats 2 --batch-size 4")
    assert found["models"]["mirage-tiny"] == stored["models"]["mirage-tiny"]
    assert capsys.readouterr().out.startswith("# Ways to run a detector on the CPU")
