"""Images larger than the encoder takes: cut into tiles, whose embeddings are averaged."""

import numpy as np
import pytest
import torch
from conftest import make_model
from torch.nn import functional as F

from mirage_hf.modeling_mirage import cut_tiles

SIDE = 32


def images(height, width, count=2):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("height", "width", "tops", "lefts"),
    [(32, 32, [0], [0]), (64, 32, [0, 32], [0]), (65, 63, [0, 16, 33], [0, 31]), (33, 96, [0, 1], [0, 32, 64])],
)
def test_tiles_cover_the_image(height, width, tops, lefts):
    pixel_values = images(height, width)
    tiles = cut_tiles(pixel_values, SIDE)
    assert tiles.shape == (2, len(tops) * len(lefts), 3, SIDE, SIDE)
    seen = np.zeros((height, width), bool)
    for index, (top, left) in enumerate((top, left) for top in tops for left in lefts):
        assert torch.equal(tiles[:, index], pixel_values[..., top : top + SIDE, left : left + SIDE])
        seen[top : top + SIDE, left : left + SIDE] = True
    assert seen.all()


def test_embedding_is_the_normalised_mean_of_the_tiles():
    model = make_model(tile_images=True)
    pixel_values = images(48, 64)
    with torch.no_grad():
        output = model(pixel_values, return_embeds=True)
        parts = [
            model.get_image_features(pixel_values[..., top : top + SIDE, left : left + SIDE].contiguous())
            for top in (0, 16)
            for left in (0, 32)
        ]
    expected = F.normalize(sum(parts), dim=-1)
    torch.testing.assert_close(output.image_embeds, expected, atol=1e-6, rtol=0)
    cosine = expected @ output.text_embeds.T
    torch.testing.assert_close(output.logits, model.clip.logit_scale.exp() * cosine, atol=1e-5, rtol=0)
    assert (output.image_embeds - parts[0]).abs().max() > 1e-3  # and not the first tile's
    torch.testing.assert_close(model.get_image_features(pixel_values), output.image_embeds)


def test_a_single_tile_is_the_plain_forward_pass():
    model, plain = make_model(tile_images=True), make_model()
    plain.load_state_dict(model.state_dict())
    pixel_values = images(SIDE, SIDE)
    assert torch.equal(model(pixel_values).logits, plain(pixel_values).logits)


def test_baked_and_saved_models_tile_alike(tmp_path):
    model = make_model(tile_images=True)
    pixel_values = images(64, 64)
    with torch.no_grad():
        expected = model(pixel_values).logits
        model.save_pretrained(tmp_path)
        loaded = type(model).from_pretrained(tmp_path)
        torch.testing.assert_close(loaded(pixel_values).logits, expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(loaded.bake()(pixel_values).logits, expected, atol=1e-6, rtol=0)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="31 x 64 are smaller than the encoder's 32 x 32"):
        make_model(tile_images=True)(images(31, 64))
    with pytest.raises(ValueError, match="size"):
        make_model()(images(64, 64))  # without `tile_images`, a larger image is a mistake
    with pytest.raises(ValueError, match="`tile_images` must be true or false"):
        make_model(tile_images=2)
