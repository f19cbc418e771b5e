"""A layer of CLIP's vision encoder with prompts, without the work whose results nobody reads.

CLIP's own layers with hooks compute more than the class token's embedding needs:

- of the last layer only the class token's output is used, so only its query, projection and MLP are needed;
- the outputs at the prompts' places are replaced by the next layer's prompts, so up to the last layer with prompts of
  its own, prompts are needed as keys and values only, which are the same for all images;
- in training, no gradient has to flow into the first layer's own tokens, which nothing learnable precedes.

In training, weights that stay as they are lie packed for the CPU's kernels (see `packed_linear`), and CLIP's
activation is one kernel forth and one back.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional as F
from transformers.activations import QuickGELUActivation
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.clip.modeling_clip import CLIPAttention, CLIPEncoderLayer, eager_attention_forward

from .packed_linear import can_freeze, can_pack, frozen_linear
from .prompt_learner import PromptInjector

KeysValues = tuple[torch.Tensor, torch.Tensor]


class Layer(Protocol):
    """What a layer consists of."""

    num_heads: int
    norm1: Any
    query: Any
    key: Any
    value: Any
    out_proj: Any
    norm2: Any
    fc1: Any
    fc2: Any
    activation: Any

    def attend(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Queries `(B, heads, Q, d / heads)`, keys and values `(B, heads, T, d / heads)` to `(B, Q, d)`."""


@dataclass(slots=True)
class ClipLayer:
    """A [`Layer`] made of a `CLIPEncoderLayer`'s parts."""

    attention: CLIPAttention
    num_heads: int
    norm1: nn.Module
    query: nn.Module
    key: nn.Module
    value: nn.Module
    out_proj: nn.Module
    norm2: nn.Module
    fc1: nn.Module
    fc2: nn.Module
    activation: Any

    def for_training(self, pack: bool) -> "ClipLayer":
        """
        The same layer, faster in training.

        Args:
            pack (`bool`): Whether linear layers that [`can_freeze`] and that nobody watches are packed.
        """
        parts: dict[str, Any] = {}
        for name in ("query", "key", "value", "out_proj", "fc1", "fc2") if pack else ():
            linear = getattr(self, name)
            if can_freeze(linear) and not _is_watched(linear):
                parts[name] = frozen_linear(linear)
        if type(self.activation) is QuickGELUActivation:
            parts["activation"] = quick_gelu_by_silu
        return replace(self, **parts)

    def attend(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """By the implementation that the configuration names."""
        name = self.attention.config._attn_implementation
        function = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention_forward)
        attended, _ = function(self.attention, queries, keys, values, None, scaling=self.attention.scale, dropout=0.0)
        return attended.flatten(2)  # (B, Q, heads, d / heads) to (B, Q, d)


def clip_layer(layer: CLIPEncoderLayer) -> ClipLayer:
    """The parts of a layer, as they are now: an adapter around one of them is used."""
    attention, mlp = layer.self_attn, layer.mlp
    return ClipLayer(
        attention,
        attention.num_heads,
        layer.layer_norm1,
        attention.q_proj,
        attention.k_proj,
        attention.v_proj,
        attention.out_proj,
        layer.layer_norm2,
        mlp.fc1,
        mlp.fc2,
        mlp.activation_fn,
    )


def can_be_lean(encoder: nn.Module) -> bool:
    """
    Whether a `CLIPEncoder` may be run by parts: its layers are CLIP's own, nobody wraps or watches them, and none is
    checkpointed or drops attention weights at random.
    """
    return not _is_watched(encoder) and all(
        type(layer) is CLIPEncoderLayer
        and type(layer.self_attn) is CLIPAttention
        and not any(_is_watched(module) for module in (layer, layer.self_attn, layer.mlp))
        and not (layer.gradient_checkpointing and layer.training)
        and not (layer.self_attn.dropout and layer.training)
        for layer in encoder.layers  # type: ignore[union-attr]
    )


def _is_watched(module: nn.Module) -> bool:
    """Whether a call of the module does more than its class says: sharding, offloading and recorders hook in there."""
    hooks = [hook for hook in module._forward_pre_hooks.values() if not isinstance(hook, PromptInjector)]
    return bool(hooks or module._forward_hooks or module._backward_hooks or "forward" in vars(module))


