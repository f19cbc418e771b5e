"""Checks the detector at the paper's size, ViT-L/14 with random weights, on one GPU.

A training run in each precision, and how far logits and gradients of half precision and of the attention kernels are
from float32; written as `gpu_check.json`. Speed and memory are measured by `benchmarks/speed.py`:

    python benchmarks/gpu_check.py --out benchmarks/results

Nothing is downloaded and no data set is needed. `--device cpu --dry` runs the same code on a tiny model in seconds.
"""

import argparse
import contextlib
import gc
import json
import tempfile
import time
from pathlib import Path

import torch
from measuring import (
    DTYPES,
    PRECISIONS,
    environment,
    load_detector,
    make_images,
    peak_rss_mib,
    save_random_clip,
    train,
)
from torch.nn.attention import SDPBackend, sdpa_kernel

from mirage_hf import MiraGeForImageDetection

KERNELS = {
    "sdpa_flash": SDPBackend.FLASH_ATTENTION,
    "sdpa_efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa_cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa_math": SDPBackend.MATH,
}


def train_if_it_fits(clip_dir: Path, precision: str, device: str, batch_size: int, steps: int) -> dict:
    """`train` with the batch halved until it fits the GPU's memory."""
    if precision == "fp16" and device == "cpu":
        return {"precision": precision, "skipped": "float16 training needs a GPU"}
    while True:
        try:
            return train(clip_dir, precision, device, batch_size, steps)
        except torch.OutOfMemoryError:
            if batch_size == 1:
                return {"precision": precision, "skipped": "out of memory"}
        batch_size //= 2
        gc.collect()  # trainer and model refer to each other; in `except`, the exception still would to them


def answers(model: MiraGeForImageDetection, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits (B, 2), probabilities of fake (B,) and all prompt gradients as one vector, in float32 on the CPU."""
    labels = torch.arange(len(images), device=images.device) % 2
    outputs = model(pixel_values=images, labels=labels)
    outputs.loss.backward()
    gradient = torch.cat([p.grad.flatten().float().cpu() for p in model.prompt_learner.parameters()])
    model.zero_grad()
    logits = outputs.logits.detach().cpu()
    return logits, logits.softmax(dim=-1)[:, 1], gradient


def compare(name: str, got: tuple, expected: tuple) -> dict:
    """Largest differences of two `answers`; the gradient's is relative to its norm."""
    return {
        "name": name,
        "max_abs_difference_of_logits": (got[0] - expected[0]).abs().max().item(),
        "max_abs_difference_of_p_fake": (got[1] - expected[1]).abs().max().item(),
        "relative_difference_of_gradient": ((got[2] - expected[2]).norm() / expected[2].norm()).item(),
    }


def precision_agreement(clip_dir: Path, device: str, count: int) -> dict:
    """float16 and bfloat16, as weights and as autocast, against float32."""
    model = load_detector(clip_dir, device)
    images = make_images(count, model.config.clip_config.vision_config.image_size).to(device)
    expected = answers(model, images)
    rows = []
    for precision in ("fp16", "bf16"):
        with torch.autocast(device, DTYPES[precision]):
            rows.append(compare(f"{precision}_autocast", answers(model, images), expected))
        cast = load_detector(clip_dir, device, DTYPES[precision])
        rows.append(compare(f"{precision}_weights", answers(cast, images), expected))
    p_fake = expected[1]
    return {"images": count, "p_fake_mean": p_fake.mean().item(), "p_fake_std": p_fake.std().item(), "rows": rows}


def attention_agreement(clip_dir: Path, device: str, count: int) -> list[dict]:
    """Every attention path against eager attention, in float16 on a GPU and float32 elsewhere."""
    model = load_detector(clip_dir, device, torch.float16 if device == "cuda" else torch.float32)
    images = make_images(count, model.config.clip_config.vision_config.image_size).to(device)
    model.set_attn_implementation("eager")
    expected = answers(model, images)
    rows = [compare("eager", answers(model, images), expected)]
    for name in ("sdpa", *KERNELS, "flash_attention_2"):
        kernel = sdpa_kernel(KERNELS[name]) if name in KERNELS else contextlib.nullcontext()
        try:
            model.set_attn_implementation("sdpa" if name in KERNELS else name)
            with kernel:
                rows.append(compare(name, answers(model, images), expected))
        except (ImportError, RuntimeError, ValueError) as error:  # no such kernel on this device, or no such package
            rows.append({"name": name, "unavailable": str(error).splitlines()[0][:200]})
    return rows


def run(device: str, dry: bool, batch_size: int, steps: int) -> dict:
    """All checks, as the content of the JSON file."""
    # The reference must be true float32: TF32 keeps 10 bits of the mantissa.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    count = 4 if dry else 32
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        clip_dir = Path(folder) / "clip"
        save_random_clip(clip_dir, dry)
        report = {
            "command": f"python benchmarks/gpu_check.py --device {device} --batch-size {batch_size} --steps {steps}"
            + (" --dry" if dry else ""),
            "model": "tiny CLIP" if dry else "CLIP ViT-L/14",
            "weights": "random",
            "environment": environment(device),
            "training": [train_if_it_fits(clip_dir, name, device, batch_size, steps) for name in PRECISIONS],
            "precision": precision_agreement(clip_dir, device, count),
            "attention": attention_agreement(clip_dir, device, count),
        }
    return report | {"peak_rss_mib": peak_rss_mib(), "seconds": round(time.perf_counter() - start, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where gpu_check.json is written")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--dry", action="store_true", help="a tiny model and two steps, to see that the script works")
    parser.add_argument("--batch-size", type=int, default=None, help="128, the paper's, or 4 in a dry run")
    parser.add_argument("--steps", type=int, default=None, help="steps of each training run: 20, or 2 in a dry run")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device; try `--device cpu --dry`")
    report = run(
        args.device, args.dry, args.batch_size or (4 if args.dry else 128), args.steps or (2 if args.dry else 20)
    )
    args.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2)
    (args.out / "gpu_check.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
