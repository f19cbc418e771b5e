"""Pretrain the mini-benchmark's backbone: a small `CLIPModel` that knows what was done to a photograph.

    python benchmarks/minibench/build.py fetch photos
    python training/pretrain_tiny_clip.py --steps 1400 --seed 0      # resumable; one CPU thread

It's a stand-in for CLIP where CLIP's weights can't be had. It sees the training photographs of the mini-benchmark
only, degraded by `benchmarks/minibench/operations.py`, with captions that name the operations; never a neural
generator's output and never the phrases "a photo of a real" / "a photo of a fake". Losses: CLIP's contrastive one,
in which equal captions count as positives, plus the attributes (which operations, how strong).
"""

import argparse
import csv
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
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

MINIBENCH = Path(__file__).resolve().parents[1] / "benchmarks" / "minibench"
sys.path.insert(0, str(MINIBENCH))
import operations  # noqa: E402

logger = logging.getLogger("pretrain_tiny_clip")

SIDE, PATCH, HIDDEN = 96, 8, 192
REGION = 128  # what is degraded; the crop inside it leaves the operations' edge effects out
TOKENS = 40
MEAN, STD = 0.5, 0.5
FULL_FROM = 0.85  # before this share of the steps, half of the patches are dropped (https://arxiv.org/abs/2212.00794)


def load_photographs(split: str) -> list[np.ndarray]:
    """Every photograph of a split at working size, decoded once, as bytes."""
    split_of = json.loads((MINIBENCH / "work" / "split.json").read_text())
    names = sorted(name for name, own in split_of.items() if own == split)
    return [np.asarray(Image.open(MINIBENCH / "work" / "photos" / f"{name}.png").convert("RGB")) for name in names]


class DegradedPairs(Dataset):
    """Item `i` is one region of a photograph degraded in two ways, so that content can't tell the two apart."""

    def __init__(self, photographs: list[np.ndarray], seed: int, length: int, start: int = 0) -> None:
        self.photographs, self.seed, self.length, self.start = photographs, seed, length, start

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> list[tuple]:
        rng = np.random.default_rng((self.seed, self.start + index))
        photo = self.photographs[rng.integers(len(self.photographs))]
        scale = min(float(rng.choice((1.0, rng.uniform(1, 1.6)))), min(photo.shape[:2]) / REGION)
        size = int(REGION * scale)
        top, left = (int(rng.integers(length - size + 1)) for length in photo.shape[:2])
        region = photo[top : top + size, left : left + size]
        if size > REGION:
            region = np.asarray(Image.fromarray(region).resize((REGION, REGION), Image.Resampling.LANCZOS))
        region = np.ascontiguousarray(np.rot90(region, rng.integers(4))[:, :: int(rng.choice((1, -1)))])
        pair = []
        for _ in range(2):
            image, caption, attributes, strengths = operations.degrade(region, rng)
            # Half of the crops keep JPEG's 8 x 8 grid where the patches are, as centre crops do.
            top, left = (8 * rng.integers(1, 4, 2)) if rng.random() < 0.5 else rng.integers(8, 25, 2)
            pair.append((image[top : top + SIDE, left : left + SIDE].copy(), caption, attributes, strengths))
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


def build_tokenizer() -> CLIPTokenizer:
    """CLIP's byte-level BPE, with merges for our words alone; the end token comes last."""
    trainer = trainers.BpeTrainer(
        vocab_size=4096, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), end_of_word_suffix="</w>"
    )
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.train_from_iterator(operations.WORDS, trainer)
    state = json.loads(bpe.to_str())["model"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = alphabet + [f"{letter}</w>" for letter in alphabet]
    tokens += sorted(set(state["vocab"]) - set(tokens), key=state["vocab"].get)
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[tuple(merge) for merge in state["merges"]],
        model_max_length=TOKENS,
    )


def build_model(tokenizer: CLIPTokenizer, photographs: list[np.ndarray]) -> CLIPModel:
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "max_position_embeddings": TOKENS,
        "pad_token_id": tokenizer.pad_token_id,
        **ids,
    }
    vision = {
        "hidden_size": HIDDEN,
        "intermediate_size": 4 * HIDDEN,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "image_size": SIDE,
        "patch_size": PATCH,
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128, **ids))
    with torch.no_grad():
        model.vision_model.embeddings.patch_embedding.weight.copy_(dct_filters(photographs))
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


def loss_terms(model: CLIPModel, head: nn.Module, tokenizer: CLIPTokenizer, batch: dict, keep: int | None) -> dict:
    """The three terms, each a scalar in float32."""
    with torch.autocast("cpu", torch.bfloat16):
        pooled = encode_images(model, batch["pixel_values"], keep)
        unique = sorted(set(batch["captions"]))
        texts = model.get_text_features(**tokenizer(unique, padding=True, return_tensors="pt")).pooler_output
        images = model.visual_projection(pooled)
        predictions = head(pooled)
    images, texts, predictions = (
        F.normalize(images.float(), dim=1),
        F.normalize(texts.float(), dim=1),
        predictions.float(),
    )
    row = torch.tensor([unique.index(caption) for caption in batch["captions"]])
    logits = model.logit_scale.float().exp().clamp(max=100) * images @ texts[row].T  # (B, B)
    same = (row[:, None] == row).float()
    target = same / same.sum(1, keepdim=True)
    contrastive = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    size = len(operations.ATTRIBUTES)
    known = ~batch["strengths"].isnan()
    return {
        "contrastive": contrastive,
        "attributes": F.binary_cross_entropy_with_logits(predictions[:, :size], batch["attributes"]),
        "strengths": F.mse_loss(predictions[:, size:][known], batch["strengths"][known]),
    }


