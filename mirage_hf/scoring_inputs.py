"""From listed images to what a detector can read, wherever they lie.

Members of a tar are read at their place in it and rows of a Parquet file by their number, so a shard may begin and end
inside of either.
"""

import os
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

from .detection import NamedImage
from .reading import MAX_BYTES, ImageStatus, UnreadableImage, one_line, status_of
from .scoring_walk import InputLister, Listed, image_column
from .urls import fetch, is_url

IMAGES_AT_ONCE = 16  # encoded images of a Parquet file that are in memory


class Entry(NamedTuple):
    """
    One image of the input.

    Args:
        position (`int`): in the whole input, from 0.
        name (`bytes`): as listed.
        source: what a [`Preparer`] takes.
    """

    position: int
    name: bytes
    source: Any

    @property
    def path(self) -> str:
        """`str`: The name as text; bytes that are not UTF-8 are escaped."""
        return self.name.decode("utf-8", "backslashreplace")


class TarMember(NamedTuple):
    """Reads the bytes of a tar's member, in whatever process it is called."""

    archive: str
    position: int
    size: int

    def __call__(self) -> bytes:
        if self.size > MAX_BYTES:
            raise UnreadableImage(f"{self.size} bytes", ImageStatus.TOO_LARGE)
        try:
            with open(self.archive, "rb") as file:
                file.seek(self.position)
                data = file.read(self.size)
        except OSError as error:
            raise UnreadableImage(f"{self.archive}: {error.strerror}", status_of(error)) from error
        if len(data) < self.size:
            raise UnreadableImage(f"{self.archive} has become shorter", ImageStatus.CORRUPT)
        return data


class Unreadable(NamedTuple):
    """In place of an image whose container can't be read."""

    reason: str
    status: ImageStatus

    def __call__(self) -> bytes:
        raise UnreadableImage(self.reason, self.status)


def named_images(
    inputs: Iterable[str], all_files: bool = False, null: bool = False, allow_urls: bool = False
) -> Iterator[NamedImage]:
    """
    All images of the arguments, for [`Detector.stream`]; see [`InputLister`].

    Raises:
        OSError: a container can't be read.
        ValueError: an argument can't be used.
    """
    lister = InputLister(inputs, all_files, null, allow_urls)
    for entry in open_images(enumerate(lister), os.getcwd()):
        yield NamedImage(entry.path, entry.source)


def open_images(images: Iterable[tuple[int, Listed]], root: str) -> Iterator[Entry]:
    """
    Listed images with what a [`Preparer`] takes.

    Args:
        images (`Iterable[tuple[int, Listed]]`): Position and image.
        root (`str`): Where relative paths begin.
    """
    for (container, _), group in groupby(images, key=_run_of_rows):
        if container is None:
            for index, image in group:
                yield Entry(index, image.name, _source_of(image, root))
        else:
            yield from _parquet_entries(os.path.join(root, os.fsdecode(container)), group)


def _run_of_rows(image: tuple[int, Listed]) -> tuple[bytes | None, int]:
    """Equal for images that one pass over a Parquet file gives; the same file may be listed twice in a row."""
    index, (_, _, container, position) = image
    if container is None or position is None or not container.lower().endswith(b".parquet"):
        return None, 0
    return container, index - position


def _source_of(image: Listed, root: str) -> Any:
    if image.container is not None:
        assert image.position is not None and image.size is not None
        return TarMember(os.path.join(root, os.fsdecode(image.container)), image.position, image.size)
    path = os.fsdecode(image.name)
    if is_url(path):
        return partial(fetch, path)
    if path.startswith("zip://"):
        member, _, archive = path.removeprefix("zip://").rpartition("::")
        return f"zip://{member}::{os.path.join(root, archive)}"
    return os.path.join(root, path)


def _parquet_entries(path: str, rows: Iterator[tuple[int, Listed]]) -> Iterator[Entry]:
    """Images of consecutive rows of a Parquet file; should it fail in the middle, the rest with the reason."""
    import pyarrow as pa  # for Parquet alone, which needs an extra

    values: Iterator[Any] | None = None
    for index, image in rows:
        values = values or _parquet_values(path, image.position or 0)
        try:
            value = next(values)
        except (OSError, StopIteration, ValueError, pa.ArrowException) as error:
            reason = f"{path}: {one_line(error) or 'has become shorter'}"
            status = status_of(error) if isinstance(error, OSError) else ImageStatus.CORRUPT
            value = Unreadable(reason, status)
        yield Entry(index, image.name, value)


def _parquet_values(path: str, start: int) -> Iterator[Any]:
    import pyarrow.parquet as pq

    # Read in pages: a row group is often a gigabyte.
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
        column, _ = image_column(file.schema_arrow, path)
        groups, first, count = [], 0, 0
        for group in range(file.num_row_groups):
            count += file.metadata.row_group(group).num_rows
            if count > start:
                groups.append(group)
            else:
                first = count
        for batch in file.iter_batches(IMAGES_AT_ONCE, row_groups=groups, columns=[column], use_threads=False):
            values = batch.column(0)
            if first + len(values) > start:
                yield from values.slice(max(start - first, 0)).to_pylist()
            first += len(values)


__all__ = ["Entry", "TarMember", "named_images", "open_images"]
