"""Loads any detector that `AutoModelForImageClassification` can load, its classes told by name: ours and others'.

A detector of the Hub may call fake 0 or 1. Which logit means fake is read from `id2label`, or asked for.
"""

import hashlib
import json
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedConfig
from transformers.modeling_outputs import ImageClassifierOutput

import mirage_hf  # noqa: F401  (registers the package's models with transformers)

from .adapter_checkpoint import fingerprint, sample_weights
from .fused_transform import FusedTransform, evaluation_transform
from .image_processing import EvalTransform
from .layouts import label_of
from .modeling_mirage import MiraGeForImageDetection


@dataclass
class LoadedDetector:
    """
    A detector ready to score.

    Args:
        model (`torch.nn.Module`):
            `model(pixel_values=...).logits` has shape `(B, 2)`: real, fake.
        transform ([`EvalTransform`] or [`FusedTransform`]):
            An RGB image to `(3, H, W)`, by the checkpoint's own image processor.
        name (`str`):
            What was loaded, without the folders above it.
        config (`PreTrainedConfig`):
            The checkpoint's.
        threshold (`float`, *optional*):
            Probability above which an image is fake, where the checkpoint states one other than 0.5.
        fingerprint (`str`):
            Hash over a sample of the weights, and over the image processor.
        takes_return_embeds (`bool`):
            Whether the model takes the argument `return_embeds`, as [`MiraGeForImageDetection`] does.
    """

    model: nn.Module
    transform: EvalTransform | FusedTransform
    name: str
    config: PreTrainedConfig
    threshold: float | None
    fingerprint: str
    takes_return_embeds: bool

    @property
    def model_type(self) -> str:
        """`str`: `config.model_type`."""
        return self.config.model_type

    @property
    def parameters(self) -> int:
        """`int`: Number of the model's weights."""
        return sum(parameter.numel() for parameter in self.model.parameters())


def load_detector(name: str, revision: str | None = None, fake_label: str | None = None) -> LoadedDetector:
    """
    Load a detector and its image processor, in float32, for inference.

    Args:
        name (`str`):
            A folder or Hub id: a MiraGe checkpoint, one of its baselines, or any image classifier with two classes.
        revision (`str`, *optional*):
            Git revision, where it is a Hub repository.
        fake_label (`str`, *optional*):
            Name or number of the class that means fake, where the names in `id2label` don't say so.

    Raises:
        OSError: there is no such checkpoint.
        ValueError: it hasn't two classes, or which of them is fake can't be told.
    """
    model = AutoModelForImageClassification.from_pretrained(name, revision=revision, dtype=torch.float32).eval()
    config = model.config
    processor = AutoImageProcessor.from_pretrained(name, revision=revision)
    processed = json.dumps(processor.to_dict(), sort_keys=True, default=str)
    marked = f"{fingerprint(sample_weights(model))}-{hashlib.sha256(processed.encode()).hexdigest()[:16]}"
    order = class_order(name, config.id2label, fake_label)
    ours = config.model_type.startswith("mirage")
    if isinstance(model, MiraGeForImageDetection):
        model.bake()
    elif order != [0, 1]:
        model = ReorderedClasses(model, order)
    threshold = config.threshold if ours and config.threshold != 0.5 else None
    return LoadedDetector(
        model,
        evaluation_transform(processor),
        name.rstrip("/").rpartition("/")[2],
        config,
        threshold,
        marked,
        ours,
    )


def class_order(name: str, id2label: dict[int, str], fake_label: str | None) -> list[int]:
    """
    Ids of real and of fake.

    Raises:
        ValueError: there aren't two classes, or which of them is fake can't be told; `name` is named.
    """
    if len(id2label) != 2:
        raise ValueError(f"{name} has {len(id2label)} classes; a detector needs two, real and fake")
    if fake_label is not None:
        found = [i for i, label in id2label.items() if fake_label.lower() in (str(i), label.lower())]
        if len(found) != 1:
            raise ValueError(
                f"`fake_label` is {fake_label!r}, the classes of {name} are {', '.join(id2label.values())}"
            )
        return [1 - found[0], found[0]]
    labels = {i: label_of(label) for i, label in id2label.items()}
    if sorted(labels.values(), key=str) != [0, 1]:
        raise ValueError(
            f"the classes of {name} are {', '.join(id2label.values())}, which doesn't say what is fake: name the fake "
            "one with `fake_label`"
        )
    return sorted(labels, key=lambda i: labels[i] or 0)


class ReorderedClasses(nn.Module):
    """A classifier whose logits are put into the order real, fake."""

    def __init__(self, model: nn.Module, order: list[int]):
        super().__init__()
        self.model, self.order = model, order

    def forward(self, pixel_values: torch.Tensor) -> ImageClassifierOutput:
        """Logits of shape `(B, 2)`: real, fake."""
        return ImageClassifierOutput(logits=self.model(pixel_values=pixel_values).logits[:, self.order])


__all__ = ["LoadedDetector", "ReorderedClasses", "class_order", "load_detector"]
