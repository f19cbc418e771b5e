"""What of a checkpoint goes up, what stays, and what is refused before anything is sent."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from noise_images import make_noise
from pushing import make_measured, measure, read, write
from saved import saved_encoder_weights
from transformers import AutoModel

import mirage_hf
from mirage_hf.model_card import seal
from mirage_hf.publishing import PushArguments, PushPlan, plan_push
from mirage_hf.publishing_paths import find_local_path, without_local_paths

PACKAGE = Path(mirage_hf.__file__).parent
CODE = (
    *("adapter_checkpoint", "class_prompts", "configuration_mirage", "lean_layers", "modeling_mirage"),
    *("packed_linear", "pretrained_mirage"),
)


@pytest.fixture(scope="module")
def noise(folders, tmp_path_factory) -> Path:
    return make_noise(folders["full"], tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def measured(folders, noise, tmp_path_factory) -> Path:
    return make_measured(folders["full"], noise, tmp_path_factory.mktemp("measured") / "mine")


@pytest.fixture
def folder(measured, tmp_path) -> Path:
    """A calibrated and tested detector of one's own to spoil."""
    return Path(shutil.copytree(measured, tmp_path / "mine"))


def plan(folder: Path, staging: Path, **options) -> PushPlan:
    staging.mkdir()
    return plan_push(PushArguments(str(folder), "org/mine", **options), staging)


def refused(folder: Path, staging: Path, match: str, **options) -> None:
    with pytest.raises((ValueError, OSError), match=match) as caught:
        plan(folder, staging, **options)
    assert "\n" not in str(caught.value)


