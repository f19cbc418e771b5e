"""Pixels of other modes to RGB, over every level and over more than one strip."""

import numpy as np
import pytest
from nasty_bytes import encoded, tiff
from PIL import Image

from mirage_hf.image_io import UnreadableImage, load_rgb
from mirage_hf.image_pixels import to_rgb, turn_upright

LEVELS = np.arange(65536, dtype=np.uint16).reshape(256, 256)


@pytest.mark.parametrize("source", [LEVELS, Image.fromarray(LEVELS), encoded(Image.fromarray(LEVELS), "PNG")])
def test_every_level_of_sixteen_bits(source):
    expected = np.rint(LEVELS / 257).astype(np.uint8)
    pixels = np.asarray(load_rgb(source))
    assert (pixels == expected[:, :, None]).all()
    assert (pixels != (LEVELS >> 8)[:, :, None]).any()  # not the high byte, as a shift would give


def test_every_level_of_twelve_bits():
    levels = np.arange(4096, dtype=np.uint16)
    pairs = levels.reshape(-1, 2)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1)
    pixels = np.asarray(load_rgb(tiff(64, 64, 12, 1, packed.astype(np.uint8).tobytes())))
    assert (pixels == np.rint(levels / 4095 * 255).astype(np.uint8).reshape(64, 64, 1)).all()


@pytest.mark.parametrize(("low", "high"), [(-1, 100), (100, 65536)])
def test_levels_out_of_range(low, high):
    levels = np.full((600, 600), 7, np.int32)
    levels[599, 0], levels[599, 1] = low, high  # in the last strip
    with pytest.raises(UnreadableImage, match="integer pixels outside 0..65535"):
        load_rgb(Image.fromarray(levels))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16"])
def test_strips_join(mode):
    """600 x 1,001 pixels are three strips, the last one short."""
    random = np.random.default_rng(0)
    if mode == "I;16":
        image = Image.fromarray(random.integers(0, 65536, (1001, 600), dtype=np.uint16))
    else:
        image = Image.fromarray(random.integers(0, 256, (1001, 600, len(mode)), dtype=np.uint8))
    assert image.mode == mode
    if mode == "I;16":
        expected = np.rint(np.asarray(image) / 257)[:, :, None]
    else:
        colours = np.asarray(image.convert("RGBA")).astype(float)
        alpha = colours[:, :, 3:] / 255
        expected = colours[:, :, :3] * alpha + 255 * (1 - alpha)
    assert np.abs(np.asarray(load_rgb(image)) - expected).max() <= (0 if mode == "I;16" else 1)


def test_several_blocks_of_memory():
    """A large picture that was allocated elsewhere is converted all the same."""
    image = Image.new("RGBA", (2500, 2500), (255, 0, 0, 51))
    with pytest.raises(ValueError):
        Image.fromarrow(image, "RGB", image.size)
    assert to_rgb(image).getpixel((2499, 2499)) == (255, 204, 204)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_once(orientation):
    image = Image.new("RGB", (4, 2))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.info["exif"] = exif.tobytes()
    turned = load_rgb(image)
    assert turned.size == ((2, 4) if orientation > 4 else (4, 2))
    assert load_rgb(turned).size == turned.size  # and not again
    assert turn_upright(image, 1) is image
