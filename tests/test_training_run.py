"""From a folder of images to a scored file: the run in process, then the three scripts as a user calls them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_clip_config
from PIL import Image
from safetensors.torch import load_file
from test_pretrained_mirage import make_tokenizer
from transformers import AutoModel, CLIPModel, pipeline

import mirage_hf
from mirage_hf import Detector
from mirage_hf.evaluation_run import EvaluationArguments, run_evaluation
from mirage_hf.run_args import parse_run_args
from mirage_hf.training_run import epoch_rows, last_checkpoint, run_training

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny CLIP with its tokenizer."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base")
    CLIPModel(make_clip_config()).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """GenImage's layout with two generators: smooth reals, fakes with a grid; one file is damaged."""
    root = tmp_path_factory.mktemp("GenImage")
    generator = np.random.default_rng(0)
    for name, split, count in (("alpha", "train", 12), ("alpha", "val", 4), ("beta", "val", 4)):
        for folder in ("ai", "nature"):
            (root / name / split / folder).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(60, 120, (48, 40, 3))
                pixels[::4] += 90 * (folder == "ai")
                file = f"{i}.PNG" if folder == "ai" else f"{i}.JPEG"
                Image.fromarray(pixels.astype(np.uint8)).save(root / name / split / folder / file)
    (root / "beta" / "val" / "ai" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    return root


def arguments(base, images, output_dir, *more):
    options = (
        "--eval_split validation --use_cpu --per_device_train_batch_size 8 --num_train_epochs 2 --warmup_epochs 0.5"
    )
    flags = ["--model_name_or_path", base, "--data", images, "--output_dir", output_dir]
    return [
        str(value) for value in (*flags, *options.split(), "--learning_rate", 0.05, "--disable_tqdm", "true", *more)
    ]


def test_a_run_leaves_a_checkpoint_that_pipelines_load(base, images, tmp_path, caplog):
    with caplog.at_level("WARNING"):
        metrics = run_training(*parse_run_args(arguments(base, images, tmp_path, "--eval_strategy", "epoch")))
    assert "alpha" in caplog.text and "layout genimage" in caplog.text  # what was understood is said first
    assert 0 <= metrics["eval_accuracy"] <= 1 and metrics["eval_n_fake"] == 8
    written = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "trainer_state.json"} <= written
    assert not [name for name in written if name.endswith((".bin", ".pt", ".pth"))]
    file = images / "beta" / "val" / "ai" / "0.PNG"
    scores = pipeline("image-classification", model=str(tmp_path))(str(file))
    assert {score["label"] for score in scores} == {"real", "fake"}
    assert sum(score["score"] for score in scores) == pytest.approx(1.0)


def test_going_on_with_a_checkpoint_keeps_its_prompts(base, images, tmp_path):
    run_training(*parse_run_args(arguments(base, images, tmp_path / "first", "--num_prompt_tokens", 3)))
    first = AutoModel.from_pretrained(tmp_path / "first")
    assert first.config.num_prompt_tokens == 3
    with pytest.raises(ValueError, match="leave out mapping"):
        run_training(*parse_run_args(arguments(tmp_path / "first", images, tmp_path / "b", "--mapping", "mlp")))
    run_training(
        *parse_run_args(
            arguments(tmp_path / "first", images, tmp_path / "second", "--max_steps", 1, "--learning_rate", 1e-12)
        )
    )
    second = AutoModel.from_pretrained(tmp_path / "second")
    torch.testing.assert_close(second.prompt_learner.text_prompts, first.prompt_learner.text_prompts)


def test_lora_ends_in_one_checkpoint_without_peft(base, images, tmp_path, pixel_values):
    run_training(*parse_run_args(arguments(base, images, tmp_path, "--lora_rank", 2)))
    assert not (tmp_path / "adapter_config.json").exists()
    model, clip = AutoModel.from_pretrained(tmp_path), CLIPModel.from_pretrained(base)
    moved = [n for n, p in clip.named_parameters() if not torch.equal(p, model.clip.get_parameter(n))]
    assert moved and all("q_proj.weight" in name or "v_proj.weight" in name for name in moved)
    assert model(pixel_values).logits.isfinite().all()


