"""Opening what holds an encoded image: a path, a member of a zip, bytes or an open file.

A *source* is a path, or `zip://<member>::<archive>` as in fsspec. fsspec parses the whole table of contents of an
archive each time it opens a member (about one second with 100,000 members), so archives are opened here once for each
process and their table is kept.
"""

import errno
import io
import os
import re
import stat
import zipfile
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Any, BinaryIO, Protocol, runtime_checkable

IMAGE_EXTENSIONS = frozenset(
    ".jpg .jpeg .jpe .jfif .png .apng .bmp .dib .webp .tif .tiff .gif .avif .jp2 .j2k .jpx .ppm .pgm .pnm".split()
)

# No encoded picture that a detector can use comes near this size; a zip bomb does.
MAX_BYTES = 1 << 30
# Letters of a message: Pillow quotes the bytes that it stumbles over.
MAX_MESSAGE = 200


class ImageStatus(StrEnum):
    """What became of an image."""

    OK = "ok"
    CORRUPT = "corrupt"
    UNSUPPORTED = "unsupported"
    TOO_LARGE = "too_large"
    TOO_SMALL = "too_small"
    TOO_ELONGATED = "too_elongated"
    NOT_FOUND = "not_found"
    NOT_A_FILE = "not_a_file"
    PERMISSION = "permission"
    ERROR = "error"


class UnreadableImage(ValueError):
    """
    There is no picture that can be used.

    Args:
        message (`str`):
            The reason in a few words.
        status ([`ImageStatus`], *optional*, defaults to `ImageStatus.ERROR`):
            The kind of reason.
    """

    def __init__(self, message: str, status: ImageStatus = ImageStatus.ERROR):
        super().__init__(message)
        self.status = status

    def __reduce__(self):
        return type(self), (str(self), self.status)


def is_image_name(name: str) -> bool:
    """Whether a file name has one of `IMAGE_EXTENSIONS`, in capitals or not."""
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def describe_value(value: Any) -> str:
    """A short name for an image value, for messages."""
    if isinstance(value, Mapping):
        value = value.get("path") or value.get("bytes")
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    return os.fsdecode(value) if isinstance(value, (str, os.PathLike)) else f"<{type(value).__name__}>"


def member_source(archive: str, member: str) -> str:
    """The source of a zip member."""
    return f"zip://{member}::{archive}"


def open_value(value: Any, max_bytes: int = MAX_BYTES) -> BinaryIO:
    """
    Open an encoded image as a seekable binary file.

    Args:
        value (`str`, `os.PathLike`, `bytes`, `bytearray`, `memoryview`, binary file or `dict`):
            A path; the encoded image; a file, which is read from where it stands and stays open; or what an `image`
            column holds, a dict with `bytes` or `path`.
        max_bytes (`int`, *optional*, defaults to `1 << 30`):
            Nothing larger is opened or unpacked.

    Raises:
        UnreadableImage: missing, not a regular file, larger than `max_bytes`, or nothing that could hold an image.
    """
    if isinstance(value, Mapping):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if isinstance(value, (bytes, bytearray, memoryview)):
        data = value if isinstance(value, bytes) else bytes(value)
        _check_bytes(len(data), max_bytes)
        return io.BytesIO(data)
    if not isinstance(value, (str, os.PathLike)):
        if isinstance(value, _Readable):
            return _read_stream(value, max_bytes)
        raise UnreadableImage(f"holds no image but {type(value).__name__}", ImageStatus.UNSUPPORTED)
    source = os.fsdecode(value)
    if source.startswith("zip://"):
        member, _, archive = source.removeprefix("zip://").rpartition("::")
        return io.BytesIO(_read_member(archive, member, max_bytes))
    try:
        _check_bytes(_regular_size(source), max_bytes)
        return open(source, "rb")
    except OSError as error:
        raise UnreadableImage(error.strerror or type(error).__name__, status_of(error)) from error
    except ValueError as error:
        if isinstance(error, UnreadableImage):
            raise
        raise UnreadableImage("not a possible file name", ImageStatus.NOT_FOUND) from error


@runtime_checkable
class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _read_stream(stream: _Readable, max_bytes: int) -> BinaryIO:
    try:
        # A pipe or a socket gives less than it is asked for.
        parts, size = [], 0
        while size <= max_bytes and (part := stream.read(min(1 << 20, max_bytes + 1 - size))):
            if isinstance(part, str):
                raise UnreadableImage("gives text: open the file in binary mode", ImageStatus.UNSUPPORTED)
            parts.append(part)
            size += len(part)
        data = b"".join(parts)
    except UnreadableImage:
        raise
    except Exception as error:  # a file object may be of any kind
        raise UnreadableImage(f"cannot be read as a binary file: {one_line(error)}") from error
    _check_bytes(len(data), max_bytes)
    return io.BytesIO(data)


def _regular_size(path: str) -> int:
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise UnreadableImage("a directory", ImageStatus.NOT_A_FILE)
    # Opening a named pipe would wait for ever.
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableImage("not a regular file", ImageStatus.NOT_A_FILE)
    return status.st_size


def _check_bytes(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise UnreadableImage(f"{size} bytes are more than {max_bytes}", ImageStatus.TOO_LARGE)


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
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImage("not a readable zip archive: not a regular file", ImageStatus.NOT_A_FILE)
        return _open_archive(path, status.st_mtime_ns, status.st_size)
    except UnreadableImage:
        raise
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        kind = status_of(error) if isinstance(error, OSError) else ImageStatus.CORRUPT
        raise UnreadableImage(f"not a readable zip archive: {one_line(error)}", kind) from error


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


def _read_member(archive: str, member: str, max_bytes: int) -> bytes:
    try:
        opened = open_archive(archive)
        info = opened.getinfo(member)
        if info.file_size > max_bytes:
            raise UnreadableImage(f"unpacks to {info.file_size} bytes", ImageStatus.TOO_LARGE)
        return opened.read(info)
    except UnreadableImage:
        raise
    except Exception as error:  # every compression method raises errors of its own
        if isinstance(error, KeyError):
            status = ImageStatus.NOT_FOUND
        # An encrypted member is a RuntimeError, an unknown method a NotImplementedError, which is one too.
        else:
            status = ImageStatus.UNSUPPORTED if isinstance(error, RuntimeError) else ImageStatus.CORRUPT
        raise UnreadableImage(f"cannot be unpacked: {one_line(error)}", status) from error


def status_of(error: OSError) -> ImageStatus:
    """The status of a file that the operating system does not open."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
        return ImageStatus.NOT_FOUND
    return ImageStatus.PERMISSION if isinstance(error, PermissionError) else ImageStatus.ERROR


def one_line(error: BaseException) -> str:
    """The message of an error on one short line, without addresses; the name of its class where it has none."""
    text = re.sub(r"<([\w.]+)[^<>]* at 0x[0-9a-fA-F]+>", r"<\1>", str(error))
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(text.split())[:MAX_MESSAGE] or type(error).__name__
