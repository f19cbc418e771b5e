"""Auto classes, and the arguments of loading, with and without them."""

import json
import re
from pathlib import Path

import pytest
import torch
from answers import assert_same_logits, logits_of
from conftest import CLASS_INPUT_IDS
from safetensors.torch import load_file
from saved import assert_frozen, copy_folder, read_config
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, CLIPModel

from mirage_hf import MiraGeConfig, MiraGeForImageDetection

KINDS = ("full", "adapter")
AUTO_CLASSES = (AutoModel, AutoModelForImageClassification)
LOADERS = (AutoModelForImageClassification, MiraGeForImageDetection)


# -------------------------------------------------------------------------------------------------------- auto classes


def test_saved_sizes(folders, models):
    assert all(key.startswith("prompt_learner.") for key in load_file(f"{folders['adapter']}/model.safetensors"))
    full = load_file(f"{folders['full']}/model.safetensors")
    assert full.keys() == models["full"].state_dict().keys()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("auto_class", AUTO_CLASSES)
def test_auto_class_round_trip(auto_class, kind, folders, models, pixel_values):
    model = auto_class.from_pretrained(folders[kind])
    assert type(model) is MiraGeForImageDetection
    assert not model.training
    assert_frozen(model)
    assert_same_logits(model, models[kind], pixel_values)


@pytest.mark.parametrize("kind", KINDS)
def test_auto_config_round_trip(kind, folders, models):
    config = AutoConfig.from_pretrained(folders[kind])
    assert type(config) is MiraGeConfig
    saved, loaded = models[kind].config.to_dict(), config.to_dict()
    for key in saved.keys() - {"_name_or_path"}:
        assert loaded[key] == saved[key], key


@pytest.mark.parametrize("auto_class", AUTO_CLASSES)
def test_auto_class_from_config(auto_class, folders):
    model = auto_class.from_config(AutoConfig.from_pretrained(folders["full"]))
    assert type(model) is MiraGeForImageDetection
    assert_frozen(model)


@pytest.mark.parametrize("kind", KINDS)
def test_auto_map_names_all_classes_and_their_files_are_saved(kind, folders):
    auto_map = json.loads(Path(folders[kind], "config.json").read_text())["auto_map"]
    assert auto_map == {
        "AutoConfig": "configuration_mirage.MiraGeConfig",
        "AutoModel": "modeling_mirage.MiraGeForImageDetection",
        "AutoModelForImageClassification": "modeling_mirage.MiraGeForImageDetection",
    }
    for reference in auto_map.values():
        module, name = reference.split(".")
        assert f"class {name}(" in Path(folders[kind], f"{module}.py").read_text()
    for file in Path(folders[kind]).glob("*.py"):  # flat siblings that import only one another
        text = file.read_text()
        for module in re.findall(r"^\s*from\s+\.(\S*)\s+import", text, flags=re.MULTILINE):
            assert Path(folders[kind], f"{module}.py").is_file(), f"{file.name} imports .{module}"
        assert not re.search(r"^\s*(from|import)\s+mirage_hf", text, flags=re.MULTILINE), file.name


def test_saving_again_keeps_auto_map_and_code(folders, tmp_path):
    AutoModel.from_pretrained(folders["full"]).save_pretrained(tmp_path)
    assert read_config(tmp_path) == read_config(folders["full"])
    for file in Path(folders["full"]).glob("*.py"):
        assert (tmp_path / file.name).read_text() == file.read_text(), file.name


