"""The small backbone's parts: tokenizer, image processor, and a `CLIPModel` that starts from a whitened 8 x 8 DCT."""

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import operations
import torch
from tokenizers import pre_tokenizers
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

SIDE, PATCH, HIDDEN, JOINT = 96, 8, 192, 128
TOKENS = 40
MEAN, STD = 0.5, 0.5


def image_processor() -> CLIPImageProcessorPil:
    side = {"height": SIDE, "width": SIDE}
    return CLIPImageProcessorPil(
        do_resize=False, size={"shortest_edge": SIDE}, crop_size=side, image_mean=[MEAN] * 3, image_std=[STD] * 3
    )


def save(model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Save everything `from_pretrained` needs. Weights are stored in half precision and load as float32."""
    model.half().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=2) + "\n")
    tokenizer.save_pretrained(folder)
    image_processor().save_pretrained(folder)


def build_tokenizer() -> CLIPTokenizer:
    """CLIP's byte-level BPE, with merges for our words alone; the end token comes last."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = alphabet + [f"{letter}</w>" for letter in alphabet]
    merges = _merges(tokens)  # adds what they make to `tokens`
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS)


def _merges(tokens: list[str]) -> list[tuple[str, str]]:
    """Merges until each of our words is one token, the commonest pair first.

    `tokenizers`' own trainer breaks ties between equally common pairs differently from run to run.
    """
    words = [[*word[:-1], f"{word[-1]}</w>"] for word in operations.WORDS]
    merges = []
    while any(len(word) > 1 for word in words):
        counts = Counter(pair for word in words for pair in zip(word, word[1:], strict=False))
        best = min(counts, key=lambda pair: (-counts[pair], tokens.index(pair[0]), tokens.index(pair[1])))
        merges.append(best)
        if "".join(best) not in tokens:
            tokens.append("".join(best))
        for word in words:
            for i in range(len(word) - 2, -1, -1):
                if tuple(word[i : i + 2]) == best:
                    word[i : i + 2] = ["".join(best)]
    return merges


def build_model(tokenizer: CLIPTokenizer, photographs: list[np.ndarray]) -> CLIPModel:
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "max_position_embeddings": TOKENS,
        "projection_dim": JOINT,
        "pad_token_id": tokenizer.pad_token_id,
        **ids,
    }
    vision = {
        "hidden_size": HIDDEN,
        "intermediate_size": 4 * HIDDEN,
        "num_hidden_layers": 5,
        "num_attention_heads": 3,
        "image_size": SIDE,
        "patch_size": PATCH,
        "projection_dim": JOINT,
    }
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=JOINT, **ids)
    model = CLIPModel._from_config(config, attn_implementation="eager")  # the faster one backwards, on the CPU
    with torch.no_grad():
        model.vision_model.embeddings.patch_embedding.weight.copy_(dct_filters(photographs))
        # What was done to a photograph shows in the coefficients' magnitudes, not in their signs: the first block
        # starts by adding |c| to c, with quick_gelu(3c) + quick_gelu(-3c) close to 3|c|.
        mlp, identity = model.vision_model.encoder.layers[0].mlp, torch.eye(HIDDEN)
        mlp.fc1.weight[: 2 * HIDDEN] = torch.cat([3 * identity, -3 * identity])
        mlp.fc2.weight[:, : 2 * HIDDEN] = torch.cat([identity, identity], 1) / 3
    return model


def dct_filters(photographs: list[np.ndarray]) -> torch.Tensor:
    """The 8 x 8 DCT of Y, Cb and Cr as 192 filters, each scaled to unit variance on the photographs."""
    k = torch.arange(PATCH, dtype=torch.float64)
    basis = torch.cos(math.pi * (2 * k + 1) * k[:, None] / (2 * PATCH)) * math.sqrt(2 / PATCH)
    basis[0] /= math.sqrt(2)
    planes = torch.einsum("ux,vy->uvxy", basis, basis).reshape(-1, PATCH, PATCH)  # (64, 8, 8)
    ycbcr = torch.tensor([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]]).double()
    filters = torch.einsum("cr,nxy->cnrxy", ycbcr, planes).reshape(HIDDEN, 3, PATCH, PATCH)
    samples = []
    for photo in photographs:
        values = (torch.from_numpy(photo).permute(2, 0, 1)[None].double() / 255 - MEAN) / STD
        samples.append(F.conv2d(values, filters, stride=PATCH).flatten(2)[0, :, ::7])  # (192, patches)
    deviation = torch.cat(samples, 1).std(1).clamp(min=0.01)
    return (filters / deviation[:, None, None, None]).float()


def encode_images(model: CLIPModel, pixel_values: torch.Tensor, keep: int | None = None) -> torch.Tensor:
    """The pooled state before projection, (B, 192), with `keep` randomly chosen patches or all of them."""
    tower = model.vision_model
    tokens = tower.embeddings(pixel_values)  # (B, 1 + 144, 192)
    if keep is not None:
        order = torch.rand(tokens.shape[0], tokens.shape[1] - 1).argsort(1)[:, :keep] + 1
        order = torch.cat([torch.zeros_like(order[:, :1]), order], 1)[..., None]  # (B, 1 + keep, 1), CLS first
        tokens = tokens.gather(1, order.expand(-1, -1, tokens.shape[2]))
    states = tower.encoder(inputs_embeds=tower.pre_layrnorm(tokens)).last_hidden_state
    return tower.post_layernorm(states[:, 0])
