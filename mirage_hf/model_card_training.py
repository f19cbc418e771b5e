"""What a training run was made with and on: `training_run.json`, which a model card is fed by.

The Trainer's own files hold its arguments and metrics. This one adds what they don't: the data and their counts, how
often an epoch has them, the augmentations, the machine, versions and time, and which weights came out.
"""

import json
import os
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .environment import device_name, processor_name, versions
from .files import write_atomically
from .model_card_facts import TRAINING_FILES, file_hash
from .report import DatasetReport
from .run_args import DataArguments, ModelArguments
from .training_args import MiraGeTrainingArguments

SCHEMA_VERSION = 1


def write_training_run(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: MiraGeTrainingArguments,
    *,
    train: DatasetReport,
    evaluation: DatasetReport | None,
    rows_per_epoch: int,
    seconds: float,
) -> None:
    """
    Writes `training_run.json` beside the saved checkpoint. No path of this machine is in it.

    Args:
        model_args, data_args, args:
            The arguments of the run.
        train, evaluation ([`DatasetReport`]):
            What was trained on, and evaluated on after it.
        rows_per_epoch (`int`):
            Images of one epoch, repeated ones counted as often as they come up.
        seconds (`float`):
            Wall time of the run, reading the data set and the evaluations included.
    """
    folder = Path(args.output_dir)
    base, data = model_args.model_name_or_path, data_args.data
    run = {
        "schema_version": SCHEMA_VERSION,
        "method": model_args.method,
        "base_model": None if base is None else shown_name(base),
        "base_model_revision": model_args.model_revision,
        "lora_rank": model_args.lora_rank,
        "seed": args.seed,
        "data": {"name": shown_name(data), "hub": not os.path.exists(data), **_described(train)},
        "rows_per_epoch": rows_per_epoch,
        "max_per_class": data_args.max_per_class,
        "generator_repeats": data_args.repeats,
        "balance_classes": data_args.balance_classes,
        "augmentation": asdict(data_args.augmentation_config),
        "evaluation": None if evaluation is None else _described(evaluation),
        "threshold_fpr": data_args.threshold_fpr,
        "seconds": round(seconds, 1),
        "hardware": hardware(args.device) | {"processes": args.world_size},
        "versions": versions() | {name: version(name) for name in ("accelerate", "datasets")},
        "weights_sha256": file_hash(folder / "model.safetensors"),
    }
    write_atomically(folder / TRAINING_FILES["run"][0], json.dumps(run, indent=2) + "\n")


def shown_name(name: str) -> str:
    """A Hub id as it is; of a folder or file of this machine its last part."""
    return Path(os.path.abspath(name)).name if os.path.exists(name) or os.path.isabs(name) else name


def hardware(device: torch.device) -> dict[str, Any]:
    """The device by its name, the processor, and the threads that torch computes with."""
    return {
        "device": device_name(device),
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
    }


def _described(report: DatasetReport) -> dict[str, Any]:
    return {
        "layout": report.layout,
        "split": report.split,
        "counts": {name: list(pair) for name, pair in report.counts.items()},
        "unreadable": len(report.skipped),
    }


__all__ = ["hardware", "shown_name", "write_training_run"]
