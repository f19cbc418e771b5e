"""`mirage-hf predict`, `info`, `train` and `evaluate`: through the real executable where a process matters."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image
from typer.testing import CliRunner

import mirage_hf
from mirage_hf import Detector
from mirage_hf_cli.main import app

EXECUTABLE = Path(sys.executable).with_name("mirage-hf")
SCHEMA = json.loads((Path(mirage_hf.__file__).parent / "detection.schema.json").read_text())


def invoke(*arguments, stdin=None):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def run(*arguments, stdin=None, expect=0):
    command = [EXECUTABLE, *map(str, arguments)]
    answer = subprocess.run(command, capture_output=True, input=stdin, timeout=300)
    assert answer.returncode == expect, answer.stderr.decode()
    return answer


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in ("0.png", "1.png", "2.png", "3.png", "sub/4.jpg", "sub/5.jpg"):
        Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def model(folders) -> str:
    return folders["full"]


class TestPredict:
    def test_rows_are_the_detector_s_and_follow_the_schema(self, photos, model):
        answer = invoke("predict", photos, "--model", model, "--json", "--sha256", "--device", "cpu")
        assert answer.exit_code == 0, answer.output
        rows = [json.loads(line) for line in answer.stdout.splitlines()]
        files = [*sorted(photos.glob("*.png")), *sorted(photos.glob("sub/*.jpg"))]
        expected = Detector.from_pretrained(model, device="cpu", sha256=True).score(files)
        assert rows == [item.to_dict() for item in expected] and len(rows) == 6
        for row in rows:
            jsonschema.validate(row, SCHEMA)

    def test_executable_reads_names_from_stdin_and_goes_on_after_a_bad_file(self, photos, model):
        names = [photos / "0.png", photos / "notes.txt", photos / "gone.png", photos / "1.png"]
        stdin = b"\0".join(str(name).encode() for name in names)
        answer = run("predict", "-", "--null", "--model", model, stdin=stdin, expect=3)
        rows = [json.loads(line) for line in answer.stdout.splitlines()]  # no terminal, so JSON Lines
        assert [row["status"] for row in rows] == ["ok", "unsupported", "not_found", "ok"]
        for row in rows:
            jsonschema.validate(row, SCHEMA)

    def test_a_missing_argument_costs_its_row(self, photos, model):
        answer = invoke("predict", photos / "gone.png", photos / "0.png", "--model", model, "--table")
        assert answer.exit_code == 3
        first, second = answer.stdout.splitlines()
        assert first.startswith("not_found") and first.endswith("gone.png: No such file or directory")
        assert second.split()[0] in ("real", "fake") and second.endswith("0.png")

    @pytest.mark.parametrize("threshold, code", [(0, 4), (1, 0)])
    def test_fail_on_fake(self, photos, model, threshold, code):
        arguments = ("predict", photos, "--model", model, "--fail-on", "fake", "--threshold", threshold)
        assert invoke(*arguments).exit_code == code
        assert invoke(*arguments, photos / "notes.txt").exit_code == (code or 3)  # a fake weighs more

    @pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
    def test_output_files(self, photos, model, tmp_path, ending):
        out = tmp_path / "out" / f"rows.{ending}"
        answer = invoke("predict", photos, photos / "notes.txt", "--model", model, "--output", out)
        assert answer.exit_code == 3 and answer.stdout == ""
        expected = [json.loads(line) for line in invoke("predict", photos, "--model", model).stdout.splitlines()]
        if ending == "jsonl":
            rows = [json.loads(line) for line in out.read_text().splitlines()]
        elif ending == "parquet":
            rows = pyarrow.parquet.read_table(out).to_pylist()
        else:
            with open(out, newline="") as file:
                found = list(csv.DictReader(file))
            assert [row["path"] for row in found] == [*(row["path"] for row in expected), str(photos / "notes.txt")]
            assert [float(row["p_fake"]) for row in found[:6]] == [row["p_fake"] for row in expected]
            return
        assert rows[:6] == expected and rows[6]["status"] == "unsupported"
        assert [path.name for path in out.parent.iterdir()] == [out.name]

    def test_limits(self, photos, model, tmp_path):
        Image.new("RGB", (100, 10)).save(tmp_path / "long.png")
        Image.new("RGB", (8, 8)).save(tmp_path / "small.png")
        files = (tmp_path / "long.png", tmp_path / "small.png")

        def statuses(*flags):
            answer = invoke("predict", *files, "--model", model, "--json", *flags)
            return [json.loads(line)["status"] for line in answer.stdout.splitlines()]

        assert statuses() == ["too_small", "too_small"]
        assert statuses("--min-side", 8) == ["ok", "ok"]
        assert statuses("--min-side", 1, "--max-aspect-ratio", 5) == ["too_elongated", "ok"]
        assert statuses("--min-side", 1, "--max-megapixels", 0.001) == ["ok", "ok"]
        assert statuses("--min-side", 1, "--max-megapixels", 0.001, "--max-aspect-ratio", 9)[0] == "too_elongated"

    def test_addresses_only_when_asked(self, model):
        answer = invoke("predict", "http://127.0.0.1:9/a.png", "--model", model)
        assert answer.exit_code == 1 and len(answer.stderr.splitlines()[-1:]) == 1 and "address" in answer.stderr
        answer = invoke("predict", "http://127.0.0.1:9/a.png", "--model", model, "--allow-urls")
        assert answer.exit_code == 3 and json.loads(answer.stdout)["status"] == "not_found"

    @pytest.mark.parametrize(
        "flags, code, message",
        [
            (
                ["--model", "{model}", "--output", "rows.txt"],
                1,
                "predict: rows.txt must end in .jsonl, .csv, .parquet",
            ),
            (["--model", "{tmp}/nothing"], 1, "nothing"),
            (["--model", "{model}", "--backend", "caffe"], 1, "predict: `backend` must be one of"),
            (["--model", "{model}", "--fail-on", "real"], 2, "takes fake"),
            (["--model", "{model}", "--threshold", "2"], 2, "--threshold"),
            ([], 2, "--model"),
        ],
    )
    def test_what_stops_it(self, photos, model, tmp_path, monkeypatch, flags, code, message):
        monkeypatch.chdir(tmp_path)
        answer = invoke("predict", photos, *(flag.format(model=model, tmp=tmp_path) for flag in flags))
        assert answer.exit_code == code and message in answer.stderr and answer.stdout == ""
        if code == 1:
            assert answer.stderr.splitlines()[-1].startswith("predict: ") and "Traceback" not in answer.stderr


def test_predict_needs_no_extra(photos, model):
    """With the runtime's packages alone: what the extras bring can't be imported."""
    code = (
        "import sys\n"
        "for name in ('pyarrow', 'datasets', 'scipy', 'sklearn', 'accelerate', 'peft', 'evaluate', 'onnxruntime'):\n"
        "    sys.modules[name] = None\n"
        "from typer.testing import CliRunner; from mirage_hf_cli.main import app\n"
        "answer = CliRunner().invoke(app, sys.argv[1:])\n"
        "print(answer.stdout, answer.stderr, answer.exception, file=sys.stderr); sys.exit(answer.exit_code)"
    )
    command = [sys.executable, "-c", code, "predict", str(photos), "--model", model]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr


class TestInfo:
    def test_facts(self, model):
        answer = invoke("info", model, "--json")
        facts = json.loads(answer.stdout)
        assert answer.exit_code == 0 and facts["type"] == "mirage" and facts["threshold"] == 0.5
        assert facts["prompts"]["num_prompt_tokens"] == 2 and facts["classes"] == {"0": "real", "1": "fake"}
        assert facts["calibration"] is None and facts["preprocessing"]["crop_size"] == {"height": 32, "width": 32}
        lines = invoke("info", model).stdout.splitlines()
        assert [line.split()[0] for line in lines] == list(facts)

    def test_no_such_model(self, tmp_path):
        answer = invoke("info", tmp_path / "nothing")
        assert answer.exit_code == 1 and answer.stderr.splitlines()[-1].startswith("info: ")


class TestForwarding:
    def test_evaluate(self, pair, model, tmp_path):
        (pair / "a/fake/damaged.png").write_bytes(b"no image")
        flags = ("--model", model, "--data", pair, "--output_dir", tmp_path / "out", "--device", "cpu")
        answer = invoke("evaluate", *flags)
        assert answer.exit_code == 3 and "1 images could not be read" in answer.stderr
        assert answer.stdout == (tmp_path / "out" / "evaluation.md").read_text()

    def test_train(self, pair, model, tmp_path):
        flags = ("--data", pair, "--output_dir", tmp_path / "out", "--max_steps", 1, "--warmup_epochs", 0)
        run("train", "--model_name_or_path", model, *flags, "--use_cpu", "--save_base_model", "true")
        assert json.loads(invoke("info", tmp_path / "out", "--json").stdout)["type"] == "mirage"
        answer = invoke(
            "train", "--model_name_or_path", model, "--data", tmp_path / "nowhere", *flags[2:], "--use_cpu"
        )
        assert answer.exit_code == 1 and answer.stderr.splitlines()[-1].startswith("train: ")

    def test_usage_errors_are_the_parser_s(self, tmp_path):
        answer = invoke("evaluate", "--model", "x")
        assert answer.exit_code == 2 and "usage: mirage-hf evaluate" in answer.stderr
        answer = invoke("train", "--help")
        assert answer.exit_code == 0 and "usage: mirage-hf train" in answer.stdout