@torch.inference_mode()
def evaluate(model: CLIPModel, head: nn.Module, tokenizer: CLIPTokenizer, photographs: list[np.ndarray]) -> dict:
    """Attributes and caption retrieval on photographs that pretraining never saw."""
    loader = DataLoader(DegradedPairs(photographs, seed=12345, length=512), batch_size=32, collate_fn=collate)
    logits, truth, right, best = [], [], [], []
    for batch in loader:
        pooled = encode_images(model, batch["pixel_values"])
        logits.append(head(pooled)[:, : len(operations.ATTRIBUTES)])
        truth.append(batch["attributes"])
        captions = batch["captions"]
        texts = model.get_text_features(**tokenizer(captions, padding=True, return_tensors="pt")).pooler_output
        scores = F.normalize(model.visual_projection(pooled), dim=1) @ F.normalize(texts, dim=1).T  # (64, 64)
        right += [captions[j] == captions[i] for i, j in enumerate(scores.argmax(1))]
        best += [captions[j] == captions[i] for i, j in enumerate(scores.argmax(0))]
    logits, truth = torch.cat(logits), torch.cat(truth)
    hit, miss = (
        ((logits > 0) & (truth > 0)).sum(0) / truth.sum(0),
        ((logits <= 0) & (truth == 0)).sum(0) / (1 - truth).sum(0),
    )
    ranked = {}
    for i, name in enumerate(operations.ATTRIBUTES):
        positive, negative = logits[truth[:, i] > 0, i], logits[truth[:, i] == 0, i]
        ranked[name] = (positive[:, None] > negative).float().mean().item()
    return {
        "attribute accuracy": ((logits > 0) == (truth > 0)).float().mean().item(),
        "always-no accuracy": (truth == 0).float().mean().item(),
        "attribute balanced accuracy": ((hit + miss) / 2).mean().item(),
        "attribute AUC": float(np.mean(list(ranked.values()))),
        "operation AUC": {name: round(ranked[name], 3) for name in operations.OPERATIONS},
        "image to caption, 1 of 64": float(np.mean(right)),
        "caption to image, 1 of 64": float(np.mean(best)),
    }


@torch.inference_mode()
def carried_features(model: CLIPModel, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frozen image features of the carried set, their labels (fake = 1) and kinds."""
    with (MINIBENCH / "carried" / "manifest.csv").open(newline="", encoding="utf-8") as handle:
        rows = [row for row in csv.DictReader(handle) if row["split"] == split]
    processor = image_processor()
    images = [Image.open(MINIBENCH / "carried" / row["path"]) for row in rows]
    features = [
        model.get_image_features(**processor(images[i : i + 64], return_tensors="pt")).pooler_output
        for i in range(0, len(images), 64)
    ]
    labels = np.array([row["label"] == "fake" for row in rows], int)
    kinds = np.array(
        [row["path"].rpartition("_")[2] if row["generator"][:7] != "bicubic" else row["generator"] for row in rows]
    )
    return F.normalize(torch.cat(features), dim=1).numpy(), labels, kinds


def linear_probe(model: CLIPModel) -> dict:
    """Logistic regression on the training split of the carried set, judged on its validation split."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y, _ = carried_features(model, "train")
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000)).fit(
        x, y
    )
    x, y, kinds = carried_features(model, "validation")
    called, score = probe.predict(x), probe.decision_function(x)
    plain = (y == 1) | (kinds == "photo.jpg")
    return {
        "called fake": {str(kind): round(float(called[kinds == kind].mean()), 3) for kind in sorted(set(kinds))},
        "balanced accuracy": float((called[y == 1].mean() + 1 - called[y == 0].mean()) / 2),
        "AUC against photos": float(roc_auc_score(y[plain], score[plain])),
    }


def image_processor() -> CLIPImageProcessorPil:
    side = {"height": SIDE, "width": SIDE}
    return CLIPImageProcessorPil(do_resize=False, crop_size=side, image_mean=[MEAN] * 3, image_std=[STD] * 3)


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
    data = DegradedPairs(photographs, args.seed, (args.steps - first) * half, first * half)
    began = saved = time.monotonic()
    sums: dict[str, float] = {}
    for step, batch in enumerate(DataLoader(data, batch_size=half, collate_fn=collate), first):
        torch.manual_seed(args.seed * 1_000_003 + step)  # the dropped patches: the same after a restart
        keep = None if step >= FULL_FROM * args.steps else (SIDE // PATCH) ** 2 // 2
        terms = loss_terms(model, head, tokenizer, batch, keep)
        loss = terms["contrastive"] + 4 * terms["attributes"] + terms["strengths"]
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
    model.half().save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
    image_processor().save_pretrained(args.output)
    model = CLIPModel.from_pretrained(args.output, dtype=torch.float32).eval()  # what was saved is what is measured
    figures = {"steps": args.steps, "seed": args.seed, "seconds": round(seconds)}
    figures |= evaluate(model, head.eval(), tokenizer, load_photographs("validation"))
    figures["linear probe, validation"] = linear_probe(model)
    logger.info("%s", json.dumps(figures, indent=1))
    (args.output / "pretraining.json").write_text(json.dumps(figures, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1400)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=MINIBENCH / "tiny-clip")
    parser.add_argument("--checkpoint", type=Path, default=MINIBENCH / "work" / "tiny-clip.pt")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
