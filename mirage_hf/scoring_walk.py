"""What is to be scored: from arguments to a list of images, in a fixed order.

| argument | images |
|---|---|
| `photo.jpg` | the file, whatever its extension |
| `photos/` | files with an image's extension in it and below, in bytewise order; no hidden ones, no linked folders |
| `"photos/**/*.png"` | matches of a glob, each as if it had been named |
| `@list.txt`, `-` | paths from a file or from stdin, one a line, or ended by NUL |
| `part.parquet` | encoded images in `image` (with `bytes` and `path`), `bytes` or `image_bytes`, or paths in `path` |
| `part.tar` | members with an image's extension, as in webdataset; named `part.tar#member` |
| `photos.zip` | the same of a zip; named `zip://member::photos.zip` |

Relative paths begin at the current folder. Nothing is deduplicated: what two arguments name is scored twice. Paths are
handed out one by one, a list of ten million of them never lies in memory; the names in one folder do, to be sorted.
"""

import glob
import os
import stat
import sys
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from .reading import is_image_name, member_source, open_archive
from .urls import is_url

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_AT_ONCE = 4096
IMAGE_COLUMNS = ("image", "bytes", "image_bytes")
PACKED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


class Listed(NamedTuple):
    """
    One line of the listing.

    Args:
        name (`bytes`): exactly as the file system has it.
        size (`int`, *optional*): of the encoded image.
        container (`bytes`, *optional*): the tar or Parquet file.
        position (`int`, *optional*): where in it.
    """

    name: bytes
    size: int | None = None
    container: bytes | None = None
    position: int | None = None


class InputLister:
    """
    Lists images in the order of the arguments.

    Args:
        inputs (`Iterable[str]`):
            See the module.
        all_files (`bool`, *optional*, defaults to `False`):
            Files in folders and archives whatever their extension.
        null (`bool`, *optional*, defaults to `False`):
            Paths of lists end with NUL instead of a line break.
        allow_urls (`bool`, *optional*, defaults to `False`):
            Hand out http and https addresses, too.

    Attributes:
        skipped (`Counter`):
            How many files in folders and archives were left out: `hidden`, `other_extension`, `linked_folder`,
            `unreadable_folder`, `not_a_file`.

    Iterating raises `ValueError` where an argument can't be used, and `OSError` where a container can't be read.
    """

    def __init__(self, inputs: Iterable[str], all_files: bool = False, null: bool = False, allow_urls: bool = False):
        self.inputs, self.all_files, self.separator = list(inputs), all_files, b"\0" if null else b"\n"
        self.allow_urls = allow_urls
        self.skipped: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Listed]:
        for argument in self.inputs:
            if self._is_address(argument, f"'{argument}'"):
                yield Listed(argument.encode())
            elif argument == "-":
                yield from self._listed_paths(sys.stdin.buffer, "stdin")
            elif argument.startswith("@"):
                with open(argument[1:], "rb") as file:
                    yield from self._listed_paths(file, argument[1:])
            elif glob.has_magic(argument) and not os.path.lexists(argument):
                matches = sorted(os.fsencode(match) for match in glob.iglob(argument, recursive=True))
                if not matches:
                    raise ValueError(f"nothing matches '{argument}'")
                for match in matches:
                    yield from self._of_path(match)
            else:  # a file that isn't there gets its row, too
                yield from self._of_path(os.fsencode(argument))

    def _of_path(self, path: bytes) -> Iterator[Listed]:
        lowered = os.fsdecode(path).lower()
        if os.path.isdir(path):
            yield from self._walk(path)
        elif lowered.endswith(PACKED_TARS):
            raise ValueError(f"'{os.fsdecode(path)}' is a packed tar, which can't be read from the middle: unpack it")
        elif lowered.endswith(".tar"):
            yield from self._tar_members(path)
        elif lowered.endswith(".zip"):
            yield from self._zip_members(os.fsdecode(path))
        elif lowered.endswith(".parquet"):
            yield from _parquet_rows(path)
        else:
            yield Listed(path, _size_of(path))

    def _walk(self, folder: bytes) -> Iterator[Listed]:
        try:
            with os.scandir(folder) as found:  # names only: entries of a folder with millions of files are gigabytes
                names = sorted(entry.name for entry in found)
        except OSError:
            self.skipped["unreadable_folder"] += 1
            return
        for name in names:
            path = os.path.join(folder, name)
            if name.startswith(b"."):
                self.skipped["hidden"] += 1
            elif os.path.isdir(path):
                if os.path.islink(path):
                    self.skipped["linked_folder"] += 1
                else:
                    yield from self._walk(path)
            elif self._is_wanted(os.fsdecode(name)):
                yield Listed(path, _size_of(path))

    def _is_wanted(self, name: str) -> bool:
        if self.all_files or is_image_name(name):
            return True
        self.skipped["other_extension"] += 1
        return False

    def _listed_paths(self, file: BinaryIO, name: str) -> Iterator[Listed]:
        for number, path in enumerate(_split(file, self.separator), 1):
            if self.separator == b"\n":
                path = path.removesuffix(b"\r")
            if self._is_address(os.fsdecode(path), f"entry {number} of {name}"):
                yield Listed(path)
            elif path:
                yield Listed(path, _size_of(path))

    def _is_address(self, text: str, where: str) -> bool:
        if not is_url(text):
            return False
        if not self.allow_urls:
            raise ValueError(f"{where} is an address on the web; only files are read here")
        return True

    def _tar_members(self, path: bytes) -> Iterator[Listed]:
        shown = os.fsdecode(path)
        try:
            with tarfile.open(shown, "r:") as archive:
                while (member := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined]  # it would keep them all
                    if not member.isreg() or member.sparse is not None:
                        self.skipped["not_a_file"] += not member.isdir()
                    elif self._is_wanted(member.name):
                        name = path + b"#" + member.name.encode("utf-8", "surrogateescape")
                        yield Listed(name, member.size, path, member.offset_data)
                # A damaged header ends the listing without an error: https://github.com/python/cpython/issues/56071
                archive.fileobj.seek(archive.offset)  # type: ignore[union-attr]
                if archive.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):  # type: ignore[union-attr]
                    raise tarfile.ReadError(f"damaged at byte {archive.offset}")
        except tarfile.TarError as error:
            raise ValueError(f"'{shown}' is no readable tar: {error}") from error

    def _zip_members(self, path: str) -> Iterator[Listed]:
        for member in sorted(open_archive(path).infolist(), key=lambda member: member.header_offset):
            if not member.is_dir() and self._is_wanted(member.filename):
                source = member_source(path, member.filename)
                yield Listed(source.encode("utf-8", "surrogateescape"), member.file_size)


