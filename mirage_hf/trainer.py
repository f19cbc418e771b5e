"""Training MiraGe: the stock `Trainer` with the contrastive term, the memory bank and the recipe's schedule.

Only the methods that the method needs are overridden; loops, mixed precision, processes and checkpoints are stock.
"""

import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch.nn.modules.module import _IncompatibleKeys
from torch.optim.lr_scheduler import LambdaLR
from transformers import ProgressCallback, Trainer
from transformers.utils import SAFE_WEIGHTS_NAME

from .adapter_checkpoint import is_adapter
from .losses import supervised_contrastive_loss
from .memory_bank import MemoryBank
from .model_card import write_card
from .progress import ImageProgressCallback
from .representation import representation_statistics
from .training_args import MiraGeTrainingArguments

MEMORY_BANK_NAME = "memory_bank.safetensors"


class MiraGeTrainer(Trainer):
    """
    Trains a [`MiraGeForImageDetection`] on L = L_ce + λ · L_dis (Eq. 8), L_dis over batch, text anchors and bank; a
    [`BaselineForImageDetection`] on L_ce.

    Logged beside the total loss: `cross_entropy`, `discriminative_loss`, `memory_fill` (share of the bank in use), and
    the batch's intra-class variation and inter-class separation (Definitions 4.1, 4.2) where the model has image and
    text embeddings. In evaluation the loss is the cross-entropy alone, so that runs with different λ compare, and the
    bank is not touched.

    The contrastive set is the batch of one optimizer step, however it is cut. With several processes embeddings are
    gathered with gradients, and every process keeps the same bank. With gradient accumulation the embeddings of the
    other micro-batches are computed first, without gradients, as in GradCache (https://arxiv.org/abs/2101.06983): one
    more forward pass for all but the first. `contrast_over_accumulation=False` takes each micro-batch by itself.

    Args:
        model ([`MiraGeForImageDetection`], [`BaselineForImageDetection`] or a PEFT model around one):
            The detector.
        args ([`MiraGeTrainingArguments`]):
            Recipe and the method's own arguments.
        kwargs:
            As for `transformers.Trainer`. Give the image processor as `processing_class`: it is saved beside the
            weights, where `pipeline` looks for it.

    Raises:
        `ValueError`: If the model is baked, a baseline is to be trained with the contrastive term, or several GPUs are
            to be driven by one process.
    """

    args: MiraGeTrainingArguments
    lr_scheduler: LambdaLR | None
    loss_is_scaled_for_ga = False  # the loss is a mean over the micro-batch, the Trainer divides by their number

    def __init__(self, model, args: MiraGeTrainingArguments, **kwargs):
        is_baseline = model.config.model_type == "mirage-baseline"
        if is_baseline and args.discriminative_weight > 0:
            raise ValueError("A baseline has no contrastive term; set `discriminative_weight` to 0.")
        if not is_baseline and model.config.baked:
            raise ValueError("A baked model has nothing left to train; load the checkpoint it was baked from.")
        if args.n_gpu > 1:
            raise ValueError(
                "One process drives several GPUs, which splits the contrastive set; start one process for each with "
                "`accelerate launch` or `torchrun`, or choose one GPU with CUDA_VISIBLE_DEVICES."
            )
        super().__init__(model=model, args=args, **kwargs)
        if not is_baseline:
            detector = model.get_base_model() if isinstance(model, PeftModel) else model
            detector.lean_vision = args.lean_vision
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(ImageProgressCallback())
        size = args.memory_size if args.discriminative_weight > 0 else 0
        width = 1 if is_baseline else model.config.clip_config.projection_dim
        self.memory_bank = MemoryBank(size, width, device=args.device)
        self._micro_batches: list[dict] = []  # of the current optimizer step
        self._embeddings: list[tuple[torch.Tensor, torch.Tensor]] = []  # of its micro-batches, detached
        self._position = 0
        self._term_sums: dict[str, torch.Tensor] = {}
        self._term_counts: dict[str, torch.Tensor] = {}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Cross-entropy in evaluation; in training plus λ times the contrastive term, then the bank's update."""
        labels = inputs["labels"]
        outputs = model(**inputs, return_embeds=True)
        loss = outputs.loss
        if model.training and (outputs.image_embeds is None or outputs.text_embeds is None):
            self._add_terms({"cross_entropy": loss.detach()})
        elif model.training:
            image_embeds, labels = gather_embeddings(outputs.image_embeds, labels)  # (W·B, D), (W·B,)
            terms = {"cross_entropy": loss.detach()}
            if self.args.discriminative_weight > 0:
                last = self._position + 1 >= len(self._micro_batches)
                if len(self._micro_batches) > 1:
                    image_embeds, labels = self._embeddings_of_the_step(model, image_embeds, labels)
                discriminative_loss = supervised_contrastive_loss(
                    image_embeds,
                    labels,
                    self.memory_bank.embeddings,
                    self.memory_bank.labels,
                    text_embeds=outputs.text_embeds,
                    temperature=self.args.temperature,
                    text_anchors=self.args.text_anchors,
                    memory_as_anchors=self.args.memory_as_anchors,
                    reduction=self.args.discriminative_reduction,
                )
                loss = loss + self.args.discriminative_weight * discriminative_loss
                if last:
                    self.memory_bank.push(image_embeds.detach(), labels)
                terms["discriminative_loss"] = discriminative_loss.detach()
            self._add_terms(terms | representation_statistics(image_embeds.detach(), labels, outputs.text_embeds))
        return (loss, outputs) if return_outputs else loss

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The micro-batches of an optimizer step, kept for the contrastive term."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._micro_batches = batches if self.args.contrast_over_accumulation else []
        self._position = 0
        return batches, num_items

    def _embeddings_of_the_step(self, model, image_embeds, labels) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Embeddings and labels of all micro-batches of the optimizer step; gradients flow to the current one's.

        The Trainer divides each loss by the number n of micro-batches. Text anchors are in all n losses, so theirs
        comes out right. An image is in one, so its gradient is multiplied by n.
        """
        if self._position == 0:
            self._embeddings = [(image_embeds.detach(), labels)]
            with torch.no_grad():
                for batch in self._micro_batches[1:]:
                    inputs = self._prepare_inputs(batch)
                    embeds = model(**inputs, return_embeds=True).image_embeds
                    self._embeddings.append(gather_embeddings(embeds, inputs["labels"]))
        count = len(self._micro_batches)
        parts = list(self._embeddings)
        parts[self._position] = (image_embeds + (count - 1) * (image_embeds - image_embeds.detach()), labels)
        self._position += 1
        return torch.cat([embeds for embeds, _ in parts]), torch.cat([labels for _, labels in parts])

    def finish(self) -> None:
        """
        Leaves the process group; call it last in a script that may run in several processes.

        At exit, torch's gloo group waits for its threads while the interpreter is locked, and one of those may still
        be waiting for the interpreter, to let go of a tensor it has gathered: the process then hangs or aborts. A
        pause with the interpreter unlocked lets them end first.
        """
        if dist.is_available() and dist.is_initialized():
            self.accelerator.wait_for_everyone()
            time.sleep(1.0)
            self.accelerator.end_training()

    # ----------------------------------------------------------------------------------------------------- logging

    def _add_terms(self, terms: dict[str, torch.Tensor]) -> None:
        for name, value in terms.items():  # no transfer from the device here; a class missing in the batch gives NaN
            self._term_sums[name] = self._term_sums.get(name, 0.0) + value.nan_to_num()
            self._term_counts[name] = self._term_counts.get(name, 0.0) + (~value.isnan()).float()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means of the loss terms since the last log to every training log."""
        if "loss" in logs and self._term_sums:
            totals = torch.stack([*self._term_sums.values(), *self._term_counts.values()])
            sums, counts = self.accelerator.reduce(totals).chunk(2)
            means = zip(self._term_sums, (sums / counts).tolist(), strict=True)
            logs |= {name: mean for name, mean in means if not math.isnan(mean)}  # NaN: a class never came up
            if self.memory_bank.size:
                logs["memory_fill"] = len(self.memory_bank) / self.memory_bank.size
            self._term_sums, self._term_counts = {}, {}
        super().log(logs, start_time)

    # ---------------------------------------------------------------------------------------------------- schedule

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """The recipe's schedule for `lr_scheduler_type="cosine"`, a stock one for the others."""
        if self.lr_scheduler is None and self.args.lr_scheduler_type == "cosine":
            warmup_steps = round(num_training_steps * self.args.warmup_epochs / self.args.num_train_epochs)
            warmup_factor = self.args.warmup_learning_rate / self.args.learning_rate

            def factor(step: int) -> float:
                if step < warmup_steps:
                    return warmup_factor
                progress = (step - warmup_steps) / max(1, num_training_steps - warmup_steps)
                return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))

            self.lr_scheduler = LambdaLR(self.optimizer if optimizer is None else optimizer, factor)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    # ------------------------------------------------------------------------------------------------- checkpoints

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict=state_dict)
        if self.args.should_save:  # the arguments as JSON in place of a pickle, which would travel to the Hub
            output_dir = self.args.output_dir if output_dir is None else output_dir
            os.remove(os.path.join(output_dir, "training_args.bin"))
            arguments = self.args.to_dict()
            del arguments["output_dir"]  # a path of this machine
            with open(os.path.join(output_dir, "training_args.json"), "w", encoding="utf-8") as file:
                json.dump(arguments, file, indent=2)

    def push_to_hub(self, *args, **kwargs):
        """As in `Trainer`; on a base model that is a folder of this machine, the full model goes up."""
        with self.accelerator.unwrap_model(self.model).portable():
            return super().push_to_hub(*args, **kwargs)

    def create_model_card(
        self, model_name: str | None = None, license: str | None = None, tags: str | Sequence[str] | None = None
    ) -> None:
        """
        Writes `README.md`: [`build_card`]'s for MiraGe, not the stock draft. A card that somebody changed stays.

        Args:
            model_name, license (`str`, *optional*):
                Before those of `card.yaml` in the output folder.
            tags (`str` or `Sequence[str]`, *optional*):
                Likewise, beside those of every card.
        """
        if not self.is_world_process_zero():
            return
        tags = [tags] if isinstance(tags, str) else list(tags or [])
        if self.accelerator.unwrap_model(self.model).config.model_type != "mirage":
            super().create_model_card(model_name=model_name, license=license, tags=tags)
            return
        folder = Path(self.args.output_dir)
        given = {"name": model_name, "license": license, "tags": tags}
        weights = folder / SAFE_WEIGHTS_NAME
        write_card(
            folder,
            is_adapter=weights.is_file() and is_adapter(weights),
            stated={name: value for name, value in given.items() if value},
        )

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:  # the same bank in every process
            state = {key: value.contiguous() for key, value in self.memory_bank.state_dict().items()}
            save_file(state, os.path.join(output_dir, MEMORY_BANK_NAME))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        bank_file = os.path.join(checkpoint, MEMORY_BANK_NAME)
        if os.path.isfile(bank_file):
            self.memory_bank.load_state_dict(load_file(bank_file, device=str(self.args.device)))
        elif self.memory_bank.size:
            raise ValueError(
                f"{checkpoint} has no {MEMORY_BANK_NAME}, so training would not go on as it stopped; resume from "
                "another checkpoint, or start anew from its weights with `from_pretrained`."
            )

    def _issue_warnings_after_load(self, load_result) -> None:
        # An adapter-sized checkpoint leaves the frozen encoders as they were built from the base model.
        missing = [key for key in load_result.missing_keys if not key.startswith("clip.")]
        super()._issue_warnings_after_load(_IncompatibleKeys(missing, load_result.unexpected_keys))


class GatherWithGradient(torch.autograd.Function):
    """
    Joins the tensors of all processes, (B, D) to (W·B, D), in the order of ranks; each process gets back the sum of
    what all of them found as the gradient of its part.
    """

    @staticmethod
    def forward(ctx, values: torch.Tensor) -> torch.Tensor:
        ctx.count = len(values)
        parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, values)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        start = ctx.count * dist.get_rank()
        return gradient[start : start + ctx.count]


def gather_embeddings(embeddings: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Joins the batches of all processes; gradients flow back to the process an embedding came from.

    Args:
        embeddings (`torch.Tensor` of shape `(B, D)`):
            This process's embeddings; B must be the same everywhere.
        labels (`torch.Tensor` of shape `(B,)`):
            Their classes.

    Returns:
        `tuple`: Embeddings of shape `(W·B, D)` and labels of shape `(W·B,)`, in the order of the W ranks.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return embeddings, labels
    all_labels = [torch.empty_like(labels) for _ in range(dist.get_world_size())]
    dist.all_gather(all_labels, labels.contiguous())
    return GatherWithGradient.apply(embeddings.contiguous()), torch.cat(all_labels)


__all__ = ["MiraGeTrainer", "gather_embeddings"]
