"""Trains the tiny detector on random images in a process of its own: `python training_worker.py OUT [options]`.

Run by the tests, plainly, under `torchrun`, or to be killed; writes `OUT/final.safetensors` and `OUT/final.json`.
"""

import argparse
import json
import os
import signal
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from conftest import make_model
from PIL import Image
from safetensors.torch import save_file
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from mirage_hf.augmentations import AugmentationConfig, TrainAugmentation
from mirage_hf.image_dataset import DetectionImages, SetEpoch
from mirage_hf.image_processing import TrainTransform, build_image_processor
from mirage_hf.trainer import MiraGeTrainer
from mirage_hf.training_args import MiraGeTrainingArguments


class RandomImages(torch.utils.data.Dataset):
    """Ready inputs of two classes with different means."""

    def __init__(self, count: int):
        self.images = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(3))
        self.labels = torch.arange(count) % 2
        self.images += self.labels[:, None, None, None] * 0.5

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"pixel_values": self.images[index], "labels": self.labels[index]}


def make_augmented_images(count: int) -> DetectionImages:
    """Pictures of two classes, augmented anew in every epoch by everything there is."""
    generator = np.random.default_rng(3)
    pixels = generator.integers(0, 200, (count, 40, 40, 3)) + 50 * (np.arange(count) % 2)[:, None, None, None]
    rows = [{"image": Image.fromarray(p.astype(np.uint8)), "label": i % 2} for i, p in enumerate(pixels)]
    names = [field.name for field in fields(AugmentationConfig) if field.name.endswith("_probability")]
    augmentation = TrainAugmentation(AugmentationConfig(**dict.fromkeys(names, 0.7)), image_size=32)
    return DetectionImages(rows, TrainTransform(build_image_processor(32), augmentation), seed=5)


class KillAt(TrainerCallback):
    """Ends the process the hard way."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def make_trainer(output_dir, model=None, images=None, **arguments) -> MiraGeTrainer:
    """A trainer on 48 images with a bank of 20, learning fast enough for differences to show."""
    defaults = {
        "use_cpu": True,
        "seed": 5,
        "per_device_train_batch_size": 8,
        "num_train_epochs": 2,
        "warmup_epochs": 0.5,
        "learning_rate": 0.05,
        "memory_size": 20,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "report_to": "none",
    }
    args = MiraGeTrainingArguments(output_dir=str(output_dir), **(defaults | arguments))
    model = make_model() if model is None else model
    images = RandomImages(48) if images is None else images
    callbacks = [SetEpoch(images)] if isinstance(images, DetectionImages) else None
    return MiraGeTrainer(model, args, train_dataset=images, eval_dataset=RandomImages(10), callbacks=callbacks)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--augment", action="store_true")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--save-steps", type=int, default=0)
    parser.add_argument("--kill-at", type=int, default=0)
    options = parser.parse_args()
    saving = {"save_strategy": "steps", "save_steps": options.save_steps} if options.save_steps else {}
    trainer = make_trainer(
        options.output_dir,
        images=make_augmented_images(48) if options.augment else None,
        per_device_train_batch_size=options.batch,
        gradient_accumulation_steps=options.accumulation,
        dataloader_num_workers=options.workers,
        **saving,
    )
    if options.kill_at:
        trainer.add_callback(KillAt(options.kill_at))
    last = get_last_checkpoint(options.output_dir) if options.output_dir.is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    trainer.evaluate()
    if trainer.args.process_index == 0:
        final = {**trainer.model.state_dict(), **{f"bank.{k}": v for k, v in trainer.memory_bank.state_dict().items()}}
        save_file({key: value.contiguous() for key, value in final.items()}, options.output_dir / "final.safetensors")
        facts = {
            "world_size": trainer.args.world_size,
            "steps": trainer.state.global_step,
            "resumed_from": last and Path(last).name,
            "log": trainer.state.log_history,
        }
        (options.output_dir / "final.json").write_text(json.dumps(facts))
    trainer.finish()


if __name__ == "__main__":
    main()
