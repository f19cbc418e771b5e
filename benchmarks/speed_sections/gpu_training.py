"""Training ViT-L/14 in bfloat16 at a batch of 128: steps, the time of the paper's run, and peak memory.

python benchmarks/speed.py gpu_training --device cuda --out benchmarks/results/speed
"""

import copy
import gc
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from gpu_check import train_if_it_fits
from measuring import MIB, make_images, peak_memory_mib, reset_peak, save_random_clip
from torch import nn
from torch.nn import functional as F
from transformers import CLIPModel

from mirage_hf import MiraGeForImageDetection

from .contrastive import make_step
from .counting import extra_memory, flops_of_batch
from .kernels import holds, kernel_seconds, set_exact_float32, shares_of
from .networks import make_detector, plain_clip
from .records import Section, compare
from .training import pad_text
from .turns import Settings, matrix_peak, take_turns

DTYPE = torch.bfloat16
STEP, CHECKPOINTED = "training step", "the same with activation checkpointing"
TEXT, FULL = "the same with 77 tokens of text", "full fine-tuning step"
PLAIN, PRODUCT = "CLIPModel.get_image_features", "the same arithmetic as matrix products"
PAPERS_IMAGES = 20_000 * 10  # 20k images, ten epochs
MEMORY_SIZE = 1024
Step = Callable[[torch.Tensor], object]


def run(settings: Settings) -> Section:
    """The recipe by the trainer first; then memory, with nothing else on the device; then all ways by turns."""
    set_exact_float32()
    section = Section("Training ViT-L/14 in bfloat16", [], {}, {})
    batch = 4 if settings.dry else 128
    with tempfile.TemporaryDirectory() as folder:
        section.details["trainer"] = by_trainer(folder, settings, batch)
        for way in (CHECKPOINTED, STEP):
            section.details[f"memory, {way}"] = memory_of(way, folder, settings, batch)
        measure(folder, settings, section, batch)
    section.notes.append(
        "A step is `MiraGeTrainer.compute_loss` under autocast with a bank of 1024, the backward pass and the "
        "optimiser's update, on images that lie on the device. The trainer's own figure is of its steps between a "
        "batch's arrival and the update, images decoded and at hand; the paper's run is 20,000 images in ten epochs, "
        "for which it states 42 minutes on an L40."
    )
    return section


def by_trainer(folder: str, settings: Settings, batch: int) -> dict:
    """The recipe through `MiraGeTrainer.train`, and how long the paper's run would take at its speed."""
    clip_dir = Path(folder) / "clip"
    save_random_clip(clip_dir, settings.dry)
    found = train_if_it_fits(clip_dir, "bf16", settings.device, batch, 2 if settings.dry else 20)
    release(settings.device)
    if "skipped" in found:
        return found
    minutes = PAPERS_IMAGES / found["images_per_second"] / 60
    return found | {"minutes_of_the_papers_run": round(minutes, 3), "papers_minutes_on_an_l40": 42}


def release(device: str) -> None:
    """Gives memory back that nothing refers to any more; the trainer and its model refer to each other."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def set_up(model: MiraGeForImageDetection, way: str) -> MiraGeForImageDetection:
    """The detector that a way trains, in place."""
    if way == CHECKPOINTED:
        model.activation_checkpointing_enable()
    if way == TEXT:
        places = model.config.clip_config.text_config.max_position_embeddings
        model.class_input_ids = nn.Buffer(pad_text(model.class_input_ids, places), persistent=False)
    return model


def memory_of(way: str, folder: str, settings: Settings, batch: int) -> dict:
    """Peak memory of a step with one model on the device; `peak_mib` holds its weights and the optimiser's state."""
    release(settings.device)
    model = set_up(make_detector("ViT-L/14", settings.dry).to(settings.device).train(), way)
    step = make_step(model, folder, settings.device, MEMORY_SIZE, 0.5)
    images = make_batch(model, settings, batch)
    try:
        step(images)  # the optimiser's state comes with the first
        reset_peak(settings.device)
        extra = extra_memory(lambda: step(images), settings.device)
    except torch.OutOfMemoryError:
        return {"batch": batch, "peak_mib": None, "extra_mib": None}
    return {"batch": batch, "peak_mib": peak_memory_mib(settings.device), "extra_mib": round(extra / MIB, 3)}