# --------------------------------------------------------------------------------------------------- loading arguments


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loader", LOADERS)
def test_dtype(loader, kind, folders, models, pixel_values):
    model = loader.from_pretrained(folders[kind], dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.class_input_ids.tolist() == models[kind].class_input_ids.tolist()
    assert_frozen(model)
    logits = logits_of(model, pixel_values.bfloat16())
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, logits_of(models[kind], pixel_values), atol=0.2, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loader", LOADERS)
def test_dtype_auto(loader, kind, folders, models, pixel_values):
    model = loader.from_pretrained(folders[kind], dtype="auto")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert_same_logits(model, models[kind], pixel_values)


def test_base_in_half_precision(clip_dir, pixel_values, tmp_path):
    """The detector's dtype is its own, whatever its base was saved in; in float32 by default."""
    CLIPModel.from_pretrained(clip_dir, dtype=torch.float16).save_pretrained(tmp_path / "clip")
    model = MiraGeForImageDetection.from_clip(tmp_path / "clip", class_input_ids=CLASS_INPUT_IDS).eval()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    model.save_pretrained(tmp_path / "adapter")
    reloaded = AutoModel.from_pretrained(tmp_path / "adapter")
    assert {parameter.dtype for parameter in reloaded.parameters()} == {torch.float32}
    assert_same_logits(reloaded, model, pixel_values)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("name", ["local_files_only", "force_download", "cache_dir", "token", "revision", "subfolder"])
def test_download_arguments(name, loader, kind, folders, models, pixel_values, tmp_path):
    """They are accepted for a folder too, with and without an Auto class; `tests/test_hub.py` sees them at work."""
    values = {"cache_dir": str(tmp_path / "cache"), "token": "dummy", "revision": "main", "subfolder": "best"}
    folder = copy_folder(folders[kind], tmp_path / "best")
    model = loader.from_pretrained(folder.parent if name == "subfolder" else folder, **{name: values.get(name, True)})
    assert_same_logits(model, models[kind], pixel_values)


@pytest.mark.parametrize("kind", KINDS)
def test_config_argument(kind, folders, models, pixel_values):
    for config in (MiraGeConfig.from_pretrained(folders[kind]), folders[kind], Path(folders[kind])):
        model = MiraGeForImageDetection.from_pretrained(folders[kind], config=config)
        assert_same_logits(model, models[kind], pixel_values)


@pytest.mark.parametrize("kind", KINDS)
def test_name_or_path(kind, folders):
    model = MiraGeForImageDetection.from_pretrained(folders[kind])
    assert model.name_or_path == model.config.name_or_path == folders[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_attn_implementation(kind, folders, models, pixel_values):
    model = AutoModelForImageClassification.from_pretrained(folders[kind], attn_implementation="eager")
    for encoder in (model.clip.vision_model.encoder, model.clip.text_model.encoder):
        assert {layer.self_attn.config._attn_implementation for layer in encoder.layers} == {"eager"}
    assert_frozen(model)
    assert_same_logits(model, models[kind], pixel_values, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_output_loading_info(kind, folders):
    model, info = AutoModelForImageClassification.from_pretrained(folders[kind], output_loading_info=True)
    assert_frozen(model)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]


@pytest.mark.parametrize("kind", KINDS)
def test_device_map(kind, folders, models, pixel_values):
    model = AutoModelForImageClassification.from_pretrained(folders[kind], device_map="cpu")
    assert_frozen(model)
    assert_same_logits(model, models[kind], pixel_values)


@pytest.mark.parametrize("kind", KINDS)
def test_variant(kind, folders, models, pixel_values, tmp_path):
    models[kind].save_pretrained(tmp_path, variant="best")
    assert (tmp_path / "model.best.safetensors").is_file()
    model = AutoModelForImageClassification.from_pretrained(tmp_path, variant="best")
    assert_same_logits(model, models[kind], pixel_values)


def test_fields_passed_to_from_pretrained_reach_the_config(folders, clip_dir):
    model = AutoModelForImageClassification.from_pretrained(
        folders["adapter"], base_model_name_or_path=clip_dir, id2label={0: "camera", 1: "generated"}
    )
    assert model.config.id2label == {0: "camera", 1: "generated"}
    assert model.config.base_model_name_or_path == clip_dir


def test_plain_clip_is_no_detector(clip_dir):
    with pytest.raises(ValueError, match="from_clip"):
        MiraGeForImageDetection.from_pretrained(clip_dir)
