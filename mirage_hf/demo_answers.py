"""What the demo answers, without its page: scores, also of a degraded copy, the map, what a file says of itself."""

import base64
import io
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from .degradations import BICUBIC, gaussian_blur, jpeg, scale
from .detection import Detection, NamedImage
from .detector import Detector
from .explain import Explanation, explain, explainable
from .explain_picture import draw_overlay
from .image_formats import ImageLimits, open_image
from .image_io import UnreadableImage, guarded, read_image
from .reading import open_value

LONGEST = 448  # pixels of a map's longer edge: its legend stays readable on a phone
THUMBNAIL = 160  # pixels
# Blurring takes some 50 bytes for each pixel; a telephone's 12 megapixels pass.
DEGRADED_MEGAPIXELS = 13.0
UNCHANGED_QUALITY, LEAST_QUALITY = 100, 5
LEAST_FACTOR, HIGHEST_SIGMA = 0.1, 8.0

MAIN_TAGS = ("Make", "Model", "Software", "DateTime", "Artist", "Copyright", "ImageDescription")
CAMERA_TAGS = ("DateTimeOriginal", "LensModel", "ExposureTime", "FNumber", "ISOSpeedRatings", "FocalLength")
MAX_TEXTS, MAX_LETTERS = 12, 300


@dataclass(frozen=True)
class Change:
    """
    What is done to a picture before it is scored once more: blurred, made smaller, saved as JPEG, and brought back to
    its size, in this order, by the functions of [`mirage_hf.degradations`].

    Args:
        quality (`int`, *optional*, defaults to 100):
            Of the JPEG file, 5 to 99; with 100 none is made.
        factor (`float`, *optional*, defaults to 1.0):
            Both edges are shrunk by it, at least 0.1.
        sigma (`float`, *optional*, defaults to 0.0):
            Of the Gaussian, in pixels of the picture as it came, at most 8.

    Raises:
        ValueError: a value is out of range; it is named.
    """

    quality: int = UNCHANGED_QUALITY
    factor: float = 1.0
    sigma: float = 0.0

    def __post_init__(self):
        ranges = {
            "quality": (LEAST_QUALITY, UNCHANGED_QUALITY),
            "factor": (LEAST_FACTOR, 1.0),
            "sigma": (0.0, HIGHEST_SIGMA),
        }
        for name, (least, most) in ranges.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
                raise ValueError(f"`{name}` must lie in [{least:g}, {most:g}], got {value!r}")

    def __call__(self, image: Image.Image) -> Image.Image:
        """An RGB image to another of the same size."""
        size = image.size
        if self.sigma:
            image = gaussian_blur(image, self.sigma)
        if self.factor != 1:
            image = scale(image, self.factor, BICUBIC)
        if self.quality != UNCHANGED_QUALITY:
            image = jpeg(image, round(self.quality))
        return image if image.size == size else image.resize(size, BICUBIC)

    @property
    def words(self) -> str:
        """`str`: What is done; empty where nothing is."""
        parts = [
            f"blur σ = {self.sigma:g}" if self.sigma else "",
            f"size × {self.factor:g}" if self.factor != 1 else "",
            f"JPEG {self.quality:g}" if self.quality != UNCHANGED_QUALITY else "",
        ]
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Map:
    """
    A map to be shown.

    Args:
        picture (`str`): address that holds the picture itself (`data:`), so that no file has to be kept for it.
        width, height (`int`): in pixels.
        looked_at (`tuple[int, int]`): width and height of what the model looked at, in pixels of the image.
        shown_whole (`bool`): whether all of the image is shown, or only what was looked at and around it.
    """

    picture: str
    width: int
    height: int
    looked_at: tuple[int, int]
    shown_whole: bool


