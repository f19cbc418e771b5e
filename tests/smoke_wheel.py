"""Installs the wheel with its runtime dependencies alone in a fresh environment, and tries what has to work there.

    make dist && python tests/smoke_wheel.py dist

No optional package may be needed to load a checkpoint and to score an image; a command whose extra is missing says so
in one line. TORCH is the requirement for PyTorch, as in the Makefile.
"""

import csv
import json
import os
import sys
import tempfile
from pathlib import Path

from smoke_environment import CARRIED, FAKE, MODEL, PHOTO, ROOT, Checks, Environment, find_wheel

OPTIONAL = "accelerate datasets evaluate peft scikit-learn jsonschema matplotlib scipy pyarrow ray onnx onnxruntime"
OPTIONAL += " openvino pillow-heif c2pa-python gradio pytest"
SCORE = """
import json, sys
from transformers import pipeline
import mirage_hf
from mirage_hf import Detector
model, *images = sys.argv[1:]
detector = Detector.from_pretrained(model)
rows = [found.to_dict() for found in detector.score([*images, b"<html>"])]
raw = [{a["label"]: a["score"] for a in answers} for answers in pipeline("image-classification", model=model)(images)]
print(json.dumps({"version": mirage_hf.__version__, "rows": rows, "raw": raw}))
"""


def main(folder: Path) -> None:
    wheel, check = find_wheel(folder), Checks()
    with tempfile.TemporaryDirectory(prefix="smoke-wheel-") as scratch:
        environment = Environment(Path(scratch))
        seconds = environment.install(os.environ.get("TORCH", "torch==2.13.0"), str(wheel))
        print(f"installed {wheel.name} in {seconds:.0f} s")
        check_packages(environment, check)
        check_library(environment, check, wheel)
        check_commands(environment, check)
        check_missing_extras(environment, check)
    check.finish()


def check_packages(environment: Environment, check: Checks) -> None:
    """What was installed, and which files of the package."""
    installed = environment.versions()
    surplus = [name for name in OPTIONAL.split() if name in installed]
    check("only runtime dependencies are installed", not surplus, surplus)
    consistent = environment.run("python", "-m", "pip", "check")
    check("pip check", consistent.returncode == 0, consistent.stdout)
    for name in (
        "mirage_hf/py.typed",
        "mirage_hf_cli/py.typed",
        "mirage_hf/benchmark.schema.json",
        "mirage_hf/detection.schema.json",
        "mirage_hf/published_tables/genimage_sdv14.csv",
    ):
        check(f"{name} is there", (environment.site_packages / name).is_file())
    strangers = [name for name in ("tests", "benchmarks", "training", "docs", "examples", "outputs")]
    found = [name for name in strangers if (environment.site_packages / name).exists()]
    check("nothing else came along", not found, found)


def check_library(environment: Environment, check: Checks, wheel: Path) -> None:
    """A checkpoint is loaded, images are scored, by the package and by `pipeline`."""
    done = environment.run("python", "-c", SCORE, MODEL, PHOTO, FAKE)
    if done.returncode:
        check("a detector scores images", False, done.stderr[-2000:])
        return
    answer = json.loads(done.stdout.splitlines()[-1])
    check("the version is the wheel's", answer["version"] == wheel.name.split("-")[1], answer["version"])
    labels = [row["label"] for row in answer["rows"]]
    check("a detector scores images", labels == ["real", "fake", None], labels)
    check("an unreadable one gets its status", answer["rows"][2]["status"] == "unsupported", answer["rows"][2])
    with open(ROOT / "benchmarks" / "results" / "mirage-tiny" / "scores.csv", newline="", encoding="utf-8") as file:
        stored = {Path(row["path"]).name: float(row["p_fake"]) for row in csv.DictReader(file)}
    differences = [
        abs(raw["fake"] - stored[path.name]) for raw, path in zip(answer["raw"], (PHOTO, FAKE), strict=True)
    ]
    check("probabilities are the stored ones to 1e-3", max(differences) < 1e-3, differences)


def check_commands(environment: Environment, check: Checks) -> None:
    """The command line without extras."""
    helped = environment.run("mirage-hf", "--help")
    check("mirage-hf --help", helped.returncode == 0 and "predict" in helped.stdout, helped.stderr)
    scored = environment.run("mirage-hf", "predict", PHOTO, FAKE, "--model", MODEL, "--json", "--output", "rows.csv")
    rows = [json.loads(line) for line in scored.stdout.splitlines()]
    right = scored.returncode == 0 and [row["label"] for row in rows] == ["real", "fake"]
    check("mirage-hf predict", right and (environment.work / "rows.csv").is_file(), scored.stderr[-500:])
    missing = environment.run("mirage-hf", "predict", "missing.png", "--model", MODEL, "--json")
    check("an unreadable file is exit code 3", missing.returncode == 3, missing.returncode)
    told = environment.run("mirage-hf", "info", MODEL, "--json")
    check("mirage-hf info", told.returncode == 0 and json.loads(told.stdout)["type"] == "mirage", told.stderr[-500:])


def check_missing_extras(environment: Environment, check: Checks) -> None:
    """Each command that needs an extra names it in one line, and fails."""
    commands = {
        "train": ("train", "--data", CARRIED, "--output_dir", "o", "--model_name_or_path", "x"),
        "evaluate": ("evaluate", "--data", CARRIED, "--model", MODEL, "--output_dir", "o"),
        "benchmark": ("benchmark", "folder", "--data", CARRIED, "--model", MODEL),
        "calibrate": ("calibrate", "--data", CARRIED, "--model", MODEL, "--output-dir", "o"),
        "score": ("score", PHOTO, "--model", MODEL),
        "ray": ("score", PHOTO, "--model", MODEL, "--engine", "ray"),
        "predict to Parquet": ("predict", PHOTO, "--model", MODEL, "--output", "rows.parquet"),
        "onnx": ("export", "--model", MODEL, "--output-dir", "o"),
        "index": ("explain", "--model", MODEL, "--build-index", CARRIED, "--index", "i.safetensors"),
        "demo": ("demo", "--model", MODEL),
    }
    for title, arguments in commands.items():
        done = environment.run("mirage-hf", *arguments)
        # transformers announces which image backend it takes, for commands that load the detector first.
        lines = [line for line in done.stderr.strip().splitlines() if not line.startswith("[transformers]")]
        right = done.returncode == 1 and len(lines) == 1 and "pip install mirage_hf[" in lines[0]
        check(f"without its extra: {title}", right, f"exit code {done.returncode}, {done.stderr[-500:]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