def encode_by_parts(
    vision_model: Any, pixel_values: torch.Tensor, prompts: Sequence[torch.Tensor] | None
) -> torch.Tensor:
    """
    What a `CLIPVisionModel` with prompts gives as `pooler_output`.

    Args:
        vision_model (`CLIPVisionModel`):
            One whose encoder [`can_be_lean`].
        pixel_values (`torch.Tensor` of shape `(B, 3, H, W)`):
            Images of the model's size.
        prompts (`Sequence[torch.Tensor]`, *optional*):
            K prompts of shape `(m, d)`, for the first K layers.

    Returns:
        `torch.Tensor` of shape `(B, d)`.
    """
    tokens = vision_model.pre_layrnorm(vision_model.embeddings(pixel_values))  # (B, 1 + N, d)
    layers, prompts = vision_model.encoder.layers, prompts or []
    pack = can_pack() and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()
    for index, layer in enumerate(layers):
        parts, is_last, states = clip_layer(layer).for_training(pack), index + 1 == len(layers), None
        if index < len(prompts):
            if only_keys_and_values(index, len(prompts), len(layers)):
                states = keys_and_values(parts, prompts[index])
            else:
                tokens = with_prompts(tokens, prompts[index])
        tokens = run_layer(parts, tokens, states, is_last)
    return vision_model.post_layernorm(tokens[:, 0])


def only_keys_and_values(index: int, prompted: int, layers: int) -> bool:
    """Whether nobody reads the outputs at the prompts' places in layer `index` of as many, the first ones prompted."""
    return index + 1 == layers or index + 1 < prompted


def keys_and_values(layer: Layer, prompts: torch.Tensor) -> KeysValues:
    """Prompts `(m, d)` to their keys and values, each `(1, heads, m, d / heads)`."""
    normed = layer.norm1(prompts)[None]  # (1, m, d)
    return split_heads(layer.key(normed), layer.num_heads), split_heads(layer.value(normed), layer.num_heads)


def with_prompts(tokens: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
    """`(B, T, d)` and `(m, d)` to `(B, T + m, d)`."""
    return torch.cat([tokens, prompts.to(tokens.dtype).expand(tokens.shape[0], -1, -1)], dim=1)


def run_layer(layer: Layer, tokens: torch.Tensor, prompts: KeysValues | None, is_last: bool) -> torch.Tensor:
    """
    One layer.

    Args:
        layer ([`Layer`]): Its parts.
        tokens (`torch.Tensor` of shape `(B, T, d)`): Its inputs.
        prompts (`tuple`, *optional*): From [`keys_and_values`].
        is_last (`bool`): Whether only the class token is wanted.

    Returns:
        `torch.Tensor` of shape `(B, T, d)`, `(B, 1, d)` of the last layer.
    """
    normed = layer.norm1(tokens)
    keys, values = split_heads(layer.key(normed), layer.num_heads), split_heads(layer.value(normed), layer.num_heads)
    if prompts is not None:
        keys, values = _append(keys, prompts[0]), _append(values, prompts[1])
    if is_last:
        tokens, normed = tokens[:, :1], normed[:, :1]
    attended = layer.attend(split_heads(layer.query(normed), layer.num_heads), keys, values)
    tokens = tokens + layer.out_proj(attended)
    return tokens + layer.fc2(layer.activation(layer.fc1(layer.norm2(tokens))))


def quick_gelu_by_silu(states: torch.Tensor) -> torch.Tensor:
    """CLIP's activation, x · sigmoid(1.702 x), by a kernel that PyTorch has in both directions."""
    return F.silu(states * 1.702) / 1.702


def split_heads(states: torch.Tensor, num_heads: int) -> torch.Tensor:
    """`(B, T, d)` to `(B, heads, T, d / heads)`."""
    return states.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def _append(states: torch.Tensor, constant: torch.Tensor) -> torch.Tensor:
    """`(B, heads, T, d / heads)` and `(1, heads, m, d / heads)` to `(B, heads, T + m, d / heads)`."""
    return torch.cat([states, constant.to(states.dtype).expand(states.shape[0], -1, -1, -1)], dim=2)


__all__ = [
    "ClipLayer",
    "KeysValues",
    "Layer",
    "can_be_lean",
    "encode_by_parts",
    "keys_and_values",
    "only_keys_and_values",
    "run_layer",
    "with_prompts",
]
