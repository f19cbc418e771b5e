"""The prompted vision encoder against plain CLIP's on the same images: what the method adds to an image's cost."""

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
from .turns import Settings, matrix_peak, take_turns

BARS = {"ViT-B/32": 1.08, "ViT-L/14": 1.03}
BATCH = {"ViT-B/32": 8, "ViT-L/14": 2}
PLAIN = "CLIPModel.get_image_features"
HOOKS = "prompted, CLIP's layers with hooks"
LEAN = "prompted, inference network"
PACKED = "prompted, inference network with packed weights"


def run(settings: Settings) -> Section:
    """Both sizes in float32."""
    section = Section("Prompted vision encoder", [], {}, {})
    section.details["matrix_peak_gflops"] = peak = round(matrix_peak(settings.device, torch.float32) / 1e9, 1)
    for name in BARS:
        measure(name, settings, section, peak)
    section.notes.append(
        "The inference network leaves out what nobody reads of the prompts and of the last layer, and is what a "
        "`Detector` runs; on an x86 CPU its weights are packed for oneDNN. Weights are random, eight prompts a layer."
    )
    return section


@torch.inference_mode()
def measure(name: str, settings: Settings, section: Section, peak: float) -> None:
    """One size of CLIP."""
    model = make_detector(name, settings.dry).to(settings.device)
    clip = plain_clip(model).to(settings.device)
    side = model.config.clip_config.vision_config.image_size
    batch = 2 if settings.dry else BATCH[name]
    images = make_images(batch, side).to(settings.device)
    baked = copy.deepcopy(model).bake()
    network, packed = VisionInference(baked), VisionInference(baked)
    ways = {
        PLAIN: partial(clip.get_image_features, images),
        HOOKS: partial(model.get_image_features, images),
        LEAN: partial(network.image_embeds, images),
    }
    flops = {way: count_flops(work) for way, work in ways.items()}
    if settings.device == "cpu" and can_pack():
        pack_linears(packed.layers)
        ways[PACKED] = partial(packed.image_embeds, images)
        flops[PACKED] = flops[LEAN]
    exact = ways[HOOKS]()
    for way in list(ways)[2:]:
        section.equality[f"{name}, {way}, against hooks"] = (ways[way]() - exact).abs().max().item()
    # The control: the comparison sees prompts.
    without = F.normalize(ways[PLAIN]().pooler_output, dim=-1)
    section.details[f"{name}, without prompts, against hooks"] = (without - exact).abs().max().item()
    turns = section.turns[name] = take_turns(ways, settings)
    section.items[name] = batch
    for way in list(ways)[1:]:
        shares = section.profiles[f"{way}, {name}"] = profile_shares(ways[way], settings.device)
        speed = flops[way] / batch / turns.each(way, batch).median / 1e9
        section.rows.append(
            compare(
                turns,
                way,
                PLAIN,
                case=name,
                items=batch,
                bar=None if way == HOOKS else BARS[name],
                count=f"{flops[way] / batch / 1e9:.4g} GFLOP an image against {flops[PLAIN] / batch / 1e9:.4g}.",
                limit=flops[way] / flops[PLAIN],
                held_by=f"Matrix products take {product_share(shares):.0%} of its time; {speed:.3g} GFLOP/s in all, "
                f"{speed / peak:.0%} of the peak.",
            )
        )


__all__ = ["run"]
