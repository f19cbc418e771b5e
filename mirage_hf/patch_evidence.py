"""What each patch of an image adds to a detector's log-odds of fake, from the forward pass that gives the score.

In the last attention layer, what the class token takes in is a sum over tokens of attention weight times value. The
patches' terms of that sum, each projected onto the direction in which the log-odds rise (towards the anchor of fake
and away from that of real), are the map. The direction is the derivative of the log-odds by the attention's output,
taken through the last MLP, the normalisations and the projection: one backward pass through the head, none through the
encoder. So the map is linear in the terms and exact to first order; the rest of the log-odds comes from the class
token itself, the prompts, the biases and what earlier layers mixed. The decomposition of CLIP's class token is that of
Gandelsman et al., https://arxiv.org/abs/2310.05916.

Patch tokens of CLIP are not trained to match texts, so the plain map of their cosines with the anchors is no safe
choice. Compared by deletion, on validation images of the mini-benchmark with mirage-tiny: those; cosines of the
last layer's values (MaskCLIP), also through the rest of the layer (CLIP Surgery); attention alone; and the
contributions, with and without the last MLP. The two contributions came out ahead or level whatever took a patch's
place, and so close to each other that the simpler one, this, was taken. The numbers are in
`benchmarks/results/deletion_test.md`, which `benchmarks/deletion_test.py` makes.
"""

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from .baseline_models import BaselineForImageDetection
from .modeling_mirage import MiraGeForImageDetection, cut_tiles


class PatchEvidence(NamedTuple):
    """
    Evidence of a batch.

    Args:
        margins (`torch.Tensor` of shape `(B,)`):
            Log-odds of fake, in float64: the model's own logits.
        grid (`torch.Tensor` of shape `(B, ⌈H / p⌉, ⌈W / p⌉)`):
            What each square of p pixels of `pixel_values` adds to the log-odds, in float32: positive speaks for fake.
            Where tiles overlap, the mean of the tiles'. NaN where no patch looked.
        image_embeds (`torch.Tensor` of shape `(B, D)`):
            Unit-norm image embeddings, in float32.
    """

    margins: torch.Tensor
    grid: torch.Tensor
    image_embeds: torch.Tensor


class LastAttention:
    """
    Forward hook on the last attention layer: keeps its input, and makes its output the start of the gradient's path.

    Run the model under `torch.no_grad()`: from here on the gradient is recorded, and for nothing before.
    """

    hidden_states: torch.Tensor  # (N, S, d), normalised, class token first, then patches, then prompts
    output: torch.Tensor  # (N, S, d)

    def __call__(self, attention: nn.Module, args: tuple, kwargs: dict, output: tuple) -> tuple:
        self.hidden_states = kwargs["hidden_states"]
        self.output = output[0].detach().requires_grad_()
        torch.set_grad_enabled(True)
        return (self.output, *output[1:])


def vision_tower(model: nn.Module) -> Any:
    """
    The CLIP vision encoder of a detector.

    Raises:
        ValueError: the detector has none.
    """
    on_clip = isinstance(model, MiraGeForImageDetection) or (
        isinstance(model, BaselineForImageDetection) and model.config.baseline.family == "clip"
    )
    if not on_clip:
        raise ValueError("patch evidence needs MiraGe or a baseline on CLIP; this detector has no CLIP vision encoder")
    return model.clip.vision_model  # type: ignore[union-attr]


