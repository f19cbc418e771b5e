"""Decoding images that may be damaged or hostile: an upright RGB picture out, or a status and a one-line reason.

[`read_image`] never raises and tells all about a picture, for scoring; [`load_rgb`] and [`decode_rgb`] are for data
sets. Size and shape are checked in the header, before any pixel is decoded.

A file that was cut off is an error. One that was cut off and then closed with an end mark, as some downloaders do with
JPEG, is not: libjpeg fills the rest with gray and Pillow does not pass its warning on.
"""

import hashlib
import io
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from .image_formats import (
    DEFAULT_LIMITS,
    ImageLimits,
    check_header,
    check_size,
    count_frames,
    displayed_size,
    identify,
    is_unsupported,
    open_image,
    orientation_of,
)
from .image_pixels import array_to_image, detached, highest_level, to_rgb, turn_upright
from .pillow_switches import pillow_switches
from .reading import ImageStatus, UnreadableImage, describe_value, one_line, open_value

logger = logging.getLogger(__name__)

# For verdicts: a detector has nothing to go by on a smaller picture.
SCORING_LIMITS = ImageLimits(min_side=16)


@dataclass(frozen=True)
class ImageReading:
    """
    What [`read_image`] found. Facts that were not reached are `None`.

    Args:
        status ([`ImageStatus`]): `OK` or why there is no picture.
        error (`str`, *optional*): The reason on one line; `None` if the status is `OK`.
        image (`PIL.Image.Image`, *optional*): Upright, mode RGB, fully decoded; `None` unless the status is `OK`.
        width (`int`, *optional*): As displayed, after EXIF rotation.
        height (`int`, *optional*): As displayed.
        format (`str`, *optional*): Pillow's name of the file format.
        n_frames (`int`, *optional*): Frames or pages of the file; the first is taken.
        had_alpha (`bool`, *optional*): Whether there was transparency, which was composited on white.
        sha256 (`str`, *optional*): Of the encoded bytes, where asked for.
    """

    status: ImageStatus
    error: str | None = None
    image: Image.Image | None = None
    width: int | None = None
    height: int | None = None
    format: str | None = None
    n_frames: int | None = None
    had_alpha: bool | None = None
    sha256: str | None = None


def read_image(source: Any, limits: ImageLimits = SCORING_LIMITS, sha256: bool = False) -> ImageReading:
    """
    Read a picture and what is worth knowing about it. It never raises.

    Args:
        source (`str`, `os.PathLike`, `bytes`, binary file, `PIL.Image.Image`, `np.ndarray` or `dict`):
            A path, which may be `zip://<member>::<archive>`; an encoded picture (also `bytearray` or `memoryview`); an
            open file, read from where it stands and left open; a picture; an array as for [`array_to_image`]; a dict
            with `bytes` or `path`.
        limits ([`ImageLimits`], *optional*, defaults to `SCORING_LIMITS`):
            Pictures outside get the status `TOO_LARGE`, `TOO_ELONGATED` or `TOO_SMALL`.
        sha256 (`bool`, *optional*, defaults to `False`):
            Whether to hash the encoded bytes; a `PIL.Image.Image` and an array have none.

    Returns:
        [`ImageReading`]

    Example:

    ```python
    >>> from mirage_hf.image_io import read_image

    >>> reading = read_image(b"<html>404</html>")
    >>> reading.status, reading.error
    (<ImageStatus.UNSUPPORTED: 'unsupported'>, 'not an image: looks like HTML')
    ```"""
    facts: dict[str, Any] = {}
    try:
        image = _read(source, limits, sha256, facts)
    except UnreadableImage as error:
        return ImageReading(error.status, str(error), **facts)
    except Exception as error:  # a mapping or a path of somebody's own class may raise anything
        return ImageReading(ImageStatus.ERROR, one_line(error), **facts)
    return ImageReading(ImageStatus.OK, image=image, **facts)


