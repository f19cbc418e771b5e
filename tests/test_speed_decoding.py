"""The section on decoding: it runs, its files are what it says, and identical pixels are shown to be so."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from handmade_speed import load_sections
from PIL import Image


@pytest.fixture
def sections(monkeypatch) -> SimpleNamespace:
    return load_sections(monkeypatch, "decoding", "photographs")


def test_section(sections):
    section = sections.decoding.run(sections.Settings("cpu", dry=True, repeats=2))
    ours, inexact = sections.decoding.OURS, sections.decoding.INEXACT
    assert [(row.what, row.alternative, row.case, row.goal, row.bar) for row in section.rows] == [
        (ours, "CLIPImageProcessor", "500 x 375", "at least", 2.5),
        (inexact, "CLIPImageProcessor", "500 x 375", "at least", None),
        (ours, "CLIPImageProcessor", "4000 x 3000", "at least", 1.3),
        (inexact, "CLIPImageProcessor", "4000 x 3000", "at least", None),
    ]
    assert all(row.limit > 1 for row in section.rows)
    inexact_levels = section.equality.pop(f"levels, {inexact}")
    assert inexact_levels == 1  # the negative control: a difference of one level would be seen
    assert len(section.equality) == 7 and set(section.equality.values()) == {0.0}
    for shares in section.profiles.values():
        assert sum(shares.values()) == pytest.approx(1, abs=0.01) and shares["decoding"] > 0.05


def test_a_shifted_crop_would_be_seen(sections, monkeypatch):
    fused = sections.decoding.FusedTransform

    class Shifted(fused):
        def __call__(self, image):
            return torch.roll(super().__call__(image), 1, -1)

    monkeypatch.setattr(sections.decoding, "FusedTransform", Shifted)
    found = sections.decoding.differences()
    del found[f"levels, {sections.decoding.INEXACT}"]  # has a crop of its own
    assert min(found.values()) > 1


def test_files(sections, tmp_path):
    first, second = sections.photographs.make_jpegs(tmp_path / "made", (500, 375), 2)
    assert first.read_bytes() != second.read_bytes()
    with Image.open(first) as image:
        assert image.size == (500, 375) and image.format == "JPEG"
        assert [layer[1:3] for layer in image.layer] == [(2, 2), (1, 1), (1, 1)]  # 4:2:0
        pixels = np.asarray(image).astype(int)
    # The first tile is a photograph as it is carried, not enlarged.
    carried = np.asarray(Image.open(sections.photographs.photographs()[0]).convert("RGB")).astype(int)
    assert np.abs(pixels[:192, :192] - carried).mean() < 3
    gray = Image.open(io.BytesIO(sections.photographs.encode(Image.new("L", (16, 16)), quality=50)))
    assert gray.mode == "L"


def test_products_of_a_resizing(sections):
    """To half the size, eight weights for each pixel: along rows of all lines, then along columns."""
    assert sections.decoding.taps(100, 80, (50, 40), 30) == 3 * 30 * (80 * 8 + 40 * 8)
    assert sections.decoding.taps(10, 10, (20, 20), 20) == 3 * 20 * (10 * 4 + 20 * 4)  # enlarged: four
