import json
import pickle

import numpy as np
import pytest
import torch
from pictures import OFF, random_image
from PIL import Image
from transformers import AutoImageProcessor, CLIPConfig, CLIPForImageClassification, CLIPImageProcessorPil, pipeline
from transformers.image_processing_backends import PilBackend
from transformers.models import clip
from transformers.models.auto import image_processing_auto

from mirage_hf.augmentations import TrainAugmentation, resize_and_center_crop
from mirage_hf.image_processing import (
    EvalTransform,
    TrainTransform,
    build_image_processor,
    derive_image_processor,
    normalisation_table,
    normalise_to_tensor,
)

SIZES = [(500, 375), (224, 224), (225, 223), (97, 301), (10, 12), (1, 1)]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "RGBA"])
@pytest.mark.parametrize("size", SIZES)
def test_default_geometry_equals_stock_clip(size, mode):
    image = random_image(*size, mode)
    stock = CLIPImageProcessorPil()(image, return_tensors="pt")["pixel_values"]
    ours = build_image_processor()(image, return_tensors="pt")["pixel_values"]
    assert ours.shape == (1, 3, 224, 224) and ours.dtype == torch.float32
    assert torch.equal(ours, stock)


@pytest.mark.parametrize("geometry", ["resize", "crop"])
def test_save_and_auto_load_reproduce_every_setting(tmp_path, geometry):
    processor = build_image_processor(64, geometry, image_mean=(0.1, 0.2, 0.3), image_std=(0.4, 0.5, 0.6))
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["do_resize"] is (geometry == "resize") and saved["do_center_crop"] is True
    assert saved["size"] == {"shortest_edge": 64} and saved["crop_size"] == {"height": 64, "width": 64}
    assert saved["resample"] == 3 and saved["image_mean"] == [0.1, 0.2, 0.3]
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(loaded) is PilBackend and loaded.to_dict() == processor.to_dict()
    image = random_image(200, 100)
    assert torch.equal(EvalTransform(loaded)(image), EvalTransform(processor)(image))


def test_the_backend_stays_pil_where_torchvision_is_installed(tmp_path, monkeypatch):
    class TorchvisionStandIn(PilBackend):
        pass

    monkeypatch.setattr(image_processing_auto, "is_torchvision_available", lambda: True)
    monkeypatch.setattr(clip, "CLIPImageProcessor", TorchvisionStandIn, raising=False)
    # Control: the stock class, saved, comes back as whatever torchvision provides.
    CLIPImageProcessorPil().save_pretrained(tmp_path / "stock")
    assert type(AutoImageProcessor.from_pretrained(tmp_path / "stock")) is TorchvisionStandIn
    build_image_processor().save_pretrained(tmp_path / "ours")
    loaded = AutoImageProcessor.from_pretrained(tmp_path / "ours")
    assert type(loaded) is PilBackend and loaded.backend == "pil"


def test_the_pipeline_uses_the_saved_processor(tmp_path):
    torch.manual_seed(0)
    tower = dict(hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4)
    config = CLIPConfig(
        vision_config=dict(tower, image_size=32, patch_size=8), text_config=tower, projection_dim=16, num_labels=2
    )
    model = CLIPForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    image = random_image(90, 70)
    results = {}
    for geometry in ("resize", "crop"):
        processor = build_image_processor(32, geometry)
        processor.save_pretrained(tmp_path)
        with torch.no_grad():
            logits = model(pixel_values=EvalTransform(processor)(image)[None]).logits
        wanted = dict(zip(("LABEL_0", "LABEL_1"), logits.softmax(-1)[0].tolist(), strict=True))
        answers = pipeline("image-classification", model=str(tmp_path))(image)
        results[geometry] = {answer["label"]: answer["score"] for answer in answers}
        assert results[geometry] == pytest.approx(wanted, abs=1e-6)
    assert results["resize"] != results["crop"]


def test_crop_geometry_does_not_resample():
    image = random_image(301, 257)
    processor = build_image_processor(64, "crop", image_mean=(0, 0, 0), image_std=(1, 1, 1))
    top, left = (257 - 64) // 2, (301 - 64) // 2
    window = np.asarray(image)[top : top + 64, left : left + 64]
    assert np.array_equal(np.rint(EvalTransform(processor)(image).numpy() * 255), window.transpose(2, 0, 1))


