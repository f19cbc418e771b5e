"""The training augmentation as one would first write it in Pillow and NumPy, and in terms of albumentations.

[`PlainAugmentation`] draws the same numbers in the same order as mirage_hf's, so that both give the same tensor.
"""

import importlib.util
import io
import math
import os
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter
from transformers import PilBackend

from mirage_hf.augmentations import AugmentationConfig


class PlainAugmentation:
    """
    Pillow image to tensor.

    Args:
        config ([`AugmentationConfig`]): Probabilities and ranges.
        processor ([`~transformers.PilBackend`]): Gives the size, mean and standard deviation.
    """

    def __init__(self, config: AugmentationConfig, processor: PilBackend):
        self.config, self.size = config, processor.crop_size["height"]
        self.mean, self.std = np.float32(processor.image_mean), np.float32(processor.image_std)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        config = self.config
        image = image.convert("RGB")
        if not chance(config.crop_probability):
            raise ValueError("the recipes that are timed always crop at random")
        image = self.resized_crop(image) if config.geometry == "resized_crop" else self.window(image)
        if chance(config.rotation_probability):
            image = image.rotate(between(config.rotation_degrees), resample=Image.Resampling.BICUBIC)
        if chance(config.brightness_contrast_probability):
            image = ImageEnhance.Brightness(image).enhance(between(config.brightness_range))
            image = ImageEnhance.Contrast(image).enhance(between(config.contrast_range))
        if chance(config.grayscale_probability):
            image = image.convert("L").convert("RGB")
        if chance(config.blur_probability):
            image = image.filter(ImageFilter.GaussianBlur(between(config.blur_sigma)))
        if chance(config.noise_probability):
            deviation = 255.0 * between(config.noise_std)
            levels = np.array(image).astype(np.float32)
            levels = levels + torch.randn(levels.shape).numpy() * deviation
            image = Image.fromarray(np.clip(np.rint(levels), 0, 255).astype(np.uint8))
        if chance(config.jpeg_probability):
            subsampling = config.jpeg_subsampling[whole(len(config.jpeg_subsampling))]
            low, high = config.jpeg_quality
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=low + whole(high - low + 1), subsampling=subsampling)
            image = Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")
        pixels = np.array(image).astype(np.float32) / np.float32(255)  # (H, W, 3)
        pixels = (pixels - self.mean) / self.std
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    def resized_crop(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        low, high = self.config.crop_ratio
        for _ in range(10):
            area = width * height * between(self.config.crop_scale)
            ratio = math.exp(between((math.log(low), math.log(high))))
            wide, high_ = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < wide <= width and 0 < high_ <= height:
                left, top = whole(width - wide + 1), whole(height - high_ + 1)
                box = image.crop((left, top, left + wide, top + high_))
                return box.resize((self.size, self.size), Image.Resampling.BICUBIC)
        raise ValueError("pictures that are timed have room for a box")

    def window(self, image: Image.Image) -> Image.Image:
        left, top = whole(image.width - self.size + 1), whole(image.height - self.size + 1)
        return image.crop((left, top, left + self.size, top + self.size))


def chance(probability: float) -> bool:
    return torch.rand(()).item() < probability


def between(bounds: tuple[float, float]) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * torch.rand(()).item()


def whole(count: int) -> int:
    return int(torch.randint(count, ()).item())


def in_albumentations(
    config: AugmentationConfig, processor: PilBackend
) -> Callable[[Image.Image], torch.Tensor] | None:
    """The same kinds of change at the same probabilities, of other pixels; `None` if it is not installed."""
    if importlib.util.find_spec("albumentations") is None:
        return None
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # importing it asks a server for its newest version
    import albumentations
    import cv2

    cv2.setNumThreads(1)
    size = processor.crop_size["height"]
    crop = albumentations.RandomCrop(size, size)
    if config.geometry == "resized_crop":
        options = {"scale": config.crop_scale, "ratio": config.crop_ratio, "interpolation": cv2.INTER_CUBIC}
        crop = albumentations.RandomResizedCrop((size, size), **options)
    brightness, contrast = (
        tuple(bound - 1 for bound in bounds) for bounds in (config.brightness_range, config.contrast_range)
    )
    compose = albumentations.Compose(
        [
            crop,
            albumentations.Rotate(
                config.rotation_degrees, interpolation=cv2.INTER_CUBIC, p=config.rotation_probability
            ),
            albumentations.RandomBrightnessContrast(brightness, contrast, p=config.brightness_contrast_probability),
            albumentations.ToGray(p=config.grayscale_probability),
            albumentations.GaussianBlur(blur_limit=0, sigma_limit=config.blur_sigma, p=config.blur_probability),
            albumentations.GaussNoise(std_range=config.noise_std, p=config.noise_probability),
            albumentations.ImageCompression(quality_range=config.jpeg_quality, p=config.jpeg_probability),
            albumentations.Normalize(tuple(processor.image_mean), tuple(processor.image_std)),
        ],
        seed=0,
    )

    def transform(image: Image.Image) -> torch.Tensor:
        pixels = compose(image=np.asarray(image))["image"]  # (H, W, 3)
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    return transform


__all__ = ["PlainAugmentation", "in_albumentations"]
