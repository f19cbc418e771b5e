"""The contrastive term with its memory bank as a share of a training step, and what both take of memory.

The bar is on the term by itself, since on a shared machine two whole steps differ by more than its share.
"""

import tempfile
import time
from collections.abc import Callable

import torch
from measuring import make_images, synchronize
from torch.nn import functional as F

from mirage_hf import MiraGeForImageDetection
from mirage_hf.losses import supervised_contrastive_loss
from mirage_hf.memory_bank import MemoryBank
from mirage_hf.trainer import MiraGeTrainer
from mirage_hf.training_args import MiraGeTrainingArguments

from .counting import extra_memory, flops_of_batch
from .kernels import holds, kernel_seconds, shares_of
from .networks import count_flops, make_detector
from .records import Section, compare
from .turns import Settings, matrix_peak, take_turns

BAR = 0.01
TERM, WITH, WITHOUT = "contrastive term and bank", "training step with it", "training step without it"
PAPERS_DIM = 768  # of the joint space of ViT-L/14


def run(settings: Settings) -> Section:
    """One size of CLIP, under bfloat16 autocast: ViT-L/14 on a GPU; ViT-B/32, whose step is the shortest, on a CPU."""
    name = "ViT-L/14" if settings.device == "cuda" else "ViT-B/32"
    batch, memory = (8, 32) if settings.dry else (128, 1024)
    case = f"{name}, {batch} images, bank of {memory}"
    model = make_detector(name, settings.dry).to(settings.device).train()
    images = make_images(batch, model.config.clip_config.vision_config.image_size).to(settings.device)
    dim = model.config.clip_config.projection_dim
    term = Term(batch, memory, dim, settings.device)
    section = Section("Contrastive term and memory bank", [], {}, {})
    with tempfile.TemporaryDirectory() as folder:
        steps = {
            way: make_step(model, folder, settings.device, memory, weight)
            for way, weight in ((WITH, 0.5), (WITHOUT, 0.0))
        }
        flops = {
            TERM: count_flops(term),
            WITHOUT: flops_of_batch(lambda count: steps[WITHOUT](images[:count]), batch),
        }
        ways: dict[str, Callable[[], object]] = {way: lambda step=step: step(images) for way, step in steps.items()}
        turns = section.turns[case] = take_turns({TERM: term.timed} | ways, settings)
    section.items[case] = batch
    seconds = kernel_seconds(term, settings.device)
    section.profiles[TERM] = shares_of(seconds)
    peak = matrix_peak(settings.device, torch.float32)
    speed = flops[TERM] / turns.each(TERM).median
    limit = flops[TERM] / flops[WITHOUT]
    rows, columns = 2 * batch, 2 * batch + memory
    count = (
        f"{flops[TERM] / 1e9:.4g} GFLOP, 3 products of {rows} × {columns} × {dim}, against "
        f"{flops[WITHOUT] / 1e9:.4g}; {memory / (3 * columns):.0%} of it is the bank's gradient, which nobody reads."
    )
    held_by = (
        f"{holds(seconds, turns.each(TERM).median, settings.device)} {speed / 1e9:.3g} GFLOP/s in all, "
        f"{speed / peak:.0%} of the peak in float32, while the step's products are in bfloat16."
    )
    whole = turns.ratio(WITH, WITHOUT)
    noise = (
        f"The term by itself takes {turns.ratio(TERM, WITHOUT).median:.2%} of a step; between rounds the steps' ratio "
        f"differs by {whole.most - whole.least:.2%}."
    )
    common = {"case": case, "items": batch, "count": count}
    section.rows = [
        compare(turns, TERM, WITHOUT, bar=BAR, limit=limit, held_by=held_by, **common),
        compare(turns, WITH, WITHOUT, limit=1 + limit, held_by=noise, **common),
    ]
    section.equality = differences(term)
    section.details = memory_taken(term, memory, settings.device) | {"flops": flops}
    section.notes.append(
        "A step is `MiraGeTrainer.compute_loss` under bfloat16 autocast, the backward pass and the optimiser's "
        "update. The term reads the bank, computes the loss in float32, puts the batch into the bank and goes back "
        "through the loss. Weights and images are random."
    )
    return section


