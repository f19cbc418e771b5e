"""The prompted vision encoder for inference alone: the same numbers as `MiraGeForImageDetection` with less arithmetic.

What the model computes by CLIP's own layers with hooks holds work whose results nobody reads. This leaves it out:

- of the last layer only the class token's output is used, so only its query, projection and MLP are computed;
- the outputs at the prompts' places are replaced by the next layer's prompts, so up to the last prompted layer prompts
  are keys and values only, and those don't depend on the image: they are computed once.

    model = MiraGeForImageDetection.from_pretrained("benchmarks/minibench/mirage-tiny").bake()
    logits = VisionInference(model)(pixel_values)
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.activations import QuickGELUActivation

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
        last = len(vision.encoder.layers) - 1
        self.layers = nn.ModuleList(
            InferenceLayer(
                layer,
                prompts=prompts[index] if index < len(prompts) else None,
                is_last=index == last,
                prompts_replaced=index + 1 < len(prompts),
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
        is_last (`bool`): Whether only the class token's output is wanted.
        prompts_replaced (`bool`): Whether the next layer has prompts of its own.
    """

    prompts: torch.Tensor | None
    prompt_keys: torch.Tensor | None
    prompt_values: torch.Tensor | None

    def __init__(self, layer: Any, prompts: torch.Tensor | None, is_last: bool, prompts_replaced: bool):
        super().__init__()
        attention = layer.self_attn
        self.num_heads, self.is_last = attention.num_heads, is_last
        self.norm1, self.norm2, self.out_proj = layer.layer_norm1, layer.layer_norm2, attention.out_proj
        self.query, self.key, self.value = attention.q_proj, attention.k_proj, attention.v_proj
        self.fc1, self.fc2 = layer.mlp.fc1, layer.mlp.fc2
        activation = layer.mlp.activation_fn
        self.activation = quick_gelu if isinstance(activation, QuickGELUActivation) else activation
        constant = prompts is not None and (is_last or prompts_replaced)
        keys = values = None
        if constant:
            with torch.no_grad():
                normed = self.norm1(prompts)[None]  # (1, m, d)
                keys, values = self.heads(self.key(normed)), self.heads(self.value(normed))
        self.register_buffer("prompt_keys", keys)  # (1, heads, m, d / heads)
        self.register_buffer("prompt_values", values)
        self.register_buffer("prompts", None if constant or prompts is None else prompts.detach().clone())

    def heads(self, states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, tokens, d / heads)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """`(B, tokens, d)` to the same; to `(B, 1, d)` in the last layer."""
        if self.prompts is not None:  # the last prompted layer's, which flow on
            tokens = torch.cat([tokens, self.prompts.expand(tokens.shape[0], -1, -1)], dim=1)  # (B, 1 + N + m, d)
        normed = self.norm1(tokens)
        keys, values = self.heads(self.key(normed)), self.heads(self.value(normed))
        if self.prompt_keys is not None and self.prompt_values is not None:
            keys, values = append(keys, self.prompt_keys), append(values, self.prompt_values)
        if self.is_last:
            tokens, normed = tokens[:, :1], normed[:, :1]
        attended = F.scaled_dot_product_attention(self.heads(self.query(normed)), keys, values)
        tokens = tokens + self.out_proj(attended.transpose(1, 2).flatten(2))
        return tokens + self.fc2(self.activation(self.fc1(self.norm2(tokens))))


def append(states: torch.Tensor, constant: torch.Tensor) -> torch.Tensor:
    """`(B, heads, tokens, d / heads)` and `(1, heads, m, d / heads)` to `(B, heads, tokens + m, d / heads)`."""
    return torch.cat([states, constant.to(states.dtype).expand(states.shape[0], -1, -1, -1)], dim=2)


def quick_gelu(states: torch.Tensor) -> torch.Tensor:
    """CLIP's activation with one array less in memory."""
    return torch.sigmoid(states * 1.702).mul_(states)


__all__ = ["VisionInference"]
