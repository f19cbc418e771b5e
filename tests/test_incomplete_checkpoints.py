"""Checkpoints that lack weights, or hold them in a pickle, are refused."""

import re

import pytest
import torch
from answers import image_features_of
from safetensors.torch import load_file, save_file
from saved import copy_folder
from transformers import AutoModel, AutoModelForImageClassification, PreTrainedModel

from mirage_hf import MiraGeForImageDetection

ENCODER_WEIGHT = "clip.vision_model.encoder.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("kind", "name"), [("full", ENCODER_WEIGHT), ("full", "prompt_learner.text_prompts"), ("adapter", "text_prompts")]
)
def test_missing_weight_is_refused(kind, name, folders, tmp_path):
    copy_folder(folders[kind], tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {key: value for key, value in weights.items() if not key.endswith(name)}
    assert len(kept) == len(weights) - 1
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=re.escape(name)):
        AutoModelForImageClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", ["full", "adapter"])
def test_control_stock_loading_returns_random_weights(kind, folders, models, pixel_values, tmp_path):
    """What the check is for: without it, an incomplete file loads with random encoders and no exception."""
    copy_folder(folders[kind], tmp_path)
    if kind == "full":
        weights = load_file(tmp_path / "model.safetensors")
        del weights[ENCODER_WEIGHT]
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    # Features, not logits: stock loading leaves the logit scale as memory happened to be, sometimes zero.
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = PreTrainedModel.from_pretrained.__func__(MiraGeForImageDetection, tmp_path)
        results.append(image_features_of(model, pixel_values))
    expected = image_features_of(models[kind], pixel_values)
    assert (results[0] - results[1]).abs().max() > 1e-4  # depends on the seed
    assert (results[0] - expected).abs().max() > 1e-4
    assert any(parameter.requires_grad for parameter in model.clip.parameters())  # and CLIP is not frozen


@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForImageClassification])
def test_pickled_weights_are_refused(auto_class, folders, models, tmp_path):
    copy_folder(folders["full"], tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(models["full"].state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        auto_class.from_pretrained(tmp_path)
    # Control: the file is sound, only its format is refused.
    PreTrainedModel.from_pretrained.__func__(MiraGeForImageDetection, tmp_path, use_safetensors=False)
