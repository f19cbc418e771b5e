"""Pretrain the mini-benchmark's backbone: a small `CLIPModel` that knows what was done to a photograph.

    python benchmarks/minibench/build.py fetch photos
    python training/pretrain_tiny_clip.py --steps 4000 --seed 0      # resumable; one CPU thread and one for data

It's a stand-in for CLIP where CLIP's weights can't be had. It sees the training photographs of the mini-benchmark
only, degraded by `benchmarks/minibench/operations.py`, with captions that name the operations and where the finest
detail comes from: the camera ("real") or an upsampler without a trained network ("fake"). It never sees a neural
generator's output. Losses: CLIP's contrastive one, in which equal captions count as positives; the choice between two
captions that differ in where the detail comes from; the attributes (which operations, how strong).
"""

import argparse
import json
import logging
import math
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPModel, CLIPTokenizer

MINIBENCH = Path(__file__).resolve().parents[1] / "benchmarks" / "minibench"
sys.path.insert(0, str(MINIBENCH))
import operations  # noqa: E402
import upsamplers  # noqa: E402
from backbone import (  # noqa: E402
    HIDDEN,
    MEAN,
    SIDE,
    STD,
    build_model,
    build_tokenizer,
    encode_images,
    save,
)
from backbone_eval import evaluate, linear_probe  # noqa: E402

logger = logging.getLogger("pretrain_tiny_clip")

REGION = 144  # what is degraded; the crop inside it leaves the operations' edge effects out
WEIGHTS = {"contrastive": 0.5, "origin": 1.0, "attributes": 6.0, "strengths": 1.0}
# Pairs of short captions that differ in where the detail is said to come from.
ORIGINS = [
    (frame.format(recorded), frame.format(invented))
    for frame in operations.FRAMES
    for recorded, invented in zip(operations.RECORDED, operations.INVENTED, strict=True)
]
# Share of the steps up to which an image is seen through so many random patches (https://arxiv.org/abs/2212.00794);
# all of them after that.
KEEP = ((0.6, 48), (0.93, 72))


def load_photographs(split: str) -> list[np.ndarray]:
    """Every photograph of a split at working size, decoded once, as bytes."""
    split_of = json.loads((MINIBENCH / "work" / "split.json").read_text())
    names = sorted(name for name, own in split_of.items() if own == split)
    return [np.asarray(Image.open(MINIBENCH / "work" / "photos" / f"{name}.png").convert("RGB")) for name in names]


class DegradedPairs(Dataset):
    """Item `i` is one region of a photograph degraded in two ways, so that content can't tell the two apart."""

    def __init__(
        self, photographs: list[np.ndarray], degrade: operations.Degrader, seed: int, length: int, start: int = 0
    ) -> None:
        self.photographs, self.degrade = photographs, degrade
        self.seed, self.length, self.start = seed, length, start

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> list[tuple]:
        rng = np.random.default_rng((self.seed, self.start + index))
        photo = self.photographs[rng.integers(len(self.photographs))]
        scale = min(float(rng.choice((1.0, rng.uniform(1, 1.6)))), min(photo.shape[:2]) / REGION)
        region = upsamplers.cut(photo, int(REGION * scale), rng)
        if scale > 1:
            region = np.asarray(Image.fromarray(region).resize((REGION, REGION), Image.Resampling.LANCZOS))
        region = np.ascontiguousarray(np.rot90(region, int(rng.integers(4)))[:, :: int(rng.choice((1, -1)))])
        pair = []
        invented = bool(rng.random() < 0.5)
        for _ in range(2):
            image, caption, attributes, strengths = self.degrade(region, rng, invented)
            # Half of the crops keep JPEG's 8 x 8 grid where the patches are, as centre crops do.
            top, left = (8 * rng.integers(1, 6, 2)) if rng.random() < 0.5 else rng.integers(8, 41, 2)
            pair.append((image[top : top + SIDE, left : left + SIDE].copy(), caption, attributes, strengths))
            invented ^= bool(rng.random() < 0.75)
        return pair


def collate(pairs: list[list[tuple]]) -> dict:
    images, captions, attributes, strengths = zip(*(item for pair in pairs for item in pair), strict=True)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255  # (B, 3, 96, 96)
    return {
        "pixel_values": (pixels - MEAN) / STD,
        "captions": list(captions),
        "attributes": torch.from_numpy(np.stack(attributes)),  # (B, A)
        "strengths": torch.from_numpy(np.stack(strengths)),  # (B, number of operations)
    }


