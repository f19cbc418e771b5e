"""Checks and times the detector at the paper's size, ViT-L/14 with random weights, on one GPU.

One training run in each precision, the agreement of half precision and of the attention kernels with float32, images
per second of training and inference, memory, and the size of an adapter checkpoint; written as `gpu_check.json`:

    python benchmarks/gpu_check.py --out benchmarks/results

Nothing is downloaded and no data set is needed. `--device cpu --dry` runs the same code on a tiny model in seconds.
"""

import argparse
import contextlib
import json
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPConfig, CLIPModel, TrainerCallback

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # from a checkout, installed or not

from mirage_hf import MiraGeForImageDetection, __version__
from mirage_hf.configuration_mirage import OPENAI_CLASS_INPUT_IDS
from mirage_hf.trainer import MiraGeTrainer
from mirage_hf.training_args import MiraGeTrainingArguments

MIB = 2**20
PRECISIONS = ("fp32", "fp16", "bf16")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
KERNELS = {
    "sdpa_flash": SDPBackend.FLASH_ATTENTION,
    "sdpa_efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa_cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa_math": SDPBackend.MATH,
}


# --------------------------------------------------------------------------------------------------- model and images


def make_clip_config(dry: bool) -> CLIPConfig:
    """The sizes of openai/clip-vit-large-patch14, legacy end token included; tiny ones for a dry run."""
    text = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    vision = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    vision |= {"patch_size": 14, "image_size": 224}
    dim = 768
    if dry:
        text = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        vision = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
        vision |= {"patch_size": 8, "image_size": 32}
        dim = 24
    text |= {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "projection_dim": dim}
    return CLIPConfig(
        text_config=text,
        vision_config=vision | {"projection_dim": dim},
        projection_dim=dim,
        logit_scale_init_value=4.6052,  # the published models' 100, so that probabilities react as theirs do
    )


def save_random_clip(folder: Path, dry: bool) -> None:
    """A CLIP checkpoint with random bfloat16 weights."""
    torch.manual_seed(0)
    CLIPModel._from_config(make_clip_config(dry), dtype=torch.bfloat16).save_pretrained(folder)


def load_detector(clip_dir: Path, device: str, dtype: torch.dtype = torch.float32) -> MiraGeForImageDetection:
    """The same detector at every call."""
    torch.manual_seed(0)
    model = MiraGeForImageDetection.from_clip(clip_dir, class_input_ids=OPENAI_CLASS_INPUT_IDS, dtype=dtype)
    return model.to(device).eval()


def make_images(count: int, size: int) -> torch.Tensor:
    """Noise of varied mean and contrast, (count, 3, size, size)."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(count, 3, size, size, generator=generator)
    contrast = torch.rand(count, 1, 1, 1, generator=generator) + 0.2
    return noise * contrast + torch.randn(count, 3, 1, 1, generator=generator)


class RandomImages(torch.utils.data.Dataset):
    """`length` labelled items that share a few images, so that fetching them costs nothing."""

    def __init__(self, length: int, size: int):
        self.length, self.images = length, make_images(16, size)

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return {"pixel_values": self.images[index % len(self.images)], "labels": index % 2}


# ------------------------------------------------------------------------------------------------------- measurements


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def reset_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_memory_mib(device: str) -> float | None:
    """Largest memory of the GPU in use since `reset_peak`; `None` without one."""
    return round(torch.cuda.max_memory_allocated() / MIB, 1) if device == "cuda" else None


def peak_rss_mib() -> float:
    """Largest memory of this process, on Linux."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def environment(device: str) -> dict:
    import accelerate
    import transformers

    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "device_memory_mib": torch.cuda.get_device_properties(0).total_memory // MIB if device == "cuda" else None,
        "cpu": cpu_model(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "transformers": transformers.__version__,
        "accelerate": accelerate.__version__,
        "mirage_hf": __version__,
    }


class StepTimer(TrainerCallback):
    """Seconds of each optimisation step, from the batch being there to the parameters being updated."""

    def __init__(self, device: str):
        self.device, self.seconds, self.start = device, [], 0.0

    def on_step_begin(self, args, state, control, **kwargs):
        synchronize(self.device)
        self.start = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        synchronize(self.device)
        self.seconds.append(time.perf_counter() - self.start)


