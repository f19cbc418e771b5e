"""Auto classes, `pipeline`, and loading by remote code where the package is not installed."""

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASS_INPUT_IDS, make_model
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, CLIPModel, PreTrainedModel, pipeline

from mirage_hf import MiraGeConfig, MiraGeForImageDetection
from mirage_hf.image_processing import build_image_processor

KINDS = ("full", "adapter")
AUTO_CLASSES = (AutoModel, AutoModelForImageClassification)
LOADERS = (AutoModelForImageClassification, MiraGeForImageDetection)
ENCODER_WEIGHT = "clip.vision_model.encoder.layers.1.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def models(clip_dir) -> dict[str, MiraGeForImageDetection]:
    """A detector of its own, and one on a CLIP checkpoint that adapter-sized saving refers to."""
    adapter = MiraGeForImageDetection.from_clip(clip_dir, class_input_ids=CLASS_INPUT_IDS)
    generator = torch.Generator().manual_seed(5)
    for parameter in adapter.prompt_learner.parameters():
        parameter.data.normal_(std=0.3, generator=generator)
    return {"full": make_model(), "adapter": adapter.eval()}


@pytest.fixture(scope="module")
def folders(models, tmp_path_factory) -> dict[str, str]:
    """Both saved, each with its image processor."""
    folders = {}
    for kind, model in models.items():
        folders[kind] = str(tmp_path_factory.mktemp(kind))
        model.save_pretrained(folders[kind])
        build_image_processor(image_size=32).save_pretrained(folders[kind])
    return folders


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """Images of several sizes and modes."""
    random = np.random.default_rng(2)
    sizes = [(40, 50), (64, 32), (32, 32), (33, 90), (50, 40), (100, 100), (31, 47), (60, 60), (45, 45)]
    images = [Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]
    return [*images[:-1], images[-1].convert("L")]


@torch.inference_mode()
def logits_of(model: PreTrainedModel, pixel_values: torch.Tensor) -> torch.Tensor:
    return model(pixel_values=pixel_values).logits


def copy_folder(folder: str, target: Path) -> Path:
    target.mkdir(parents=True, exist_ok=True)
    for file in Path(folder).iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def assert_same_logits(model, expected_model, pixel_values, atol: float = 1e-6) -> None:
    torch.testing.assert_close(
        logits_of(model, pixel_values), logits_of(expected_model, pixel_values), atol=atol, rtol=0
    )


def read_config(folder: str | Path) -> dict:
    """A saved configuration without the sub-configurations' dtypes, which transformers fills in at loading."""
    config = json.loads(Path(folder, "config.json").read_text())
    for sub_config in (config["clip_config"], *config["clip_config"].values()):
        if isinstance(sub_config, dict):
            sub_config.pop("dtype", None)
    return config


def assert_frozen(model: MiraGeForImageDetection) -> None:
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {f"prompt_learner.{name}" for name, _ in model.prompt_learner.named_parameters()} != set()


# ------------------------------------------------------------------------------------------------------ auto classes


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


def test_id2label_survives(tmp_path, images):
    model = make_model(id2label={0: "camera", 1: "generated"})
    model.save_pretrained(tmp_path)
    build_image_processor(image_size=32).save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.id2label == {0: "camera", 1: "generated"}
    assert config.label2id == {"camera": 0, "generated": 1}
    scores = pipeline("image-classification", model=str(tmp_path))(images[0])
    assert {score["label"] for score in scores} == {"camera", "generated"}


# ------------------------------------------------------------------------------------------------- loading arguments


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


# ----------------------------------------------------------------------------------- incomplete and unsafe checkpoints


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


@pytest.mark.parametrize("kind", KINDS)
def test_control_stock_loading_returns_random_weights(kind, folders, models, pixel_values, tmp_path):
    """What the check is for: without it, an incomplete file loads with random encoders and no exception."""
    copy_folder(folders[kind], tmp_path)
    if kind == "full":
        weights = load_file(tmp_path / "model.safetensors")
        del weights[ENCODER_WEIGHT]
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = PreTrainedModel.from_pretrained.__func__(MiraGeForImageDetection, tmp_path)
        results.append(logits_of(model, pixel_values))
    expected = logits_of(models[kind], pixel_values)
    assert (results[0] - results[1]).abs().max() > 1e-4  # depends on the seed
    assert (results[0] - expected).abs().max() > 1e-4
    assert any(parameter.requires_grad for parameter in model.clip.parameters())  # and CLIP is not frozen


