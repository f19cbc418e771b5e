"""A training step of the prompts, against a plain forward pass, full fine-tuning and deep prompts as usually coded."""

import copy
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import torch
from measuring import make_images
from torch.nn import functional as F

from mirage_hf import MiraGeForImageDetection, lean_layers
from mirage_hf.losses import supervised_contrastive_loss
from mirage_hf.memory_bank import MemoryBank

from .kernels import profile_shares
from .networks import CLASS_TEXT_LENGTH, count_flops, make_detector, plain_clip, product_share
from .records import Section, compare
from .turns import Settings, matrix_peak, take_turns

BATCH = {"ViT-B/32": 16, "ViT-L/14": 2}
STEP, PLAIN = "training step", "plain forward pass"
UNPACKED = "training step, weights not packed"
HOOKS, REFERENCE = "training step with hooks", "the same with 77 tokens of text"
FULL = "full fine-tuning step"
# (alternative, at most so many times its time)
BARS = ((PLAIN, 2.1), (FULL, 0.65), (REFERENCE, 1.0), (UNPACKED, None), (HOOKS, None))


def run(settings: Settings) -> Section:
    """Both sizes in float32, prompts from the first layer on."""
    section = Section("Training step", [], {}, {})
    section.details["matrix_peak_gflops"] = peak = round(matrix_peak(settings.device, torch.float32) / 1e9, 1)
    for name in BATCH:
        measure(name, settings, section, peak)
    section.notes.append(
        "A step is the forward pass of both encoders, cross-entropy and contrastive term with a bank of 1024, the "
        "backward pass and the optimiser's update. The reference is deep prompts as usually coded: CLIP's own layers, "
        "class texts padded to 77 tokens. Full fine-tuning trains the vision encoder and a linear layer. Frozen "
        "weights are packed once for oneDNN, which weights that change with every step can't be."
    )
    return section


def prompt_steps(
    model: MiraGeForImageDetection, images: torch.Tensor, labels: torch.Tensor
) -> dict[str, Callable[[], torch.Tensor]]:
    """Steps of MiraGe's training in three ways, of one model; each gives the loss and leaves the gradients."""
    learnable = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.SGD(
        learnable, lr=0.0, momentum=0.9
    )  # the update's arithmetic, and the same prompts after it
    width = model.config.clip_config.projection_dim
    bank = MemoryBank(1024, width, device=images.device)
    generator = torch.Generator().manual_seed(0)
    while len(bank) < bank.size:
        embeds = F.normalize(torch.randn(128, width, generator=generator), dim=-1)
        bank.push(embeds.to(images.device), torch.arange(128, device=images.device) % 2)
    text = model.class_input_ids

    def step(lean: bool, input_ids: torch.Tensor) -> torch.Tensor:
        model.lean_vision, model.class_input_ids = lean, input_ids
        optimizer.zero_grad()
        output = model(pixel_values=images, labels=labels, return_embeds=True)
        contrast = supervised_contrastive_loss(
            output.image_embeds, labels, bank.embeddings, bank.labels, text_embeds=output.text_embeds
        )
        loss = output.loss + 0.5 * contrast
        loss.backward()
        bank.push(output.image_embeds.detach(), labels)
        optimizer.step()
        return loss.detach()

    def unpacked() -> torch.Tensor:
        with patch.object(lean_layers, "can_pack", return_value=False):
            return step(True, text)

    return {
        STEP: partial(step, True, text),
        UNPACKED: unpacked,
        HOOKS: partial(step, False, text),
        REFERENCE: partial(step, False, pad_text(text, model.config.clip_config.text_config.max_position_embeddings)),
    }


def full_step(clip, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], object]:
    """A step of fine-tuning the whole vision encoder behind a linear layer."""
    vision = copy.deepcopy(clip.vision_model).train().requires_grad_(True)
    head = torch.nn.Linear(vision.config.hidden_size, 2).to(images.device)
    optimizer = torch.optim.SGD([*vision.parameters(), *head.parameters()], lr=1e-6, momentum=0.9)

    def step() -> object:
        optimizer.zero_grad()
        F.cross_entropy(head(vision(pixel_values=images).pooler_output), labels).backward()
        return optimizer.step()

    return step


def pad_text(input_ids: torch.Tensor, places: int) -> torch.Tensor:
    """Class texts `(2, T)` as CLIP's tokenizer pads them, by the end token, to 77 or as many as there are."""
    missing = min(CLASS_TEXT_LENGTH, places) - input_ids.shape[1]
    return F.pad(input_ids, (0, missing), value=int(input_ids.max()))


def gradient(model: MiraGeForImageDetection) -> torch.Tensor:
    """Of all learnable parameters, as one vector."""
    return torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None])


def measure(name: str, settings: Settings, section: Section, peak: float) -> None:
    """One size of CLIP."""
    model = make_detector(name, settings.dry).to(settings.device).train()
    clip = plain_clip(model).to(settings.device)
    batch = 2 if settings.dry else BATCH[name]
    images = make_images(batch, model.config.clip_config.vision_config.image_size).to(settings.device)
    labels = torch.arange(batch, device=settings.device) % 2
    steps = prompt_steps(model, images, labels)
    losses, gradients = {}, {}
    for way in steps:  # each with a new bank
        losses[way], gradients[way] = prompt_steps(model, images, labels)[way]().item(), gradient(model)
    exact = gradients[HOOKS]
    for way in (STEP, UNPACKED, REFERENCE):
        section.equality[f"{name}, gradient relative to its norm, {way} against hooks"] = (
            (gradients[way] - exact).norm() / exact.norm()
        ).item()
        section.equality[f"{name}, loss, {way} against hooks"] = abs(losses[way] - losses[HOOKS])
    ways: dict[str, Callable[[], object]] = {PLAIN: torch.no_grad()(lambda: clip.vision_model(pixel_values=images))}
    ways |= steps | {FULL: full_step(clip, images, labels)}
    each = {way: count_flops(work) / batch / 1e9 for way, work in ways.items()}  # GFLOP for an image
    each[STEP] = each[UNPACKED]  # the same arithmetic, by operators that the counter doesn't know
    turns = section.turns[name] = take_turns(ways, settings)
    section.items[name] = batch
    shares = section.profiles[f"{STEP}, {name}"] = profile_shares(steps[STEP], settings.device)
    speeds = {way: each[way] / turns.each(way, batch).median for way in (STEP, PLAIN)}
    for alternative, bar in BARS:
        section.rows.append(
            compare(
                turns,
                STEP,
                alternative,
                case=name,
                items=batch,
                bar=bar,
                count=f"{each[STEP]:.4g} GFLOP an image against {each[alternative]:.4g}.",
                limit=each[STEP] / each[alternative],
                held_by=f"Matrix products take {product_share(shares):.0%} of its time; {speeds[STEP]:.3g} GFLOP/s in "
                f"all, {speeds[STEP] / peak:.0%} of the peak, the plain forward pass {speeds[PLAIN]:.3g}.",
            )
        )


__all__ = ["run"]