class Answers:
    """
    A detector for several visitors at once.

    Args:
        detector ([`Detector`]): any.
    """

    def __init__(self, detector: Detector):
        self.detector = detector
        # A map hooks into the model: another picture's forward pass must not run into it.
        self._lock = threading.Lock()

    @property
    def limits(self) -> ImageLimits:
        """[`ImageLimits`]: Of the pictures that get an answer."""
        return self.detector.preparer.limits

    def score(self, pictures: Sequence[NamedImage]) -> list[Detection]:
        """As [`Detector.score`], in order."""
        with self._lock:
            return list(self.detector.stream(pictures))

    def score_changed(self, picture: NamedImage, change: Change) -> Detection:
        """
        Score a picture behind a change.

        Raises:
            UnreadableImage: it is too large to be degraded. Where it can't be read at all, the answer says so.
        """
        reading = read_image(picture.source, self.limits)
        if reading.image is None:
            (unread,) = self.score([picture])
            return unread
        width, height = reading.image.size
        if width * height > DEGRADED_MEGAPIXELS * 1e6:
            raise UnreadableImage(f"only pictures of up to {DEGRADED_MEGAPIXELS:g} megapixels are degraded here")
        (answer,) = self.score([NamedImage(picture.path, change(reading.image))])
        return answer

    def why_no_map(self) -> str | None:
        """`str`, *optional*: Why this detector's scores can't be mapped, if so."""
        try:
            explainable(self.detector)
        except ValueError as error:
            return str(error)
        return None

    def map(self, picture: NamedImage) -> Map:
        """
        Where the model looked.

        Raises:
            UnreadableImage, ValueError, FloatingPointError: as [`explain`].
        """
        image = read_image(picture.source, self.limits).image
        if image is None:
            raise UnreadableImage("there is no picture to map")
        with self._lock:
            explanation = explain(self.detector, image)
        drawn, whole = draw_map(explanation, image)
        left, upper, right, lower = explanation.box
        return Map(_address(drawn), *drawn.size, (right - left, lower - upper), whole)

    def thumbnail(self, picture: NamedImage) -> str | None:
        """`str`, *optional*: A small copy of the picture, as in [`Map`], where it can be read."""
        image = read_image(picture.source, self.limits).image
        if image is None:
            return None
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        return _address(image)


def _address(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=88, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def draw_map(explanation: Explanation, image: Image.Image) -> tuple[Image.Image, bool]:
    """
    A map small enough for a page. Of a large image only what was looked at is shown, and as much again around it.

    Args:
        explanation ([`Explanation`]): of the image.
        image (`PIL.Image.Image`): RGB.

    Returns:
        `PIL.Image.Image`, and whether all of the image is on it.
    """
    left, upper, right, lower = explanation.box
    beside, above = (right - left) // 2, (lower - upper) // 2
    window = (
        max(0, left - beside),
        max(0, upper - above),
        min(image.width, right + beside),
        min(image.height, lower + above),
    )
    shown = image.crop(window)
    heatmap = explanation.heatmap[window[1] : window[3], window[0] : window[2]]
    zoom = LONGEST / max(shown.size)
    if zoom < 1:
        size = (max(1, round(shown.width * zoom)), max(1, round(shown.height * zoom)))
        shown = shown.resize(size, Image.Resampling.BOX)
        heatmap = np.asarray(Image.fromarray(heatmap).resize(size, Image.Resampling.NEAREST))
    title = f"p(fake) {explanation.p_fake:.3f}, verdict: {explanation.verdict}"
    return draw_overlay(shown, heatmap, title), window == (0, 0, *image.size)


def file_facts(source: Any, limits: ImageLimits) -> dict[str, str]:
    """
    What a file's header says beside its picture: EXIF, and texts such as the prompts that some generators write.

    Args:
        source: as [`read_image`] takes it.
        limits ([`ImageLimits`]): headers outside are not read.

    Returns:
        `dict` of names to printable texts of bounded length; strangers wrote them. Places are not told, only that
        there is one. Empty where there is nothing, or the header can't be read.
    """
    try:
        with open_value(source, limits.max_bytes) as file:
            return guarded(lambda: _header_facts(open_image(file, limits)))
    except UnreadableImage:
        return {}


def _header_facts(image: Image.Image) -> dict[str, str]:
    exif = image.getexif()
    camera = exif.get_ifd(ExifTags.IFD.Exif)
    facts = {name: exif.get(ExifTags.Base[name]) for name in MAIN_TAGS}
    facts |= {name: camera.get(ExifTags.Base[name]) for name in CAMERA_TAGS}
    if exif.get_ifd(ExifTags.IFD.GPSInfo):
        facts["GPS"] = "the file holds a place, which is not shown"
    texts = {f"text: {name}": text for name, text in image.info.items() if isinstance(text, str)}
    facts |= dict(list(texts.items())[:MAX_TEXTS])
    return {printable(name): text for name, value in facts.items() if (text := _fact(value))}


def _fact(value: Any) -> str:
    if isinstance(value, str):
        return printable(value.strip("\0 \r\n\t"))
    if isinstance(value, bytes) or value is None or isinstance(value, (tuple, list)):
        return ""
    number = float(value)  # Pillow's fractions may have 0 below
    return f"{number:g}" if math.isfinite(number) else ""


def printable(text: str) -> str:
    """Without control characters, line breaks or such as turn the direction of writing; of bounded length."""
    cut = "".join(letter if letter.isprintable() else " " for letter in text[: MAX_LETTERS + 1])
    return cut if len(cut) <= MAX_LETTERS else f"{cut[:MAX_LETTERS]}…"


__all__ = ["Answers", "Change", "Map", "draw_map", "file_facts", "printable"]
