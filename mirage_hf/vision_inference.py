"""The prompted vision encoder for inference alone: the same numbers as `MiraGeForImageDetection` with less arithmetic.

Layers without the work whose results nobody reads (see `lean_layers`), and prompts that are constant: where they are
needed as keys and values only, those are computed once.

    model = MiraGeForImageDetection.from_pretrained("benchmarks/minibench/mirage-tiny").bake()
    logits = VisionInference(model)(pixel_values)
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.activations import QuickGELUActivation

from .lean_layers import KeysValues, clip_layer, keys_and_values, only_keys_and_values, run_layer, with_prompts
from .modeling_mirage import MiraGeForImageDetection, embed_by_tiles


class VisionInference(nn.Module):
    """
    Logits of a baked detector, from its own weights, which are shared.

    Args:
        model ([`MiraGeForImageDetection`]): A baked model. Its weights must not be changed afterwards.

    Raises:
        ValueError: the model isn't baked.
    """

    class_token: torch.Tensor
    patch_positions: torch.Tensor
    anchors: torch.Tensor

    def __init__(self, model: MiraGeForImageDetection):
        super().__init__()
        if not model.config.baked:
            raise ValueError("`model` must be baked: its prompts would change with every training step")
        vision: Any = model.clip.vision_model
        self.tile_images, self.side = model.config.tile_images, vision.embeddings.image_size
        self.patch_embedding = vision.embeddings.patch_embedding
        self.first_norm, self.last_norm = vision.pre_layrnorm, vision.post_layernorm
        self.projection = model.clip.visual_projection
        prompts = model._prompts()[1] or []  # K x (m, d)
        count = len(vision.encoder.layers)
        self.layers = nn.ModuleList(
            InferenceLayer(
                layer,
                prompts=prompts[index] if index < len(prompts) else None,
                constant=only_keys_and_values(index, len(prompts), count),
                is_last=index + 1 == count,
            )
            for index, layer in enumerate(vision.encoder.layers)
        )
        with torch.no_grad():
            positions = vision.embeddings.position_embedding.weight  # (1 + N, d)
            text_embeds = F.normalize(model.baked_text_embeds.float(), dim=-1)  # (2, D)
            self.register_buffer("class_token", vision.embeddings.class_embedding + positions[0])
            self.register_buffer("patch_positions", positions[1:].clone())
            self.register_buffer("anchors", text_embeds * model.clip.logit_scale.float().exp())

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """`pixel_values` as `MiraGeForImageDetection.forward` takes them, `(B, 3, H, W)`, to logits `(B, 2)`."""
        if self.tile_images:
            embeds = embed_by_tiles(pixel_values, self.side, self.image_embeds)
        else:
            embeds = self.image_embeds(pixel_values)
        return (embeds[:, None] * self.anchors[None]).sum(dim=-1)  # (B, 2)

    def image_embeds(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images of the encoder's size, `(B, 3, side, side)`, to unit-norm embeddings `(B, D)` in float32."""
        if tuple(pixel_values.shape[-2:]) != (self.side, self.side):
            height, width = pixel_values.shape[-2:]
            raise ValueError(f"Input image size ({height}*{width}) doesn't match model ({self.side}*{self.side}).")
        patches = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype))  # (B, d, side/p, side/p)
        patches = patches.flatten(2).transpose(1, 2) + self.patch_positions  # (B, N, d)
        tokens = torch.cat([self.class_token.expand(patches.shape[0], 1, -1), patches], dim=1)  # (B, 1 + N, d)
        tokens = self.first_norm(tokens)
        for layer in self.layers:
            tokens = layer(tokens)
        return F.normalize(self.projection(self.last_norm(tokens[:, 0])).float(), dim=-1)  # (B, D)


class InferenceLayer(nn.Module):
    """
    A layer of CLIP's vision encoder.

    Args:
        layer (`CLIPEncoderLayer`): The weights.
        prompts (`torch.Tensor` of shape `(m, d)`, *optional*): What this layer's prompts are.
        constant (`bool`): Whether they are needed as keys and values only.
        is_last (`bool`): Whether only the class token's output is wanted.
    """

    prompts: torch.Tensor | None
    prompt_keys: torch.Tensor | None
    prompt_values: torch.Tensor | None

    def __init__(self, layer: Any, prompts: torch.Tensor | None, constant: bool, is_last: bool):
        super().__init__()
        parts, self.is_last = clip_layer(layer), is_last
        self.num_heads = parts.num_heads
        self.norm1, self.norm2, self.out_proj = parts.norm1, parts.norm2, parts.out_proj
        self.query, self.key, self.value = parts.query, parts.key, parts.value
        self.fc1, self.fc2 = parts.fc1, parts.fc2
        self.activation = quick_gelu if isinstance(parts.activation, QuickGELUActivation) else parts.activation
        keys = values = None
        if prompts is not None and constant:
            with torch.no_grad():
                keys, values = keys_and_values(self, prompts)
            prompts = None
        self.register_buffer("prompt_keys", keys)  # (1, heads, m, d / heads)
        self.register_buffer("prompt_values", values)
        self.register_buffer("prompts", None if prompts is None else prompts.detach().clone())

    def attend(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Queries `(B, heads, Q, d / heads)`, keys and values `(B, heads, T, d / heads)` to `(B, Q, d)`."""
        return F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """`(B, tokens, d)` to the same; to `(B, 1, d)` in the last layer."""
        if self.prompts is not None:  # the last prompted layer's, which flow on
            tokens = with_prompts(tokens, self.prompts)
        states: KeysValues | None = None
        if self.prompt_keys is not None and self.prompt_values is not None:
            states = self.prompt_keys, self.prompt_values
        return run_layer(self, tokens, states, self.is_last)


def quick_gelu(states: torch.Tensor) -> torch.Tensor:
    """CLIP's activation with one array less in memory."""
    return torch.sigmoid(states * 1.702).mul_(states)


__all__ = ["VisionInference"]
