import io
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from pictures import OFF, random_image
from PIL import Image, ImageEnhance, ImageFilter
from torch.utils.data import DataLoader, Dataset

from mirage_hf.augmentations import (
    AugmentationConfig,
    TrainAugmentation,
    add_gaussian_noise,
    jpeg_round_trip,
    resize_and_center_crop,
)
from mirage_hf.image_io import UnreadableImage, as_rgb, load_rgb

SIZE = 64
ALL = AugmentationConfig(
    rotation_probability=1.0,
    brightness_contrast_probability=1.0,
    grayscale_probability=1.0,
    blur_probability=1.0,
    noise_probability=1.0,
    jpeg_probability=1.0,
)


def same(a, b):
    return a.mode == b.mode and np.array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("geometry", ["resized_crop", "crop"])
def test_probability_zero_leaves_the_image_identical(geometry):
    image = random_image()
    augment = TrainAugmentation(replace(OFF, geometry=geometry), SIZE)
    assert all(same(augment(image), image) for _ in range(20))


# Each operation alone, at probability 1 with a range of one point, against the library call that defines it.
EXACT = {
    "rotation": (
        {"rotation_probability": 1.0, "rotation_degrees": (7.0, 7.0)},
        lambda image: image.rotate(7.0, resample=Image.Resampling.BICUBIC),
    ),
    "brightness": (
        {"brightness_contrast_probability": 1.0, "brightness_range": (0.6, 0.6), "contrast_range": (1.0, 1.0)},
        lambda image: ImageEnhance.Brightness(image).enhance(0.6),
    ),
    "contrast": (
        {"brightness_contrast_probability": 1.0, "brightness_range": (1.0, 1.0), "contrast_range": (1.4, 1.4)},
        lambda image: ImageEnhance.Contrast(image).enhance(1.4),
    ),
    "grayscale": ({"grayscale_probability": 1.0}, lambda image: image.convert("L").convert("RGB")),
    "blur": (
        {"blur_probability": 1.0, "blur_sigma": (2.0, 2.0)},
        lambda image: image.filter(ImageFilter.GaussianBlur(2.0)),
    ),
}


@pytest.mark.parametrize("name", EXACT)
def test_probability_one_with_a_fixed_range_is_the_exact_operation(name):
    changes, reference = EXACT[name]
    image = random_image()
    result = TrainAugmentation(replace(OFF, **changes), SIZE)(image)
    assert same(result, reference(image))
    assert not same(result, image)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("quality", [30, 75, 100])
def test_jpeg_is_a_real_codec_round_trip(quality, subsampling):
    image = random_image()
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    expected = Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")
    config = replace(OFF, jpeg_probability=1.0, jpeg_quality=(quality, quality), jpeg_subsampling=(subsampling,))
    assert same(TrainAugmentation(config, SIZE)(image), expected)
    assert type(jpeg_round_trip(image, quality, subsampling)) is Image.Image


def test_jpeg_quality_and_subsampling_both_matter():
    image = random_image()
    assert not same(jpeg_round_trip(image, 75, "4:4:4"), jpeg_round_trip(image, 75, "4:2:0"))
    assert not same(jpeg_round_trip(image, 75), jpeg_round_trip(image, 74))


def test_jpeg_draws_every_quality_both_ends_included():
    image = random_image()
    config = replace(OFF, jpeg_probability=1.0, jpeg_quality=(48, 50), jpeg_subsampling=("4:2:0",))
    wanted = {jpeg_round_trip(image, quality, "4:2:0").tobytes() for quality in (48, 49, 50)}
    torch.manual_seed(0)
    assert {TrainAugmentation(config, SIZE)(image).tobytes() for _ in range(60)} == wanted


def test_noise_has_the_asked_deviation_and_no_bias():
    flat = Image.new("RGB", (256, 256), (128, 128, 128))
    torch.manual_seed(0)
    residual = np.asarray(add_gaussian_noise(flat, 0.04), dtype=np.float64) - 128
    assert residual.std() == pytest.approx(0.04 * 255, rel=0.01)
    assert abs(residual.mean()) < 0.1
    # Independent channels: a noise shared by the three would correlate at 1.
    assert abs(np.corrcoef(residual.reshape(-1, 3).T)[0, 1]) < 0.02