def test_crop_geometry_centres_a_small_image_on_black():
    image = Image.new("RGB", (10, 6), (255, 255, 255))
    processor = build_image_processor(16, "crop", image_mean=(0, 0, 0), image_std=(1, 1, 1))
    pixels = EvalTransform(processor)(image)
    expected = torch.zeros(3, 16, 16)
    expected[:, 5:11, 3:13] = 1
    assert torch.equal(pixels, expected)


def test_default_geometry_enlarges_a_small_image():
    pixels = EvalTransform(build_image_processor(16, image_mean=(0, 0, 0), image_std=(1, 1, 1)))(
        Image.new("RGB", (3, 5), (255, 255, 255))
    )
    assert torch.equal(pixels, torch.ones(3, 16, 16))


@pytest.mark.parametrize("size", SIZES)
def test_training_path_equals_stock_on_the_same_pixels(size):
    """With every augmentation off, training and evaluation see the same tensor."""
    image = random_image(*size)
    train = TrainTransform(build_image_processor(), TrainAugmentation(OFF, 224))(image)
    stock = CLIPImageProcessorPil()(image, return_tensors="pt")["pixel_values"][0]
    assert train.shape == (3, 224, 224) and train.dtype == torch.float32
    assert (train - stock).abs().max() <= 1e-6
    assert torch.equal(train, stock)


def test_normalisation_covers_every_level_exactly():
    ramp = np.stack([np.arange(256, dtype=np.uint8).reshape(16, 16)] * 3, axis=-1)
    processor = build_image_processor(16)
    table = normalisation_table(processor.image_mean, processor.image_std, processor.rescale_factor)
    assert table.shape == (3, 256) and table.dtype == np.float32
    assert torch.equal(normalise_to_tensor(Image.fromarray(ramp), table), EvalTransform(processor)(ramp))
    wrong = normalisation_table((0.5, 0.5, 0.5), processor.image_std, processor.rescale_factor)
    assert not torch.equal(normalise_to_tensor(Image.fromarray(ramp), wrong), EvalTransform(processor)(ramp))


def test_a_wrong_augmentation_size_is_an_error():
    transform = TrainTransform(build_image_processor(32), TrainAugmentation(OFF, 48))
    with pytest.raises(ValueError, match="`crop_size` is \\(32, 32\\)"):
        transform(random_image(60, 60))


def test_any_callable_is_an_augmentation():
    transform = TrainTransform(build_image_processor(32), lambda image: resize_and_center_crop(image, 32))
    assert transform(random_image(60, 50)).shape == (3, 32, 32)


def test_transforms_pickle():
    processor = build_image_processor(32)
    image = random_image(50, 40)
    for transform in (EvalTransform(processor), TrainTransform(processor, TrainAugmentation(OFF, 32))):
        assert torch.equal(pickle.loads(pickle.dumps(transform))(image), transform(image))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_size", 0),
        ("geometry", "squash"),
        ("image_mean", (0.5,)),
        ("image_std", (0.5, 0.0, 0.5)),
    ],
)
def test_a_bad_argument_is_named(field, value):
    with pytest.raises(ValueError, match=f"`{field}`"):
        build_image_processor(**{field: value})


def test_a_checkpoints_own_normalisation_and_geometry_are_kept(tmp_path):
    build_image_processor(64, "crop", (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)).save_pretrained(tmp_path)
    processor = derive_image_processor(str(tmp_path), 32)
    assert list(processor.image_mean) == [0.1, 0.2, 0.3] and list(processor.image_std) == [0.5, 0.6, 0.7]
    assert not processor.do_resize and processor.crop_size["height"] == 32
    assert derive_image_processor(str(tmp_path), 32, "resize").do_resize
    (tmp_path / "none").mkdir()
    stock = derive_image_processor(str(tmp_path / "none"), 32)
    assert stock.to_dict() == build_image_processor(32).to_dict()