def load_rgb(value: Any, limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
    """
    Decode an image value, or say why not.

    EXIF orientation is applied; transparency is composited on white; 16-bit gray is scaled by 1/257 (Pillow's own
    conversion clips it); the first frame of an animation is taken; colour profiles are not applied.

    Args:
        value (`str`, `os.PathLike`, `bytes`, binary file, `PIL.Image.Image`, `np.ndarray` or `dict`):
            See [`read_image`].
        limits ([`ImageLimits`], *optional*):
            Of encoded pictures; a `PIL.Image.Image` is converted whatever its size. By default any shorter side will
            do.

    Returns:
        `PIL.Image.Image`: mode RGB, fully decoded, with pixels of its own.

    Raises:
        UnreadableImage: missing or not a regular file, not an image, truncated, of a mode without a defined range
            (floats), or outside the limits.
    """
    if isinstance(value, Image.Image):
        return guarded(lambda: _convert(value, None))
    return _read(value, limits, False, None)


def as_rgb(image: Image.Image) -> Image.Image:
    """
    [`load_rgb`] of a picture that is only read: one that is upright and RGB already is given back, not a copy of it.

    Args:
        image (`PIL.Image.Image`): Of any mode.

    Raises:
        UnreadableImage: as [`load_rgb`].
    """
    # One that a file plugin opened may not have been decoded yet.
    decoded = type(image) is Image.Image and image.mode == "RGB" and not image.has_transparency_data
    return image if decoded and orientation_of(image) == 1 else load_rgb(image)


def decode_rgb(value: Any) -> Image.Image | None:
    """
    Decode the value of an `image` column into an upright RGB picture, or `None` where it cannot be read.

    It never raises, so one damaged file does not end an epoch: a transform or collator leaves out the rows for which
    it gets `None`. The reason is logged as a warning.

    Args:
        value (`dict`, `PIL.Image.Image`, `bytes`, `str` or `Path`):
            A dict has `bytes` or `path`, as in [`~datasets.Image`]`(decode=False)`. A path may be
            `zip://<member>::<archive>`.

    Returns:
        `PIL.Image.Image` or `None`. See [`load_rgb`] for the conversion.
    """
    try:
        return load_rgb(value)
    except UnreadableImage as error:
        logger.warning("Left out an unreadable image: %s: %s", describe_value(value), error)
        return None


def find_problem(value: Any, mode: str) -> str | None:
    """
    Say why an image value cannot be read; `None` where it can.

    Args:
        value (`dict`, `bytes`, `str` or `Path`):
            See [`decode_rgb`].
        mode (`str`):
            `"full"` decodes every pixel. `"header"` parses the header and looks whether the file ends as its format
            says; only where it does not, or the format has no such mark, is the picture decoded.
    """
    try:
        if mode == "full" or isinstance(value, Image.Image):
            load_rgb(value)
            return None
        with open_value(value) as file:
            image = guarded(lambda: open_image(file))
            if image.mode == "F":
                raise UnreadableImage("float pixels have no defined range", ImageStatus.UNSUPPORTED)
            complete = _ends_as_it_should(file, image.format)
        if not complete:
            load_rgb(value)
    except UnreadableImage as error:
        return str(error)
    return None


def guarded(decode: Callable[[], Any]) -> Any:
    """What `decode` gives; whatever it raises on damaged bytes becomes an [`UnreadableImage`]."""
    try:
        with pillow_switches():
            return decode()
    except UnreadableImage:
        raise
    except MemoryError as error:
        raise UnreadableImage("not enough memory", ImageStatus.ERROR) from error
    # The warning is an error where the process makes errors of warnings.
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImage(one_line(error), ImageStatus.TOO_LARGE) from error
    # Fed with damaged bytes, Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, KeyError, ...
    except Exception as error:
        if is_unsupported(error):
            raise UnreadableImage(one_line(error), ImageStatus.UNSUPPORTED) from error
        reason = one_line(error).replace("not identified by this driver", "no width or height")
        raise UnreadableImage(f"damaged: {reason}", ImageStatus.CORRUPT) from error


def _read(source: Any, limits: ImageLimits, sha256: bool, facts: dict[str, Any] | None) -> Image.Image:
    if isinstance(source, np.ndarray):
        source = array_to_image(source, limits)
    if isinstance(source, Image.Image):
        check_size(source.size, limits)
        return guarded(lambda: _convert(source, facts))
    with open_value(source, limits.max_bytes) as file:
        before = _state(file)
        if facts is not None and sha256:
            facts["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        image = guarded(lambda: _decode(file, limits, facts))
        if sha256 and _state(file) != before:
            raise UnreadableImage("the file changed while it was read", ImageStatus.ERROR)
        return image


def _state(file: BinaryIO) -> tuple[int, int] | None:
    if isinstance(file, io.BytesIO):
        return None
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def _decode(file: BinaryIO, limits: ImageLimits, facts: dict[str, Any] | None) -> Image.Image:
    opened = identify(file)
    if facts is not None:
        width, height = displayed_size(opened)
        facts |= {"format": opened.format, "width": width, "height": height}
    check_header(opened, limits)
    opened.load()
    image, orientation, highest = detached(opened), orientation_of(opened), highest_level(opened)
    if facts is not None:
        facts["n_frames"] = count_frames(opened, file)
    del opened  # a decoder may hold more memory than the picture
    return _upright_rgb(image, orientation, highest, facts)


def _convert(image: Image.Image, facts: dict[str, Any] | None) -> Image.Image:
    """RGB pixels of a picture that belongs to the caller, whose own pixels stay as they are."""
    if facts is not None:
        facts |= {"format": image.format, "n_frames": getattr(image, "n_frames", 1)}
    image.load()
    return _upright_rgb(image.copy(), orientation_of(image), highest_level(image), facts)


def _upright_rgb(image: Image.Image, orientation: int, highest: int, facts: dict[str, Any] | None) -> Image.Image:
    had_alpha = image.has_transparency_data
    image = turn_upright(image, orientation)
    if facts is not None:
        facts |= {"had_alpha": had_alpha, "width": image.width, "height": image.height}
    return to_rgb(image, highest)


def _ends_as_it_should(file: BinaryIO, image_format: str | None) -> bool:
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 16))
    tail = file.read(16)
    if image_format == "JPEG":
        return tail.endswith(b"\xff\xd9")
    if image_format == "PNG":
        return tail.endswith(b"IEND\xaeB`\x82")
    if image_format == "WEBP":
        file.seek(4)
        return size >= int.from_bytes(file.read(4), "little") + 8
    return False


__all__ = [
    "SCORING_LIMITS",
    "ImageLimits",
    "ImageReading",
    "ImageStatus",
    "UnreadableImage",
    "as_rgb",
    "decode_rgb",
    "find_problem",
    "load_rgb",
    "read_image",
]
