"""The networks that several sections time: CLIP's published sizes with random weights, plain and as a detector."""

from collections.abc import Callable

import torch
from measuring import make_clip_config
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPModel

from mirage_hf import MiraGeConfig, MiraGeForImageDetection

NUM_PROMPTS = 8  # m: 8 more words and 8 more patches, the cost that the bars are for; the default is 2
CLASS_TEXT_LENGTH = 77  # places of CLIP's text encoder


def make_detector(name: str, dry: bool) -> MiraGeForImageDetection:
    """
    A detector with random weights.

    Args:
        name (`str`): `"ViT-L/14"` or `"ViT-B/32"`.
        dry (`bool`): A tiny one instead.
    """
    torch.manual_seed(0)
    options = {"num_prompt_tokens": 2 if dry else NUM_PROMPTS}
    if dry or name == "ViT-L/14":
        options["clip_config"] = make_clip_config(dry)
    model = MiraGeForImageDetection._from_config(MiraGeConfig(**options))
    with torch.no_grad():  # new prompts are nearly zero, and no two of them differ much
        for parameter in model.prompt_learner.parameters():
            parameter.normal_(std=0.2)
    return model.eval()


def plain_clip(model: MiraGeForImageDetection) -> CLIPModel:
    """A `CLIPModel` as transformers makes it, without hooks, with the same frozen weights."""
    clip = CLIPModel._from_config(model.config.clip_config).eval().requires_grad_(False)
    clip.load_state_dict(model.clip.state_dict())
    return clip


def count_flops(work: Callable[[], object]) -> int:
    """Floating-point operations of matrix products, convolutions and attention."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def product_share(shares: dict[str, float]) -> float:
    """The share of matrix products in a profile of `profile_shares`."""
    names = ("mm", "addmm", "bmm", "baddbmm", "_linear_pointwise", "mkldnn_convolution", "linear")
    return sum(share for name, share in shares.items() if name.rpartition("::")[2] in names)


__all__ = ["CLASS_TEXT_LENGTH", "NUM_PROMPTS", "count_flops", "make_detector", "plain_clip", "product_share"]
