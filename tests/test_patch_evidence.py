"""Patch evidence: the model's own score, and a map that is what moving each patch's value does to it."""

import math

import numpy as np
import pytest
import torch
from brightness import Brightness
from conftest import CLASS_INPUT_IDS, make_clip_config, make_model

from mirage_hf.baseline_config import BaselineConfig
from mirage_hf.baseline_models import BaselineForImageDetection
from mirage_hf.patch_evidence import _token_terms, patch_evidence, stitch, vision_tower

SIDE, PATCH, PER_SIDE = 32, 8, 4


def images(height: int, width: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def make_baseline(method: str, **kwargs) -> BaselineForImageDetection:
    torch.manual_seed(0)
    config = BaselineConfig(
        method=method, backbone_config=make_clip_config(), class_input_ids=CLASS_INPUT_IDS, **kwargs
    )
    return BaselineForImageDetection(config).eval()


MODELS = {
    "plain": lambda: make_model(),
    "tiled": lambda: make_model(tile_images=True),
    "baked": lambda: make_model().bake(),
    "text prompts": lambda: make_model(prompt_modality="text"),
    "shallow prompts": lambda: make_model(prompt_depth=1, num_prompt_tokens=3),
    "zero_shot": lambda: make_baseline("zero_shot"),
    "linear_probe": lambda: make_baseline("linear_probe", tile_images=True),
    "adapter": lambda: make_baseline("adapter"),
}


def margins_of(model, pixel_values):
    with torch.no_grad():
        return model(pixel_values=pixel_values).logits.double().diff(dim=1)[:, 0]


def moved(model, pixel_values, token: int, tile: int, step: float) -> torch.Tensor:
    """Log-odds with one token's value in the last layer scaled; attention stays as it is."""

    def scale(module, args, output):
        output = output.clone()
        output[tile, token] *= 1 + step
        return output

    handle = vision_tower(model).encoder.layers[-1].self_attn.v_proj.register_forward_hook(scale)
    try:
        return margins_of(model, pixel_values)
    finally:
        handle.remove()


@pytest.mark.parametrize("name", MODELS)
def test_score_is_the_model_s_and_the_map_its_derivative(name):
    """Against central differences through the whole model, token by token."""
    model = MODELS[name]()
    size = (48, 64) if model.config.tile_images else (SIDE, SIDE)
    pixel_values = images(*size, count=1)
    found = patch_evidence(model, pixel_values)
    assert (found.margins - margins_of(model, pixel_values)).abs().max() < 1e-6
    embeds = model(pixel_values=pixel_values, return_embeds=True).image_embeds
    torch.testing.assert_close(found.image_embeds, embeds, atol=1e-6, rtol=0)
    per_tile = []
    for tile in range(4 if model.config.tile_images else 1):
        up, down = (
            torch.stack([moved(model, pixel_values, 1 + n, tile, step) for n in range(PER_SIDE**2)])
            for step in (0.3, -0.3)
        )
        per_tile.append((up - down)[:, 0].float() / 0.6)
    expected = stitch(torch.stack(per_tile)[None], SIDE, PATCH, *size)
    error = (found.grid - expected).abs().max()
    assert error < 0.03 * expected.abs().max()
    assert (found.grid.flip(-1) - expected).abs().max() > 10 * error  # the map turned round is another one


def test_terms_of_all_tokens_make_up_the_attention_s_output():
    model = make_model()
    attention = vision_tower(model).encoder.layers[-1].self_attn
    hidden_states, gradient = torch.randn(3, 19, 48), torch.randn(3, 48)
    with torch.no_grad():
        terms = _token_terms(attention, hidden_states, gradient)
        output = attention(hidden_states, attention_mask=None)[0][:, 0]
        whole = ((output - attention.out_proj.bias) * gradient).sum(dim=-1)
    torch.testing.assert_close(terms.sum(dim=1), whole, atol=1e-4, rtol=1e-4)


def patches_of(image: torch.Tensor) -> torch.Tensor:
    return image.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).permute(1, 2, 0, 3, 4).flatten(0, 1)  # (16, 3, 8, 8)


def image_of(patches: torch.Tensor) -> torch.Tensor:
    rows = patches.unflatten(0, (PER_SIDE, PER_SIDE)).permute(2, 0, 3, 1, 4)
    return rows.reshape(3, SIDE, SIDE)


@pytest.mark.parametrize("positions", [False, True])
def test_evidence_moves_with_its_patch_where_places_don_t_count(positions):
    model = make_model()
    with torch.no_grad():
        model.clip.vision_model.embeddings.position_embedding.weight.mul_(30.0 if positions else 0.0)
    image = images(SIDE, SIDE, count=1)[0]
    order = torch.randperm(PER_SIDE**2, generator=torch.Generator().manual_seed(3))
    before = patch_evidence(model, image[None]).grid.flatten()
    after = patch_evidence(model, image_of(patches_of(image)[order])[None]).grid.flatten()
    error = (after - before[order]).abs().max() / before.abs().max()
    assert error > 1e-2 if positions else error < 1e-4