def loss_terms(model: CLIPModel, head: nn.Module, tokenizer: CLIPTokenizer, batch: dict, keep: int | None) -> dict:
    """The four terms, each a scalar in float32."""
    size = len(operations.ATTRIBUTES)
    attributes, strengths = batch["attributes"], batch["strengths"]
    decided, known = ~attributes.isnan(), ~strengths.isnan()
    unique = sorted(set(batch["captions"]))
    chosen = torch.randint(len(ORIGINS), (4,)).tolist()
    short = [text for index in chosen for text in ORIGINS[index]]  # (8,): camera's and upsampler's by turns
    with torch.autocast("cpu", torch.bfloat16):
        pooled = encode_images(model, batch["pixel_values"], keep)
        texts = model.get_text_features(**tokenizer(unique + short, padding=True, return_tensors="pt")).pooler_output
        images = model.visual_projection(pooled)
        predictions = head(pooled)
    images = F.normalize(images.float(), dim=1)  # (B, 128)
    texts = F.normalize(texts.float(), dim=1)  # (unique + 8, 128)
    predictions = predictions.float()
    scale = model.logit_scale.float().exp().clamp(max=100)
    row = torch.tensor([unique.index(caption) for caption in batch["captions"]])
    logits = scale * images @ texts[row].T  # (B, B)
    same = (row[:, None] == row).float()
    target = same / same.sum(1, keepdim=True)
    origin = attributes[:, -1]
    clear = ~origin.isnan()
    pairs = texts[len(unique) :].reshape(4, 2, -1)[torch.arange(len(origin)) % 4]  # (B, 2, 128)
    choice = scale * torch.einsum("bd,bkd->bk", images, pairs)  # (B, 2)
    return {
        "contrastive": (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2,
        "origin": F.cross_entropy(choice[clear], origin[clear].long()),
        "attributes": F.binary_cross_entropy_with_logits(predictions[:, :size][decided], attributes[decided]),
        "strengths": F.mse_loss(predictions[:, size:][known], strengths[known]),
    }


def train(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    photographs = load_photographs("train")
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, photographs)
    head = nn.Linear(HIDDEN, len(operations.ATTRIBUTES) + len(operations.OPERATIONS))
    logger.info("%d photographs, %.2f M parameters", len(photographs), model.num_parameters() / 1e6)
    named = [*model.named_parameters(), *head.named_parameters()]
    decay = [p for name, p in named if p.ndim > 1 and "embedding" not in name]
    plain = [p for name, p in named if p.ndim < 2 or "embedding" in name]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.98))

    def schedule(step: int) -> float:
        warm = min(1.0, (step + 1) / 80)
        return warm * (0.02 + 0.98 * (1 + math.cos(math.pi * min(step / args.steps, 1))) / 2)

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    parts = {"model": model, "head": head, "optimizer": optimizer, "scheduler": scheduler}
    args.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    first, spent = 0, 0.0
    if args.checkpoint.exists():
        state = torch.load(args.checkpoint, weights_only=True)
        if (state["seed"], state["steps"]) != (args.seed, args.steps):
            raise SystemExit(
                f"{args.checkpoint} belongs to another seed or number of steps: remove it or name another"
            )
        for name, part in parts.items():
            part.load_state_dict(state[name])
        first, spent = state["step"], state["seconds"]
        logger.info("going on at step %d", first)
    half = args.batch_size // 2
    degrader = operations.Degrader(photographs, args.seed)
    data = DegradedPairs(photographs, degrader, args.seed, (args.steps - first) * half, first * half)
    # Images are degraded in a process of their own, which is cheap beside the network.
    batches = DataLoader(data, batch_size=half, collate_fn=collate, num_workers=1, prefetch_factor=8)
    began = saved = time.monotonic()
    sums: dict[str, float] = {}
    for step, batch in enumerate(batches, first):
        torch.manual_seed(args.seed * 1_000_003 + step)  # the dropped patches: the same after a restart
        keep = next((patches for until, patches in KEEP if step < until * args.steps), None)
        terms = loss_terms(model, head, tokenizer, batch, keep)
        loss = sum(WEIGHTS[name] * value for name, value in terms.items())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([p for _, p in named], 1.0)
        optimizer.step()
        scheduler.step()
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + value.item() / 20
        seconds = spent + time.monotonic() - began
        if step % 20 == 19:
            logger.info("step %d, %.0f s, %s", step + 1, seconds, {k: round(v, 3) for k, v in sums.items()})
            sums = {}
        if time.monotonic() - saved > 180 or step == args.steps - 1:
            state = {name: part.state_dict() for name, part in parts.items()}
            partial = args.checkpoint.with_suffix(".partial")
            torch.save(
                {**state, "step": step + 1, "seconds": seconds, "seed": args.seed, "steps": args.steps}, partial
            )
            partial.rename(args.checkpoint)
            saved = time.monotonic()
    seconds = spent + time.monotonic() - began
    save(model, tokenizer, args.output)
    model = CLIPModel.from_pretrained(args.output).eval()  # what was saved is what is measured
    figures = {"steps": args.steps, "seed": args.seed, "seconds": round(seconds)}
    held_out = DegradedPairs(load_photographs("validation"), degrader, seed=12345, length=512)
    figures |= evaluate(model, head.eval(), tokenizer, DataLoader(held_out, batch_size=32, collate_fn=collate))
    figures["linear probe, validation"] = linear_probe(model)
    logger.info("%s", json.dumps(figures, indent=1))
    (args.output / "pretraining.json").write_text(json.dumps(figures, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=MINIBENCH / "tiny-clip")
    parser.add_argument("--checkpoint", type=Path, default=MINIBENCH / "work" / "tiny-clip.pt")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