def patch_evidence(model: nn.Module, pixel_values: torch.Tensor) -> PatchEvidence:
    """
    Score images and say what each patch adds, in one forward pass.

    Args:
        model ([`MiraGeForImageDetection`] or [`BaselineForImageDetection`] on CLIP):
            In evaluation mode.
        pixel_values (`torch.Tensor` of shape `(B, 3, H, W)`):
            What the model takes, on its device.

    Returns:
        [`PatchEvidence`]

    Raises:
        ValueError: the model has no CLIP vision encoder.
    """
    tower = vision_tower(model)
    attention, last = tower.encoder.layers[-1].self_attn, LastAttention()
    handle = attention.register_forward_hook(last, with_kwargs=True)
    try:
        with torch.inference_mode(False), torch.no_grad():
            output = model(pixel_values=pixel_values, return_embeds=True)
            with torch.enable_grad():
                margins = output.logits[:, 1].double() - output.logits[:, 0].double()  # (B,)
                (gradient,) = torch.autograd.grad(margins.sum(), last.output)  # (N, S, d)
    finally:
        handle.remove()
    with torch.no_grad(), torch.autocast(pixel_values.device.type, enabled=False):
        terms = _token_terms(attention, last.hidden_states, gradient[:, 0])  # (N, S)
        patches = terms[:, 1 : 1 + tower.embeddings.num_patches]  # without the class token and the prompts
        tiles = patches.unflatten(0, (len(pixel_values), -1))  # (B, T, n)
        grid = stitch(tiles, tower.embeddings.image_size, tower.embeddings.patch_size, *pixel_values.shape[-2:])
    return PatchEvidence(margins.detach(), grid, output.image_embeds.detach())


def _token_terms(attention: Any, hidden_states: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """What each token's value adds to the class token, times the gradient: `(N, S, d)` and `(N, d)` to `(N, S)`."""
    weight = attention.out_proj.weight
    hidden_states, gradient = hidden_states.to(weight.dtype), gradient.to(weight.dtype)
    heads = (attention.num_heads, attention.head_dim)
    query = attention.q_proj(hidden_states[:, 0]).unflatten(-1, heads)  # (N, h, d / h)
    key = attention.k_proj(hidden_states).unflatten(-1, heads)  # (N, S, h, d / h)
    value = attention.v_proj(hidden_states).unflatten(-1, heads)
    weights = (torch.einsum("nhd,nshd->nhs", query, key) * attention.scale).float().softmax(dim=-1)
    pull = torch.einsum("nshd,nhd->nhs", value, (gradient @ weight).unflatten(-1, heads))
    return (weights * pull).sum(dim=1)


def stitch(tiles: torch.Tensor, side: int, patch_size: int, height: int, width: int) -> torch.Tensor:
    """
    Puts the patches of an image's tiles back in their places, overlaps averaged.

    Args:
        tiles (`torch.Tensor` of shape `(B, T, n)`):
            A number for each patch of each tile, in [`cut_tiles`]'s order.
        side, patch_size (`int`):
            Pixels of a tile's and of a patch's edge; pixels beyond the last whole patch are looked at by none.
        height, width (`int`):
            Of the whole image.

    Returns:
        `torch.Tensor` of shape `(B, ⌈height / p⌉, ⌈width / p⌉)`: Means over squares of p pixels, NaN where none is.
    """
    per_side = side // patch_size
    covered = per_side * patch_size
    pixels = tiles.unflatten(-1, (per_side, per_side)).float()
    pixels = pixels.repeat_interleave(patch_size, dim=-2).repeat_interleave(patch_size, dim=-1)  # (B, T, c, c)
    places = torch.arange(height * width, device=tiles.device).view(1, 1, height, width)
    places = cut_tiles(places, side)[0, :, 0, :covered, :covered].flatten()  # (T c c,), pixels' numbers
    flat = pixels.new_zeros(len(tiles), height * width)
    total = flat.index_add(1, places, pixels.flatten(1))
    count = flat[:1].index_add(1, places, torch.ones_like(places, dtype=flat.dtype)[None])
    means = (total / count.clamp(min=1)).view(-1, 1, height, width)
    seen = (count > 0).to(flat.dtype).view(1, 1, height, width)
    # Sums, since the squares at the right and lower edge may hold fewer pixels.
    pooled, weight = (
        F.avg_pool2d(x, patch_size, ceil_mode=True, divisor_override=1)[:, 0] for x in (means * seen, seen)
    )
    return pooled / weight  # 0 / 0 is NaN


__all__ = ["LastAttention", "PatchEvidence", "patch_evidence", "stitch", "vision_tower"]