def train(clip_dir: Path, precision: str, device: str, batch_size: int, steps: int) -> dict:
    """Trains from scratch for `steps` steps through `MiraGeTrainer`; the first fifth of them is not timed."""
    model = load_detector(clip_dir, device)
    before = {name: parameter.detach().cpu().clone() for name, parameter in model.named_parameters()}
    size = model.config.clip_config.vision_config.image_size
    timer = StepTimer(device)
    reset_peak(device)
    with tempfile.TemporaryDirectory() as folder:
        args = MiraGeTrainingArguments(
            output_dir=folder,
            max_steps=steps,
            warmup_epochs=0,
            per_device_train_batch_size=batch_size,
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            use_cpu=device == "cpu",
            fp16=precision == "fp16",
            bf16=precision == "bf16",
        )
        data = RandomImages(batch_size * steps, size)
        trainer = MiraGeTrainer(model=model, args=args, train_dataset=data, callbacks=[timer])
        trainer.train()
    scaler = trainer.accelerator.scaler
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    moved = {name for name, p in model.named_parameters() if not torch.equal(p.detach().cpu(), before[name])}
    learnable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    timed = timer.seconds[steps // 5 :]
    return {
        "precision": precision,
        "batch_size": batch_size,
        "steps": steps,
        "seconds_per_step": round(sum(timed) / len(timed), 4),
        "images_per_second": round(batch_size * len(timed) / sum(timed), 2),
        "peak_memory_mib": peak_memory_mib(device),
        "losses": [round(loss, 4) for loss in losses],
        "gradient_scale": None if scaler is None else scaler.get_scale(),
        "prompts_moved": learnable <= moved,
        "clip_unchanged": moved <= learnable,
    }


def train_if_it_fits(clip_dir: Path, precision: str, device: str, batch_size: int, steps: int) -> dict:
    """`train` with the batch halved until it fits the GPU's memory."""
    if precision == "fp16" and device == "cpu":
        return {"precision": precision, "skipped": "float16 training needs a GPU"}
    while True:
        try:
            return train(clip_dir, precision, device, batch_size, steps)
        except torch.cuda.OutOfMemoryError:
            if batch_size == 1:
                return {"precision": precision, "skipped": "out of memory"}
            batch_size //= 2


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


@torch.inference_mode()
def inference(
    clip_dir: Path, device: str, batch_size: int, steps: int, precisions: tuple[str, ...] = PRECISIONS
) -> list[dict]:
    """Images per second at `batch_size` and the latency of one image, the model as trained and baked."""
    rows = []
    for precision in precisions:
        model = load_detector(clip_dir, device, DTYPES[precision])
        size = model.config.clip_config.vision_config.image_size
        images = make_images(min(batch_size, 16), size).to(device, DTYPES[precision])
        images = images.repeat(-(-batch_size // len(images)), 1, 1, 1)[:batch_size]
        for baked in (False, True):
            if baked:
                model.bake()
            reset_peak(device)
            row = {"precision": precision, "baked": baked, "batch_size": batch_size}
            for key, batch in (("batch", images), ("single", images[:1])):
                for _ in range(2):
                    model(batch)
                synchronize(device)
                start = time.perf_counter()
                for _ in range(steps):
                    model(batch)
                synchronize(device)
                seconds = (time.perf_counter() - start) / steps
                if key == "batch":
                    row["images_per_second"] = round(batch_size / seconds, 2)
                else:
                    row["single_image_ms"] = round(1000 * seconds, 3)
            rows.append(row | {"peak_memory_mib": peak_memory_mib(device)})
    return rows


@torch.inference_mode()
def adapter(clip_dir: Path, device: str) -> dict:
    """Size of the saved prompts and whether they load to the same logits."""
    model = load_detector(clip_dir, device)
    images = make_images(4, model.config.clip_config.vision_config.image_size).to(device)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        mib = (Path(folder) / "model.safetensors").stat().st_size / MIB
        reloaded = MiraGeForImageDetection.from_pretrained(folder).to(device).eval()
        difference = (reloaded(images).logits - model(images).logits).abs().max().item()
    return {
        "mib": round(mib, 3),
        "prompt_parameters": sum(parameter.numel() for parameter in model.prompt_learner.parameters()),
        "clip_parameters": sum(parameter.numel() for parameter in model.clip.parameters()),
        "reload_max_abs_difference_of_logits": difference,
    }


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
            "inference": inference(clip_dir, device, batch_size, steps),
            "adapter": adapter(clip_dir, device),
        }
    return report | {"peak_rss_mib": peak_rss_mib(), "seconds": round(time.perf_counter() - start, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where gpu_check.json is written")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--dry", action="store_true", help="a tiny model and two steps, to see that the script works")
    parser.add_argument("--batch-size", type=int, default=None, help="128, the paper's, or 4 in a dry run")
    parser.add_argument("--steps", type=int, default=None, help="steps of each timed run: 20, or 2 in a dry run")
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
