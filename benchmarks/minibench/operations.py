"""Image operations with a name, a strength and words: what the small backbone learns to see and to read.

No neural generator of the benchmark is here, only classical operations and upsamplers with *untrained*, freshly
drawn weights. `degrade` gives an image, its caption and its attributes.
"""

import io

import numpy as np
import torch
from PIL import Image, ImageFilter
from scipy.ndimage import uniform_filter
from torch.nn import functional as F

KERNELS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
NETWORKS = ("transposed", "shuffle", "convolution")
BLURS, NOISES, SMOOTHERS = ("gaussian", "box"), ("grey", "colour"), ("median", "guided")
OPERATIONS = ("resampled", "network", "blurred", "sharpened", "noisy", "smoothed", "compressed")
# One binary attribute for each operation and each variant, in this order.
ATTRIBUTES = (
    OPERATIONS
    + tuple(f"resampled {kernel}" for kernel in KERNELS)
    + tuple(f"network {kind}" for kind in NETWORKS)
    + tuple(f"blurred {kind}" for kind in BLURS)
    + tuple(f"noisy {kind}" for kind in NOISES)
    + tuple(f"smoothed {kind}" for kind in SMOOTHERS)
    + ("low quality",)
)
FACTORS = {1.5: "1.5", 2.0: "2", 3.0: "3", 4.0: "4"}
WORDS = (
    "a photo of a scene untouched resampled upsampled blurred sharpened noisy smoothed compressed by times with then "
    "network slightly strongly high medium low quality jpeg an image the and not in on at is real fake "
    "generated natural synthetic authentic camera picture"
).split() + [*KERNELS, *NETWORKS, *BLURS, *NOISES, *SMOOTHERS]


def _adverb(strength: float) -> str:
    return "slightly " if strength < 1 / 3 else "strongly " if strength > 2 / 3 else ""


def _resampled(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str, str, float]:
    kernel = str(rng.choice(list(KERNELS)))
    factor = float(rng.choice(list(FACTORS)))
    side = image.shape[0]
    # Shrinking is bicubic or by area whatever enlarges: it's the enlarging kernel that leaves the traces named here.
    shrink = KERNELS["bicubic"] if rng.random() < 0.7 else KERNELS["box"]
    small = Image.fromarray(image).resize((round(side / factor),) * 2, shrink)
    result = np.asarray(small.resize((side, side), KERNELS[kernel]))
    return result, kernel, f"resampled {FACTORS[factor]} times {kernel}", (factor - 1) / 3