def test_noise_clips_and_never_wraps_around():
    white, black = Image.new("RGB", (64, 64), (255,) * 3), Image.new("RGB", (64, 64))
    assert np.asarray(add_gaussian_noise(white, 0.05)).min() > 150
    assert np.asarray(add_gaussian_noise(black, 0.05)).max() < 105


def test_grayscale_has_equal_channels():
    pixels = np.asarray(TrainAugmentation(replace(OFF, grayscale_probability=1.0), SIZE)(random_image()))
    assert (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()


@pytest.mark.parametrize("geometry", ["resized_crop", "crop"])
@pytest.mark.parametrize("crop_probability", [0.0, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (30, 2000), (2000, 30), (1, 50), (65, 63), (63, 65), (300, 200)])
def test_size_and_mode_are_right_for_odd_inputs(geometry, crop_probability, size):
    augment = TrainAugmentation(replace(ALL, geometry=geometry, crop_probability=crop_probability), SIZE)
    for _ in range(3):
        result = augment(random_image(*size))
        assert result.size == (SIZE, SIZE) and result.mode == "RGB"


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "LA", "1", "P", "I;16"])
def test_every_mode_becomes_rgb(mode):
    result = TrainAugmentation(ALL, SIZE)(Image.new(mode, (90, 70)))
    assert result.size == (SIZE, SIZE) and result.mode == "RGB"


def test_random_box_is_a_crop_then_a_bicubic_resize():
    image = random_image(100, 80)
    config = replace(OFF, crop_probability=1.0, crop_scale=(1.0, 1.0), crop_ratio=(1.25, 1.25))
    expected = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)  # the only box of this area and ratio: all of it
    assert same(TrainAugmentation(config, SIZE)(image), expected)


def test_random_boxes_respect_scale_and_ratio(monkeypatch):
    boxes = []
    original = Image.Image.crop
    monkeypatch.setattr(Image.Image, "crop", lambda self, box: boxes.append(box) or original(self, box))
    config = replace(OFF, crop_probability=1.0, crop_scale=(0.2, 0.5), crop_ratio=(0.8, 1.25))
    torch.manual_seed(0)
    for _ in range(200):
        TrainAugmentation(config, 8)(random_image(400, 300))
    left, top, right, bottom = np.array(boxes).T
    area, ratio = (right - left) * (bottom - top) / (400 * 300), (right - left) / (bottom - top)
    assert left.min() >= 0 and top.min() >= 0 and right.max() <= 400 and bottom.max() <= 300
    assert 0.19 < area.min() < 0.25 and 0.45 < area.max() < 0.51
    assert 0.79 < ratio.min() < 0.85 and 1.18 < ratio.max() < 1.27
    assert len(set(left)) > 50 and len(set(top)) > 50


def test_native_crop_copies_pixels_without_resampling():
    image = random_image(SIZE + 3, SIZE + 2)
    pixels = np.asarray(image)
    windows = {pixels[y : y + SIZE, x : x + SIZE].tobytes() for y in range(3) for x in range(4)}
    torch.manual_seed(0)
    augment = TrainAugmentation(replace(OFF, geometry="crop", crop_probability=1.0), SIZE)
    assert {augment(image).tobytes() for _ in range(300)} == windows


def test_native_crop_reflects_a_small_image():
    image = random_image(SIZE - 10, SIZE - 5)
    expected = np.pad(np.asarray(image), ((2, 3), (5, 5), (0, 0)), mode="reflect")
    augment = TrainAugmentation(replace(OFF, geometry="crop", crop_probability=1.0), SIZE)
    assert np.array_equal(np.asarray(augment(image)), expected)


def test_resize_and_center_crop_keeps_the_centre():
    image = Image.new("RGB", (300, 100))
    image.paste((255, 255, 255), (150, 0, 300, 100))
    pixels = np.asarray(resize_and_center_crop(image, 50))
    assert pixels.shape == (50, 50, 3)
    assert pixels[:, :20].max() < 10 and pixels[:, 30:].min() > 245


