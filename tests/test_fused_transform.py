"""The fused transform gives the image processor's pixels to the bit, and steps aside where it can't."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PilBackend, ViTImageProcessorPil

from mirage_hf import fused_transform
from mirage_hf.fused_transform import FusedTransform, evaluation_transform
from mirage_hf.image_processing import EvalTransform, build_image_processor

SIZES = [(500, 375), (375, 500), (224, 224), (223, 225), (225, 223), (32, 32), (7, 90), (90, 7), (1, 1), (300, 180)]


def picture(size, mode="RGB"):
    levels = np.random.default_rng(sum(size)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(levels).convert(mode)


PROCESSORS = {
    "CLIP": build_image_processor(224),
    "odd": build_image_processor(33, image_mean=(0.1, 0.5, 0.9), image_std=(0.2, 0.3, 0.4)),
    "crop": build_image_processor(96, geometry="crop"),
    "odd crop": build_image_processor(33, geometry="crop"),
    "ViT": ViTImageProcessorPil(size={"height": 40, "width": 56}),
    "no division gives its levels": ViTImageProcessorPil(size={"height": 40, "width": 56}, rescale_factor=0.0039),
    "smaller than its crop": PilBackend(
        **build_image_processor(64).to_dict() | {"size": {"shortest_edge": 40}, "rescale_factor": 1 / 127.5}
    ),
    "lanczos": ViTImageProcessorPil(size={"shortest_edge": 50}, resample=Image.Resampling.LANCZOS),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_bit_equal_to_the_processor(name):
    processor = PROCESSORS[name]
    fused = evaluation_transform(processor)
    assert isinstance(fused, FusedTransform)
    for size in SIZES:
        if processor.do_resize and processor.size.shortest_edge and max(size) > 10 * min(size):
            continue  # 7 x 90 to 224 x 2880: right, but slow in the reference
        for mode in ("RGB", "L", "P", "CMYK") if processor.do_convert_rgb else ("RGB",):
            image = picture(size, mode)
            expected = EvalTransform(processor)(image)
            found = fused(image)
            assert found.dtype == torch.float32 and found.shape == expected.shape
            assert torch.equal(found, expected), (size, mode)


def test_both_ways_of_normalising_are_tried():
    assert FusedTransform(PROCESSORS["CLIP"]).divides
    assert not FusedTransform(PROCESSORS["no division gives its levels"]).divides


def test_where_it_may_not_multiply_pillow_resizes(monkeypatch):
    processor, image, used = PROCESSORS["CLIP"], picture((500, 375)), []
    expected = EvalTransform(processor)(image)
    resize_levels = fused_transform.resize_levels
    monkeypatch.setattr(fused_transform, "resize_levels", lambda *args: used.append(args) or resize_levels(*args))
    transform = FusedTransform(processor)
    assert torch.equal(transform(image), expected) and len(used) == 1
    monkeypatch.setattr(fused_transform, "can_resize", lambda *_: False)
    assert torch.equal(transform(image), expected) and len(used) == 1


def test_shifting_the_crop_by_a_pixel_would_be_seen():
    processor = build_image_processor(33, geometry="crop")
    image = picture((60, 41))
    expected = EvalTransform(processor)(image)
    assert not torch.equal(FusedTransform(processor)(image.transform(image.size, 0, (1, 0, 1, 0, 1, 0))), expected)


class Inverted(PilBackend):
    """A processor with a step of its own."""

    def normalize(self, image, mean, std, **kwargs):
        return -super().normalize(image, mean, std, **kwargs)


@pytest.mark.parametrize(
    "processor",
    [
        Inverted(**build_image_processor(32).to_dict()),
        ViTImageProcessorPil(do_normalize=False),
        ViTImageProcessorPil(do_rescale=False),
        ViTImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 64}),
        ViTImageProcessorPil(do_pad=True, pad_size={"height": 256, "width": 256}),
    ],
    ids=["step of its own", "not normalised", "not rescaled", "longest edge", "padded"],
)
def test_others_keep_their_own_code(processor):
    transform = evaluation_transform(processor)
    assert isinstance(transform, EvalTransform) and transform.processor is processor
    assert transform(picture((40, 40))).shape[0] == 3
