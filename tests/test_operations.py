"""The small backbone's pretraining operations: what they claim to do, and that captions and attributes agree."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "minibench"))

import operations
import upsamplers


def scene(seed, side=160):
    """Smooth shapes with sharp edges and a little grain: structure that filters can learn."""
    rng = np.random.default_rng(seed)
    values = np.zeros((side, side, 3))
    for _ in range(14):
        y, x, radius = rng.integers(side), rng.integers(side), rng.integers(8, 50)
        rows, columns = np.ogrid[:side, :side]
        values[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = rng.integers(0, 255, 3)
    values = gaussian_filter(values, (0.5, 0.5, 0)) + rng.normal(0, 2, values.shape)
    return np.clip(values, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def photographs():
    return [scene(seed) for seed in range(12)]


@pytest.fixture(scope="module")
def degrader(photographs):
    return operations.Degrader(photographs, 0)


def error(a, b):
    return float(((a.astype(float) - b.astype(float))[8:-8, 8:-8] ** 2).mean())


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_fitted_filters_come_closer_to_an_unseen_picture_than_bicubic(photographs, factor):
    rng = np.random.default_rng(0)
    filters = upsamplers.FittedFilters.fit(photographs, factor, FixedChoices(rng, size=5, sharpening=0.0))
    picture = scene(99, 144)
    small = upsamplers.shrink(picture, factor)
    bicubic = upsamplers.enlarge(small, factor)

    def grey_error(image):
        return error((image @ upsamplers.GREY)[..., None], (picture @ upsamplers.GREY)[..., None])

    assert grey_error(filters(small, 1.0, False)) < 0.95 * grey_error(bicubic)
    np.testing.assert_allclose(filters(small, 0.0, True), bicubic)
    wrong = upsamplers.FittedFilters(factor, filters.size, np.roll(filters.filters, 1, axis=2))
    assert grey_error(wrong(small, 1.0, False)) > grey_error(bicubic)


class FixedChoices:
    """A generator whose choice of a filter's size and sharpening is made already."""

    def __init__(self, rng, size, sharpening):
        self.rng, self.answers = rng, [size, sharpening]

    def __getattr__(self, name):
        return getattr(self.rng, name)

    def choice(self, _):
        return self.answers.pop(0)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_blocks_go_apart_and_together(factor):
    plane = np.random.default_rng(0).normal(size=(6 * factor, 5 * factor)).astype(np.float32)
    np.testing.assert_array_equal(upsamplers._unblocks(upsamplers._blocks(plane, factor), (6, 5), factor), plane)
    joined = upsamplers._overlap(upsamplers._wide_blocks(plane, factor), (6, 5), factor)
    inner = slice(factor, -factor)  # at the border, parts of the neighbours beyond it are missing
    np.testing.assert_allclose(joined[inner, inner], plane[inner, inner], rtol=1e-5, atol=1e-6)


def test_examples_reproduce_the_picture_they_were_cut_from(photographs):
    examples = upsamplers.PatchExamples.fit([photographs[0][:144, :144]], 2, np.random.default_rng(3))
    picture = photographs[0][:144, :144]
    small = upsamplers.shrink(picture, 2)
    contrast = upsamplers._normalised(upsamplers.windows(small @ upsamplers.GREY, examples.size))[1]
    assert (contrast[:, 0] > 12).sum() > 60  # more edges than were kept, so it isn't only a copy
    assert error(examples(small, 0.7, False), picture) < error(upsamplers.enlarge(small, 2), picture)


def test_shock_filter_narrows_an_edge():
    edge = np.repeat(255 / (1 + np.exp(-np.linspace(-14, 14, 48)))[None, :, None], 48, 0).repeat(3, 2)
    filtered = upsamplers.shock_filter(edge, 6, 1.5)

    def width(image):
        return int(((image[24, :, 0] > 30) & (image[24, :, 0] < 225)).sum())

    assert width(filtered) < 0.7 * width(edge)
    assert abs(float(filtered.mean() - edge.mean())) < 3


@pytest.mark.parametrize("kind", upsamplers.NETWORKS)
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_random_networks(kind, factor):
    small = scene(1, 48).astype(np.float32)
    details = [upsamplers.network_detail(small, factor, kind, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert all(d.shape[:2] == (48 * factor, 48 * factor) and d.std() == pytest.approx(1, rel=1e-3) for d in details)
    np.testing.assert_array_equal(details[0], details[1])
    assert details[0].shape != details[2].shape or np.abs(details[0] - details[2]).max() > 0.1


def test_captions_and_attributes_agree(degrader):
    image = scene(7, 144)
    words = set(operations.WORDS) | {"1.5", "2", "3", "4", "8"}
    seen = set()
    for seed in range(150):
        invented = seed % 2 == 1
        picture, caption, attributes, strengths = degrader(image, np.random.default_rng(seed), invented)
        again = degrader(image, np.random.default_rng(seed), invented)
        np.testing.assert_array_equal(picture, again[0])
        assert picture.shape == image.shape and picture.dtype == np.uint8
        assert set(caption.split()) <= words, caption
        found = dict(zip(operations.ATTRIBUTES, attributes, strict=True))
        for index, name in enumerate(operations.OPERATIONS):
            named = name in caption or (name == "upsampled" and "redrawn" in caption)
            assert named == (found[name] == 1) == (not np.isnan(strengths[index])), (name, caption)
            variants = [v for v in operations.VARIANTS[name] if found[f"{name} {v}"] == 1]
            assert len(variants) == (1 if named and operations.VARIANTS[name] else 0)
            seen |= {name} if named else set()
        assert found["upsampled"] == invented
        undecided = found["resampled"] == found["sharpened"] == 1 and (
            caption.index("resampled") < caption.index("sharpened")
        )
        assert np.isnan(found["invented"]) if undecided else found["invented"] == invented
        said = set(caption.split()) & {*operations.RECORDED, *operations.INVENTED}
        assert said <= set(operations.INVENTED if invented else operations.RECORDED)
    assert seen == set(operations.OPERATIONS)
