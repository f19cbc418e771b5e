"""One training run from arguments to a checkpoint on disk: what `training/train.py` calls."""

import json
import logging
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, EvalPrediction, PilBackend, set_seed
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from .augmentations import TrainAugmentation
from .baseline_models import BaselineForImageDetection
from .data import load_detection_dataset
from .image_dataset import DetectionImages, SetEpoch
from .image_processing import EvalTransform, TrainTransform, build_image_processor, derive_image_processor
from .metrics import DetectionMetric
from .model_card_training import write_training_run
from .modeling_mirage import MiraGeForImageDetection
from .run_args import DataArguments, ModelArguments
from .thresholds import threshold_at_fpr
from .trainer import MiraGeTrainer
from .training_args import MiraGeTrainingArguments

logger = logging.getLogger(__name__)


def run_training(model_args: ModelArguments, data_args: DataArguments, args: MiraGeTrainingArguments) -> dict:
    """
    Trains a detector and saves it, its image processor, model card, metrics and logs in `args.output_dir`. Where the
    method has nothing to train, the rest is done all the same.

    `args.resume_from_checkpoint="last"` goes on from the last complete checkpoint there, if there is one.

    Returns:
        `dict`: Metrics of training and, if `data_args.eval_split` is set, of the evaluation after it.

    Raises:
        `ValueError`: If data or arguments do not fit; nothing is trained then.
    """
    if args.eval_strategy != "no" and data_args.eval_split is None:
        raise ValueError("`eval_strategy` needs an `eval_split` to evaluate.")
    started = time.perf_counter()
    set_seed(args.seed)
    model = load_model(model_args)
    config: Any = model.config
    image_size = config.clip_config.vision_config.image_size if config.model_type == "mirage" else config.image_size
    if data_args.eval_size is not None:
        if data_args.eval_size < image_size:
            raise ValueError(f"`eval_size` must be at least the encoder's {image_size}, got {data_args.eval_size}.")
        model.config.tile_images = data_args.eval_size > image_size
    eval_size = data_args.eval_size or (None if model.config.tile_images else image_size)
    train_processor, processor = (
        make_image_processor(model_args, size, data_args.geometry) for size in (image_size, eval_size)
    )
    options = data_args.loading_options()
    augmentation = TrainAugmentation(data_args.augmentation_config, image_size)
    with args.main_process_first(desc="reading the data set"):
        rows, report = load_detection_dataset(
            data_args.data,
            split=data_args.train_split,
            max_per_class=data_args.max_per_class,
            seed=args.seed,
            return_report=True,
            **options,
        )
        if args.should_log:  # a wrong reading of the labels must be seen before the GPU-day
            logger.warning("Training on\n%s", report)
        eval_rows = eval_report = None
        if data_args.eval_split is not None:
            eval_rows, eval_report = load_detection_dataset(
                data_args.data, split=data_args.eval_split, return_report=True, **options
            )
    if data_args.repeats or data_args.balance_classes:
        rows = rows.select(epoch_rows(rows["label"], rows["generator"], data_args.repeats, data_args.balance_classes))
    train_dataset = DetectionImages(rows, TrainTransform(train_processor, augmentation), seed=args.seed)
    eval_dataset = None if eval_rows is None else DetectionImages(eval_rows, EvalTransform(processor))
    trainer = MiraGeTrainer(
        add_lora(model, model_args.lora_rank),
        args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=processor,
        compute_metrics=compute_metrics,
        callbacks=[SetEpoch(train_dataset)],
    )
    resume = args.resume_from_checkpoint
    metrics: dict[str, Any] = {}
    if any(parameter.requires_grad for parameter in trainer.model.parameters()):
        result = trainer.train(resume_from_checkpoint=last_checkpoint(args.output_dir) if resume == "last" else resume)
        metrics |= result.metrics
    if eval_dataset is not None and eval_rows is not None:
        metrics |= trainer.evaluate()
        if data_args.threshold_fpr is not None:
            answers = trainer.predict(eval_dataset)
            scores = fake_probabilities(answers.predictions)
            threshold = threshold_at_fpr(scores, answers.label_ids, eval_rows["generator"], data_args.threshold_fpr)
            model.config.threshold = metrics["threshold"] = threshold
    if isinstance(trainer.model, PeftModel):  # one checkpoint that loads without peft
        trainer.model = trainer.model.merge_and_unload()
    trainer.save_model()
    trainer.save_state()
    trainer.save_metrics("all", metrics)
    if args.should_save:
        write_training_run(
            model_args,
            data_args,
            args,
            train=report,
            evaluation=eval_report,
            rows_per_epoch=len(rows),
            seconds=time.perf_counter() - started,
        )
        if config.model_type == "mirage":  # the stock card, which a baseline gets when it is pushed, may ask the Hub
            trainer.create_model_card()
    if args.push_to_hub:
        trainer.push_to_hub()
    trainer.finish()
    return metrics


def epoch_rows(
    labels: Sequence[int], generators: Sequence[str], repeats: dict[str, int], balance_classes: bool
) -> list[int]:
    """
    Row numbers of one epoch, in order.

    Args:
        labels, generators (`Sequence`):
            Columns of the data set.
        repeats (`dict[str, int]`):
            How often the rows of a generator appear; once if it is not named.
        balance_classes (`bool`):
            Whether rows of the smaller class are then repeated by turns until both are equally many.

    Raises:
        `ValueError`: If `repeats` names a generator that is not there.
    """
    unknown = sorted(set(repeats) - set(generators))
    if unknown:
        known = ", ".join(sorted(set(generators)))
        raise ValueError(f"`generator_repeats` names {', '.join(unknown)}; the data set has {known}.")
    by_class: list[list[int]] = [[], []]
    for row, (label, generator) in enumerate(zip(labels, generators, strict=True)):
        by_class[label] += [row] * repeats.get(generator, 1)
    if balance_classes:
        size = max(map(len, by_class))
        by_class = [list(islice(cycle(rows), size)) for rows in by_class]
    return sorted(by_class[0] + by_class[1])


