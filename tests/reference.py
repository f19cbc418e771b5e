"""The prompted forward pass written out by hand: no hooks, no CLIP modules called, only their weights.

It follows the method literally, building whole sequences: the text prompts are placed in front of the position
embeddings and the vision prompts in front of the first normalisation, so no special case is left to get wrong.
"""

import torch
from torch.nn import functional as F


def layer_norm(x, module):
    return F.layer_norm(x, x.shape[-1:], module.weight, module.bias, module.eps)


def linear(x, module):
    return x @ module.weight.T + (0 if module.bias is None else module.bias)


def transformer_layer(x, layer, heads, mask):
    """Pre-norm attention and MLP with quick GELU; `mask` (T, T) is added to the scores."""
    batch, length, width = x.shape
    h = layer_norm(x, layer.layer_norm1)
    q, k, v = (
        linear(h, projection).view(batch, length, heads, width // heads).transpose(1, 2)
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)
    )
    scores = q @ k.transpose(-1, -2) / (width // heads) ** 0.5 + mask
    attended = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width)
    x = x + linear(attended, layer.self_attn.out_proj)
    h = linear(layer_norm(x, layer.layer_norm2), layer.mlp.fc1)
    return x + linear(h * torch.sigmoid(1.702 * h), layer.mlp.fc2)


def reference_prompts(model):
    """P_j and F_j(P_j) for j = 1..K, from the learner's parameters (Eq. 9, 10; Table 12 for the other maps)."""
    config, learner = model.config, model.prompt_learner
    maps = [
        learner.mappings[0 if config.shared_mapping else j]
        for j in range(len(learner.mappings) and learner.num_layers)
    ]
    text, vision = learner.text_prompts, learner.vision_prompts
    if config.prompt_modality != "multimodal":
        return text, vision
    if config.mapping == "linear":
        return text, [linear(p, f) for p, f in zip(text, maps, strict=True)]
    if config.mapping == "mlp":
        return text, [linear(linear(p, f[0]).clamp(min=0), f[2]) for p, f in zip(text, maps, strict=True)]
    if config.mapping == "reverse":
        return [linear(p, f) for p, f in zip(vision, maps, strict=True)], vision
    mixed = []
    for t, v, f in zip(text, vision, maps, strict=True):
        weights = (linear(v, f.query) @ linear(t, f.key).T / f.key.out_features**0.5).softmax(-1)
        mixed.append(v + linear(weights @ linear(t, f.value), f.output))
    return text, mixed


def reference_text_features(model, prompts, deep=True, positions=True):
    """(2, D). `deep=False` and `positions=False` leave out one rule each, as negative controls."""
    config, text = model.config, model.clip.text_model
    x = text.embeddings.token_embedding(torch.tensor(config.class_input_ids))  # (2, T, d)
    end = [row.index(98) for row in config.class_input_ids]
    m = config.num_prompt_tokens
    position = text.embeddings.position_embedding.weight
    if prompts is not None:
        first = prompts[0].expand(2, -1, -1)
        if not positions:
            first = first - position[1 : 1 + m]
        rest = x[:, 1:] if config.prompt_position == "inserted" else x[:, 1 + m :]
        end = [e + m for e in end] if config.prompt_position == "inserted" else end
        x = torch.cat([x[:, :1], first, rest], dim=1)
    x = x + position[: x.shape[1]]
    mask = torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1)
    for j, layer in enumerate(text.encoder.layers):
        if prompts is not None and deep and 1 <= j < config.prompt_depth:
            x = torch.cat([x[:, :1], prompts[j].expand(2, -1, -1), x[:, 1 + m :]], dim=1)
        x = transformer_layer(x, layer, text.config.num_attention_heads, mask)
    x = layer_norm(x, text.final_layer_norm)[[0, 1], end]
    x = linear(x, model.clip.text_projection)
    return x / x.norm(dim=-1, keepdim=True)


def reference_image_features(model, prompts, pixel_values, deep=True, normalised=True):
    """(B, D). `deep=False` and `normalised=False` leave out one rule each, as negative controls."""
    config, vision = model.config, model.clip.vision_model
    patch, batch = vision.config.patch_size, len(pixel_values)
    patches = F.unfold(pixel_values, patch, stride=patch).transpose(1, 2)  # (B, N, 3·p·p)
    x = patches @ vision.embeddings.patch_embedding.weight.flatten(1).T
    x = torch.cat([vision.embeddings.class_embedding.expand(batch, 1, -1), x], dim=1)
    x = x + vision.embeddings.position_embedding.weight
    count = x.shape[1]
    if prompts is not None and normalised:
        x = torch.cat([x, prompts[0].expand(batch, -1, -1)], dim=1)
    x = layer_norm(x, vision.pre_layrnorm)
    if prompts is not None and not normalised:
        x = torch.cat([x, prompts[0].expand(batch, -1, -1)], dim=1)
    for j, layer in enumerate(vision.encoder.layers):
        if prompts is not None and deep and 1 <= j < config.prompt_depth:
            x = torch.cat([x[:, :count], prompts[j].expand(batch, -1, -1)], dim=1)
        x = transformer_layer(x, layer, vision.config.num_attention_heads, 0.0)
    x = linear(layer_norm(x[:, 0], vision.post_layernorm), model.clip.visual_projection)
    return x / x.norm(dim=-1, keepdim=True)
