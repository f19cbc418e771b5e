"""All shards of a run as one file, in order, with a few thousand rows in memory."""

from pathlib import Path

import pyarrow.parquet as pq

from .row_files import RowFile
from .scoring_manifest import ScoringFolder
from .scoring_shard import SCHEMA

ROWS_AT_ONCE = 4096


def merge_shards(folder: ScoringFolder, output: Path) -> None:
    """
    Write one file of all shards.

    Args:
        folder ([`ScoringFolder`]): All its shards are finished.
        output (`Path`): `.parquet` has every column; `.csv` and `.jsonl` all but `path_bytes`, which is no text.
    """
    columns = [name for name in SCHEMA.names if name != "path_bytes" or output.suffix.lower() == ".parquet"]
    with RowFile(output, columns) as rows:
        for shard in range(folder.num_shards):
            with pq.ParquetFile(folder.shard_file(shard)) as file:
                for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns):
                    for row in batch.to_pylist():
                        rows.write(row)


__all__ = ["merge_shards"]
