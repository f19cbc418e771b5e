"""Installs the wheel with each of its extras in a fresh environment, and runs what the extra is for.

    make dist && python tests/smoke_extras.py dist --out benchmarks/results

An environment holds the wheel's runtime dependencies and one extra, nothing else. Writes extras.json: the commands,
the versions that were installed, seconds. TORCH is the requirement for PyTorch, as in the Makefile.
"""

import argparse
import configparser
import json
import os
import platform
import re
import sys
import tempfile
import time
from pathlib import Path

from smoke_environment import CARRIED, FAKE, MODEL, PHOTO, ROOT, TINY_CLIP, Environment, find_wheel

SMALL = ("--max_steps", "1", "--per_device_train_batch_size", "4", "--max_per_class", "4", "--use_cpu", "true")
HEIC = "import pillow_heif, PIL.Image; pillow_heif.from_pillow(PIL.Image.open({photo!r})).save('photo.heic')"
JXL = "import pillow_jxl, PIL.Image; PIL.Image.open({photo!r}).save('photo.jxl')"
EXPORT = ("mirage-hf", "export", "--model", MODEL, "--output-dir", "exported")
# What an extra is for, as commands that must end with 0. `{shared}` is a folder that all extras see.
PROBES: dict[str, list[tuple]] = {
    "train": [
        (
            "mirage-hf",
            "train",
            "--model_name_or_path",
            TINY_CLIP,
            "--data",
            CARRIED,
            "--output_dir",
            "trained",
            *SMALL,
        ),
        ("mirage-hf", "train", "--model_name_or_path", TINY_CLIP, "--data", CARRIED, "--output_dir", "lora", *SMALL)
        + ("--lora_rank", "2"),
        (
            "mirage-hf",
            "evaluate",
            "--model",
            "trained",
            "--data",
            CARRIED,
            "--output_dir",
            "o",
            "--max_per_class",
            "4",
        ),
        ("mirage-hf", "explain", "--model", MODEL, "--build-index", "{shared}/few.csv", "--index", "i.safetensors"),
    ],
    "benchmark": [
        ("mirage-hf", "benchmark", "folder", "--data", CARRIED, "--model", MODEL, "--limit-per-class", "3", "--align")
        + ("--degrade", "blur_3", "--replicates", "20"),
        ("python", "-c", "import shutil; shutil.copytree('outputs/benchmark/folder', 'another')"),
        ("mirage-hf", "compare", "outputs/benchmark/folder", "another", "--replicates", "20"),
        ("mirage-hf", "calibrate", "--model", MODEL, "--data", CARRIED, "--max-per-class", "8", "--output-dir", "c"),
    ],
    "score": [
        ("mirage-hf", "score", PHOTO, FAKE, "--model", MODEL, "--output-dir", "scores", "--merge", "all.parquet"),
        ("mirage-hf", "predict", "all.parquet", PHOTO, "--model", MODEL, "--output", "rows.parquet", "--all-files"),
    ],
    "ray": [("mirage-hf", "score", PHOTO, FAKE, "--model", MODEL, "--engine", "ray", "--workers", "1")],
    "onnx": [EXPORT, ("mirage-hf", "predict", PHOTO, "--model", "exported", "--backend", "onnx")],
    "openvino": [("mirage-hf", "predict", PHOTO, "--model", "{shared}/exported", "--backend", "openvino")],
    "heif": [
        ("python", "-c", HEIC.format(photo=str(PHOTO))),
        ("mirage-hf", "predict", "photo.heic", "--model", MODEL),
    ],
    "jxl": [
        ("python", "-c", JXL.format(photo=str(PHOTO))),
        ("mirage-hf", "predict", "photo.jxl", "--model", MODEL),
    ],
    "c2pa": [
        ("python", "-c", f"from mirage_hf.provenance import read_c2pa; assert read_c2pa({str(PHOTO)!r}) is None")
    ],
    "demo": [("python", "-c", "import gradio, mirage_hf.demo")],
    "docs": [
        ("mkdocs", "build", "--strict", "--config-file", ROOT / "docs" / "mkdocs.yml", "--site-dir", "{shared}/site")
    ],
}
LEFT_OUT = {"dev": "what the tests need; it is the environment that they run in"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dist", type=Path, help="folder of the wheel")
    parser.add_argument("--out", type=Path, required=True, help="folder for extras.json")
    parser.add_argument("--only", nargs="+", help="extras")
    options = parser.parse_args()
    wheel = find_wheel(options.dist)
    found: dict[str, dict] = {}
    with tempfile.TemporaryDirectory(prefix="smoke-extras-") as scratch:
        base = Environment(Path(scratch))
        base.install(os.environ.get("TORCH", "torch==2.13.0"), str(wheel))
        (Path(scratch) / "few.csv").write_text(f"path,label\n{PHOTO},real\n{FAKE},fake\n", encoding="utf-8")
        extras = options.only or list(PROBES)
        for extra in ["onnx", *(name for name in extras if name != "onnx")] if "openvino" in extras else extras:
            folder = Path(scratch) / extra
            folder.mkdir()
            found[extra] = try_extra(extra, Environment(folder, base), wheel, Path(scratch))
            print(f"{extra}: {'passed' if found[extra]['passed'] else 'FAILED'}", flush=True)
        runtime = base.versions()
    results = {
        "command": "python tests/smoke_extras.py dist --out benchmarks/results",
        "python": platform.python_version(),
        "wheel": wheel.name,
        "runtime": {name: runtime[name] for name in names_of(requirements()["install_requires"])},
        "extras": dict(sorted(found.items())),
        "left_out": LEFT_OUT,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "extras.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    failed = sum(not extra["passed"] for extra in found.values())
    print(f"{len(found) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


def try_extra(extra: str, environment: Environment, wheel: Path, shared: Path) -> dict:
    """Installs one extra and runs its probes."""
    facts: dict = {"seconds_to_install": round(environment.install(f"{wheel}[{extra}]"), 1), "commands": []}
    environment.install("--no-deps", "--force-reinstall", str(wheel))  # the commands, in this environment's own folder
    installed = environment.versions()
    for probe in PROBES[extra]:
        words = [str(word).replace("{shared}", str(shared)) for word in probe]
        began = time.monotonic()
        done = environment.run(*words, NO_MKDOCS_2_WARNING="1", RAY_USAGE_STATS_ENABLED="0")
        shown = " ".join(words).replace(str(ROOT), ".").replace(str(shared), "SHARED")
        facts["commands"].append(
            {"command": shown, "exit_code": done.returncode, "seconds": round(time.monotonic() - began, 1)}
        )
        if done.returncode:
            print(f"{shown}\n{done.stderr[-3000:]}")
    if extra == "onnx":
        (environment.work / "exported").rename(shared / "exported")
    facts["passed"] = all(command["exit_code"] == 0 for command in facts["commands"])
    facts["versions"] = {name: installed[name] for name in names_of(requirements()[extra]) if name in installed}
    return facts


def requirements() -> dict[str, list[str]]:
    """The lines of setup.cfg for the runtime (`install_requires`) and for each extra."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lists = {"install_requires": setup["options"]["install_requires"], **setup["options.extras_require"]}
    return {name: value.split("\n")[1:] for name, value in lists.items()}


def names_of(lines: list[str]) -> list[str]:
    """The packages of requirement lines, this one left out, as `Environment.versions` spells them."""
    names = [re.split(r"[\[<>=~! ]", line)[0].lower().replace("_", "-") for line in lines]
    return [name for name in names if name and name != "mirage-hf"]


if __name__ == "__main__":
    main()
