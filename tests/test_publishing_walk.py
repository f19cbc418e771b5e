"""The walk, against a stub of the Hub: train, calibrate, test, push; then load where the package is not installed."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_clip_config
from hub_stub import HubStub
from huggingface_hub import ModelCard
from PIL import Image
from pushing import environment, make_environment, measure, read, run_client, run_push
from safetensors.torch import load, load_file
from test_pretrained_mirage import make_tokenizer
from transformers import CLIPModel

from mirage_hf import MiraGeForImageDetection
from mirage_hf.calibration_run import CalibrationArguments, run_calibration
from mirage_hf.image_processing import build_image_processor
from mirage_hf.run_args import parse_run_args
from mirage_hf.training_run import run_training

REMOTE = ["org/walk", "org/walk-adapter", "org/gated-base", "org/lost-base"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two generators with a training, a validation and a test split, whose real pictures have a grid."""
    root, random = tmp_path_factory.mktemp("data") / "pictures", np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 20), ("test", 8)):
        for generator in ("alpha", "beta"):
            for name in ("real", "fake"):
                (root / generator / split / name).mkdir(parents=True)
                for number in range(count):
                    pixels = random.integers(60, 120, (40, 40, 3))
                    pixels[::4] += 60 * (name == "real")
                    Image.fromarray(pixels.astype(np.uint8)).save(root / generator / split / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    CLIPModel(make_clip_config()).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(clip, data, tmp_path_factory) -> Path:
    """A few steps of training, then calibration and a test."""
    folder = tmp_path_factory.mktemp("trained") / "mine"
    flags = f"--model_name_or_path {clip} --data {data} --output_dir {folder} --eval_split validation --use_cpu "
    flags += "--per_device_train_batch_size 8 --max_steps 30 --warmup_epochs 0 --disable_tqdm true"
    run_training(*parse_run_args(f"{flags} --learning_rate 0.05 --save_strategy steps --save_steps 20".split()))
    run_calibration(CalibrationArguments(str(folder), str(data), quiet=True))
    measure(folder, data)
    return folder


@pytest.fixture(scope="module")
def walk(trained, clip, data, tmp_path_factory):
    """The stub after the pushes, and what a process with the package and one without saw."""
    home = tmp_path_factory.mktemp("home")
    with HubStub() as hub:
        output = run_push(hub, home, trained, "org/walk").stdout
        base = {file.name: file.read_bytes() for file in clip.iterdir()}
        for name in ("org/clip", "org/clip-gated"):
            hub.commit(name, base)
        run_push(hub, home, trained, "org/walk-adapter", "--adapter", "--base", "org/clip")
        adapter = hub.files("org/walk-adapter")
        for name, other in (("org/gated-base", "org/clip-gated"), ("org/lost-base", "org/clip-nowhere")):
            config = json.loads(adapter["config.json"]) | {"base_model_name_or_path": other}
            hub.commit(name, adapter | {"config.json": json.dumps(config).encode()})
        hub.gated.add("org/clip-gated")
        python = make_environment(home / "fresh")
        images = data / "beta" / "test"
        env = environment(hub, home, HF_HOME=str(home / "cache"), HF_MODULES_CACHE=str(home / "modules"))
        found = {"remote": run_client(python, env, home, "remote", images, *REMOTE)}
        del env["HF_TOKEN"]  # the gate answers 401 then, and 403 before
        found["package"] = run_client(Path(sys.executable), env, home, "package", images, *REMOTE)
    return hub, found, output


@pytest.fixture(scope="module")
def expected(trained, data) -> dict:
    model = MiraGeForImageDetection.from_pretrained(trained).eval()
    pixel_values = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    images = [Image.open(path).convert("RGB") for path in sorted((data / "beta" / "test").rglob("*.png"))]
    with torch.inference_mode():
        logits = model(pixel_values=pixel_values).logits
        prepared = build_image_processor(image_size=32)(images, return_tensors="pt")["pixel_values"]
        scores = model(pixel_values=prepared).logits.softmax(-1)[:, 1]
    return {"logits": logits, "scores": scores.tolist()}


@pytest.mark.parametrize("name", ["org/walk", "org/walk-adapter"])
@pytest.mark.parametrize("client", ["remote", "package"])
def test_scores_are_those_of_the_trained_detector(client, name, walk, expected):
    found = walk[1][client][name]
    assert "error" not in found, found
    for cls in ("AutoModel", "AutoModelForImageClassification"):
        # A few units in the last place: products round by where in memory a file's header puts the weights.
        torch.testing.assert_close(torch.tensor(found[cls]), expected["logits"], atol=1e-6, rtol=1e-6)
    assert [answer["fake"] for answer in found["scores"]] == pytest.approx(expected["scores"], abs=1e-6)
    assert max(expected["scores"]) - min(expected["scores"]) > 1e-3  # they aren't all alike
    assert found["module"].startswith("transformers_modules." if client == "remote" else "mirage_hf.")


def test_the_fresh_environment_has_no_package(walk):
    assert "mirage_hf" in walk[1]["remote"]["import"]


@pytest.mark.parametrize("client", ["remote", "package"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("org/gated-base", ("org/clip-gated", "is gated: ask for access")),
        ("org/lost-base", ("org/clip-nowhere", "is not on the Hub, or is private")),
    ],
)
def test_a_base_that_cannot_be_had_is_named_in_a_line(name, words, client, walk):
    *classes, message = walk[1][client][name]["error"]
    assert "OSError" in classes and "\n" not in message
    assert all(word in message for word in (*words, "base_model_name_or_path=<CLIP checkpoint>"))


def test_what_went_up(walk, trained):
    hub, _, output = walk
    files = hub.files("org/walk")
    code = {"adapter_checkpoint", "class_prompts", "configuration_mirage", "lean_layers", "modeling_mirage"}
    code |= {"packed_linear", "pretrained_mirage"}
    assert set(files) == {
        ".gitattributes",
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        *(f"{name}.py" for name in code | {"prompt_learner"}),
        *(f"results/test/{name}" for name in ("evaluation.json", "evaluation.md", "scores.csv")),
        *(f"results/training/{name}.json" for name in ("training_args", "training_run", "all_results")),
    }
    assert (trained / "checkpoint-20" / "optimizer.pt").exists()  # there was something to leave behind
    assert "stays here: checkpoint-20 (an older checkpoint)" in output and output.strip().endswith(
        hub.repos["org/walk"][-1][0]
    )
    pushed, own = load(files["model.safetensors"]), load_file(trained / "model.safetensors")
    assert own and own.keys() <= pushed.keys() and all(torch.equal(pushed[name], own[name]) for name in own)
    config = json.loads(files["config.json"])
    assert config["calibration"] == read(trained, "config.json")["calibration"] is not None
    assert config["base_model_name_or_path"] is None and config["save_base_model"]
    assert len(hub.files("org/walk-adapter")["model.safetensors"]) * 5 < len(files["model.safetensors"])
    for content in files.values():
        assert str(trained).encode() not in content and str(Path.home()).encode() + b"/" not in content


def test_the_card_went_through_the_hubs_check(walk, trained):
    hub, _, _ = walk
    text = hub.files("org/walk")["README.md"].decode()
    assert text in hub.cards
    card = ModelCard(text)
    stored = read(trained, "test/evaluation.json")
    values = {(r.dataset_config, r.metric_type): r.metric_value for r in card.data.eval_results}
    metrics = ("balanced_accuracy", "average_precision", "roc_auc")
    assert values == {(g, m): round(stored["generators"][g][m], 4) for g in ("alpha", "beta") for m in metrics}
    calibration = read(trained, "config.json")["calibration"]
    assert calibration["id"] in text and "results/training/training_run.json" in text
    assert "| alpha | train | 12 | 12 |" in text and "| beta | validation | 20 | 20 |" in text
    adapter = ModelCard(hub.files("org/walk-adapter")["README.md"].decode()).data
    assert (adapter.base_model, adapter.base_model_relation) == ("org/clip", "adapter")
    assert card.data.get("base_model") is None


@pytest.mark.slow
def test_an_environment_with_nothing_but_transformers(walk, expected, data, tmp_path):
    """torch and transformers from a package index, nothing of what is installed here."""
    hub, _, _ = walk
    python = tmp_path / "fresh" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "fresh")], check=True)
    packages = [f"{name}=={__import__(name).__version__.partition('+')[0]}" for name in ("torch", "transformers")]
    installed = subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", *packages, "pillow"], capture_output=True, text=True
    )
    if installed.returncode != 0:
        pytest.skip(f"no package index gives {', '.join(packages)}: {installed.stderr[-200:]}")
    folder = tmp_path / "walk"
    for path, content in hub.files("org/walk").items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    env = {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    found = run_client(python, env, tmp_path, "remote", data / "beta" / "test", folder)[str(folder)]
    assert [answer["fake"] for answer in found["scores"]] == pytest.approx(expected["scores"], abs=1e-6)
