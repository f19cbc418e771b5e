"""Detectors on the backbone: prompts through the package, fine-tuning, LoRA, zero-shot and the linear probe."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPModel, PrinterCallback

from mirage_hf import MiraGeConfig, MiraGeForImageDetection
from mirage_hf.class_prompts import tokenize_class_prompts
from mirage_hf.image_dataset import DetectionImages
from mirage_hf.image_processing import TrainTransform, derive_image_processor
from mirage_hf.modeling_mirage import MiraGeOutput, cut_tiles
from mirage_hf.representation import representation_statistics
from mirage_hf.trainer import MiraGeTrainer
from mirage_hf.training_args import MiraGeTrainingArguments

from .detectors import LogisticDetector, as_images, in_batches
from .images import Split, TrainingCrops

# On one thread, eager attention of 153 tokens is faster than the fused kernel.
ATTENTION = "eager"


class ClipClassifier(nn.Module):
    """
    CLIP without prompts as a detector: cosine with the class words' embeddings, scaled as CLIP's. Takes and returns
    what [`MiraGeForImageDetection`] does, so that the same trainer serves.

    Args:
        backbone (`Path`): CLIP checkpoint.
        trainable (`str`): `"none"`, `"all"` weights, or `"lora"` on all query and value projections.
        rank (`int`, *optional*): Of LoRA.
    """

    def __init__(self, backbone: Path, trainable: str, rank: int = 0):
        super().__init__()
        clip = CLIPModel.from_pretrained(backbone, attn_implementation=ATTENTION).requires_grad_(trainable == "all")
        tokenizer = AutoTokenizer.from_pretrained(backbone)
        ids = tokenize_class_prompts(tokenizer, MiraGeConfig.template, list(MiraGeConfig.class_names))
        self.config = MiraGeConfig(clip_config=clip.config.to_dict(), class_input_ids=ids)
        self.class_input_ids = nn.Buffer(torch.tensor(ids), persistent=False)  # (2, T)
        if trainable == "lora":
            lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["q_proj", "v_proj"])
            clip = get_peft_model(clip, lora)  # type: ignore[assignment]
        self.clip = clip

    def forward(self, pixel_values, labels=None, return_embeds=False) -> MiraGeOutput:
        """See [`MiraGeForImageDetection`]; embeddings are always returned."""
        tiles = cut_tiles(pixel_values, self.config.clip_config.vision_config.image_size)  # (B, T, 3, S, S)
        embeds = self.clip.get_image_features(tiles.flatten(0, 1)).pooler_output  # (B * T, D)
        embeds = F.normalize(embeds.float(), dim=-1).unflatten(0, tiles.shape[:2])  # (B, T, D)
        images = F.normalize(embeds.mean(dim=1), dim=-1)  # (B, D)
        texts = F.normalize(self.clip.get_text_features(self.class_input_ids).pooler_output.float(), dim=-1)  # (2, D)
        cosine = (images[:, None] * texts[None]).sum(dim=-1)  # (B, 2); no matrix product, as in the package
        logits = self.clip.logit_scale.float().exp() * cosine
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return MiraGeOutput(loss=loss, logits=logits, image_embeds=images, text_embeds=texts)


def make_prompted(backbone: Path, **config) -> nn.Module:
    """A fresh detector of the package; only its prompts and mappings learn."""
    return MiraGeForImageDetection.from_clip(backbone, attn_implementation=ATTENTION, tile_images=True, **config)


class BackboneDetector:
    """
    A model with image embeddings and two text anchors, trained by the package's trainer.

    Args:
        model (`torch.nn.Module`): From [`make_prompted`], or a [`ClipClassifier`].
        backbone (`Path`): Gives the image processor's normalisation.
        args (`dict`): Fields of [`MiraGeTrainingArguments`].
        seed (`int`): Seed of the trainer.
    """

    def __init__(self, model: nn.Module, backbone: Path, args: dict, seed: int):
        self.model, self.args, self.seed = model, args, seed
        size = model.config.clip_config.vision_config.image_size  # type: ignore[union-attr]
        self.processor = derive_image_processor(str(backbone), size, "crop")  # type: ignore[arg-type]

    def fit(self, crops: TrainingCrops, validation: Split) -> None:
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            return
        dataset = DetectionImages(crops, TrainTransform(self.processor, crops.augmentation), self.seed)
        with tempfile.TemporaryDirectory() as folder:
            args = MiraGeTrainingArguments(
                output_dir=folder,
                seed=self.seed,
                per_device_train_batch_size=crops.batch_size,
                train_sampling_strategy="sequential",  # the schedule is the order
                bf16=True,
                use_cpu=True,
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
                **self.args,
            )
            trainer = MiraGeTrainer(model=self.model, args=args, train_dataset=dataset)
            trainer.remove_callback(PrinterCallback)
            trainer.train()

    @torch.inference_mode()
    def embed(self, split: Split) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Returns:
            `tuple`: Image embeddings of shape `(N, D)`, for each image the normalised mean of its tiles' unit
            embeddings, and text anchors of shape `(2, D)`.
        """
        self.model.eval()
        images, texts = zip(*(self.run(pixels) for pixels in in_batches(split.pixels)), strict=True)
        return torch.cat(images), texts[0]

    def run(self, pixels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """What [`embed`] returns, of uint8 images of shape `(B, H, W, 3)`, in the precision of training."""
        values = as_images(pixels)  # (B, 3, H, W)
        mean, std = torch.tensor(self.processor.image_mean), torch.tensor(self.processor.image_std)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = self.model(pixel_values=(values - mean.view(3, 1, 1)) / std.view(3, 1, 1), return_embeds=True)
        return output.image_embeds, output.text_embeds

    def log_odds_of(self, images: torch.Tensor, texts: torch.Tensor) -> np.ndarray:
        """Log-odds of fake, `(N,)`, from what [`embed`] returns."""
        scale = self.model.clip.logit_scale.detach().float().exp()  # type: ignore[union-attr,operator]
        return (scale * (images @ (texts[1] - texts[0]))).numpy()

    def log_odds(self, split: Split) -> np.ndarray:
        return self.log_odds_of(*self.embed(split))

    def state(self) -> dict[str, torch.Tensor]:
        return {name: value.detach() for name, value in self.model.named_parameters() if value.requires_grad}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        result = self.model.load_state_dict(dict(state), strict=False)
        if result.unexpected_keys:
            raise ValueError(f"the stored weights have {result.unexpected_keys[0]}, which the model lacks")


class LinearProbe(LogisticDetector):
    """UnivFD (https://arxiv.org/abs/2302.10174): logistic regression on the frozen backbone's image embeddings."""

    def __init__(self, backbone: Path):
        self.frozen = BackboneDetector(ClipClassifier(backbone, "none"), backbone, {}, seed=0)

    @torch.inference_mode()
    def training_features(self, crops: TrainingCrops) -> np.ndarray:
        self.frozen.model.eval()
        return torch.cat([self.frozen.run(batch)[0] for batch in crops.batches()]).numpy()

    def features(self, split: Split) -> np.ndarray:
        return self.frozen.embed(split)[0].numpy()


def measure_representation(images: torch.Tensor, texts: torch.Tensor, split: Split, apart: list[str]) -> dict:
    """Definitions 4.1 and 4.2 on a split, each kind of image being a distribution; generators `apart` are left out."""
    kinds = np.asarray(split.kinds)
    chosen = torch.from_numpy(~np.isin(kinds, [*apart, "partner"]))
    ids = torch.from_numpy(np.unique(kinds, return_inverse=True)[1])
    labels = torch.from_numpy(split.labels)
    found = representation_statistics(images[chosen], labels[chosen], texts, ids[chosen])
    return {name: round(value.item(), 5) for name, value in found.items()}
