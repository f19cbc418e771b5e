"""An image on its way through a detector: read and preprocessed, which may happen in another process, then judged."""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from PIL import Image

from .image_io import SCORING_LIMITS, ImageLimits, ImageReading, ImageStatus, UnreadableImage, read_image


@dataclass(frozen=True)
class Detection:
    """
    What is said of one image. A score is a statement about an image, not proof of where it comes from.

    Args:
        path (`str`, *optional*):
            The file, where the image came as one; bytes that are not UTF-8 are escaped.
        status (`str`):
            `"ok"`, or why there is no score: see [`ImageStatus`].
        error (`str`, *optional*):
            The reason in words.
        p_fake (`float`, *optional*):
            Probability that the image is AI-generated, calibrated where the checkpoint was.
        label (`str`, *optional*):
            `"fake"` if `p_fake` is above `threshold`, else `"real"`.
        verdict (`str`, *optional*):
            As `label`, but `"unsure"` where a calibrated detector abstains.
        threshold (`float`):
            On the scale of `p_fake`.
        width, height (`int`, *optional*):
            In pixels, upright.
        format (`str`, *optional*):
            Of the file, such as `"JPEG"`.
        n_frames (`int`, *optional*):
            The first one is scored.
        had_alpha (`bool`, *optional*):
            Transparency was laid on white.
        sha256 (`str`, *optional*):
            Of the encoded image, where asked for.
        model (`str`):
            Name of the checkpoint.
        revision (`str`):
            Its commit on the Hub; for a folder the hash over its weights and preprocessing.
        calibration_id (`str`, *optional*):
            See [`Calibration`].
    """

    path: str | None
    status: str
    error: str | None
    p_fake: float | None
    label: str | None
    verdict: str | None
    threshold: float
    width: int | None
    height: int | None
    format: str | None
    n_frames: int | None
    had_alpha: bool | None
    sha256: str | None
    model: str
    revision: str
    calibration_id: str | None

    def to_dict(self) -> dict[str, Any]:
        """The row that every front end writes."""
        return asdict(self)


class NamedImage(NamedTuple):
    """
    An image that can't name itself.

    Args:
        path (`str`): for its row.
        source: whatever [`read_image`] takes, or a function without arguments that gives it when the image's turn
            comes, and may raise [`UnreadableImage`].
    """

    path: str
    source: Any


class Prepared(NamedTuple):
    """
    An image on its way to the network.

    Args:
        path (`str`, *optional*): as in [`Detection`].
        reading ([`ImageReading`]): without its image.
        pixel_values (`torch.Tensor` of shape `(3, H, W)`, *optional*): where the image could be read.
    """

    path: str | None
    reading: ImageReading
    pixel_values: torch.Tensor | None


class Preparer:
    """
    Reads and preprocesses one image and never raises. Can be pickled, for worker processes.

    Args:
        transform (`Callable[[PIL.Image.Image], torch.Tensor]`):
            An upright RGB image to `pixel_values` of shape `(3, H, W)`.
        limits ([`ImageLimits`], *optional*):
            What is too large, too small or too elongated to score.
        sha256 (`bool`, *optional*, defaults to `False`):
            Hash the encoded images.
    """

    def __init__(
        self,
        transform: Callable[[Image.Image], torch.Tensor],
        limits: ImageLimits = SCORING_LIMITS,
        sha256: bool = False,
    ):
        self.transform, self.limits, self.sha256 = transform, limits, sha256

    def __call__(self, source: Any) -> Prepared:
        """
        Args:
            source:
                A [`NamedImage`], or whatever [`read_image`] takes, where a path names itself.
        """
        path, source = source if isinstance(source, NamedImage) else (_name_of(source), source)
        try:
            reading = read_image(source() if callable(source) else source, self.limits, self.sha256)
        except UnreadableImage as error:
            reading = ImageReading(error.status, str(error))
        image, reading = reading.image, replace(reading, image=None)
        if image is None:
            return Prepared(path, reading, None)
        try:
            return Prepared(path, reading, self.transform(image))
        except Exception as error:  # a foreign image processor may refuse an image; the others are scored all the same
            reason = " ".join(f"preprocessing failed: {type(error).__name__}: {error}".split())
            return Prepared(path, replace(reading, status=ImageStatus.ERROR, error=reason), None)


def _name_of(source: Any) -> str | None:
    if not isinstance(source, (str, os.PathLike)):
        return None
    try:
        name = os.fsencode(source)
    except UnicodeEncodeError:  # no file's name: a surrogate that stands for no byte
        return str(source).encode("utf-8", "backslashreplace").decode()
    return name.decode("utf-8", "backslashreplace")


__all__ = ["Detection", "NamedImage", "Prepared", "Preparer"]
