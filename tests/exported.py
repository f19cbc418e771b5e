"""Tiny detectors saved as checkpoints, to be exported."""

import numpy as np
import torch
from conftest import make_clip_config, make_model
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    CLIPModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from mirage_hf import BaselineForImageDetection
from mirage_hf.calibration import Calibration
from mirage_hf.image_processing import build_image_processor

CALIBRATION = Calibration(2.0, 0.3, 0.5, 0.6, 0.05, 0.1, 0.2, 0.9, [], 30, 40, "images")
SMALL = {"text_layers": 1, "vision_layers": 1}


def random_images(count: int, seed: int = 0) -> list[Image.Image]:
    """Noise of varied brightness, in several shapes."""
    random = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        height, width = random.integers(30, 90, size=2)
        noise = random.uniform(0, 255, 3) + random.normal(0, 60, (height, width, 3))
        images.append(Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8)))
    return images


def save_detector(kind: str, folder) -> str:
    """
    A detector by its kind: "tiled" is MiraGe with tiles and a calibration, "text" MiraGe with text prompts alone,
    "linear_probe" a baseline, "turned" another's ViT with its classes the other way round.
    """
    torch.manual_seed(3)
    processor = build_image_processor(image_size=48 if kind == "tiled" else 32)
    if kind == "tiled":
        model = make_model(tile_images=True, text_layers=1, vision_layers=2)
        model.config.threshold, model.config.calibration = 0.7, CALIBRATION.to_dict()
    elif kind == "text":
        model = make_model(prompt_modality="text", **SMALL)
    elif kind == "linear_probe":
        CLIPModel(make_clip_config(1, 1)).save_pretrained(folder / "clip")
        model = BaselineForImageDetection.from_clip("linear_probe", folder / "clip")
        torch.nn.init.normal_(model.head.weight, std=1.0)
    else:
        names = {0: "AI-generated", 1: "Nature"}
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        model = ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=8, id2label=names))
        torch.nn.init.normal_(model.classifier.weight, std=1.0)
        processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@torch.no_grad()
def margins_in_torch(folder: str, images: list[Image.Image]) -> np.ndarray:
    """Log-odds of fake by transformers' own loaders, MiraGe not baked, image by image."""
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    fake = next(index for index, name in model.config.id2label.items() if name in ("fake", "AI-generated"))
    logits = [model(**processor(image, return_tensors="pt")).logits[0].double() for image in images]
    return np.array([(row[fake] - row[1 - fake]).item() for row in logits])


def preprocess(folder: str, images: list[Image.Image]) -> torch.Tensor:
    processor = AutoImageProcessor.from_pretrained(folder)
    return torch.cat([processor(image, return_tensors="pt")["pixel_values"] for image in images])
