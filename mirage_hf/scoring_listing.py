"""The stored listing of a scoring run: a Parquet file in its output folder, written and read in pieces.

Every image has its position in it, so that a shard is a range of positions.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from .scoring_files import temporary_name
from .scoring_inputs import Entry, open_images
from .scoring_walk import ROWS_AT_ONCE, Listed

LISTING_SCHEMA = pa.schema(
    [
        ("name", pa.binary()),
        ("size", pa.int64()),  # in bytes; null where it isn't known
        ("container", pa.binary()),  # tar or Parquet file that holds the image
        ("position", pa.int64()),  # byte in the tar, row of the Parquet file
    ]
)


def write_listing(images: Iterable[Listed], folder: Path, progress: Callable[[int], object] | None = None) -> Path:
    """
    Store a listing.

    Args:
        images (`Iterable[Listed]`):
            Such as an [`InputLister`].
        folder (`Path`):
            It is written there, named after the hash over its names, sizes and places: the same images make the same
            file, whoever writes it.
        progress (`Callable`, *optional*):
            Called with a number of further images, from time to time.

    Returns:
        `Path`: the file.
    """
    digest = hashlib.sha256()
    temporary = temporary_name(folder / "listing.parquet")
    rows: list[Listed] = []
    try:
        with pq.ParquetWriter(temporary, LISTING_SCHEMA, compression="zstd") as writer:

            def flush() -> None:
                columns = list(zip(*rows, strict=True)) or [()] * len(LISTING_SCHEMA)
                arrays = [pa.array(c, field.type) for c, field in zip(columns, LISTING_SCHEMA, strict=True)]
                writer.write_table(pa.Table.from_arrays(arrays, schema=LISTING_SCHEMA))
                if progress is not None:
                    progress(len(rows))
                rows.clear()

            for image in images:
                # With its length before it, no name can be taken for another name and size.
                digest.update(b"%d %s %r %r\n" % (len(image.name), image.name, image.size, image.position))
                rows.append(image)
                if len(rows) == ROWS_AT_ONCE:
                    flush()
            flush()
        file = folder / f"listing-{digest.hexdigest()[:16]}.parquet"
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    return file


@dataclass(frozen=True)
class StoredListing:
    """
    A stored listing, opened where it is needed.

    Args:
        file (`Path`): from [`write_listing`].
        root (`str`): folder where relative paths begin.
        shard_size (`int`): images in a shard; the last one may have fewer.
    """

    file: Path
    root: str
    shard_size: int

    def entries(self, shard: int) -> Iterator[Entry]:
        """The images of a shard, in order, read as they are taken."""
        rows = self._rows(shard * self.shard_size, (shard + 1) * self.shard_size)
        return open_images(rows, self.root)

    def _rows(self, start: int, stop: int) -> Iterator[tuple[int, Listed]]:
        with pq.ParquetFile(self.file) as file:
            index = 0
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                if index < stop and start < index + count:
                    columns = file.read_row_group(group).to_pydict()
                    for row in range(max(start - index, 0), min(stop - index, count)):
                        yield index + row, Listed(*(columns[name][row] for name in LISTING_SCHEMA.names))
                index += count


__all__ = ["StoredListing", "write_listing"]
