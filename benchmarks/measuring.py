"""Makes, trains and times detectors with random weights, full-size or tiny: what the benchmarks here share."""

import os
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, TrainerCallback

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # from a checkout, installed or not

from mirage_hf import MiraGeForImageDetection, __version__
from mirage_hf.configuration_mirage import OPENAI_CLASS_INPUT_IDS
from mirage_hf.environment import processor_name
from mirage_hf.trainer import MiraGeTrainer
from mirage_hf.training_args import MiraGeTrainingArguments

MIB = 2**20
PRECISIONS = ("fp32", "fp16", "bf16")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


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


class OtherPrograms:
    """The share of the machine that went to other programs within a block, on Linux; waited-for children are ours."""

    def __enter__(self) -> "OtherPrograms":
        self.begin = self._read()
        return self

    def __exit__(self, *_) -> None:
        busy, idle, own = (now - then for now, then in zip(self._read(), self.begin, strict=True))
        # A block shorter than a tick of the kernel's clock shows none.
        self.share = max(0.0, busy - own) / (busy + idle) if busy + idle else 0.0

    def _read(self) -> tuple[float, float, float]:
        user, nice, system, idle, waiting, *rest = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
        ticks = os.sysconf("SC_CLK_TCK")
        return (user + nice + system + sum(rest)) / ticks, (idle + waiting) / ticks, sum(os.times()[:4])


def environment(device: str) -> dict:
    import accelerate
    import transformers

    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "device_memory_mib": torch.cuda.get_device_properties(0).total_memory // MIB if device == "cuda" else None,
        "cpu": processor_name(),
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
