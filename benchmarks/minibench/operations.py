"""Image operations with a name, a strength and words: what the small backbone learns to see and to read.

No neural generator is here: classical operations, and upsamplers that invent detail without a trained network
(`upsamplers.py`). `Degrader` gives an image, its caption and its attributes.
"""

import io

import numpy as np
import upsamplers
from PIL import Image, ImageFilter
from scipy.ndimage import median_filter, uniform_filter
from upsamplers import GREY, NETWORKS, FittedFilters, PatchExamples

KERNELS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
UPSAMPLERS = (*NETWORKS, "fitted", "examples", "shock")
VARIANTS = {
    "resampled": tuple(KERNELS),
    "upsampled": UPSAMPLERS,
    "blurred": ("gaussian", "box"),
    "sharpened": (),
    "noisy": ("grey", "colour"),
    "smoothed": ("median", "guided"),
    "compressed": ("jpeg", "webp"),
    "gridded": (),
    "toned": ("gamma", "contrast", "colourless"),
    "posterised": (),
}
OPERATIONS = tuple(VARIANTS)
LATER = tuple(name for name in OPERATIONS if name not in ("resampled", "upsampled"))
LATER_WEIGHTS = np.array([2, 3, 2, 2, 2, 1, 1, 0.5]) / 13.5
# One attribute for each operation and each variant, in this order; the last two are of the whole image.
ATTRIBUTES = (
    *OPERATIONS,
    *(f"{name} {variant}" for name, variants in VARIANTS.items() for variant in variants),
    "low quality",
    "invented",
)
FACTORS = {1.5: "1.5", 2.0: "2", 3.0: "3", 4.0: "4"}
# Where the finest detail comes from: the camera, or an upsampler. CLIP has read these words in millions of captions.
RECORDED = ("real", "authentic", "natural", "recorded")
INVENTED = ("fake", "synthetic", "generated", "invented")
FRAMES = ("a photo of a {}", "a photo of a {} scene", "a {} photo", "an image that is {}", "{} picture", "this is {}")
WORDS = (
    "a photo of a scene untouched by times with then network redrawn slightly strongly high medium low quality "
    "an image picture camera the and not in on at is that this"
).split() + [*OPERATIONS, *(v for variants in VARIANTS.values() for v in variants), *RECORDED, *INVENTED]


def _adverb(strength: float) -> str:
    return "slightly " if strength < 1 / 3 else "strongly " if strength > 2 / 3 else ""


def _bytes(values: np.ndarray) -> np.ndarray:
    return (np.clip(values, 0, 255) + 0.5).astype(np.uint8)


