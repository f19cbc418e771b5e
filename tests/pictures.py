"""Pictures to augment and process."""

import numpy as np
from PIL import Image

from mirage_hf.augmentations import AugmentationConfig

OFF = AugmentationConfig(
    crop_probability=0.0,
    rotation_probability=0.0,
    brightness_contrast_probability=0.0,
    grayscale_probability=0.0,
    blur_probability=0.0,
    noise_probability=0.0,
    jpeg_probability=0.0,
)


def random_image(width=64, height=64, mode="RGB", seed=0):
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.frombytes(mode, (width, height), pixels.tobytes())