def test_only_the_patch_that_matters_has_evidence():
    """One layer without biases before its values: black patches have none, whatever the marked one holds."""
    model = make_model(vision_layers=1, prompt_depth=1)
    tower = vision_tower(model)
    layer = tower.encoder.layers[-1]
    with torch.no_grad():
        for parameter in (
            tower.embeddings.position_embedding.weight,
            tower.pre_layrnorm.bias,
            layer.layer_norm1.bias,
            layer.self_attn.v_proj.bias,
        ):
            parameter.zero_()
    for place in (0, 5, 15):
        patches = torch.zeros(PER_SIDE**2, 3, PATCH, PATCH)
        patches[place] = torch.randn(3, PATCH, PATCH)
        evidence = patch_evidence(model, image_of(patches)[None]).grid.flatten()
        assert evidence[place].abs() > 1e-5
        evidence[place] = 0
        assert evidence.abs().max() < 1e-9


@pytest.mark.parametrize(("height", "width", "side"), [(32, 32, 32), (48, 64, 32), (70, 33, 32), (40, 50, 30)])
def test_stitching_against_a_naive_loop(height, width, side):
    per_side = side // PATCH
    starts = [
        [i * (length - side) // max(math.ceil(length / side) - 1, 1) for i in range(math.ceil(length / side))]
        for length in (height, width)
    ]
    tiles = torch.randn(2, len(starts[0]) * len(starts[1]), per_side**2)
    total, count = np.zeros((2, height, width)), np.zeros((height, width))
    corners = [(top, left) for top in starts[0] for left in starts[1]]
    for number, (top, left) in enumerate(corners):
        for y in range(per_side * PATCH):
            for x in range(per_side * PATCH):
                total[:, top + y, left + x] += tiles[:, number, y // PATCH * per_side + x // PATCH].numpy()
                count[top + y, left + x] += 1
    with np.errstate(invalid="ignore"):
        pixels = total / count
    found = stitch(tiles, side, PATCH, height, width)
    assert found.shape == (2, math.ceil(height / PATCH), math.ceil(width / PATCH))
    for row in range(found.shape[1]):
        for column in range(found.shape[2]):
            square = pixels[:, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH].reshape(2, -1)
            seen = square[:, np.isfinite(square[0])]
            if seen.size == 0:
                assert found[:, row, column].isnan().all()
            else:
                np.testing.assert_allclose(found[:, row, column], seen.mean(axis=1), atol=1e-5)
    assert bool((count == 0).any()) is (side % PATCH > 0)


def test_a_batch_is_its_images():
    model = make_model(tile_images=True)
    pixel_values = images(48, 64, count=3)
    whole = patch_evidence(model, pixel_values)
    for number, one in enumerate(pixel_values):
        torch.testing.assert_close(patch_evidence(model, one[None]).grid[0], whole.grid[number], atol=1e-6, rtol=1e-4)
    assert (whole.grid[0] - whole.grid[1]).abs().max() > 1e-4


def test_nothing_stays_behind():
    model = make_model()
    attention = vision_tower(model).encoder.layers[-1].self_attn
    pixel_values = images(SIDE, SIDE)
    expected = model(pixel_values).logits
    found = patch_evidence(model, pixel_values)
    with pytest.raises(ValueError, match="size"):
        patch_evidence(model, images(64, 64))
    assert not attention._forward_hooks and torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(tensor.requires_grad for tensor in found)
    assert torch.equal(model(pixel_values).logits, expected)


def test_works_inside_inference_mode_and_in_half_precision():
    model = make_model().bake()
    expected = patch_evidence(model, images(SIDE, SIDE))
    with torch.inference_mode():
        found = patch_evidence(model, images(SIDE, SIDE))
        assert torch.is_inference_mode_enabled() and not torch.is_grad_enabled()
    torch.testing.assert_close(found.grid, expected.grid)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = patch_evidence(model, images(SIDE, SIDE))
    assert rough.grid.dtype == torch.float32
    assert (rough.grid - expected.grid).abs().max() < 0.1 * expected.grid.abs().max()


def test_detectors_without_clip_are_refused():
    backbone = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    npr = BaselineForImageDetection(BaselineConfig(method="npr", backbone_config=backbone))
    for model in (Brightness(), npr):
        with pytest.raises(ValueError, match="no CLIP vision encoder"):
            patch_evidence(model, images(SIDE, SIDE))