def _codec(image: np.ndarray, kind: str, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    options = {"subsampling": "4:2:0"} if kind == "JPEG" else {"method": 2}
    Image.fromarray(image).save(buffer, kind, quality=quality, **options)
    return np.asarray(Image.open(buffer).convert("RGB"))


def _guided(values: np.ndarray, strength: float) -> np.ndarray:
    """Edge-keeping smoothing of grey levels (https://doi.org/10.1007/978-3-642-15549-9_1)."""
    x, window = values.astype(np.float32) / 255, (7, 7, 0)
    average = uniform_filter(x, window)
    variance = np.maximum(uniform_filter(x * x, window) - average * average, 0)
    slope = variance / (variance + 10 ** (-3.5 + 2 * strength))
    return 255 * (uniform_filter(slope, window) * x + uniform_filter(average - slope * average, window))


class Degrader:
    """Random operations on photographs, with the upsamplers' tables fitted on `photographs`.

    Args:
        photographs (list of `np.ndarray`): (h, w, 3) bytes, sides of at least 144.
        seed (`int`): Of the tables alone; every later choice comes from the generator given to `__call__`.
    """

    def __init__(self, photographs: list[np.ndarray], seed: int) -> None:
        rng = np.random.default_rng((seed, 1))
        self.tables = {
            kind: {f: [fitter.fit(photographs, f, rng) for _ in range(6)] for f in (2, 3, 4)}
            for kind, fitter in (("fitted", FittedFilters), ("examples", PatchExamples))
        }

    def __call__(
        self, image: np.ndarray, rng: np.random.Generator, invented: bool
    ) -> tuple[np.ndarray, str, np.ndarray, np.ndarray]:
        """Degrade (side, side, 3) bytes, side a multiple of 12, with detail from an upsampler if `invented`.

        Returns:
            The image; its caption; its attributes ((A,) zeros and ones, NaN where undecided); the strength of each
            operation ((operations,), NaN where it wasn't applied).
        """
        attributes = np.zeros(len(ATTRIBUTES), np.float32)
        strengths = np.full(len(OPERATIONS), np.nan, np.float32)
        later = list(rng.choice(LATER, size=int(rng.choice(3, p=(0.5, 0.38, 0.12))), replace=False, p=LATER_WEIGHTS))
        names = ["upsampled"] if invented else ["resampled"] if rng.random() < 0.5 else []
        early = [later.pop()] if later and rng.random() < 0.2 else []
        words = []
        for name in map(str, early + names + later):
            image, variant, phrase, strength = getattr(self, f"_{name}")(image, rng)
            attributes[ATTRIBUTES.index(name)] = 1
            if variant:
                attributes[ATTRIBUTES.index(f"{name} {variant}")] = 1
            strengths[OPERATIONS.index(name)] = strength
            words.append(phrase)
        quality = int(rng.integers(65, 97))
        attributes[ATTRIBUTES.index("low quality")] = quality < 80
        # Sharpening what was resampled is a linear upsampler itself, so it's left undecided.
        undecided = "resampled" in names and "sharpened" in later
        attributes[ATTRIBUTES.index("invented")] = np.nan if undecided else invented
        level = "low" if quality < 76 else "medium" if quality < 86 else "high"
        origin = str(rng.choice(INVENTED if invented else RECORDED))
        named = f"{origin} scene" if rng.random() < 0.5 and not undecided else "scene"
        caption = f"a photo of a {named} {' then '.join(words) or 'untouched'} {level} quality"
        return _codec(image, "JPEG", quality), caption, attributes, strengths

    def _resampled(self, image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str, str, float]:
        kernel = str(rng.choice(list(KERNELS), p=(0.1, 0.1, 0.2, 0.4, 0.2)))
        factor = float(rng.choice(list(FACTORS), p=(0.2, 0.35, 0.1, 0.35)))
        side = image.shape[0]
        # Shrinking is bicubic or by area whatever enlarges: it's the enlarging kernel that leaves the traces named.
        reduce = KERNELS["bicubic"] if rng.random() < 0.8 else KERNELS["box"]
        small = Image.fromarray(image).resize((round(side / factor),) * 2, reduce)
        result = np.asarray(small.resize((side, side), KERNELS[kernel]))
        return result, kernel, f"resampled {FACTORS[factor]} times {kernel}", (factor - 1) / 3

    def _upsampled(self, image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str, str, float]:
        kind = str(rng.choice(UPSAMPLERS, p=(0.12, 0.12, 0.11, 0.3, 0.15, 0.2)))
        factor = int(rng.choice((1, 2, 4), p=(0.3, 0.3, 0.4)) if kind in NETWORKS else rng.choice((2, 3, 4)))
        strength = float(rng.uniform())
        small = upsamplers.shrink(image, factor) if factor > 1 else image.astype(np.float32)
        if factor == 1 or rng.random() < 0.35:  # what many networks do first: remove the grain
            small = _guided(small, 0.6 * rng.uniform()) if rng.random() < 0.7 else median_filter(small, (3, 3, 1))
        coloured = rng.random() < 0.4
        if kind in self.tables:
            table = self.tables[kind][factor][int(rng.integers(6))]
            result = table(small, (0.7 + 1.3 * strength) if kind == "fitted" else (0.4 + 0.8 * strength), coloured)
            if kind == "fitted" and rng.random() < 0.3:
                result = upsamplers.shock_filter(result, 2, 0.6 + 0.3 * factor * rng.uniform())
        elif kind == "shock":
            result = upsamplers.enlarge(small, factor)
            result = upsamplers.shock_filter(result, 2 + round(6 * strength), 0.6 + 0.3 * factor * rng.uniform(0.5, 1))
        else:
            base = upsamplers.enlarge(small, factor) if factor > 1 else small
            detail = upsamplers.network_detail(small, factor, kind, rng)
            if rng.random() < 0.6:  # detail where there's something to detail, not on a blue sky
                grey = (base @ GREY)[..., None]
                detail = detail * np.minimum(np.abs(grey - uniform_filter(grey, (9, 9, 0))), 20)
            own = float((image.astype(np.float32) - base).std())
            result = base + (0.15 + 0.85 * strength) * max(own, 1.5) / (float(detail.std()) + 1e-6) * detail
        how = f"upsampled {factor} times" if factor > 1 else "redrawn"
        return _bytes(result), kind, f"{_adverb(strength)}{how} {kind}", strength

    def _blurred(self, image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str, str, float]:
        kind, strength = str(rng.choice(VARIANTS["blurred"])), float(rng.uniform())
        blur = ImageFilter.GaussianBlur if kind == "gaussian" else ImageFilter.BoxBlur
        result = np.asarray(Image.fromarray(image).filter(blur(0.4 + 1.6 * strength)))
        return result, kind, f"{_adverb(strength)}blurred {kind}", strength

    def _sharpened(self, image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str, str, float]:
        strength = float(rng.uniform())
        mask = ImageFilter.UnsharpMask(float(rng.uniform(0.7, 2)), round(40 + 200 * strength), 0)
        return np.asarray(Image.fromarray(image).filter(mask)), "", f"{_adverb(strength)}sharpened", strength

    def _noisy(self, image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str, str, float]:
        kind, strength = str(rng.choice(VARIANTS["noisy"])), float(rng.uniform())
        channels = 1 if kind == "grey" else 3
        noise = rng.standard_normal((*image.shape[:2], channels), np.float32) * (1 + 14 * strength)
        return _bytes(image + noise), kind, f"{_adverb(strength)}noisy {kind}", strength

    def _smoothed(self, image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str, str, float]:
        kind = str(rng.choice(VARIANTS["smoothed"]))
        if kind == "median":
            size = int(rng.choice((3, 5)))
            result = np.asarray(Image.fromarray(image).filter(ImageFilter.MedianFilter(size)))
            return result, kind, f"{_adverb(0 if size == 3 else 1)}smoothed {kind}", float(size == 5)
        strength = float(rng.uniform())
        return _bytes(_guided(image, strength)), kind, f"{_adverb(strength)}smoothed {kind}", strength

    def _compressed(self, image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str, str, float]:
        kind, strength = str(rng.choice(VARIANTS["compressed"])), float(rng.uniform())
        return (
            _codec(image, kind.upper(), round(80 - 55 * strength)),
            kind,
            f"{_adverb(strength)}compressed {kind}",
            (strength),
        )

    def _gridded(self, image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str, str, float]:
        """A faint periodic pattern, as careless hardware or a printed page leaves."""
        period, strength = int(rng.choice((2, 4, 8))), float(rng.uniform())
        pattern = rng.standard_normal((period, period, 1)).astype(np.float32)
        repeats = -(-image.shape[0] // period)
        tiled = np.tile(pattern - pattern.mean(), (repeats, repeats, 1))[: image.shape[0], : image.shape[1]]
        return _bytes(image + (1 + 5 * strength) * tiled), "", f"{_adverb(strength)}gridded {period}", strength

    def _toned(self, image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str, str, float]:
        kind, strength = str(rng.choice(VARIANTS["toned"])), float(rng.uniform())
        direction = float(rng.choice((-1, 1)))
        values = image.astype(np.float32)
        if kind == "gamma":
            values = 255 * (values / 255) ** (1 + direction * 0.4 * strength)
        elif kind == "contrast":
            values = (values - 128) * (1 + direction * 0.5 * strength) + 128
        else:
            values = values + (0.3 + 0.7 * strength) * ((values @ GREY)[..., None] - values)
        return _bytes(values), kind, f"{_adverb(strength)}toned {kind}", strength

    def _posterised(self, image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str, str, float]:
        strength = float(rng.uniform())
        colours = round(192 - 160 * strength)
        method = Image.Quantize.FASTOCTREE
        result = np.asarray(Image.fromarray(image).quantize(colours, method=method).convert("RGB"))
        return result, "", f"{_adverb(strength)}posterised", strength