def test_evaluation_needs_a_split(base, images, tmp_path):
    flags = [flag for flag in arguments(base, images, tmp_path) if flag not in ("--eval_split", "validation")]
    with pytest.raises(ValueError, match="`eval_split`"):
        run_training(*parse_run_args([*flags, "--eval_strategy", "epoch"]))


def test_epoch_rows():
    labels, names = [0, 1, 0, 0, 1, 0, 0], list("ababbaa")
    assert epoch_rows(labels, names, {}, False) == list(range(7))
    assert epoch_rows(labels, names, {}, True) == [0, 1, 1, 1, 2, 3, 4, 4, 5, 6]
    assert epoch_rows(labels, names, {"b": 2}, False) == [0, 1, 1, 2, 3, 3, 4, 4, 5, 6]
    assert epoch_rows(labels, names, {"b": 2}, True) == [0, 1, 1, 1, 1, 2, 3, 3, 4, 4, 5, 6]
    with pytest.raises(ValueError, match="`generator_repeats` names c; the data set has a, b"):
        epoch_rows(labels, names, {"c": 2}, False)


def test_last_complete_checkpoint(tmp_path, monkeypatch):
    assert last_checkpoint(str(tmp_path)) is None
    for step, state in ((9, "{}"), (10, "{}"), (5, "{}"), (20, None), (30, '{"cut')):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    glob = Path.glob
    for backwards in (False, True):  # a folder is listed in any order
        monkeypatch.setattr(Path, "glob", lambda self, name, b=backwards: sorted(glob(self, name), reverse=b))
        assert last_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-10")


def run_script(name, *flags, expect=0, launcher=()):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *launcher, str(ROOT / "training" / name), *map(str, flags)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == expect, result.stderr[-3000:]
    return result


