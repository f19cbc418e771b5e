"""Train-time augmentations of the MiraGe recipe, on PIL images.

The paper ([MiraGe](https://arxiv.org/abs/2508.01525), the appendix on degraded images) names seven kinds: random
crop and resize, Gaussian noise, Gaussian blur, rotation, JPEG compression of random quality, brightness and contrast,
grayscale. It gives neither probabilities nor ranges, so each is a field of [`AugmentationConfig`], and the defaults
are ours.
"""

import io
import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter

from .image_io import as_rgb
from .image_pixels import detached

GEOMETRIES = ("resized_crop", "crop")
JPEG_SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")

# Lowest and highest legal bound of every range field.
_BOUNDS = {
    "crop_scale": (1e-6, 1.0),
    "crop_ratio": (1e-6, math.inf),
    "rotation_degrees": (-180.0, 180.0),
    "brightness_range": (0.0, math.inf),
    "contrast_range": (0.0, math.inf),
    "blur_sigma": (0.0, math.inf),
    "noise_std": (0.0, 1.0),
    "jpeg_quality": (1, 100),
}


@dataclass(frozen=True)
class AugmentationConfig:
    r"""
    Probability and range of every train augmentation, in the order in which they are applied.

    Where the defaults come from: `crop_scale` is that of CoOp and MaPLe (Dassl's random resized crop); blur and JPEG
    take CNNDet's ranges, with the lighter of its two probabilities for blur and the heavier for JPEG, because the file
    format is the shortcut that detectors of generated images learn most readily. The remaining probabilities and
    ranges are ours.

    Args:
        geometry (`str`, *optional*, defaults to `"resized_crop"`):
            `"resized_crop"` resamples a random box (bicubic). `"crop"` takes a random window at native resolution and
            reflects the borders of an image smaller than the window: resampling erases traces of the generator.
        crop_probability (`float`, *optional*, defaults to 1.0):
            Probability that the box is random; otherwise it is the central one of the evaluation.
        crop_scale (`tuple[float, float]`, *optional*, defaults to `(0.08, 1.0)`):
            Area of the box relative to the image (`"resized_crop"` only).
        crop_ratio (`tuple[float, float]`, *optional*, defaults to `(3 / 4, 4 / 3)`):
            Width of the box over its height, drawn log-uniformly (`"resized_crop"` only).
        rotation_probability (`float`, *optional*, defaults to 0.1):
            Probability of a rotation (bicubic; uncovered corners are black).
        rotation_degrees (`tuple[float, float]`, *optional*, defaults to `(-15.0, 15.0)`):
            Counter-clockwise angle in degrees.
        brightness_contrast_probability (`float`, *optional*, defaults to 0.1):
            Probability that brightness, then contrast, is changed.
        brightness_range (`tuple[float, float]`, *optional*, defaults to `(0.8, 1.2)`):
            Brightness factor; 1 changes nothing.
        contrast_range (`tuple[float, float]`, *optional*, defaults to `(0.8, 1.2)`):
            Contrast factor; 1 changes nothing.
        grayscale_probability (`float`, *optional*, defaults to 0.1):
            Probability that the three channels become the luma.
        blur_probability (`float`, *optional*, defaults to 0.1):
            Probability of a Gaussian blur.
        blur_sigma (`tuple[float, float]`, *optional*, defaults to `(0.0, 3.0)`):
            Standard deviation of the blur, in pixels of the output.
        noise_probability (`float`, *optional*, defaults to 0.1):
            Probability of additive Gaussian noise, independent for each pixel and channel.
        noise_std (`tuple[float, float]`, *optional*, defaults to `(0.0, 0.04)`):
            Standard deviation of the noise, as a fraction of the full range (0.04 is about 10 of 255 levels).
        jpeg_probability (`float`, *optional*, defaults to 0.5):
            Probability of a round trip through the JPEG codec.
        jpeg_quality (`tuple[int, int]`, *optional*, defaults to `(30, 100)`):
            Quality of the codec, both ends included.
        jpeg_subsampling (`tuple[str, ...]`, *optional*, defaults to `("4:4:4", "4:2:2", "4:2:0")`):
            Chroma subsamplings, one drawn uniformly for each round trip.

    Raises:
        ValueError: a field is out of range; the message names it.

    Example:

    ```python
    >>> from mirage_hf.augmentations import AugmentationConfig

    >>> AugmentationConfig(jpeg_probability=0.1, geometry="crop").jpeg_quality
    (30, 100)
    ```"""

    geometry: str = "resized_crop"
    crop_probability: float = 1.0
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    rotation_probability: float = 0.1
    rotation_degrees: tuple[float, float] = (-15.0, 15.0)
    brightness_contrast_probability: float = 0.1
    brightness_range: tuple[float, float] = (0.8, 1.2)
    contrast_range: tuple[float, float] = (0.8, 1.2)
    grayscale_probability: float = 0.1
    blur_probability: float = 0.1
    blur_sigma: tuple[float, float] = (0.0, 3.0)
    noise_probability: float = 0.1
    noise_std: tuple[float, float] = (0.0, 0.04)
    jpeg_probability: float = 0.5
    jpeg_quality: tuple[int, int] = (30, 100)
    jpeg_subsampling: tuple[str, ...] = JPEG_SUBSAMPLINGS

    def __post_init__(self):
        if self.geometry not in GEOMETRIES:
            raise ValueError(f"`geometry` must be one of {GEOMETRIES}, got {self.geometry!r}")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_probability") and not (_is_number(value) and 0.0 <= value <= 1.0):
                raise ValueError(f"`{field.name}` must be a number in [0, 1], got {value!r}")
            if field.name in _BOUNDS:
                # YAML and JSON give lists; a frozen, hashable config holds tuples.
                object.__setattr__(self, field.name, _checked_range(field.name, value))
        if not all(isinstance(bound, int) for bound in self.jpeg_quality):
            raise ValueError(f"`jpeg_quality` must hold whole numbers, got {self.jpeg_quality!r}")
        object.__setattr__(self, "jpeg_subsampling", tuple(self.jpeg_subsampling))
        if not self.jpeg_subsampling or not set(self.jpeg_subsampling) <= set(JPEG_SUBSAMPLINGS):
            raise ValueError(
                f"`jpeg_subsampling` must hold one or more of {JPEG_SUBSAMPLINGS}, got {self.jpeg_subsampling!r}"
            )


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _checked_range(name: str, value) -> tuple:
    lowest, highest = _BOUNDS[name]
    if not isinstance(value, (tuple, list)) or len(value) != 2 or not all(map(_is_number, value)):
        raise ValueError(f"`{name}` must be a pair of numbers (low, high), got {value!r}")
    low, high = value
    if not (lowest <= low <= high <= highest and math.isfinite(high)):
        raise ValueError(f"`{name}` must satisfy {lowest} <= low <= high <= {highest} and be finite, got {value!r}")
    return low, high