def make_batch(model: MiraGeForImageDetection, settings: Settings, batch: int) -> torch.Tensor:
    images = make_images(min(batch, 16), model.config.clip_config.vision_config.image_size)
    return images.repeat(-(-batch // len(images)), 1, 1, 1)[:batch].to(settings.device)


def full_step(clip: CLIPModel, device: str) -> Step:
    """A step of fine-tuning the whole vision encoder behind a linear layer, under autocast."""
    vision = copy.deepcopy(clip.vision_model).train().requires_grad_(True)
    head = nn.Linear(vision.config.hidden_size, 2).to(device)
    optimizer = torch.optim.SGD([*vision.parameters(), *head.parameters()], lr=1e-6, momentum=0.9)

    def step(images: torch.Tensor) -> None:
        labels = torch.arange(len(images), device=device) % 2
        with torch.autocast(device, DTYPE):
            loss = F.cross_entropy(head(vision(pixel_values=images).pooler_output).float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def plain_pass(clip: CLIPModel, device: str) -> Step:
    """The forward pass of plain CLIP under the same autocast."""

    def forward(images: torch.Tensor) -> None:
        with torch.no_grad(), torch.autocast(device, DTYPE):
            clip.get_image_features(images)

    return forward


def measure(folder: str, settings: Settings, section: Section, batch: int) -> None:
    """Every way by turns, at the largest batch that all of them fit into memory with."""
    release(settings.device)
    models = {STEP: make_detector("ViT-L/14", settings.dry).to(settings.device).train()}
    models |= {way: set_up(copy.deepcopy(models[STEP]), way) for way in (CHECKPOINTED, TEXT)}
    clip = plain_clip(models[STEP]).to(settings.device)
    steps: dict[str, Step] = {
        way: make_step(model, folder, settings.device, MEMORY_SIZE, 0.5) for way, model in models.items()
    }
    section.equality = gradient_differences(models, settings)
    steps |= {FULL: full_step(clip, settings.device), PLAIN: plain_pass(clip, settings.device)}
    images = fitting(steps, make_batch(models[STEP], settings, batch), settings.device)
    batch = len(images)
    flops = {way: flops_of_batch(lambda count, step=step: step(images[:count]), batch) for way, step in steps.items()}
    size = 256 if settings.dry else 8192
    ways: dict[str, Callable[[], object]] = {way: lambda step=step: step(images) for way, step in steps.items()}
    ways[PRODUCT] = lambda: flops[STEP] / matrix_peak(settings.device, DTYPE, size, repeats=3)
    case = f"bf16, {batch} images"
    turns = section.turns[case] = take_turns(ways, settings)
    section.items[case] = batch
    section.details["images_per_second"] = {way: round(1 / turns.each(way, batch).median, 2) for way in steps}
    section.details["flops"] = flops
    seconds = kernel_seconds(ways[STEP], settings.device)
    section.profiles[f"{STEP}, {case}"] = shares_of(seconds)
    held_by = holds(seconds, turns.each(STEP).median, settings.device)
    extra = {way: section.details[f"memory, {way}"]["extra_mib"] for way in (CHECKPOINTED, STEP)}
    twice = f"The forward pass is computed twice, for {extra[CHECKPOINTED]} MiB of memory in place of {extra[STEP]}."
    for way, alternative in ((STEP, PLAIN), (STEP, FULL), (STEP, TEXT), (CHECKPOINTED, STEP)):
        section.rows.append(
            compare(
                *(turns, way, alternative),
                case=case,
                items=batch,
                count=f"{flops[way] / batch / 1e9:.4g} GFLOP an image against {flops[alternative] / batch / 1e9:.4g}.",
                limit=flops[way] / flops[alternative],
                held_by=held_by if way == STEP else twice,
            )
        )
    count = f"{flops[STEP] / batch / 1e9:.4g} GFLOP an image on both sides."
    common = {"case": case, "items": batch, "goal": "at least", "count": count, "limit": 1.0}
    section.rows.append(compare(turns, STEP, PRODUCT, held_by=held_by, **common))


def fitting(steps: dict[str, Step], images: torch.Tensor, device: str) -> torch.Tensor:
    """As many of the images, halved until every step fits into the device's memory."""
    while True:
        try:
            for step in steps.values():
                step(images)
            return images
        except torch.OutOfMemoryError:
            if len(images) == 1:
                raise
        # Outside of `except`: there the exception still holds the frames and their tensors.
        images = images[: len(images) // 2]
        release(device)


def gradient_differences(models: dict[str, MiraGeForImageDetection], settings: Settings) -> dict[str, float]:
    """Of the prompts' gradient by each way from the plain step's, relative to its norm, in float32."""
    images = make_batch(models[STEP], settings, 8)
    labels = torch.arange(len(images), device=settings.device) % 2
    found = {}
    for way, model in models.items():
        loss = model(pixel_values=images, labels=labels).loss
        gradients = torch.autograd.grad(loss, [value for value in model.parameters() if value.requires_grad])
        found[way] = torch.cat([gradient.flatten() for gradient in gradients])
    exact = found.pop(STEP)
    return {
        f"gradient in float32, {way}, relative to its norm": ((gradient - exact).norm() / exact.norm()).item()
        for way, gradient in found.items()
    }


__all__ = ["run"]