def image_column(schema: "pa.Schema", path: str) -> tuple[str, bool]:
    """
    The column of a Parquet file that holds the images, and whether it holds them encoded (else paths).

    Raises:
        ValueError: there is none.
    """
    import pyarrow as pa

    for name in IMAGE_COLUMNS:
        if name in schema.names:
            kind = schema.field(name).type
            if pa.types.is_struct(kind) and {"bytes", "path"} & {field.name for field in kind}:
                return name, True
            if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                return name, True
    if "path" in schema.names:
        return "path", False
    raise ValueError(
        f"'{path}' has no column of images: it needs `image` (bytes and path), `bytes`, `image_bytes` or `path`, and "
        f"has {', '.join(schema.names)}"
    )


def _parquet_rows(path: bytes) -> Iterator[Listed]:
    import pyarrow as pa  # for Parquet alone, which needs an extra
    import pyarrow.parquet as pq

    shown = os.fsdecode(path)
    try:
        with pq.ParquetFile(shown) as file:
            column, encoded = image_column(file.schema_arrow, shown)
            if encoded:
                size = os.path.getsize(path)
                for row in range(file.metadata.num_rows):
                    yield Listed(b"%s#%d" % (path, row), size if row == 0 else None, path, row)
                return
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=[column]):
                for value in batch.column(0).to_pylist():
                    name = b"" if value is None else value if isinstance(value, bytes) else os.fsencode(value)
                    yield Listed(name, _size_of(name))
    except pa.ArrowInvalid as error:
        raise ValueError(f"'{shown}' is no readable Parquet file: {error}") from error


def _split(file: BinaryIO, separator: bytes) -> Iterator[bytes]:
    if separator == b"\n":
        for line in file:
            yield line.removesuffix(b"\n")
        return
    rest = b""
    while block := file.read(1 << 16):
        *whole, rest = (rest + block).split(separator)
        yield from whole
    yield rest


def _size_of(path: bytes) -> int | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # a NUL in a name is a ValueError
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


__all__ = ["InputLister", "Listed", "image_column"]
