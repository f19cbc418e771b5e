"""Each degradation against its definition, worked out by other means: naive convolution, Pillow's calls one by one."""

import io

import numpy as np
import pytest
from pictures import random_image
from PIL import Image, ImageFilter

from mirage_hf.degradations import DEGRADATIONS, degrade

BICUBIC = Image.Resampling.BICUBIC
SIZES = [(129, 131), (301, 200), (97, 640), (65, 64), (1, 1), (1, 300), (1, 1000), (300, 1), (3, 2)]


def photograph(width, height, seed=0):
    """Large shapes and a little noise: JPEG and sharpening act on it as on a photograph."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)).resize((width, height), BICUBIC)
    return Image.fromarray(np.clip(np.asarray(coarse) + rng.normal(0, 6, (height, width, 3)), 0, 255).astype(np.uint8))


def levels(image):
    return np.asarray(image).astype(np.int64)


def encoded_and_decoded(image, quality, subsampling=2):
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality, subsampling=subsampling)
    return Image.open(io.BytesIO(data.getvalue())).convert("RGB")


def mirrored(index, length):
    """Place of a pixel outside the image: ... 1 0 | 0 1 2 | 2 1 ..."""
    index %= 2 * length
    return index if index < length else 2 * length - 1 - index


def naive_blur(image, sigma):
    """Two-dimensional convolution, weight by weight, over a window of 4 sigma."""
    pixels = np.asarray(image, dtype=np.float64)
    height, width, _ = pixels.shape
    reach = round(4 * sigma)
    total, weights = np.zeros_like(pixels), 0.0
    for dy in range(-reach, reach + 1):
        rows = pixels[[mirrored(y + dy, height) for y in range(height)]]
        for dx in range(-reach, reach + 1):
            weight = np.exp(-(dy**2 + dx**2) / (2 * sigma**2))
            total += weight * rows[:, [mirrored(x + dx, width) for x in range(width)]]
            weights += weight
    return total / weights


def naive_sharpening(pixels):
    sharpened = pixels.astype(np.float64)
    for y in range(1, pixels.shape[0] - 1):
        for x in range(1, pixels.shape[1] - 1):
            around = pixels[y - 1 : y + 2, x - 1 : x + 2].astype(np.float64)
            sharpened[y, x] = 2.125 * pixels[y, x] - 0.125 * around.sum(axis=(0, 1))
    return np.clip(np.floor(sharpened + 0.5), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("name", "sigma"), [("blur_3", 3), ("blur_5", 5)])
@pytest.mark.parametrize("size", [(37, 23), (8, 5), (1, 12)])  # the window is wider than the last two
def test_blur_is_a_true_gaussian(name, sigma, size):
    image = random_image(*size)
    blurred, expected = levels(degrade(image, name)), naive_blur(image, sigma)
    assert np.abs(blurred - expected).max() <= 0.5 + 1e-9  # rounded, nothing else


def test_blur_differs_from_other_blurs():
    image = random_image(60, 40)
    blurred = levels(degrade(image, "blur_3"))
    assert np.abs(blurred - naive_blur(image, 5)).max() > 5
    assert np.abs(blurred - naive_blur(image, 2.9)).max() > 0.6
    assert np.abs(blurred - levels(image.filter(ImageFilter.GaussianBlur(3)))).max() > 1
    row = np.convolve(np.asarray(image)[20, :, 0], np.ones(5) / 5, mode="same")
    assert np.abs(blurred[20, :, 0] - row).max() > 10


@pytest.mark.parametrize(("name", "quality"), [("jpeg_65", 65), ("jpeg_30", 30)])
@pytest.mark.parametrize("size", [(129, 131), (1, 9)])
def test_jpeg(name, quality, size):
    image = photograph(*size)
    compressed = levels(degrade(image, name))
    assert (compressed == levels(encoded_and_decoded(image, quality))).all()
    assert (compressed != levels(encoded_and_decoded(image, quality - 5))).any()


def test_jpeg_subsamples_chroma():
    image = random_image(64, 64)
    assert (levels(degrade(image, "jpeg_65")) != levels(encoded_and_decoded(image, 65, subsampling=0))).any()


@pytest.mark.parametrize(
    ("name", "size", "small"),
    [
        ("resize_112", (224, 224), (112, 112)),
        ("resize_112", (301, 200), (169, 112)),  # 301 x 112 / 200 = 168.56
        ("resize_112", (113, 300), (112, 297)),  # 300 x 112 / 113 = 297.35
        ("resize_64", (301, 200), (96, 64)),  # 96.32
        ("resize_64", (65, 640), (64, 630)),  # 630.15
    ],
)
def test_resize(name, size, small):
    image = photograph(*size)
    resized = levels(degrade(image, name))
    assert (resized == levels(image.resize(small, BICUBIC).resize(size, BICUBIC))).all()
    for kernel in (Image.Resampling.BILINEAR, Image.Resampling.LANCZOS, Image.Resampling.NEAREST):
        assert (resized != levels(image.resize(small, kernel).resize(size, BICUBIC))).any()
        assert (resized != levels(image.resize(small, BICUBIC).resize(size, kernel))).any()


@pytest.mark.parametrize(
    ("name", "size"), [("resize_112", (112, 300)), ("resize_64", (64, 64)), ("resize_64", (1, 90))]
)
def test_resize_leaves_small_images(name, size):
    image = random_image(*size)
    assert (levels(degrade(image, name)) == levels(image)).all()


def test_web_step_by_step():
    image = photograph(720, 501)
    small = image.resize((480, 334), Image.Resampling.LANCZOS)  # 501 x 480 / 720
    expected = encoded_and_decoded(small, 75).resize((720, 501), BICUBIC)
    assert (levels(degrade(image, "web")) == levels(expected)).all()
    no_larger = photograph(301, 480)
    assert (levels(degrade(no_larger, "web")) == levels(encoded_and_decoded(no_larger, 75))).all()


def hard_chain(image, cut=(3, 5), power=0.9, sharpened=True, first=60, last=70):
    width, height = image.size
    small = image.resize((round(width * 0.65), round(height * 0.65)), Image.Resampling.LANCZOS)
    small = encoded_and_decoded(small, first)
    shown = small.resize((round(small.width * 1.3), round(small.height * 1.3)), Image.Resampling.BILINEAR)
    pixels = np.asarray(shown)[cut[1] :, cut[0] :]
    pixels = np.rint(255 * (pixels / 255) ** power).astype(np.uint8)
    pixels = naive_sharpening(pixels) if sharpened else pixels
    return levels(encoded_and_decoded(Image.fromarray(pixels), last).resize(image.size, BICUBIC))


def test_hard_step_by_step():
    image = photograph(131, 97)
    degraded = levels(degrade(image, "hard"))
    assert (degraded == hard_chain(image)).all()
    for other in ({"cut": (3, 4)}, {"cut": (2, 5)}, {"power": 1.0}, {"sharpened": False}, {"first": 65}, {"last": 75}):
        assert (degraded != hard_chain(image, **other)).any()


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_size_mode_and_determinism(name):
    for size in SIZES:
        image = random_image(*size)
        before = image.tobytes()
        degraded = degrade(image, name)
        assert (degraded.size, degraded.mode) == (size, "RGB")
        assert degraded.tobytes() == degrade(image.copy(), name).tobytes()
        assert image.tobytes() == before


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_gray_stays_gray_and_flat_stays_flat(name):
    gray = degrade(photograph(130, 140).convert("L"), name)  # any mode is read as at evaluation
    channels = levels(gray)
    assert gray.mode == "RGB" and np.ptp(channels, axis=2).max() == 0 and np.ptp(channels) > 50
    flat = levels(degrade(Image.new("RGB", (130, 140), (128, 128, 128)), name))
    assert np.ptp(flat) == 0 and abs(flat[0, 0, 0] - (137 if name == "hard" else 128)) <= 1  # 255 (128/255)^0.9


def test_table():
    assert list(DEGRADATIONS) == ["resize_112", "resize_64", "jpeg_65", "jpeg_30", "blur_3", "blur_5", "web", "hard"]
    titles = [row.title for row in DEGRADATIONS.values()]
    assert titles[:6] == ["LR (112)", "LR (64)", "JPEG (QF=65)", "JPEG (QF=30)", "Blur (σ=3)", "Blur (σ=5)"]
    results = {degrade(photograph(640, 500), name).tobytes() for name in DEGRADATIONS}
    assert len(results) == len(DEGRADATIONS)


def test_unknown_name():
    with pytest.raises(ValueError, match="no degradation 'blur_4'; choose from resize_112, .*, hard"):
        degrade(Image.new("RGB", (8, 8)), "blur_4")
