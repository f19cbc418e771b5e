"""The section on augmentation: it runs, both sides make the same tensors, and the cores follow from what it counts."""

import importlib.util
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import yaml
from handmade_speed import BENCHMARKS, load_sections

from mirage_hf.augmentations import AugmentationConfig, TrainAugmentation
from mirage_hf.image_processing import TrainTransform, build_image_processor

EVERYTHING = AugmentationConfig(
    rotation_probability=0.5,
    brightness_contrast_probability=0.5,
    grayscale_probability=0.5,
    blur_probability=0.5,
    noise_probability=0.5,
)
DEFAULT, MINI = "default recipe, 500 x 375 to 224", "mini-benchmark's recipe, 192 x 192 to 96"


@pytest.fixture
def sections(monkeypatch) -> SimpleNamespace:
    return load_sections(monkeypatch, "augmentation", "photographs", "plain_augmentation")


def test_section(sections):
    section = sections.augmentation.run(sections.Settings("cpu", dry=True, repeats=2))
    expected = [
        (what, alternative, case, "at least", None)
        for case in (DEFAULT, MINI)
        for what, alternative in (
            ("TrainTransform", "plain Pillow and NumPy"),
            *([("TrainTransform", "albumentations")] if importlib.util.find_spec("albumentations") else []),
            ("DetectionImages", "Image.open and plain"),
        )
    ]
    assert [(row.what, row.alternative, row.case, row.goal, row.bar) for row in section.rows] == expected
    assert section.equality == {DEFAULT: 0.0, MINI: 0.0}
    assert all(row.limit > 0 for row in section.rows)
    for shares in section.profiles.values():
        assert sum(shares.values()) == pytest.approx(1, abs=0.01) and 0 < shares["Python"] < 0.9
    h100 = section.details["h100"]
    assert h100["cores"] == pytest.approx(h100["images_per_second"] / h100["images_per_second_of_a_core"], rel=0.01)


@pytest.mark.parametrize("geometry", ["resized_crop", "crop"])
def test_plain_operations_give_the_same_tensors(sections, geometry):
    """The independent statement of the augmentation, for every kind of change; another seed gives others."""
    config, processor = replace(EVERYTHING, geometry=geometry), build_image_processor(48)
    pictures = [sections.photographs.mosaic((150, 100), number) for number in range(20)]
    ours = TrainTransform(processor, TrainAugmentation(config, 48))
    plain = sections.plain_augmentation.PlainAugmentation(config, processor)
    found, expected = (sections.augmentation.seeded(way, pictures) for way in (ours, plain))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))
    torch.manual_seed(1)
    assert not torch.equal(ours(pictures[0]), expected[0])


def test_an_image_is_not_changed_by_augmenting_it(sections):
    picture = sections.photographs.mosaic((150, 100), 0)
    before = picture.tobytes()
    config = replace(EVERYTHING, noise_probability=1.0, geometry="crop", jpeg_probability=0.0)
    for _ in range(10):
        TrainAugmentation(config, 48)(picture)
    assert picture.tobytes() == before


def test_recipe_is_that_of_the_mini_benchmark(sections):
    recipe = yaml.safe_load((BENCHMARKS.parent / "training/recipes/mirage_tiny.yaml").read_text(encoding="utf-8"))
    assert AugmentationConfig(**recipe["augmentation"]) == sections.augmentation.MINI


def test_arithmetic_of_a_step_is_about_two_forward_passes(sections):
    """Counted by hand for the tiny model: linear layers of the vision encoder, forward and back, are most of it."""
    flops = sections.augmentation.flops_of_step(dry=True) / sections.augmentation.BATCH
    tokens, width, inner, layers = 17 + 2, 48, 64, 3
    forward = 2 * layers * tokens * (4 * width * width + 2 * width * inner)
    assert 2 * forward < flops < 4 * forward


def test_native_shares_see_where_time_goes(sections):
    data = list(range(200_000))[::-1]
    shares = sections.augmentation.native_shares(lambda: [sorted(data) for _ in range(20)])
    assert max(shares, key=shares.get) == "builtins.sorted"
    assert math.isclose(sum(shares.values()), 1, abs_tol=0.01)
