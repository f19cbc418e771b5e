"""An image on its way through a detector: read and preprocessed, which may happen in another process, then judged."""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from PIL import Image

from .image_io import SCORING_LIMITS, ImageLimits, ImageReading, ImageStatus, read_image


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

    def __call__(self, source: Any, path: str | None = None) -> Prepared:
        """
        Args:
            source:
                Whatever [`read_image`] takes.
            path (`str`, *optional*):
                Name for the row; a source that is a path names itself.
        """
        reading = read_image(source, self.limits, self.sha256)
        image, reading = reading.image, replace(reading, image=None)
        path = _name_of(source) if path is None else path
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
    return os.fsencode(source).decode("utf-8", "backslashreplace")


__all__ = ["Detection", "Prepared", "Preparer"]