class Term:
    """Contrastive loss, its gradient and the bank's update, on random embeddings."""

    def __init__(self, batch: int, memory: int, dim: int, device: str, dtype: torch.dtype = torch.float32):
        generator = torch.Generator().manual_seed(0)

        def embeddings(count: int) -> torch.Tensor:
            return F.normalize(torch.randn(count, dim, generator=generator), dim=-1).to(device)

        self.device = device
        self.images, self.text = embeddings(batch).requires_grad_(), embeddings(2).requires_grad_()
        self.labels = torch.arange(batch, device=device) % 2
        self.bank = MemoryBank(memory, dim, device=device, dtype=dtype)
        self.bank.push(embeddings(memory), torch.arange(memory, device=device) % 2)

    def loss(self, bank: MemoryBank) -> torch.Tensor:
        return supervised_contrastive_loss(
            self.images, self.labels, bank.embeddings, bank.labels, text_embeds=self.text
        )

    def __call__(self) -> None:
        self.images.grad = self.text.grad = None
        loss = self.loss(self.bank)
        self.bank.push(self.images.detach(), self.labels)
        loss.backward()

    def timed(self, calls: int = 20) -> float:
        """Seconds for one, the mean of several: a clock's ticks and a first call's costs don't count then."""
        self()
        synchronize(self.device)
        begin = time.perf_counter()
        for _ in range(calls):
            self()
        synchronize(self.device)
        return (time.perf_counter() - begin) / calls


def make_step(
    model: MiraGeForImageDetection, folder: str, device: str, memory: int, weight: float
) -> Callable[[torch.Tensor], None]:
    """A step of training on images, with the term at this weight; 0 leaves it and the bank out."""
    args = MiraGeTrainingArguments(
        output_dir=folder, discriminative_weight=weight, memory_size=memory, use_cpu=device == "cpu"
    )
    trainer = MiraGeTrainer(model=model, args=args)
    # Full from the start, as after eight steps; of size 0 it stays empty.
    full = Term(2, memory, model.config.clip_config.projection_dim, device).bank
    trainer.memory_bank.push(full.embeddings, full.labels)
    learnable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learnable, lr=1e-6, momentum=0.9)

    def step(images: torch.Tensor) -> None:
        labels = torch.arange(len(images), device=device) % 2
        with torch.autocast(device, torch.bfloat16):
            loss = trainer.compute_loss(model, {"pixel_values": images, "labels": labels})
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def plain_loss(term: Term, bank: MemoryBank) -> torch.Tensor:
    """The same loss in float64, anchor by anchor as the equation reads."""
    text = term.text.double()[term.labels]
    members = torch.cat([term.images.double(), text, bank.embeddings.double()])
    labels = torch.cat([term.labels, term.labels, bank.labels])
    losses = []
    for anchor in range(2 * len(term.labels)):
        others = torch.arange(len(members), device=members.device) != anchor
        logits = members[others] @ members[anchor] / 0.07
        positive = labels[others] == labels[anchor]
        losses.append(-(logits - logits.exp().sum().log())[positive].mean())
    return torch.stack(losses).mean()


def differences(term: Term) -> dict[str, float]:
    """Of the loss and its gradient from the plain loop, with a bank in float32 and one in float16."""
    half = MemoryBank(term.bank.size, term.bank.dim, device=term.device, dtype=torch.float16)
    half.load_state_dict(term.bank.state_dict())
    found = {}
    exact, exact_gradient = loss_and_gradient(plain_loss(term, term.bank), term)
    for name, bank in (("float32", term.bank), ("float16", half)):
        loss, gradient = loss_and_gradient(term.loss(bank), term)
        found[f"loss, bank in {name}, against a plain loop in float64"] = abs(loss - exact)
        found[f"gradient likewise, {name}, relative to its norm"] = (
            (gradient - exact_gradient).norm() / exact_gradient.norm()
        ).item()
    return found


def loss_and_gradient(loss: torch.Tensor, term: Term) -> tuple[float, torch.Tensor]:
    gradients = torch.autograd.grad(loss, (term.images, term.text))
    return loss.item(), torch.cat([gradient.flatten().double() for gradient in gradients])


def memory_taken(term: Term, memory: int, device: str) -> dict[str, int]:
    """Bytes of banks as they lie there, and the most that the term takes beside its bank."""
    banks = {name: getattr(torch, name) for name in ("float32", "float16")}
    return {
        f"bank_bytes_{PAPERS_DIM}_{name}": MemoryBank(memory, PAPERS_DIM, device=device, dtype=dtype).nbytes
        for name, dtype in banks.items()
    } | {"bank_bytes": term.bank.nbytes, "extra_bytes_of_the_term": extra_memory(term, device)}


__all__ = ["run"]
