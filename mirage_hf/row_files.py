"""Rows of scores as JSON Lines, CSV or Parquet, told by the file's ending; whole or not at all."""

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

ENDINGS = (".jsonl", ".csv", ".parquet")
ROW_GROUP = 4096


class _Format(Protocol):
    def write(self, row: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class RowFile:
    """
    A file of rows that appears when the block ends without an error.

        with RowFile("scores.csv", columns) as rows:
            rows.write({"path": ...})

    Args:
        path (`str` or `PathLike`):
            Its ending is one of `ENDINGS`.
        columns (`Sequence[str]`):
            Names in their order; every row has all of them.

    Raises:
        ImportError: Parquet without the extra `score`.
        OSError: the file can't be written.
        ValueError: the ending is another.
    """

    def __init__(self, path: str | os.PathLike, columns: Sequence[str]):
        self.path = Path(path)
        if self.path.suffix.lower() not in ENDINGS:
            raise ValueError(f"{self.path} must end in {', '.join(ENDINGS)}: the ending says what is written")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.unfinished = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        self.rows: _Format
        if self.path.suffix.lower() == ".parquet":
            self.rows = _Parquet(self.unfinished, columns)
        else:
            self.rows = (_Csv if self.path.suffix.lower() == ".csv" else _JsonLines)(self.unfinished, columns)

    def write(self, row: dict[str, Any]) -> None:
        """Adds a row."""
        self.rows.write(row)

    def __enter__(self) -> "RowFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.rows.close()
        if kind is None:
            self.unfinished.replace(self.path)
        else:
            self.unfinished.unlink(missing_ok=True)


class _JsonLines:
    def __init__(self, path: Path, columns: Sequence[str]):
        self.columns, self.file = columns, open(path, "w", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        self.file.write(json.dumps({name: row[name] for name in self.columns}) + "\n")

    def close(self) -> None:
        self.file.close()


class _Csv:
    def __init__(self, path: Path, columns: Sequence[str]):
        self.columns, self.file = columns, open(path, "w", newline="", encoding="utf-8")
        self.writer = csv.writer(self.file, lineterminator="\n")
        self.writer.writerow(columns)

    def write(self, row: dict[str, Any]) -> None:
        self.writer.writerow([row[name] for name in self.columns])

    def close(self) -> None:
        self.file.close()


class _Parquet:
    def __init__(self, path: Path, columns: Sequence[str]):
        import pyarrow
        import pyarrow.parquet

        from .scoring_shard import SCHEMA

        self.schema = pyarrow.schema([SCHEMA.field(name) for name in columns])
        self.writer = pyarrow.parquet.ParquetWriter(path, self.schema, compression="zstd")
        self.table, self.waiting = pyarrow.Table, list[dict[str, Any]]()

    def write(self, row: dict[str, Any]) -> None:
        self.waiting.append(row)
        if len(self.waiting) == ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        self.writer.write_table(self.table.from_pylist(self.waiting, self.schema))
        self.waiting.clear()

    def close(self) -> None:
        if self.waiting:
            self._flush()
        self.writer.close()


__all__ = ["ENDINGS", "RowFile"]
