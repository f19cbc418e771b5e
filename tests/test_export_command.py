"""`mirage-hf export` in this process: what it prints, its exit codes and its errors."""

import json
import sys

import pytest
import typer
from exported import random_images, save_detector
from typer.testing import CliRunner

from mirage_hf_cli.export import export

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

app = typer.Typer()
app.command()(export)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_detector("turned", tmp_path_factory.mktemp("turned"))


@pytest.fixture
def data(tmp_path):
    """Six real and six fake images, and a file that is none."""
    for index, image in enumerate(random_images(12, seed=2)):
        path = tmp_path / "data" / ("real", "fake")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return tmp_path / "data"


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_int8_in_words_and_exit_3_for_files_that_could_not_be_read(checkpoint, data, tmp_path):
    (data / "real" / "no_image.png").write_bytes(b"no image")
    damaged = bytearray((data / "real" / "0.png").read_bytes())
    damaged[len(damaged) // 2] ^= 255  # complete, and found out when it is decoded
    (data / "real" / "damaged.png").write_bytes(damaged)
    out = tmp_path / "out"
    options = ("--int8", "--data", data, "--max-auroc-drop", 1, "--batch-size", 4)
    answer = invoke("--model", checkpoint, "--output-dir", out, *options)
    assert answer.exit_code == 3, answer.output
    assert answer.stderr.splitlines()[-1] == f"export: 2 images of {data} could not be read"
    first, second, third = answer.stdout.splitlines()
    size = (out / "model.onnx").stat().st_size / 1e6
    assert first == f"{out / 'model.onnx'}: {size:.1f} MB, opset 18, pixel_values of 32 x 32"
    assert second.startswith(
        f"float32 against PyTorch on 12 images ({data}) in batches of 1, 3, 8: largest difference "
    )
    assert third.startswith("int8 against float32 (0.0 MB) on 6 real and 6 fake images: AUROC ")
    assert {path.name for path in out.iterdir()} == {"model.onnx", "config.json", "preprocessor_config.json"}


def test_torch_as_json(checkpoint, data, tmp_path):
    out = tmp_path / "out"
    arguments = ("--format", "torch", "--data", data, "--limit-per-class", 2, "--json", "--quiet")
    answer = invoke("--model", checkpoint, "--output-dir", out, *arguments)
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    assert found["int8"] is None and found["export"]["format"] == "torch"
    assert found["export"]["comparison"]["images"] == 4
    assert found["export"]["bytes"] == (out / "model.pt2").stat().st_size
    again = invoke("--model", checkpoint, "--output-dir", out, "--format", "torch")
    assert (
        again.exit_code == 1 and again.stderr == f"export: {out} is not an empty folder; name a new one to export to\n"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--int8",), "needs labelled images"),
        (("--int8", "--data", "x", "--format", "torch"), "is for --format onnx"),
        (("--format", "tflite"), "tflite"),
        (("--batch-size", "0"), "--batch-size"),
        (("--max-auroc-drop", "2"), "--max-auroc-drop"),
    ],
)
def test_wrong_usage(options, message, checkpoint, tmp_path):
    answer = invoke("--model", checkpoint, "--output-dir", tmp_path / "out", *options)
    assert answer.exit_code == 2 and message in answer.stderr and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--data", "nowhere"), "nowhere"),
        (("--fake-label", "cat"), "`fake_label` is 'cat', the classes of"),
        (("--model", "nowhere"), ""),  # transformers' own words
    ],
)
def test_errors_are_one_line_and_exit_1(options, message, checkpoint, tmp_path):
    answer = invoke("--model", checkpoint, "--output-dir", tmp_path / "out", *options)
    assert answer.exit_code == 1 and answer.stderr.startswith("export: ") and message in answer.stderr
    assert len(answer.stderr.splitlines()) == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("module", "extra"), [("onnx", "onnx"), ("onnxscript", "onnx"), ("datasets", "train")])
def test_a_missing_package_names_its_extra(module, extra, checkpoint, data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    answer = invoke("--model", checkpoint, "--output-dir", tmp_path / "out", "--data", data)
    assert answer.exit_code == 1 and f"is missing: `pip install mirage_hf[{extra}]`" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1 and not (tmp_path / "out").exists()