def test_scripts(base, images, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    options = "num_train_epochs: 1\nwarmup_epochs: 0\nuse_cpu: true\nper_device_train_batch_size: 8\n"
    recipe.write_text(f"model_name_or_path: {base}\n{options}")
    out, table = tmp_path / "out", tmp_path / "table"
    accelerate = ["-m", "accelerate.commands.launch", "--config_file", str(ROOT / "training/accelerate/cpu.yaml")]
    flags = ["--data", images, "--output_dir", out, "--save_strategy", "epoch"]
    run_script("train.py", recipe, *flags, launcher=accelerate)
    assert (out / "checkpoint-3" / "memory_bank.safetensors").exists()
    resumed = run_script("train.py", recipe, "--data", images, "--output_dir", out, "--resume_from_checkpoint", "last")
    assert "Training on" in resumed.stderr
    result = run_script("evaluate.py", "--model", out, "--data", images, "--output_dir", table)
    facts = json.loads((table / "evaluation.json").read_text())
    assert result.stdout == (table / "evaluation.md").read_text()
    assert list(facts["generators"]) == ["alpha", "beta"] and facts["layout"] == "genimage"
    assert facts["generators"]["beta"]["n_fake"] == 4  # the damaged file is left out ...
    assert "broken.png" in facts["skipped"][0]["path"]  # ... and listed
    assert facts["versions"]["mirage_hf"] == mirage_hf.__version__
    rows = (table / "scores.csv").read_text().splitlines()
    assert rows[0] == "path,generator,label,p_fake" and len(rows) == 17
    good, bad = images / "beta" / "val" / "ai" / "1.PNG", images / "beta" / "val" / "ai" / "broken.png"
    expected = next(row for row in rows if row.startswith(str(good))).split(",")[3]
    first, second = Detector.from_pretrained(out, device="cpu").score([good, bad])
    assert first.path == str(good) and first.p_fake == pytest.approx(float(expected), abs=1e-6)
    assert second.status != "ok"


def test_scripts_end_with_one_line_on_bad_input(base, images, tmp_path):
    result = run_script("train.py", "--model_name_or_path", base, "--data", tmp_path / "no", "--use_cpu", expect=1)
    assert result.stderr.startswith("train.py: ") and result.stderr.count("\n") == 1


def test_evaluation_images_larger_than_the_encoder_are_tiled(base, images, tmp_path):
    """The processor keeps 40 pixels, training takes single tiles of 32, and a checkpoint goes on as it was."""
    first, second = tmp_path / "first", tmp_path / "second"
    options = ["--geometry", "crop", "--save_base_model", "true", "--max_steps", "2"]
    run_training(*parse_run_args(arguments(base, images, first, *options, "--eval_size", 40)))
    run_training(*parse_run_args(arguments(first, images, second, "--max_steps", "2")))
    for folder in (first, second):
        assert json.loads((folder / "preprocessor_config.json").read_text())["crop_size"]["height"] == 40
        detector = pipeline("image-classification", model=str(folder))
        assert detector.model.config.tile_images
        picture = Image.open(next((images / "beta" / "val" / "nature").iterdir()))
        scores = {answer["label"]: answer["score"] for answer in detector(picture)}
        tiles = [picture.crop((x, 4 + y, x + 32, 4 + y + 32)) for y in (0, 8) for x in (0, 8)]
        embeds = sum(detector.model.get_image_features(tile_values(detector, tile)) for tile in tiles)
        cosine = torch.nn.functional.normalize(embeds, dim=-1) @ detector.model.get_text_features().T
        expected = (detector.model.clip.logit_scale.exp() * cosine).softmax(-1)
        assert scores["fake"] == pytest.approx(expected[0, 1].item(), abs=1e-5)
    with pytest.raises(ValueError, match="`eval_size` must be at least the encoder's 32, got 16"):
        run_training(*parse_run_args(arguments(base, images, tmp_path / "third", "--eval_size", 16)))


def tile_values(detector, tile):
    processor = detector.image_processor
    size = {"height": tile.height, "width": tile.width}
    return processor(tile, return_tensors="pt", do_center_crop=False, crop_size=size)["pixel_values"]


def test_threshold_is_fixed_on_validation_and_used(base, images, tmp_path):
    """The checkpoint keeps it, the evaluation reads it, and stored encoders are half as large and lose nothing."""
    flags = ["--threshold_fpr", 0.25, "--save_base_model", "true", "--base_model_dtype", "float16"]
    clip = CLIPModel.from_pretrained(base).half()
    clip.save_pretrained(tmp_path / "base")
    for file in base.glob("*token*"):
        (tmp_path / "base" / file.name).write_bytes(file.read_bytes())
    out = tmp_path / "out"
    metrics = run_training(*parse_run_args(arguments(tmp_path / "base", images, out, *flags)))
    model = AutoModel.from_pretrained(out)
    assert model.config.threshold == metrics["threshold"] != 0.5
    assert model.dtype == torch.float32
    stored = load_file(out / "model.safetensors")
    assert {v.dtype for k, v in stored.items() if k.startswith("clip.")} == {torch.float16}
    assert {v.dtype for k, v in stored.items() if not k.startswith("clip.")} == {torch.float32}
    expected = {f"clip.{name}": value.float() for name, value in clip.state_dict().items()}
    assert all(torch.equal(model.state_dict()[name], value) for name, value in expected.items())
    (tmp_path / "table").mkdir()
    options = EvaluationArguments(str(out), str(images), str(tmp_path / "table"), split="validation")
    report, _ = run_evaluation(options)
    assert report.threshold == metrics["threshold"]
    for generator in report.generators.values():
        assert 1 - generator["real_accuracy"] <= 0.25
    with pytest.raises(ValueError, match="`base_model_dtype` must be one of"):
        run_training(*parse_run_args(arguments(base, images, out, "--base_model_dtype", "int8")))
    with pytest.raises(ValueError, match="`threshold_fpr` needs an `eval_split`"):
        parse_run_args(["--model_name_or_path", "a", "--data", "b", "--threshold_fpr", "0.1"])
