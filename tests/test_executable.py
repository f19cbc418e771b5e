"""Every command of `mirage-hf` through the real executable: what works, and each way to end otherwise."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jsonschema
import pytest
from noise_images import copy_with_more_fields, make_noise
from trees import write_tree

import mirage_hf
from mirage_hf.benchmark_report import validate_results
from mirage_hf_cli.main import app

EXECUTABLE = Path(sys.executable).with_name("mirage-hf")
SCHEMA = json.loads((Path(mirage_hf.__file__).parent / "detection.schema.json").read_text())
ENDINGS = {"done": 0, "failed": 1, "usage": 2, "some unreadable": 3, "fake found": 4}

# What to call in the workplace below. Words in capitals are its paths.
CASES = {
    "predict": {
        "done": "good.png --model MODEL --json",
        "failed": "good.png --model nowhere",
        "usage": "good.png",
        "some unreadable": "good.png broken.png --model MODEL --json",
        "fake found": "good.png --model MODEL --threshold 0 --fail-on fake --json",
    },
    "score": {
        "done": "good.png --model MODEL --output-dir scores --json",
        "failed": "good.png --model nowhere --output-dir nothing",
        "usage": "good.png --model MODEL --shard-size 0 --output-dir nothing",
        "some unreadable": "good.png broken.png --model MODEL --output-dir broken-scores --json",
        "fake found": "good.png --model MODEL --threshold 0 --fail-on fake --output-dir fake-scores --json",
    },
    "explain": {
        "done": "good.png --model MODEL --output-dir maps --json",
        "failed": "good.png --model nowhere",
        "usage": "good.png",
        "some unreadable": "good.png broken.png --model MODEL --output-dir broken-maps --json",
    },
    "info": {"done": "MODEL --json", "failed": "nowhere", "usage": ""},
    "train": {
        "done": "--model_name_or_path MODEL --data pair --output_dir out --max_steps 1 --warmup_epochs 0 --use_cpu",
        "failed": "--model_name_or_path MODEL --data nowhere --output_dir nothing --use_cpu",
        "usage": "--no_such_option 1",
    },
    "evaluate": {
        "done": "--model MODEL --data pair --output_dir evaluated --device cpu",
        "failed": "--model MODEL --data nowhere --output_dir nothing",
        "usage": "--model MODEL",
        "some unreadable": "--model MODEL --data damaged --output_dir damaged-evaluated --device cpu",
    },
    "benchmark": {
        "done": "folder --data pair --model MODEL --output-dir benchmarked --json",
        "failed": "folder --data nowhere --model MODEL --output-dir nothing",
        "usage": "folder --data pair --model MODEL --replicates 1",
        "some unreadable": "folder --data damaged --model MODEL --output-dir damaged-benchmarked --json",
    },
    "calibrate": {
        "done": "--model MODEL --data noise --output-dir calibrated --json",
        "failed": "--model MODEL --data nowhere",
        "usage": "--model MODEL --data noise --max-fpr 2",
        "some unreadable": "--model MODEL --data damaged-noise --output-dir damaged-calibrated --json",
    },
    "export": {
        "done": "--model MODEL --output-dir exported --json",
        "failed": "--model nowhere --output-dir nothing",
        "usage": "--model MODEL",
        "some unreadable": "--model MODEL --output-dir int8 --int8 --data damaged --max-auroc-drop 1 --json",
    },
    "push": {"failed": "nowhere org/name --dry-run", "usage": "MODEL"},
    "demo": {"failed": "--model nowhere", "usage": "--model MODEL --port 0"},
}
# In a second round: it needs a result of the first, and a copy of it.
LATER = {
    "compare": {
        "done": "benchmarked again --output-dir compared --json",
        "failed": "nowhere benchmarked --output-dir nothing",
        "usage": "",
    },
}
ALL = [(command, ending) for cases in (CASES, LATER) for command, endings in cases.items() for ending in endings]


@pytest.fixture(scope="module")
def workplace(folders, tmp_path_factory) -> Path:
    """A folder with a detector, images, data sets, and copies of those with a file that is no image."""
    folder = tmp_path_factory.mktemp("workplace")
    copy_with_more_fields(folders["full"], folder / "model")
    write_tree(folder / "pair", [f"{g}/{c}/{{0..5}}.png" for g in ("a", "b") for c in ("real", "fake")])
    make_noise(folders["full"], folder).rename(folder / "noise")
    for name, inside in (("pair", "a/fake"), ("noise", "a/real")):
        damaged = shutil.copytree(folder / name, folder / {"pair": "damaged", "noise": "damaged-noise"}[name])
        (damaged / inside / "broken.png").write_bytes(b"no image")
    shutil.copy(next((folder / "noise/a/real").iterdir()), folder / "good.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def answers(workplace) -> dict:
    """How each call ended, from as many processes at a time as there are cores."""

    def call(command: str, arguments: str) -> subprocess.CompletedProcess:
        words = [str(workplace / "model") if word == "MODEL" else word for word in arguments.split()]
        return subprocess.run(
            [EXECUTABLE, command, *words],
            cwd=workplace,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )

    found = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for cases in (CASES, LATER):
            waiting = {
                (command, ending): pool.submit(call, command, arguments)
                for command, endings in cases.items()
                for ending, arguments in endings.items()
            }
            found |= {case: answer.result() for case, answer in waiting.items()}
            shutil.copytree(workplace / "benchmarked", workplace / "again", dirs_exist_ok=True)
    return found


def test_no_command_is_left_out():
    commands = {command.name for command in app.registered_commands}
    assert {command for command, _ in ALL} == commands
    assert all({"failed", "usage"} <= {ending for name, ending in ALL if name == command} for command in commands)


@pytest.mark.parametrize(("command", "ending"), ALL)
def test_exit_code_and_what_is_said(command, ending, answers):
    answer = answers[command, ending]
    assert answer.returncode == ENDINGS[ending], answer.stderr[-2000:]
    assert "Traceback" not in answer.stderr
    if ending == "failed":
        assert answer.stdout == "" and answer.stderr.splitlines()[-1].startswith(f"{command}: ")
    elif ending == "usage":
        assert answer.stdout == "" and "usage" in answer.stderr.lower()
    else:
        assert answer.stdout


@pytest.mark.parametrize(("command", "ending"), [case for case in ALL if case[1] not in ("failed", "usage")])
def test_json_is_what_it_should_be(command, ending, answers, workplace):
    told = answers[command, ending].stdout
    if command in ("predict", "explain"):
        rows = [json.loads(line) for line in told.splitlines()]
        assert [row["status"] for row in rows] == ["ok", "unsupported"][: 2 if ending == "some unreadable" else 1]
        for row in rows:
            jsonschema.validate({key: row[key] for key in SCHEMA["properties"]}, SCHEMA)
    elif command == "score":
        summary = json.loads(told)
        assert summary["images"] == 1 + (ending == "some unreadable") and summary["complete"]
        assert sum(summary["status"].values()) == summary["images"]
        assert ending != "fake found" or summary["verdict"] == {"fake": 1}
    elif command == "info":
        assert json.loads(told)["type"] == "mirage"
    elif command == "benchmark":
        results = json.loads(told)
        validate_results(results)
        assert results["views"]["raw"]["sets"].keys() == {"a", "b"}
    elif command == "compare":
        assert json.loads(told)["views"]
    elif command == "calibrate":
        folder = workplace / ("calibrated" if ending == "done" else "damaged-calibrated")
        assert json.loads(told)["calibration"] == json.loads((folder / "config.json").read_text())["calibration"]
    elif command == "export":
        report = json.loads(told)
        written = report["int8"] or report["export"]
        assert Path(workplace, written["file"]).stat().st_size == written["bytes"] > 10_000
    elif command == "evaluate":  # prints the table that it writes
        folder = workplace / ("evaluated" if ending == "done" else "damaged-evaluated")
        assert told == (folder / "evaluation.md").read_text()
    else:
        assert command == "train" and (workplace / "out" / "model.safetensors").is_file()
