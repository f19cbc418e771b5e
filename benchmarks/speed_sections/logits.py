"""Two-class logits: a baked detector against plain zero-shot CLIP whose text embeddings are cached."""

import copy
from functools import partial

import torch
from measuring import make_images
from torch.nn import functional as F

from mirage_hf.packed_linear import can_pack, pack_linears
from mirage_hf.vision_inference import VisionInference

from .kernels import profile_shares
from .networks import count_flops, make_detector, plain_clip, product_share
from .records import Section, compare
from .turns import Settings, take_turns

BAR = 1.02
BATCHES = {"ViT-B/32": (1, 8), "ViT-L/14": (1,)}
ZERO_SHOT = "zero-shot CLIP, text cached"
UNBAKED = "MiraGe, not baked"
BAKED = "MiraGe, baked, with hooks"
NETWORK = "MiraGe, baked, inference network"


def run(settings: Settings) -> Section:
    """Batches of one and more, in float32."""
    section = Section("Two-class logits", [], {}, {})
    for name, batches in BATCHES.items():
        model = make_detector(name, settings.dry).to(settings.device).requires_grad_(False)
        for batch in batches:
            measure(name, batch, model, settings, section)
    section.notes.append(
        "Baking computes the text anchors and the vision prompts once. The inference network's weights are packed for "
        "oneDNN where that is possible, as a `Detector`'s are."
    )
    return section


@torch.inference_mode()
def measure(name: str, batch: int, model, settings: Settings, section: Section) -> None:
    """One batch size."""
    clip = plain_clip(model).to(settings.device)
    images = make_images(batch, model.config.clip_config.vision_config.image_size).to(settings.device)
    baked = copy.deepcopy(model).bake()
    network = VisionInference(baked)
    cached = clip.get_text_features(input_ids=model.class_input_ids).pooler_output
    anchors = F.normalize(cached, dim=-1) * clip.logit_scale.exp()  # (2, D)

    def zero_shot() -> torch.Tensor:
        return F.normalize(clip.get_image_features(images).pooler_output, dim=-1) @ anchors.T

    def logits(detector) -> torch.Tensor:
        return detector(pixel_values=images).logits

    ways = {ZERO_SHOT: zero_shot, UNBAKED: partial(logits, model), BAKED: partial(logits, baked)}
    ways[NETWORK] = partial(network, images)
    flops = {way: count_flops(work) for way, work in ways.items()}
    if settings.device == "cpu" and can_pack():
        pack_linears(network.layers)
    case, exact = f"{name}, batch of {batch}", ways[UNBAKED]()
    for way in (BAKED, NETWORK):
        section.equality[f"{case}, {way}"] = (ways[way]() - exact).abs().max().item()
    section.details[f"{case}, zero-shot, which has no prompts"] = (ways[ZERO_SHOT]() - exact).abs().max().item()
    turns = section.turns[case] = take_turns(ways, settings)
    section.items[case] = batch
    shares = section.profiles[f"{NETWORK}, {case}"] = profile_shares(ways[NETWORK], settings.device)
    for way, alternative, bar in (
        (NETWORK, ZERO_SHOT, BAR),
        (BAKED, ZERO_SHOT, None),
        (UNBAKED, ZERO_SHOT, None),
        (NETWORK, UNBAKED, None),
    ):
        held_by = f"Matrix products take {product_share(shares):.0%} of its time." if way == NETWORK else ""
        section.rows.append(
            compare(
                turns,
                way,
                alternative,
                case=case,
                items=batch,
                bar=bar,
                count=f"{flops[way] / batch / 1e9:.4g} GFLOP an image against {flops[alternative] / batch / 1e9:.4g}.",
                limit=flops[way] / flops[alternative],
                held_by=held_by,
            )
        )


__all__ = ["run"]
