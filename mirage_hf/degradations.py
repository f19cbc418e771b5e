"""Degraded views of a test set: what becomes of a detector when its images are delivered as the web delivers them.

Six are those of the robustness table of [MiraGe](https://arxiv.org/abs/2508.01525) (Table 10), which are GenImage's
(Zhu et al., 2023); two are chains of our own. All are deterministic, so that every detector sees the same pixels.

Neither paper says more than "downsample to 112 and 64", "JPEG with quality factors 65 and 30" and "Gaussian blur with
sigma 3 and 5", and GenImage's repository holds no code for it. Our reading, where they are silent:

- An image is resized to 112 or 64 pixels on its shorter edge, with its aspect ratio kept, and a smaller one stays as
  it is. Both ways are bicubic; Pillow's kernel widens when it shrinks an image, which is antialiasing.
- Sigma is in pixels of the image as it is on disk, and borders are mirrored.
- JPEG has chroma sampling 4:2:0.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageFilter

from .augmentations import jpeg_round_trip
from .image_io import load_rgb

BILINEAR, BICUBIC, LANCZOS = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS

Step = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True)
class Degradation:
    """
    One row of `DEGRADATIONS`.

    Args:
        title (`str`): heading in tables.
        description (`str`): what it does, in a line.
        source (`str`): who measures it.
        steps (`tuple` of functions from image to image): applied in order; [`degrade`] restores the size behind them.
    """

    title: str
    description: str
    source: str
    steps: tuple[Step, ...]


def degrade(image: Image.Image, name: str) -> Image.Image:
    """
    Degrade an image. The same image gives the same pixels, always.

    Args:
        image (`PIL.Image.Image`):
            Of any size; converted to RGB as at evaluation.
        name (`str`):
            A key of `DEGRADATIONS`.

    Returns:
        `PIL.Image.Image`: RGB, of the same size. Where a step changed the size, it is restored at the end (bicubic).

    Raises:
        ValueError: there is no degradation of that name.

    Example:

    ```python
    >>> from PIL import Image
    >>> from mirage_hf.degradations import degrade

    >>> degrade(Image.new("RGB", (500, 375)), "resize_64").size
    (500, 375)
    ```"""
    if name not in DEGRADATIONS:
        raise ValueError(f"there is no degradation {name!r}; choose from {', '.join(DEGRADATIONS)}")
    original = degraded = load_rgb(image)
    for step in DEGRADATIONS[name].steps:
        degraded = step(degraded)
    return degraded if degraded.size == original.size else degraded.resize(original.size, BICUBIC)


def shrink(image: Image.Image, edge: Callable, to: int, kernel: Image.Resampling) -> Image.Image:
    """Shrink an image to `to` pixels on one edge, `min` or `max` of the two; a smaller image stays as it is."""
    size = edge(image.size)
    return scale(image, to / size, kernel) if size > to else image


def scale(image: Image.Image, factor: float, kernel: Image.Resampling) -> Image.Image:
    """Resize both edges by a factor, to whole pixels, at least one."""
    width, height = (max(1, round(edge * factor)) for edge in image.size)
    return image.resize((width, height), kernel)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """A round trip through Pillow's JPEG codec at 4:2:0."""
    return jpeg_round_trip(image, quality, "4:2:0")


def gaussian_blur(image: Image.Image, sigma: float) -> Image.Image:
    """
    A true Gaussian of standard deviation `sigma`, cut at 4 sigma, borders mirrored (`cba|abc`), rounded once.

    The same filter as in CNNDet's augmentation (Wang et al., 2020). Pillow's `GaussianBlur` is three box filters.
    """
    from scipy.ndimage import gaussian_filter

    pixels = np.asarray(image, dtype=np.float64)  # (H, W, 3)
    blurred = gaussian_filter(pixels, sigma=(sigma, sigma, 0), mode="reflect", truncate=4.0)
    return Image.fromarray(np.rint(blurred).astype(np.uint8))


def cut_corner(image: Image.Image, left: int, top: int) -> Image.Image:
    """Cut columns off the left and rows off the top, leaving at least one."""
    width, height = image.size
    return image.crop((min(left, width - 1), min(top, height - 1), width, height))


def gamma(image: Image.Image, exponent: float) -> Image.Image:
    """Raise every level, as a fraction of 255, to a power."""
    return image.point([round(255 * (level / 255) ** exponent) for level in range(256)] * 3)


def sharpen(image: Image.Image) -> Image.Image:
    """Pillow's fixed 3 x 3 kernel: 2 for the centre, -1/8 for each neighbour; the outermost pixels are left."""
    return image.filter(ImageFilter.SHARPEN)


_TABLE_10 = "MiraGe, Table 10; GenImage's degraded classification"

DEGRADATIONS = {
    "resize_112": Degradation(
        "LR (112)",
        "shorter edge to 112 pixels and back, bicubic",
        _TABLE_10,
        (partial(shrink, edge=min, to=112, kernel=BICUBIC),),
    ),
    "resize_64": Degradation(
        "LR (64)",
        "shorter edge to 64 pixels and back, bicubic",
        _TABLE_10,
        (partial(shrink, edge=min, to=64, kernel=BICUBIC),),
    ),
    "jpeg_65": Degradation("JPEG (QF=65)", "JPEG of quality 65, 4:2:0", _TABLE_10, (partial(jpeg, quality=65),)),
    "jpeg_30": Degradation("JPEG (QF=30)", "JPEG of quality 30, 4:2:0", _TABLE_10, (partial(jpeg, quality=30),)),
    "blur_3": Degradation("Blur (σ=3)", "Gaussian blur of sigma 3", _TABLE_10, (partial(gaussian_blur, sigma=3.0),)),
    "blur_5": Degradation("Blur (σ=5)", "Gaussian blur of sigma 5", _TABLE_10, (partial(gaussian_blur, sigma=5.0),)),
    "web": Degradation(
        "web",
        "posted: longer edge to at most 480 pixels (Lanczos), JPEG of quality 75, 4:2:0; shown at the former size",
        "ours",
        (partial(shrink, edge=max, to=480, kernel=LANCZOS), partial(jpeg, quality=75)),
    ),
    "hard": Degradation(
        "hard",
        "posted (0.65 x, Lanczos, JPEG of quality 60), taken as a screenshot (1.3 x, bilinear; 3 columns and 5 rows "
        "cut off; gamma 0.9; sharpened) and posted again (JPEG of quality 70); shown at the former size",
        "ours",
        (
            partial(scale, factor=0.65, kernel=LANCZOS),
            partial(jpeg, quality=60),
            partial(scale, factor=1.3, kernel=BILINEAR),
            partial(cut_corner, left=3, top=5),
            partial(gamma, exponent=0.9),
            sharpen,
            partial(jpeg, quality=70),
        ),
    ),
}