@pytest.mark.parametrize("auto_class", AUTO_CLASSES)
def test_pickled_weights_are_refused(auto_class, folders, models, tmp_path):
    copy_folder(folders["full"], tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(models["full"].state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        auto_class.from_pretrained(tmp_path)
    # Control: the file is sound, only its format is refused.
    PreTrainedModel.from_pretrained.__func__(MiraGeForImageDetection, tmp_path, use_safetensors=False)


# ---------------------------------------------------------------------------------------------------------- pipeline


@torch.inference_mode()
def expected_scores(model, images) -> list[dict[str, float]]:
    """Preprocessing and softmax by hand."""
    processor = build_image_processor(image_size=32)
    scores = []
    for image in images:
        pixel_values = processor(image.convert("RGB"), return_tensors="pt")["pixel_values"]
        real, fake = model(pixel_values=pixel_values).logits[0].softmax(dim=-1).tolist()
        scores.append({"real": real, "fake": fake})
    return scores


def assert_same_scores(results, expected) -> None:
    assert len(results) == len(expected)
    for result, scores in zip(results, expected, strict=True):
        assert {entry["label"]: entry["score"] for entry in result} == pytest.approx(scores, abs=1e-6)
        assert [entry["label"] for entry in result] == sorted(scores, key=scores.get, reverse=True)


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_pipeline_equals_manual_scores(kind, batch_size, folders, models, images):
    classify = pipeline("image-classification", model=folders[kind])
    assert_frozen(classify.model)
    results = list(classify(images, batch_size=batch_size))
    expected = expected_scores(models[kind], images)
    assert max(scores["fake"] for scores in expected) - min(scores["fake"] for scores in expected) > 1e-3
    assert_same_scores(results, expected)


# ------------------------------------------------------------------------------------------------------- remote code


def remote_client(folders, images_file, pixels_file, work):
    """Runs in a process where `mirage_hf` cannot be imported, so it imports all that it uses by itself."""
    import importlib.abc
    import json
    import sys
    from pathlib import Path

    class Blocker(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "mirage_hf":
                raise ImportError("mirage_hf is blocked")

    sys.meta_path.insert(0, Blocker())
    try:
        import mirage_hf  # noqa: F401
    except ImportError as error:
        results = {"import": str(error)}
    else:
        raise SystemExit("mirage_hf can be imported")

    import numpy as np
    import torch
    from PIL import Image
    from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, pipeline

    pixel_values = torch.from_numpy(np.load(pixels_file))
    arrays = np.load(images_file)
    images = [Image.fromarray(arrays[name]) for name in arrays.files]

    def describe(model):
        with torch.inference_mode():
            logits = model(pixel_values=pixel_values).logits
        trainable = sorted({name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad})
        return {"logits": logits.tolist(), "module": type(model).__module__, "trainable": trainable}

    for kind, folder in folders.items():
        result = results[kind] = {}
        try:
            AutoModelForImageClassification.from_pretrained(folder)
        except ValueError as error:
            result["refused"] = str(error)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
        result["config"] = [type(config).__module__, type(config).__name__]
        model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
        result["classification"] = describe(model)
        result["model"] = describe(AutoModel.from_pretrained(folder, trust_remote_code=True))
        again = str(Path(work, kind))
        model.save_pretrained(again)
        result["again"] = describe(AutoModelForImageClassification.from_pretrained(again, trust_remote_code=True))
        classify = pipeline("image-classification", model=folder, trust_remote_code=True)
        result["scores"] = list(classify(images, batch_size=8))
    Path(work, "results.json").write_text(json.dumps(results))


@pytest.fixture(scope="module")
def remote(folders, images, tmp_path_factory) -> dict:
    """What `remote_client` saw, and `work`, the folder where it saved both models again."""
    work = tmp_path_factory.mktemp("remote")
    pixel_values = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    np.save(work / "pixels.npy", pixel_values.numpy())
    np.savez(work / "images.npz", *map(np.asarray, images))
    arguments = [folders, str(work / "images.npz"), str(work / "pixels.npy"), str(work)]
    process = subprocess.run(
        [sys.executable, "-I", "-c", f"{inspect.getsource(remote_client)}\nremote_client(*{arguments!r})"],
        env=os.environ | {"HF_MODULES_CACHE": str(work / "modules"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        cwd=work,
        stdin=subprocess.DEVNULL,  # nobody to answer the question whether to trust the code
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    return json.loads((work / "results.json").read_text()) | {"work": work}


def test_remote_process_has_no_package(remote):
    assert remote["import"] == "mirage_hf is blocked"


@pytest.mark.parametrize("kind", KINDS)
def test_remote_code_needs_consent(kind, remote):
    assert "trust_remote_code=True" in remote[kind]["refused"]


@pytest.mark.parametrize("kind", KINDS)
def test_remote_code_gives_the_same_logits(kind, remote, models, pixel_values):
    expected = logits_of(models[kind], pixel_values)
    for way in ("classification", "model", "again"):
        result = remote[kind][way]
        torch.testing.assert_close(torch.tensor(result["logits"]), expected, atol=1e-6, rtol=0)
        assert result["module"].startswith("transformers_modules.")
        assert result["trainable"] == ["prompt_learner"]
    module, name = remote[kind]["config"]
    assert module.startswith("transformers_modules.")
    assert name == "MiraGeConfig"


@pytest.mark.parametrize("kind", KINDS)
def test_remote_code_pipeline(kind, remote, models, images):
    assert_same_scores(remote[kind]["scores"], expected_scores(models[kind], images))


@pytest.mark.parametrize("kind", KINDS)
def test_saving_from_remote_code(kind, remote, folders, models, pixel_values):
    """The same files as the package saves, down to the code, and the package loads them."""
    again = remote["work"] / kind
    for file in Path(folders[kind]).iterdir():
        if file.name == "preprocessor_config.json":
            continue
        if file.name == "config.json":
            assert read_config(again) == read_config(folders[kind])
        else:
            assert (again / file.name).read_bytes() == file.read_bytes(), file.name
    model = AutoModelForImageClassification.from_pretrained(again)
    assert type(model) is MiraGeForImageDetection
    assert_same_logits(model, models[kind], pixel_values)