class TrainAugmentation:
    r"""
    Augments one image: geometry, rotation, brightness and contrast, grayscale, blur, noise, and JPEG last, as on the
    way of a picture through the web.

    Every draw comes from torch's global generator, not from one of our own: DataLoader workers are each seeded in it,
    and the `Trainer` seeds it and keeps its state in checkpoints, so that runs can be repeated and resumed.

    Args:
        config ([`AugmentationConfig`], *optional*):
            Probabilities and ranges.
        image_size (`int`, *optional*, defaults to 224):
            Height and width of the output in pixels.

    Inputs: a `PIL.Image.Image` of any size and mode. Returns an RGB `PIL.Image.Image` of `image_size` x `image_size`.

    Example:

    ```python
    >>> from PIL import Image
    >>> from mirage_hf.augmentations import TrainAugmentation

    >>> TrainAugmentation(image_size=224)(Image.new("RGB", (500, 375))).size
    (224, 224)
    ```"""

    def __init__(self, config: AugmentationConfig | None = None, image_size: int = 224):
        if image_size < 1:
            raise ValueError(f"`image_size` must be at least 1, got {image_size!r}")
        self.config = config if config is not None else AugmentationConfig()
        self.image_size = image_size

    def __call__(self, image: Image.Image) -> Image.Image:
        config = self.config
        image = as_rgb(image)
        random_box = _happens(config.crop_probability)
        if config.geometry == "resized_crop":
            image = self._random_resized_crop(image) if random_box else resize_and_center_crop(image, self.image_size)
        else:
            image = self._native_crop(image, random_box)
        if _happens(config.rotation_probability):
            image = image.rotate(_uniform(config.rotation_degrees), resample=Image.Resampling.BICUBIC)
        if _happens(config.brightness_contrast_probability):
            image = ImageEnhance.Brightness(image).enhance(_uniform(config.brightness_range))
            image = ImageEnhance.Contrast(image).enhance(_uniform(config.contrast_range))
        if _happens(config.grayscale_probability):
            image = image.convert("L").convert("RGB")
        if _happens(config.blur_probability):
            image = image.filter(ImageFilter.GaussianBlur(_uniform(config.blur_sigma)))
        if _happens(config.noise_probability):
            image = add_gaussian_noise(image, _uniform(config.noise_std))
        if _happens(config.jpeg_probability):
            low, high = config.jpeg_quality
            subsampling = config.jpeg_subsampling[_randint(len(config.jpeg_subsampling))]
            image = jpeg_round_trip(image, low + _randint(high - low + 1), subsampling)
        return image

    def _random_resized_crop(self, image: Image.Image) -> Image.Image:
        # Sampled as by torchvision's RandomResizedCrop: ten attempts, then the largest central box of a legal ratio.
        width, height = image.size
        low, high = self.config.crop_ratio
        for _ in range(10):
            area = width * height * _uniform(self.config.crop_scale)
            ratio = math.exp(_uniform((math.log(low), math.log(high))))
            box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < box_width <= width and 0 < box_height <= height:
                left, top = _randint(width - box_width + 1), _randint(height - box_height + 1)
                break
        else:
            box_width = max(1, min(width, round(height * high)))
            box_height = max(1, min(height, round(width / low)))
            left, top = (width - box_width) // 2, (height - box_height) // 2
        box = image.crop((left, top, left + box_width, top + box_height))
        return box.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)

    def _native_crop(self, image: Image.Image, random_box: bool) -> Image.Image:
        size = self.image_size
        if not random_box:
            return native_center_crop(image, size)
        image = _reflected(image, size)
        left, top = _randint(image.width - size + 1), _randint(image.height - size + 1)
        return image.crop((left, top, left + size, top + size))


