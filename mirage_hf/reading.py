"""Reading images that may be damaged, hostile or inside a zip: RGB pictures out, one-line reasons otherwise.

A *source* is a path, or `zip://<member>::<archive>` as in fsspec. fsspec parses the whole table of contents of an
archive each time it opens a member (about one second with 100,000 members), so archives are opened here once for each
process and their table is kept.
"""

import io
import logging
import os
import stat
import zipfile
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps

logger = logging.getLogger(__name__)

IMAGE_EXTENSIONS = frozenset(
    ".jpg .jpeg .jpe .jfif .png .apng .bmp .dib .webp .tif .tiff .gif .avif .jp2 .j2k .jpx .ppm .pgm .pnm".split()
)

# Pillow's own threshold for suspecting a decompression bomb.
MAX_PIXELS = 89_478_485
# A picture of 1 x 30,000 pixels costs 6 GB when its short side is resized to 224.
MAX_ASPECT_RATIO = 20
# No encoded picture under MAX_PIXELS comes near this size; a zip bomb does.
MAX_MEMBER_BYTES = 1 << 30


class UnreadableImage(ValueError):
    """The file holds no picture that can be used; the message is the reason, in a few words."""


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


def load_rgb(value: Any) -> Image.Image:
    """
    Decode an image value, or say why not.

    EXIF orientation is applied; transparency is composited on white; 16-bit gray is scaled by 1/257 (Pillow's own
    conversion clips it); the first frame of an animation is taken; colour profiles are not applied.

    Args:
        value (`dict`, `PIL.Image.Image`, `bytes`, `str` or `Path`):
            See [`decode_rgb`].

    Returns:
        `PIL.Image.Image`: mode RGB, fully decoded.

    Raises:
        UnreadableImage: missing or not a regular file, not an image, truncated, of a mode without a defined range
            (floats), larger than `MAX_PIXELS` or more elongated than `MAX_ASPECT_RATIO`.
    """
    if isinstance(value, Image.Image):
        return guarded(lambda: _to_rgb(value))
    with open_value(value) as file:
        return guarded(lambda: _to_rgb(open_image(file)))


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
                raise UnreadableImage("float pixels have no defined range")
            complete = _ends_as_it_should(file, image.format)
        if not complete:
            load_rgb(value)
    except UnreadableImage as error:
        return str(error)
    return None


def is_image_name(name: str) -> bool:
    """Whether a file name has one of `IMAGE_EXTENSIONS`, in capitals or not."""
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def describe_value(value: Any) -> str:
    """A short name for an image value, for messages."""
    if isinstance(value, Mapping):
        value = value.get("path") or value.get("bytes")
    if isinstance(value, (bytes, bytearray)):
        return f"<{len(value)} bytes>"
    return str(value)


def member_source(archive: str, member: str) -> str:
    """The source of a zip member."""
    return f"zip://{member}::{archive}"


def open_value(value: Any) -> BinaryIO:
    """Open what an `image` column holds (a dict, bytes or a path) as a seekable binary file."""
    if isinstance(value, Mapping):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if isinstance(value, (bytes, bytearray)):
        return io.BytesIO(value)
    if not isinstance(value, (str, Path)):
        raise UnreadableImage(f"holds no image but {type(value).__name__}")
    source = str(value)
    if source.startswith("zip://"):
        member, _, archive = source.removeprefix("zip://").rpartition("::")
        return io.BytesIO(_read_member(archive, member))
    try:
        # Opening a named pipe would wait for ever.
        if not stat.S_ISREG(os.stat(source).st_mode):
            raise UnreadableImage("not a regular file")
        return open(source, "rb")
    except OSError as error:
        raise UnreadableImage(error.strerror or type(error).__name__) from error


def open_archive(path: str) -> zipfile.ZipFile:
    """
    Open a zip archive once for each process; forked workers share the table of contents, not the file position.

    Raises:
        UnreadableImage: missing, damaged, or one part of an archive that was split into volumes.
    """
    if os.path.exists(os.path.splitext(path)[0] + ".z01"):
        raise UnreadableImage("a split archive: join its parts with `zip -s 0 <this.zip> --out <joined.zip>`")
    try:
        status = os.stat(path)
        return _open_archive(path, status.st_mtime_ns, status.st_size)
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise UnreadableImage(f"not a readable zip archive: {_one_line(error)}") from error


@lru_cache(maxsize=64)
def _open_archive(path: str, modified: int, size: int) -> zipfile.ZipFile:
    # An archive that was replaced has another time or size, and is opened anew.
    return zipfile.ZipFile(_ReopenedAfterFork(path))  # type: ignore[arg-type]


class _ReopenedAfterFork(io.RawIOBase):
    """A file for reading whose handle is opened anew in each process: forked processes share a handle's position."""

    def __init__(self, path: str):
        self._path = path
        self._position = 0
        self._pid = -1
        self._file: BinaryIO | None = None

    def _current(self) -> BinaryIO:
        if self._file is None or self._pid != os.getpid():
            self._file = open(self._path, "rb")
            self._pid = os.getpid()
        return self._file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_CUR:
            offset, whence = self._position + offset, io.SEEK_SET
        self._position = self._current().seek(offset, whence)
        return self._position

    def read(self, size: int = -1) -> bytes:
        file = self._current()
        file.seek(self._position)
        data = file.read(size)
        self._position += len(data)
        return data

    def close(self) -> None:
        if self._file is not None and self._pid == os.getpid():
            self._file.close()
        super().close()


def _read_member(archive: str, member: str) -> bytes:
    try:
        opened = open_archive(archive)
        info = opened.getinfo(member)
        if info.file_size > MAX_MEMBER_BYTES:
            raise UnreadableImage(f"unpacks to {info.file_size} bytes")
        return opened.read(info)
    except UnreadableImage:
        raise
    except Exception as error:  # every compression method raises errors of its own
        raise UnreadableImage(f"cannot be unpacked: {_one_line(error)}") from error


def guarded(decode: Callable[[], Any]) -> Any:
    """What `decode` gives; whatever it raises on damaged bytes becomes an [`UnreadableImage`]."""
    try:
        return decode()
    except UnreadableImage:
        raise
    except Image.UnidentifiedImageError as error:
        raise UnreadableImage("not an image") from error
    # Fed with damaged bytes, Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, KeyError, ...
    except Exception as error:
        raise UnreadableImage(_one_line(error)) from error


def open_image(file: BinaryIO) -> Image.Image:
    """Read an image's header and check its size; no pixel is decoded. Damaged bytes may raise anything."""
    file.seek(0, io.SEEK_END)
    if file.tell() == 0:
        raise UnreadableImage("empty file")
    file.seek(0)
    image = Image.open(file)
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnreadableImage(f"{width}x{height} is more than {MAX_PIXELS} pixels")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise UnreadableImage(f"{width}x{height} is more elongated than {MAX_ASPECT_RATIO}:1")
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise UnreadableImage("float pixels have no defined range")
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise UnreadableImage("integer pixels outside 0..65535")
        image = Image.fromarray(np.rint(levels / 257).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
