"""Inference by ViT-L/14 in half precision, batch size by batch size, as a share of the device's matrix peak.

    python benchmarks/speed.py gpu_inference --device cuda --out benchmarks/results/speed

The batch sizes that matter most come first; what doesn't fit into `BUDGET` seconds is left out, which a note says.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from measuring import DTYPES, MIB, make_images
from torch import nn
from transformers import CLIPModel

from mirage_hf.torch_margins import model_logits

from .counting import extra_memory, flops_of_batch
from .kernels import holds, kernel_seconds, set_exact_float32, shares_of
from .networks import make_detector, plain_clip
from .records import Section, compare
from .turns import Settings, matrix_peak, take_turns

BAR = 0.5
BUDGET = 340.0  # seconds after which no further batch size is begun
BATCHES = (128, 256, 512, 64, 32, 16, 8, 4, 1)
EAGER, COMPILED = "MiraGe", "MiraGe, compiled"
PLAIN, PRODUCT = "CLIPModel.get_image_features", "the same arithmetic as matrix products"
IMAGES_A_TURN = 512  # as many calls as that takes, so that small batches are timed for long enough


class Timed(NamedTuple):
    """A way at a batch size, timed and still to be profiled; `work` is one call."""

    case: str
    way: str
    batch: int
    work: Callable[[], object]


def run(settings: Settings) -> Section:
    """bfloat16, then float16, over batch sizes; scores against float32's."""
    begin = time.perf_counter()
    set_exact_float32()
    # Each type, one image and whatever sizes a kernel is made for are graphs of one function; 8 of them is the limit.
    torch._dynamo.config.recompile_limit = 64
    section = Section("ViT-L/14 in half precision", [], {}, {})
    section.details = {"images_per_second": {}, "extra_mib": {}, "matrix_peak_tflops": {}, "kernel_share_of_time": {}}
    exact = make_detector("ViT-L/14", settings.dry).to(settings.device)
    clip = plain_clip(exact).to(settings.device)
    network = model_logits(exact.bake())
    side = exact.config.clip_config.vision_config.image_size
    images = make_images(8 if settings.dry else 64, side).to(settings.device)
    with torch.inference_mode():
        flops = {
            EAGER: flops_of_batch(lambda count: network(images[:count]), 1),
            PLAIN: flops_of_batch(lambda count: clip.get_image_features(images[:count]), 1),
        }
        scores = network(images).softmax(dim=-1)[:, 1]
        section.details["p_fake"] = {"mean": scores.mean().item(), "std": scores.std().item()}
        # The control: between images the scores differ by more than half precision may change them.
        section.details["largest_difference_of_p_fake_between_images"] = (scores.max() - scores.min()).item()
        timed: list[Timed] = []
        for precision in ("bf16", "fp16"):
            timed += measure(precision, settings, section, network, clip, images, scores, flops, begin)
        # Behind all timings: a profiler may leave its hooks in the driver.
        for one in timed:
            add_rows(one, settings, section, flops)
    set_bar(section)
    section.notes.append(
        f"{flops[EAGER] / 1e9:.4g} GFLOP an image, by torch.utils.flop_counter. Weights are random and cast, the "
        "images lie on the device. A matrix product of 8192 × 8192 × 8192 is timed in each round: a way is compared "
        "with the network's arithmetic at that speed. Equality is the largest difference of p_fake from float32's."
    )
    return section


def measure(
    precision: str,
    settings: Settings,
    section: Section,
    exact: nn.Module,
    clip: CLIPModel,
    images: torch.Tensor,
    scores: torch.Tensor,
    flops: dict[str, int],
    begin: float,
) -> list[Timed]:
    """One type: equality, then every batch size while there is time."""
    dtype = DTYPES[precision]
    network, plain = copy.deepcopy(exact).to(dtype), copy.deepcopy(clip).to(dtype)
    compiled = torch.compile(network, fullgraph=True, backend="eager" if settings.dry else "inductor")
    networks = {EAGER: network, COMPILED: compiled}
    with torch.autocast(settings.device, dtype):
        record_equality(section, f"{precision}, autocast", exact, images, scores)
    record_equality(section, f"{precision}, weights cast", network, images.to(dtype), scores)
    try:
        record_equality(section, f"{precision}, compiled", compiled, batch_of(images.to(dtype), len(images)), scores)
    except RuntimeError as error:  # no compiler on this machine, or a kernel that it cannot make
        section.notes.append(f"Not compiled in {precision}: {str(error).strip().splitlines()[0][:200]}")
        del networks[COMPILED]
    timed: list[Timed] = []
    for batch in (4, 1) if settings.dry else BATCHES:
        if time.perf_counter() - begin > BUDGET:
            section.notes.append(
                f"Batches of {batch} in {precision} and what follows: not measured, no time was left."
            )
            break
        try:
            case = f"{precision}, {batch} images"
            timed += measure_batch(case, settings, section, networks, plain, images, batch, flops)
        except torch.OutOfMemoryError:
            section.notes.append(f"Batches of {batch} in {precision} don't fit into the device's memory.")
        if settings.device == "cuda":
            torch.cuda.empty_cache()
    return timed