def native_center_crop(image: Image.Image, image_size: int) -> Image.Image:
    """The central square of an RGB image at native resolution; borders are reflected where the image is smaller."""
    image = _reflected(image, image_size)
    left, top = (image.width - image_size) // 2, (image.height - image_size) // 2
    return image.crop((left, top, left + image_size, top + image_size))


def _reflected(image: Image.Image, size: int) -> Image.Image:
    """An RGB image of at least `size` pixels on both edges."""
    width, height = image.size
    if width >= size and height >= size:
        return image
    short = [max(0, size - height), max(0, size - width)]
    before_and_after = [(missing // 2, missing - missing // 2) for missing in short]
    return Image.fromarray(np.pad(np.asarray(image), (*before_and_after, (0, 0)), mode="reflect"))


def resize_and_center_crop(image: Image.Image, image_size: int) -> Image.Image:
    """CLIP's evaluation geometry: the shortest edge becomes `image_size` (bicubic), then the central square is cut."""
    width, height = image.size
    short = min(width, height)
    new_size = (int(image_size * width / short), int(image_size * height / short))
    if new_size != image.size:
        image = image.resize(new_size, Image.Resampling.BICUBIC)
    left, top = (new_size[0] - image_size) // 2, (new_size[1] - image_size) // 2
    return image.crop((left, top, left + image_size, top + image_size))


def jpeg_round_trip(image: Image.Image, quality: int, subsampling: str = "4:2:0") -> Image.Image:
    """Encode an RGB image as JPEG in memory and decode it again (`subsampling`: `"4:4:4"`, `"4:2:2"`, `"4:2:0"`)."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality, subsampling=subsampling)
    decoded = Image.open(buffer)
    decoded.load()
    # A plain `Image`: the decoder's object drags its file along to a worker's pickle.
    return detached(decoded)


def add_gaussian_noise(image: Image.Image, std: float) -> Image.Image:
    """Add noise of standard deviation `std` (fraction of the full range) to an RGB image, rounded and clipped."""
    pixels = np.asarray(image)  # (H, W, 3)
    noisy = torch.randn(pixels.shape).numpy()
    noisy *= np.float32(255.0 * std)
    noisy += pixels
    np.clip(np.rint(noisy, out=noisy), 0, 255, out=noisy)
    return Image.fromarray(noisy.astype(np.uint8))


def _happens(probability: float) -> bool:
    return torch.rand(()).item() < probability


def _uniform(bounds: tuple[float, float]) -> float:
    low, high = bounds
    return low + (high - low) * torch.rand(()).item()


def _randint(count: int) -> int:
    return int(torch.randint(count, ()).item())
