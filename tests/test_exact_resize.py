"""Resizing by matrix products gives Pillow's own pixels to the bit, whatever the size, filter, box and picture."""

import threading
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from mirage_hf import exact_resize
from mirage_hf.exact_resize import can_resize, is_exact_here, resize_levels

BICUBIC = Image.Resampling.BICUBIC
FILTERS = ("BOX", "BILINEAR", "HAMMING", "BICUBIC", "LANCZOS")


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def stripes(width, height):
    """Black and white pixels by turns: halved, they lie in the middle between two levels."""
    levels = np.indices((height, width)).sum(0) % 2 * 255
    return Image.fromarray(np.stack([levels, 255 - levels, levels // 3], 2).astype(np.uint8))


def assert_pillows_own(image, size, box, resample):
    expected = np.asarray(image.resize(size, resample).crop(box))
    found = resize_levels(image, size, box, resample)
    assert found.dtype == np.float32
    assert np.array_equal(found.transpose(0, 2, 1), expected), (image.size, size, box, resample)


@pytest.mark.parametrize("name", FILTERS)
def test_any_sizes_and_boxes(name):
    """250 random ones for each filter, from a pixel to some hundreds, shrunk and enlarged."""
    generator = np.random.default_rng(FILTERS.index(name))
    for trial in range(250):
        most = (12, 60, 400)[trial % 3]
        width, height, wide, high = (int(side) for side in generator.integers(1, most, 4))
        left, top = int(generator.integers(wide)), int(generator.integers(high))
        box = (left, top, int(generator.integers(left, wide)) + 1, int(generator.integers(top, high)) + 1)
        if height <= 100 * width:
            assert_pillows_own(noise(width, height, trial), (wide, high), box, Image.Resampling[name])


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (1023, 681), (2999, 1501), (640, 12_800), (224, 300)])
def test_the_part_that_clip_keeps(size):
    short = min(size)
    resized = tuple(224 * side // short for side in size)
    left, top = (resized[0] - 224) // 2, (resized[1] - 224) // 2
    assert_pillows_own(noise(*size), resized, (left, top, left + 224, top + 224), BICUBIC)


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("part", [2, 3, 4])
def test_sums_in_the_middle_between_two_levels(name, part):
    size = (360 // part, 240 // part)
    assert_pillows_own(stripes(360, 240), size, (0, 0, *size), Image.Resampling[name])


def test_flat_pictures_stay_flat():
    for level in range(0, 256, 15):
        found = resize_levels(Image.new("RGB", (333, 222), (level,) * 3), (149, 99), (0, 0, 149, 99), BICUBIC)
        assert (found == level).all()


def test_floats_alone_would_not_do(monkeypatch):
    """The negative control: with no sum in doubt, the same pictures come out otherwise."""
    axis = exact_resize._axis
    monkeypatch.setattr(exact_resize, "_axis", lambda *args: axis(*args)._replace(doubt=np.float32(1)))
    image, size = stripes(360, 240), (180, 120)
    found = resize_levels(image, size, (0, 0, *size), Image.Resampling.BOX)
    assert not np.array_equal(found.transpose(0, 2, 1), np.asarray(image.resize(size, Image.Resampling.BOX)))


@pytest.mark.parametrize("name", FILTERS)
def test_the_bound_holds_what_floats_are_off_by(name):
    """Sums in float32 in the blocks' own order against those in float64, which are exact here."""
    generator = np.random.default_rng(1)
    for pixels, resized in ((500, 298), (3000, 224), (100, 224), (37, 36)):
        axis = exact_resize._axis(pixels, resized, 0, resized, Image.Resampling[name])
        # Levels at both ends, by the sign of a weight, make sums as large as they get.
        lines = generator.integers(0, 256, (50, pixels)).astype(np.float32)
        lines[:20] = generator.choice([0, 255], (20, pixels))
        off = 0.0
        for results, taken, matrix in axis.blocks:
            source = lines[:, axis.first : axis.last][:, taken]
            exact = source.astype(np.float64) @ matrix.astype(np.float64)
            off = max(off, float(np.abs(source @ matrix - exact).max()))
            assert matrix.shape[1] == results.stop - results.start
        assert off <= 0.5 - axis.doubt < 0.01


def test_weights_are_pillows_formula():
    """Against Pillow's filter, written down: a x^3 ... with a = -0.5, normalised and rounded to 22 bits."""

    def cubic(x):
        x = abs(x)
        if x < 1:
            return (1.5 * x - 2.5) * x * x + 1
        return ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0

    for pixels, resized in ((500, 298), (50, 224)):
        start, weights = exact_resize._pillow_weights(pixels, resized, BICUBIC)
        scale = pixels / resized
        for result in range(resized):
            centre = (result + 0.5) * scale
            reach = 2 * max(scale, 1)
            window = range(max(0, int(centre - reach + 0.5)), min(pixels, int(centre + reach + 0.5)))
            parts = np.array([cubic((at - centre + 0.5) / max(scale, 1)) for at in window])
            expected = np.zeros(pixels)
            expected[window.start : window.stop] = parts / parts.sum() * 2**22
            found = np.zeros(pixels)
            found[start[result] : start[result] + weights.shape[1]] = weights[result]
            assert np.abs(found - expected).max() <= 0.5 + 1e-6


def test_can_resize():
    source, size, box = (500, 375), (298, 224), (37, 0, 261, 224)
    assert can_resize(source, size, box, BICUBIC)
    assert not can_resize(source, size, box, Image.Resampling.NEAREST)
    for outside in ((-1, 0, 223, 224), (75, 0, 299, 224), (0, 0, 0, 224), (0, 1, 224, 225)):
        assert not can_resize(source, size, outside, BICUBIC)


def test_columns_are_left_to_pillow_which_resizes_them_in_another_order():
    image, size = noise(2, 323), (295, 43)
    box = (0, 0, *size)
    found = resize_levels(image, size, box, Image.Resampling.LANCZOS)
    assert not np.array_equal(found.transpose(0, 2, 1), np.asarray(image.resize(size, Image.Resampling.LANCZOS)))
    assert not can_resize((2, 201), size, box, BICUBIC) and can_resize((2, 200), size, box, BICUBIC)


def test_another_arithmetic_is_noticed(monkeypatch):
    @dataclass
    class Rounder:
        """Products in 16 bits, as some builds have them."""

        def matmul(self, left, right, out):
            out[...] = np.matmul(left, right.astype(np.float16).astype(np.float32))

        def __getattr__(self, name):
            return getattr(np, name)

    is_exact_here.cache_clear()
    monkeypatch.setattr(exact_resize, "np", Rounder())
    try:
        assert not can_resize((500, 375), (298, 224), (0, 0, 224, 224), BICUBIC)
    finally:
        is_exact_here.cache_clear()


def test_threads_do_not_share_scratch():
    images = [noise(300 + 7 * number, 200, number) for number in range(4)]
    expected = [np.asarray(image.resize((99, 77), BICUBIC)) for image in images]
    wrong = []

    def work(number):
        for _ in range(20):
            found = resize_levels(images[number], (99, 77), (0, 0, 99, 77), BICUBIC)
            if not np.array_equal(found.transpose(0, 2, 1), expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_results_are_not_overwritten_and_little_is_kept(monkeypatch):
    monkeypatch.setattr(exact_resize, "_scratch", exact_resize._Scratch())
    monkeypatch.setattr(exact_resize, "_KEPT", 10_000)
    first = resize_levels(noise(200, 200), (50, 50), (0, 0, 50, 50), BICUBIC)
    before = first.copy()
    resize_levels(noise(200, 200, 1), (50, 50), (0, 0, 50, 50), BICUBIC)
    assert np.array_equal(first, before)
    assert max((array.size for array in exact_resize._scratch.arrays.values()), default=0) <= 10_000


def test_products_stay_under_the_size_that_starts_threads(monkeypatch):
    sizes = []
    matmul = np.matmul

    def counted(left, right, out):
        sizes.append(left.shape[0] * left.shape[1] * right.shape[1])
        return matmul(left, right, out=out)

    monkeypatch.setattr(np, "matmul", counted)
    for size in ((500, 375), (4000, 300), (3000, 3000)):
        resize_levels(noise(*size), (298, 224), (37, 0, 261, 224), BICUBIC)
    assert len(sizes) > 100 and max(sizes) <= 1 << 18
