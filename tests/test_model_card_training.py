"""The record of a training run: what it was made with and on, and what a card says of it."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

import mirage_hf
from mirage_hf.model_card_tables import data_text, metrics_text, recipe_table
from mirage_hf.model_card_training import hardware, shown_name, write_training_run
from mirage_hf.report import DatasetReport
from mirage_hf.run_args import DataArguments, ModelArguments
from mirage_hf.training_args import MiraGeTrainingArguments


@pytest.fixture
def run(clip_dir, tmp_path) -> dict:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "pictures").mkdir()
    repeats = {"alpha": 3}
    write_training_run(
        ModelArguments(model_name_or_path=clip_dir, lora_rank=2),
        DataArguments(data=str(tmp_path / "pictures"), generator_repeats=json.dumps(repeats), balance_classes=True),
        MiraGeTrainingArguments(output_dir=str(tmp_path), use_cpu=True, seed=7),
        train=DatasetReport("pictures", "generic", "train", {"alpha": (5, 12)}, skipped=[("x.png", "broken")]),
        evaluation=DatasetReport("pictures", "generic", "validation", {"beta": (3, 4)}),
        rows_per_epoch=1234,
        seconds=77.77,
    )
    text = (tmp_path / "training_run.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in text and clip_dir not in text
    return json.loads(text)


def test_what_is_recorded(run, clip_dir):
    assert run["data"] == {
        "name": "pictures",
        "hub": False,
        "layout": "generic",
        "split": "train",
        "counts": {"alpha": [5, 12]},
        "unreadable": 1,
    }
    assert run["evaluation"]["counts"] == {"beta": [3, 4]} and run["base_model"] == Path(clip_dir).name
    assert (run["seed"], run["lora_rank"], run["rows_per_epoch"], run["seconds"]) == (7, 2, 1234, 77.8)
    assert run["weights_sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert run["versions"]["mirage_hf"] == mirage_hf.__version__ and run["versions"]["torch"] == torch.__version__
    assert run["hardware"] == hardware(torch.device("cpu")) | {"processes": 1}
    assert run["hardware"]["device"] == "cpu" and run["hardware"]["processor"]
    assert (
        run["generator_repeats"] == {"alpha": 3} and run["balance_classes"] and "jpeg_quality" in run["augmentation"]
    )


def test_what_a_card_says_of_it(run):
    text = data_text(run | {"threshold_fpr": 0.1}, calibrated=False)
    for words in (
        "| alpha | train | 5 | 12 |",
        "| beta | validation | 3 | 4 |",
        "could not be read: 1. An epoch has 1,234 images, those of alpha 3 times, the smaller class repeated",
        "LoRA of rank 2, merged.",
        "Seed 7; 78 seconds on cpu (",
        "`jpeg_quality` (30, 100)",
        "at most 10% of the real ones",
    ):
        assert words in text, words
    assert "threshold was fixed" not in data_text(run | {"threshold_fpr": 0.1}, calibrated=True)
    assert "threshold was fixed" not in data_text(run, calibrated=False)


def test_metrics_and_recipe():
    metrics = {"eval_roc_auc": 0.876, "eval_n_real": 5, "eval_n_fake": 6, "train_runtime": 61.4, "train_loss": 1.23456}
    text = metrics_text(metrics)
    assert "On 5 real and 6 fake validation images" in text and ": AUC 87.6 (percent)" in text
    assert "took 61 seconds" in text and "mean loss 1.235" in text
    assert metrics_text({}) == ""
    table = recipe_table({"learning_rate": 0.002, "bf16": True, "optim_args": None, "hub_token": "secret"})
    assert table.splitlines()[2:] == ["| `learning_rate` | 0.002 |", "| `bf16` | yes |"]


def test_names_of_folders_and_of_the_hub(tmp_path):
    assert shown_name(str(tmp_path / ".")) == tmp_path.name
    assert shown_name("org/pictures") == "org/pictures"