def make_image_processor(model_args: ModelArguments, size: int | None, geometry: str | None) -> PilBackend:
    """[`derive_image_processor`] of the checkpoint; ImageNet's normalisation where there is none."""
    if model_args.model_name_or_path is not None:
        return derive_image_processor(model_args.model_name_or_path, size, geometry, model_args.model_revision)
    return build_image_processor(size or 224, geometry or "resize", IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


def load_model(model_args: ModelArguments) -> MiraGeForImageDetection | BaselineForImageDetection:
    """
    A fresh detector on a CLIP checkpoint, or a MiraGe checkpoint as it is, in float32; or a baseline, likewise.

    Raises:
        `ValueError`: If the checkpoint is another method's, or prompt fields are given for one that has its own.
    """
    if model_args.baseline is not None and model_args.baseline.family != "prompts":
        return load_baseline(model_args, model_args.baseline.family)
    name, revision = str(model_args.model_name_or_path), model_args.model_revision
    attention: dict[str, Any] = (
        {"attn_implementation": model_args.attn_implementation} if model_args.attn_implementation else {}
    )
    fields = model_args.prompt_fields()
    config = AutoConfig.from_pretrained(name, revision=revision)
    if config.model_type == "mirage":
        if fields:
            raise ValueError(f"{name} is a MiraGe checkpoint with prompts of its own; leave out {', '.join(fields)}.")
        if model_args.baseline is not None:
            for field in model_args.baseline.fixed:
                if getattr(config, field) != model_args.baseline.prompts[field]:
                    raise ValueError(f"{name} is no checkpoint of {model_args.method}: its `{field}` is another.")
        model = MiraGeForImageDetection.from_pretrained(name, revision=revision, dtype=torch.float32, **attention)
    elif config.model_type == "mirage-baseline":
        raise ValueError(f"{name} is a checkpoint of method {config.method}, not of {model_args.method}.")
    else:
        prompts = {} if model_args.baseline is None else model_args.baseline.prompts
        model = MiraGeForImageDetection.from_clip(name, revision=revision, **attention, **(prompts | fields))
    model.config.save_base_model |= model_args.save_base_model
    if model_args.base_model_dtype is not None:
        model.config.base_model_dtype = model_args.base_model_dtype
        model.config.check()
    return model


def load_baseline(model_args: ModelArguments, family: str) -> BaselineForImageDetection:
    """
    A fresh baseline of the families `"clip"` and `"classifier"`, or its checkpoint as it is, in float32.

    Raises:
        `ValueError`: If the checkpoint does not fit the method.
    """
    name, method, fields = model_args.model_name_or_path, model_args.method, model_args.prompt_fields()
    options: dict[str, Any] = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
    }
    if name is not None:
        config = AutoConfig.from_pretrained(name, revision=model_args.model_revision)
        if config.model_type == "mirage-baseline":
            if config.method != method:
                raise ValueError(f"{name} is a checkpoint of method {config.method}, not of {method}.")
            if fields:
                raise ValueError(f"{name} is a checkpoint with texts of its own; leave out {', '.join(fields)}.")
            given = {key: value for key, value in options.items() if value is not None}
            return BaselineForImageDetection.from_pretrained(name, dtype=torch.float32, **given)
    if family == "clip":
        return BaselineForImageDetection.from_clip(method, str(name), **options, **fields)
    return BaselineForImageDetection.from_classifier(method, name, overrides=model_args.overrides, **options)


def add_lora(model, rank: int):
    """
    The model with LoRA of this rank on all query and value projections of CLIP, beside MiraGe's prompts: a
    `PeftModel`; itself for rank 0.
    """
    if rank == 0:
        return model
    # A parameter of a kept module would be trained twice over; the prompt learner's own maps are no targets.
    targets = r"clip\..*\.(q_proj|v_proj)"
    beside = ["prompt_learner"] if model.config.model_type == "mirage" else None
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, modules_to_save=beside)
    return get_peft_model(model, config)


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Detection metrics of logits of shape `(N, 2)`, for the Trainer; what one class leaves undefined is absent."""
    scores = fake_probabilities(prediction.predictions)
    metrics = DetectionMetric().compute(predictions=scores.tolist(), references=prediction.label_ids.tolist())
    return {name: value for name, value in metrics.items() if value is not None}


def fake_probabilities(logits) -> torch.Tensor:
    """Probability of fake, `(N,)`, of logits of shape `(N, 2)`."""
    return torch.as_tensor(logits).float().softmax(dim=-1)[:, 1]


def last_checkpoint(output_dir: str) -> str | None:
    """The newest complete checkpoint of a run: the Trainer writes `trainer_state.json` last."""
    found = []
    for folder in Path(output_dir).glob("checkpoint-*"):
        try:
            json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
            found.append((int(folder.name.rpartition("-")[2]), str(folder)))
        except (OSError, ValueError):
            logger.warning("Passed over %s, which is not complete.", folder)
    return max(found)[1] if found else None


__all__ = ["add_lora", "compute_metrics", "last_checkpoint", "load_model", "run_training"]