def test_only_what_belongs_goes_up(folder, tmp_path):
    junk = ["training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "notes.txt"]
    for name in [
        *junk,
        "pytorch_model.bin",
        "memory_bank.safetensors",
        "checkpoint-3/model.safetensors",
        "runs/events",
    ]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("no")
    found = plan(folder, tmp_path / "staging")
    assert {file.path for file in found.files} == {
        *("README.md", "config.json", "model.safetensors", "preprocessor_config.json", "prompt_learner.py"),
        *(f"{name}.py" for name in CODE),
        *(f"results/test/{name}" for name in ("evaluation.json", "evaluation.md", "scores.csv")),
    }
    assert found.files[0].path == "README.md" and all(file.size == file.source.stat().st_size for file in found.files)
    left = dict(found.left)
    assert set(left) == {*junk, "pytorch_model.bin", "memory_bank.safetensors", "checkpoint-3", "runs"}
    assert (left["pytorch_model.bin"], left["checkpoint-3"]) == ("a pickle", "an older checkpoint")
    assert (left["trainer_state.json"], left["notes.txt"]) == ("log of the training", "not part of a detector")
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        assert read_bytes(found, name) == (folder / name).read_bytes() or name == "config.json"


def test_code_is_the_installed_packages(folder, tmp_path):
    (folder / "modeling_mirage.py").write_text("raise SystemExit('an older version')")
    config = read(folder, "config.json")
    write(folder, "config.json", config | {"auto_map": {"AutoModel": "org/other--modeling_mirage.X"}})
    found = plan(folder, tmp_path / "staging")
    for name in CODE:
        assert read_bytes(found, f"{name}.py") == (PACKAGE / f"{name}.py").read_bytes()
    assert json.loads(read_bytes(found, "config.json"))["auto_map"] == {
        "AutoConfig": "configuration_mirage.MiraGeConfig",
        "AutoModel": "modeling_mirage.MiraGeForImageDetection",
        "AutoModelForImageClassification": "modeling_mirage.MiraGeForImageDetection",
    }


def test_an_adapter_on_a_folder_goes_up_whole(folders, pixel_values, tmp_path):
    found = plan(Path(folders["adapter"]), tmp_path / "staging")
    assert found.kind == "full" and "--adapter --base OWNER/NAME" in found.notes[0]
    config = json.loads(read_bytes(found, "config.json"))
    assert config["base_model_name_or_path"] is config["base_model_fingerprint"] is None and config["save_base_model"]
    assert saved_encoder_weights(tmp_path / "staging") > 0 == saved_encoder_weights(Path(folders["adapter"]))
    first, second = (
        AutoModel.from_pretrained(path)(pixel_values) for path in (folders["adapter"], tmp_path / "staging")
    )
    torch.testing.assert_close(first.logits, second.logits, atol=1e-6, rtol=0)
    refused(Path(folders["adapter"]), tmp_path / "a", r"--base OWNER/NAME .*--full", kind="adapter")
    refused(Path(folders["full"]), tmp_path / "b", "names no base model", kind="adapter")
    refused(Path(folders["full"]), tmp_path / "c", "leave out --base", kind="full", base="org/clip")
    refused(Path(folders["adapter"]), tmp_path / "d", "must be a Hub id", kind="adapter", base="/somewhere/clip")


def test_no_path_of_this_machine_goes_up(folder, noise, tmp_path):
    before = (folder / "test" / "scores.csv").read_text()
    assert str(noise) in before and str(noise) in (folder / "test" / "evaluation.json").read_text()
    found = plan(folder, tmp_path / "staging")
    for file in found.files:
        if file.source.suffix != ".safetensors":
            text = file.source.read_text()
            assert str(tmp_path) not in text and str(noise.parent) not in text, file.path
    rows = list(csv.DictReader(read_bytes(found, "results/test/scores.csv").decode().splitlines()))
    assert {row["path"].split("/")[0] for row in rows} == {"a"} and len(rows) == before.count("\n") - 1
    assert json.loads(read_bytes(found, "results/test/evaluation.json"))["arguments"]["data"] == "noise"
    assert any("evaluation.json: paths of this machine are cut" in note for note in found.notes)
    write(folder, "config.json", read(folder, "config.json") | {"made_from": f"{tmp_path}/secret/model"})
    refused(folder, tmp_path / "again", "config.json names a path of this machine, .*secret/model")


def test_paths_in_texts():
    assert (
        without_local_paths("x,/data/set/a/b.png /data/set /data/settled", ["/data/set"])
        == "x,a/b.png set /data/settled"
    )
    assert without_local_paths("a/b", [None, "a", "/"]) == "a/b"
    for text in ("see /data/x/y.png", '"/mnt/a"', "~/models/a", "C:\\data\\a"):
        assert find_local_path(text) is not None, text
    for text in ("https://a.org/b/c", "and/or", "1/2", "`results/test/a.json`", "a / b", "](../x/y)"):
        assert find_local_path(text) is None, text
    assert find_local_path(f"x = '{Path.home()}/a'", is_code=True) == f"{Path.home()}/a"
    assert find_local_path("/usr/lib/python", is_code=True) is None


def test_results_of_other_weights_are_refused(folder, models, noise, tmp_path):
    stored = read(folder, "test/evaluation.json")
    write(folder, "test/evaluation.json", {key: value for key, value in stored.items() if key != "model"})
    refused(folder, tmp_path / "a", "doesn't say which weights")
    changed = models["full"].prompt_learner
    write(folder, "test/evaluation.json", stored)
    original = (folder / "model.safetensors").read_bytes()
    with torch.no_grad():
        changed.text_prompts[0].add_(0.1)
    models["full"].save_pretrained(tmp_path / "other")
    with torch.no_grad():
        changed.text_prompts[0].sub_(0.1)
    (folder / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    refused(folder, tmp_path / "b", "is of other weights or another preprocessing")
    (folder / "model.safetensors").write_bytes(original)
    processor = read(folder, "preprocessor_config.json")
    write(folder, "preprocessor_config.json", processor | {"image_mean": [0.5, 0.5, 0.5]})
    refused(folder, tmp_path / "p", "is of other weights or another preprocessing")
    write(folder, "preprocessor_config.json", processor)
    write(folder, "config.json", read(folder, "config.json") | {"threshold": 0.123})
    refused(folder, tmp_path / "c", "is of threshold .* and the checkpoint's is 0.123")
    assert measure(folder, noise)["threshold"] == 0.123
    assert plan(folder, tmp_path / "d").facts.results[0].own_threshold == 0.123


def test_a_record_of_another_training_is_refused(folder, tmp_path):
    write(folder, "training_run.json", {"weights_sha256": "0" * 64})
    refused(folder, tmp_path / "a", "training_run.json is of other weights")


def test_a_card_with_an_invented_figure_is_refused(folder, tmp_path):
    made = read_bytes(plan(folder, tmp_path / "a"), "README.md").decode()
    balanced = read(folder, "test/evaluation.json")["generators"]["a"]["balanced_accuracy"]
    for number, (old, new, message) in enumerate(
        [
            (
                f"value: {round(balanced, 4)}",
                "value: 0.9876",
                "model-index gives balanced_accuracy 0.9876 threshold .* for noise / ",
            ),
            ("## Training", "It finds 99.37 of 100.\n\n## Training", "the card says 99.37"),
            (
                "| a | 29 | 19 |",
                "| a | 29 | 19 | 99.9 |",
                "the card says 99.9, and the results of that generator don't",
            ),
            ("no proof of origin", "a proof of origin", "must hold 'no proof of origin'"),
        ]
    ):
        assert old in made
        (folder / "README.md").write_text(made.replace(old, new, 1))
        refused(folder, tmp_path / f"b{number}", message)
    (folder / "README.md").write_text(made.replace("## Training", "Words without figures.\n\n## Training", 1))
    kept = plan(folder, tmp_path / "c")
    assert b"Words without figures." in read_bytes(kept, "README.md")
    shutil.rmtree(folder / "test")  # the figures are as they were, and nothing is behind them now
    refused(folder, tmp_path / "d", "no results file says so")
    (folder / "README.md").write_text(seal("An older card.\n"))  # nobody changed that one, so it is made anew
    assert read_bytes(plan(folder, tmp_path / "e"), "README.md").startswith(b"---\n")


def test_what_is_no_detector_is_refused(folder, tmp_path):
    refused(tmp_path / "nowhere", tmp_path / "a", "is no folder here")
    with pytest.raises(ValueError, match="owner/name"):
        plan_push(PushArguments(str(folder), "mine"), tmp_path)
    refused(folder, tmp_path / "b", "holds no evaluation.json", results=[str(tmp_path)])
    write(tmp_path, "other.json", {"accuracy": 1})
    refused(folder, tmp_path / "c", "other.json is no results file", results=[str(tmp_path / "other.json")])
    write(folder, "config.json", read(folder, "config.json") | {"model_type": "mirage-baseline"})
    refused(folder, tmp_path / "d", "only MiraGe checkpoints have code that travels")
    (folder / "preprocessor_config.json").unlink()
    refused(folder, tmp_path / "e", "has no preprocessor_config.json")


def test_an_export_goes_up_if_it_is_this_detectors(folder, folders, tmp_path):
    pytest.importorskip("onnxscript")
    from mirage_hf.export import export_onnx

    export_onnx(str(folder), tmp_path / "exported")
    found = plan(folder, tmp_path / "a", export=str(tmp_path / "exported"))
    assert {"onnx/model.onnx", "onnx/config.json", "onnx/preprocessor_config.json"} <= {f.path for f in found.files}
    refused(folder, tmp_path / "b", "has no model.onnx", export=str(folder))
    write(folder, "config.json", read(folder, "config.json") | {"calibration": None})
    refused(folder, tmp_path / "c", "another threshold or calibration", export=str(tmp_path / "exported"))
    refused(Path(folders["adapter"]), tmp_path / "d", "another model", export=str(tmp_path / "exported"))


def read_bytes(found: PushPlan, path: str) -> bytes:
    (file,) = [file for file in found.files if file.path == path]
    return file.source.read_bytes()
