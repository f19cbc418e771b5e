"""One shard of images to one Parquet file: the function that every way of scoring at scale is made of.

It depends on its arguments alone and the file appears whole or not at all. A cluster's scheduler may run it as often
as it likes, see [`run_scoring`] for what to call instead on one machine.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from .detection import NamedImage, Prepared
from .detector import Detector
from .scoring_files import temporary_name
from .scoring_inputs import Entry
from .version import __version__

# `Detection`'s fields in their order, between the position in the input and the exact name.
SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("path", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("p_fake", pa.float64()),
        ("label", pa.string()),
        ("verdict", pa.string()),
        ("threshold", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("format", pa.string()),
        ("n_frames", pa.int32()),
        ("had_alpha", pa.bool_()),
        ("sha256", pa.string()),
        ("model", pa.string()),
        ("revision", pa.string()),
        ("calibration_id", pa.string()),
        ("path_bytes", pa.binary()),
    ]
)
ROWS_AT_ONCE = 4096
STATS_KEY = "mirage_hf.stats"


@dataclass
class ShardStats:
    """
    What is in a shard's file; also kept in its metadata, under `mirage_hf.stats`.

    Args:
        images (`int`): Rows.
        status (`Counter`): How many rows have which status.
        verdict (`Counter`): How many of those that could be read have which verdict.
        seconds (`float`): Time it took to score.
    """

    images: int = 0
    status: Counter[str] = field(default_factory=Counter)
    verdict: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def __iadd__(self, other: "ShardStats") -> "ShardStats":
        self.images += other.images
        self.status.update(other.status)
        self.verdict.update(other.verdict)
        self.seconds += other.seconds
        return self

    @property
    def unreadable(self) -> int:
        """`int`: Images without a score."""
        return self.images - self.status["ok"]


def score_shard(
    detector: Detector,
    entries: Iterable[Entry],
    output_file: str | os.PathLike,
    metadata: Mapping[str, str] | None = None,
    progress: Callable[[int], object] | None = None,
) -> ShardStats:
    """
    Score images into a Parquet file (zstd), one row for each, in order.

    Args:
        detector ([`Detector`]):
            Its `batch_size` is taken.
        entries (`Iterable[Entry]`):
            Read as they are needed. A `source` that is a [`Prepared`] was prepared elsewhere.
        output_file (`str` or `PathLike`):
            Written under another name in the same folder, then renamed.
        metadata (`Mapping[str, str]`, *optional*):
            For the file's metadata, beside `mirage_hf.{version,model,revision,calibration_id,stats}`.
        progress (`Callable`, *optional*):
            Called after each batch with its number of images.

    Returns:
        [`ShardStats`]

    Raises:
        OSError: the file can't be written. Nothing is raised on account of an image.
    """
    output_file, begin, stats = Path(output_file), time.perf_counter(), ShardStats()
    temporary = temporary_name(output_file)
    rows: list[dict] = []
    remaining = iter(entries)
    try:
        with pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
            while batch := list(islice(remaining, detector.batch_size)):
                for entry, detection in zip(batch, detector.judge(_prepare(detector, batch)), strict=True):
                    rows.append(asdict(detection) | {"index": entry.position, "path_bytes": entry.name})
                    stats.images += 1
                    stats.status[detection.status] += 1
                    if detection.verdict is not None:
                        stats.verdict[detection.verdict] += 1
                if len(rows) >= ROWS_AT_ONCE:
                    writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
                    rows.clear()
                if progress is not None:
                    progress(len(batch))
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
            stats.seconds = round(time.perf_counter() - begin, 3)
            calibration = "" if detector.calibration is None else detector.calibration.id
            facts = {"version": __version__, "model": detector.name, "revision": detector.revision}
            facts |= {"calibration_id": calibration}
            writer.add_key_value_metadata(
                {f"mirage_hf.{name}": fact for name, fact in facts.items()}
                | dict(metadata or {})
                | {STATS_KEY: json.dumps(vars(stats))}
            )
        os.replace(temporary, output_file)
    finally:
        temporary.unlink(missing_ok=True)
    return stats


def _prepare(detector: Detector, batch: list[Entry]) -> list[Prepared]:
    return [
        entry.source if isinstance(entry.source, Prepared) else detector.preparer(NamedImage(entry.path, entry.source))
        for entry in batch
    ]


def read_stats(file: Path, expected: Mapping[str, str]) -> ShardStats | None:
    """
    What a shard's file holds, from its metadata.

    Args:
        file (`Path`): The file.
        expected (`Mapping[str, str]`): Metadata that it must have.

    Returns:
        [`ShardStats`] or `None`: where there is no such file, or it is damaged or of another run.
    """
    try:
        with pq.ParquetFile(file) as opened:
            found = {key.decode(): value.decode() for key, value in (opened.metadata.metadata or {}).items()}
            rows = opened.metadata.num_rows
        stated = json.loads(found[STATS_KEY])
    except (OSError, KeyError, ValueError, pa.ArrowException):
        return None
    if any(found.get(key) != value for key, value in expected.items()) or rows != stated["images"]:
        return None
    return ShardStats(rows, Counter(stated["status"]), Counter(stated["verdict"]), stated["seconds"])


__all__ = ["SCHEMA", "ShardStats", "read_stats", "score_shard"]