def test_reproducible_under_torch_manual_seed_only():
    augment, image = TrainAugmentation(ALL, SIZE), random_image(90, 80)
    torch.manual_seed(3)
    first, second = augment(image), augment(image)
    torch.manual_seed(3)
    np.random.seed(99)
    assert same(augment(image), first)
    state = torch.get_rng_state()  # what a checkpoint of the Trainer keeps
    assert same(augment(image), second)
    torch.set_rng_state(state)
    assert same(augment(image), second)
    torch.manual_seed(4)
    assert not same(augment(image), first)


class SameImage(Dataset):
    """The same image in every row: whatever differs comes from the augmentation."""

    def __init__(self):
        self.augment = TrainAugmentation(ALL, 16)

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.from_numpy(np.array(self.augment(random_image(40, 40))))


def test_workers_differ_and_are_reproducible():
    def rows():
        torch.manual_seed(0)
        return torch.cat(list(DataLoader(SameImage(), batch_size=2, num_workers=2)))

    first = rows()
    assert len({row.numpy().tobytes() for row in first}) == 8
    assert torch.equal(first, rows())


def test_a_probability_is_a_frequency():
    torch.manual_seed(0)
    augment, image = TrainAugmentation(replace(OFF, grayscale_probability=0.3), 8), random_image(8, 8)
    assert 250 < sum(not same(augment(image), image) for _ in range(1000)) < 350


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("geometry", "squash"),
        ("crop_probability", 1.1),
        ("rotation_probability", -0.1),
        ("blur_probability", float("nan")),
        ("noise_probability", "0.5"),
        ("jpeg_probability", None),
        ("crop_scale", (0.0, 1.0)),
        ("crop_scale", (0.5, 1.5)),
        ("crop_ratio", (2.0, 1.0)),
        ("rotation_degrees", (-200.0, 0.0)),
        ("brightness_range", (-0.1, 1.0)),
        ("contrast_range", (1.0, float("inf"))),
        ("blur_sigma", (-1.0, 2.0)),
        ("blur_sigma", 3.0),
        ("noise_std", (0.0, float("nan"))),
        ("noise_std", (0.0, 2.0)),
        ("jpeg_quality", (0, 100)),
        ("jpeg_quality", (30.5, 90.0)),
        ("jpeg_quality", (30, 101)),
        ("jpeg_subsampling", ()),
        ("jpeg_subsampling", ("4:1:1",)),
    ],
)
def test_a_bad_field_is_named(field, value):
    with pytest.raises(ValueError, match=f"`{field}`"):
        AugmentationConfig(**{field: value})


def test_lists_become_tuples_and_the_whole_pickles():
    config = AugmentationConfig(jpeg_quality=[40, 90], jpeg_subsampling=["4:2:0"])
    assert config.jpeg_quality == (40, 90) and hash(config) == hash(replace(config))
    assert pickle.loads(pickle.dumps(TrainAugmentation(config, 32))).config == config


def test_bad_image_size_is_named():
    with pytest.raises(ValueError, match="`image_size`"):
        TrainAugmentation(image_size=0)


def test_a_picture_that_is_only_read_is_copied_where_it_must_be():
    image = random_image(40, 30)
    assert as_rgb(image) is image
    turned = random_image(40, 30)
    turned.info["exif"] = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"
    hidden = random_image(40, 30)
    hidden.info["transparency"] = hidden.getpixel((0, 0))
    for other in (turned, hidden, image.convert("L"), image.convert("RGBA"), image.convert("CMYK")):
        assert as_rgb(other) is not other and same(as_rgb(other), load_rgb(other))
    assert as_rgb(turned).size == (30, 40) and as_rgb(hidden).getpixel((0, 0)) == (255, 255, 255)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    opened = Image.open(io.BytesIO(buffer.getvalue()[:-200]))
    with pytest.raises(UnreadableImage, match="truncated"):
        as_rgb(opened)