def _network(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str, str, float]:
    """A bicubic enlargement plus detail from a random-weight upsampling network, as strong as the photo's own."""
    kind = str(rng.choice(NETWORKS))
    factor = int(rng.choice((2, 4)))
    side = image.shape[0]
    small = Image.fromarray(image).resize((side // factor,) * 2, KERNELS["bicubic"])
    base = np.asarray(small.resize((side, side), KERNELS["bicubic"]), np.float32)
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))

    def weight(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    def activate(values: torch.Tensor) -> torch.Tensor:
        values = values - values.mean((2, 3), keepdim=True)
        return F.leaky_relu(values / (values.std((2, 3), keepdim=True) + 1e-6), 0.2)

    width = 8
    x = torch.from_numpy(np.asarray(small, np.float32)).permute(2, 0, 1)[None] / 255  # (1, 3, h, h)
    x = activate(F.conv2d(x, weight(width, 3, 3, 3), padding=1))  # (1, 8, h, h)
    for _ in range(factor // 2):
        if kind == "transposed":
            x = F.conv_transpose2d(x, weight(width, width, 4, 4), stride=2, padding=1)
        elif kind == "shuffle":
            x = F.pixel_shuffle(F.conv2d(x, weight(4 * width, width, 3, 3), padding=1), 2)
        else:
            x = F.conv2d(F.interpolate(x, scale_factor=2), weight(width, width, 3, 3), padding=1)
        x = activate(x)  # (1, 8, 2h, 2h)
    channels = 1 if rng.random() < 0.7 else 3  # mostly grey detail, as most networks add
    detail = F.conv2d(x, weight(channels, width, 3, 3), padding=1)[0].permute(1, 2, 0).numpy()  # (side, side, 1 or 3)
    detail = detail - uniform_filter(detail, (5, 5, 0))
    if rng.random() < 0.6:  # detail where there's something to detail, not on a blue sky
        grey = base.mean(2, keepdims=True)
        detail = detail * np.minimum(np.abs(grey - uniform_filter(grey, (9, 9, 0))), 20)
    strength = float(rng.uniform())
    own = float((image.astype(np.float32) - base).std())
    result = base + (0.15 + 0.85 * strength) * max(own, 1.5) / (float(detail.std()) + 1e-6) * detail
    return _bytes(result), kind, f"{_adverb(strength)}upsampled {factor} times {kind} network", strength


def _blurred(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str, str, float]:
    kind, strength = str(rng.choice(BLURS)), float(rng.uniform())
    blur = ImageFilter.GaussianBlur if kind == "gaussian" else ImageFilter.BoxBlur
    result = np.asarray(Image.fromarray(image).filter(blur(0.5 + 2 * strength)))
    return result, kind, f"{_adverb(strength)}blurred {kind}", strength


def _sharpened(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str, str, float]:
    strength = float(rng.uniform())
    mask = ImageFilter.UnsharpMask(float(rng.uniform(0.7, 2)), round(60 + 240 * strength), 0)
    return np.asarray(Image.fromarray(image).filter(mask)), "", f"{_adverb(strength)}sharpened", strength


def _noisy(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str, str, float]:
    kind, strength = str(rng.choice(NOISES)), float(rng.uniform())
    channels = 1 if kind == "grey" else 3
    noise = rng.standard_normal((*image.shape[:2], channels), np.float32) * (2 + 16 * strength)
    return _bytes(image + noise), kind, f"{_adverb(strength)}noisy {kind}", strength


def _smoothed(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str, str, float]:
    """Edge-keeping smoothing: a median, or a guided filter (https://doi.org/10.1007/978-3-642-15549-9_1)."""
    kind = str(rng.choice(SMOOTHERS))
    if kind == "median":
        size = int(rng.choice((3, 5)))
        result = np.asarray(Image.fromarray(image).filter(ImageFilter.MedianFilter(size)))
        return result, kind, f"{_adverb(0 if size == 3 else 1)}smoothed {kind}", float(size == 5)
    strength = float(rng.uniform())
    x = image.astype(np.float32) / 255
    window = (7, 7, 0)
    average = uniform_filter(x, window)
    variance = np.maximum(uniform_filter(x * x, window) - average * average, 0)
    slope = variance / (variance + 10 ** (-3.5 + 2 * strength))
    result = uniform_filter(slope, window) * x + uniform_filter(average - slope * average, window)
    return _bytes(255 * result), kind, f"{_adverb(strength)}smoothed {kind}", strength


def _compressed(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str, str, float]:
    strength = float(rng.uniform())
    return _jpeg(image, round(80 - 55 * strength)), "", f"{_adverb(strength)}compressed", strength


_FUNCTIONS = dict(
    zip(OPERATIONS, (_resampled, _network, _blurred, _sharpened, _noisy, _smoothed, _compressed), strict=True)
)


def _bytes(values: np.ndarray) -> np.ndarray:
    return (np.clip(values, 0, 255) + 0.5).astype(np.uint8)


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(buffer))


def degrade(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str, np.ndarray, np.ndarray]:
    """Apply up to three random operations, then JPEG.

    Args:
        image (`np.ndarray`): (side, side, 3) bytes.
        rng (`np.random.Generator`): Where every choice comes from.

    Returns:
        The image, its caption, its attributes ((A,) zeros and ones) and the strength of each operation
        ((number of operations,), NaN where it wasn't applied).
    """
    attributes = np.zeros(len(ATTRIBUTES), np.float32)
    strengths = np.full(len(OPERATIONS), np.nan, np.float32)
    weights = np.array((3, 3, 1, 1, 1, 1, 1), float)
    chosen = rng.choice(
        OPERATIONS, size=int(rng.choice(4, p=(0.2, 0.5, 0.2, 0.1))), replace=False, p=weights / weights.sum()
    )
    words = []
    for name in map(str, chosen):
        image, variant, phrase, strength = _FUNCTIONS[name](image, rng)
        attributes[ATTRIBUTES.index(name)] = 1
        if variant:
            attributes[ATTRIBUTES.index(f"{name} {variant}")] = 1
        strengths[OPERATIONS.index(name)] = strength
        words.append(phrase)
    quality = int(rng.integers(65, 97))
    attributes[-1] = quality < 80
    level = "low" if quality < 76 else "medium" if quality < 86 else "high"
    caption = f"a photo of a scene {' then '.join(words) or 'untouched'} {level} quality jpeg"
    return _jpeg(image, quality), caption, attributes, strengths
