"""A tree of images, good and bad, a tiny detector for it, and runs over them to compare."""

import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mirage_hf.scoring import ScoringArguments, ScoringSummary, run_scoring


def encoded(seed: int, size=(40, 36), image_format: str = "PNG") -> bytes:
    """A noisy picture."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, image_format)
    return file.getvalue()


def write_images(folder: Path, count: int = 20) -> Path:
    """So many good images in two folders."""
    for number in range(count):
        path = folder / ("ab"[number % 2]) / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number))
    return folder


def write_nasty(folder: Path) -> dict[bytes, str]:
    """Files that have to get a row all the same: exact name and the status that it must say."""
    folder.mkdir(parents=True, exist_ok=True)
    good = encoded(0)
    files = {
        b"caf\xe9.png": (good, "ok"),
        b"line\nbreak.png": (good, "ok"),
        "ü – 图.png".encode(): (good, "ok"),
        b"cut.png": (good[: len(good) // 2], "corrupt"),
        b"empty.jpg": (b"", "unsupported"),
        b"text.jpg": (b"no image", "unsupported"),
        b"html.jpg": (b"<html><body>404</body></html>", "unsupported"),
        b"small.png": (encoded(1, (4, 4)), "too_small"),
        b"long.png": (encoded(1, (900, 20)), "too_elongated"),
    }
    for name, (data, _) in files.items():
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(data)
    (folder / "dangling.png").symlink_to("nowhere")
    (folder / "loop.png").symlink_to("loop.png")
    os.mkfifo(folder / "pipe.png")
    statuses = {name: status for name, (_, status) in files.items()}
    return statuses | {b"dangling.png": "not_found", b"pipe.png": "not_a_file", b"loop.png": None}


def arguments(inputs, model, output_dir, **options) -> ScoringArguments:
    """Small shards, one process with PyTorch's own kernels on the CPU."""
    inputs = [str(path) for path in ([inputs] if isinstance(inputs, (str, Path)) else inputs)]
    defaults = {"shard_size": 4, "workers": 1, "device": "cpu", "quiet": True}
    return ScoringArguments(inputs, str(model), str(output_dir), **(defaults | options))


def score(inputs, model, output_dir, **options) -> ScoringSummary:
    """Runs it."""
    return run_scoring(arguments(inputs, model, output_dir, **options))


def shards(output_dir) -> list[Path]:
    """The files of finished shards."""
    return sorted(Path(output_dir).glob("shard-*.parquet"))


def rows(output_dir) -> list[dict]:
    """All rows of all shards, as they lie there."""
    return [row for file in shards(output_dir) for row in pa.table(pq.read_table(file)).to_pylist()]


def assert_same_rows(found: list[dict], expected: list[dict]) -> None:
    """Equal but for rounding of the scores, every position exactly once."""
    assert [row["index"] for row in found] == [row["index"] for row in expected]
    for row, other in zip(found, expected, strict=True):
        assert {**row, "p_fake": None} == {**other, "p_fake": None}
        assert (row["p_fake"] is None) == (other["p_fake"] is None)
        assert row["p_fake"] is None or abs(row["p_fake"] - other["p_fake"]) < 1e-6