def batch_of(images: torch.Tensor, batch: int) -> torch.Tensor:
    """So many images, of which compiled code takes any number; one is a case of its own to the compiler."""
    images = images.repeat(-(-batch // len(images)), 1, 1, 1)[:batch]
    if batch > 1:
        torch._dynamo.mark_dynamic(images, 0)
    return images


def record_equality(
    section: Section, name: str, network: Callable, images: torch.Tensor, scores: torch.Tensor
) -> None:
    found = network(images).float().softmax(dim=-1)[:, 1]
    section.equality[f"p_fake, {name}"] = (found - scores).abs().max().item()


def measure_batch(
    case: str,
    settings: Settings,
    section: Section,
    networks: dict[str, Callable],
    plain: CLIPModel,
    images: torch.Tensor,
    batch: int,
    flops: dict[str, int],
) -> list[Timed]:
    """Every way by turns at one batch size."""
    dtype = plain.dtype
    inputs = batch_of(images.to(dtype), batch)
    calls = 1 if settings.dry else max(1, min(20, IMAGES_A_TURN // batch))
    size = 256 if settings.dry else 8192

    def several(network: Callable) -> Callable[[], None]:
        def work() -> None:
            for _ in range(calls):
                network(inputs)

        return work

    def product() -> float:
        return calls * batch * flops[EAGER] / matrix_peak(settings.device, dtype, size, repeats=3)

    every: dict[str, Callable] = networks | {PLAIN: plain.get_image_features}
    ways: dict[str, Callable[[], object]] = {way: several(network) for way, network in every.items()}
    turns = take_turns(ways | {PRODUCT: product}, settings)
    items = calls * batch
    section.turns[case], section.items[case] = turns, items
    each = {way: turns.each(way, items).median for way in turns.seconds}
    section.details["images_per_second"][case] = {way: round(1 / each[way], 1) for way in every}
    section.details["matrix_peak_tflops"][case] = round(flops[EAGER] / each[PRODUCT] / 1e12, 4)
    return [Timed(case, way, batch, partial(networks[way], inputs)) for way in networks]


def add_rows(one: Timed, settings: Settings, section: Section, flops: dict[str, int]) -> None:
    """A way against matrix products and against plain CLIP."""
    case, way, batch, work = one
    turns = section.turns[case]
    items = section.items[case]
    seconds = kernel_seconds(work, settings.device)
    whole = batch * turns.each(way, items).median
    section.profiles[f"{way}, {case}"] = shares_of(seconds)
    section.details["kernel_share_of_time"][f"{way}, {case}"] = round(sum(seconds.values()) / whole, 3)
    section.details["extra_mib"][f"{way}, {case}"] = round(extra_memory(work, settings.device) / MIB, 1)
    common = {"case": case, "items": items, "held_by": holds(seconds, whole, settings.device)}
    section.rows += [
        compare(
            *(turns, way, PRODUCT),
            goal="at least",
            count=f"{flops[EAGER] / 1e9:.4g} GFLOP an image on both sides.",
            limit=1.0,
            **common,
        ),
        compare(
            *(turns, way, PLAIN),
            count=f"{flops[EAGER] / 1e9:.4g} GFLOP an image against {flops[PLAIN] / 1e9:.4g}.",
            limit=flops[EAGER] / flops[PLAIN],
            **common,
        ),
    ]


def set_bar(section: Section) -> None:
    """Puts the bar on the best of bfloat16's shares of the matrix peak."""
    candidates = [
        number for number, row in enumerate(section.rows) if row.alternative == PRODUCT and row.case.startswith("bf16")
    ]
    if candidates:
        best = max(candidates, key=lambda number: section.rows[number].ratio.median)
        section.rows[best] = replace(section.rows[best], bar=BAR)


__all__ = ["run"]
