"""
Results on disk, small enough to be committed: which images there were, and for each setting its facts and scores.

    images.csv.gz            split, path, label, kind, generators, family, photo of every image judged
    detectors/<name>.json    fields, thresholds, validation metrics, seconds and versions of each run
    detectors/<name>.csv.gz  log-odds of fake, a row for each image in that order, a column for each seed
"""

import csv
import gzip
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mirage_hf.files import write_atomically

from .images import Split

DECIMALS = 5
INDEX_COLUMNS = ("split", "path", "label", "kind", "generators", "family", "photo")


@dataclass
class Index:
    """
    The images that scores belong to, validation first.

    Args:
        columns (`dict[str, np.ndarray]`): `INDEX_COLUMNS`, each of shape `(N,)`; `label` is 0 or 1, the rest strings.
    """

    columns: dict[str, np.ndarray]

    def select(self, split: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Row numbers of a split, and its columns."""
        rows = np.flatnonzero(self.columns["split"] == split)
        return rows, {name: column[rows] for name, column in self.columns.items()}


def rounded(log_odds: np.ndarray) -> np.ndarray:
    """Scores as they are stored; thresholds are chosen among these."""
    return np.round(log_odds.astype(np.float64), DECIMALS)


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_table(path: Path, header: list[str], rows: Any) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomically(path, gzip.compress(text.getvalue().encode(), mtime=0))  # the same bytes each time


def _read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    with gzip.open(path, "rt", newline="", encoding="utf-8") as handle:
        header, *rows = csv.reader(handle)
    return header, rows


def write_index(results: Path, splits: dict[str, Split]) -> str:
    """Writes `images.csv.gz`; returns the checksum of its content."""
    rows = []
    for name, split in splits.items():
        columns = (split.paths, split.labels, split.kinds, split.generators, split.families, split.photos)
        rows += [[name, *row] for row in zip(*columns, strict=True)]
    _write_table(results / "images.csv.gz", list(INDEX_COLUMNS), rows)
    return index_checksum(results)


def index_checksum(results: Path) -> str:
    return hashlib.sha256(gzip.decompress((results / "images.csv.gz").read_bytes())).hexdigest()


def read_index(results: Path) -> Index:
    """
    Raises:
        ValueError: the columns aren't `INDEX_COLUMNS`.
    """
    header, rows = _read_table(results / "images.csv.gz")
    if tuple(header) != INDEX_COLUMNS:
        raise ValueError(f"images.csv.gz has the columns {', '.join(header)}")
    columns = {name: np.array(values) for name, values in zip(header, zip(*rows, strict=True), strict=True)}
    columns["label"] = columns["label"].astype(np.int64)
    return Index(columns)


def has_results(results: Path, name: str) -> bool:
    return (results / "detectors" / f"{name}.json").is_file()  # written last


def write_results(results: Path, name: str, facts: dict, seeds: list[int], columns: list[list[float]]) -> None:
    """Writes the scores, one column for each seed, then the facts of a setting."""
    folder = results / "detectors"
    _write_table(
        folder / f"{name}.csv.gz",
        [f"seed{seed}" for seed in seeds],
        ([f"{value:.{DECIMALS}f}" for value in row] for row in zip(*columns, strict=True)),
    )
    write_atomically(folder / f"{name}.json", json.dumps(facts, indent=1) + "\n")


def read_facts(results: Path, name: str) -> dict[str, Any]:
    return json.loads((results / "detectors" / f"{name}.json").read_text(encoding="utf-8"))


def read_scores(results: Path, name: str, index: Index) -> tuple[dict[str, Any], np.ndarray]:
    """
    Facts and scores of a setting, checked against each other and against the images.

    Returns:
        `tuple`: Facts, and log-odds of shape `(S, N)` for S seeds.

    Raises:
        ValueError: they don't fit, or a score isn't finite.
    """
    facts = read_facts(results, name)
    header, rows = _read_table(results / "detectors" / f"{name}.csv.gz")
    if facts["index_sha256"] != index_checksum(results):
        raise ValueError(f"{name} was scored on other images than images.csv.gz lists")
    if header != [f"seed{run['seed']}" for run in facts["runs"]]:
        raise ValueError(f"{name} has runs of other seeds than its scores: {', '.join(header)}")
    scores = np.array(rows, dtype=np.float64).T  # (S, N)
    if scores.shape != (len(header), len(index.columns["path"])):
        raise ValueError(f"{name} has scores of shape {scores.shape}")
    if not np.isfinite(scores).all():
        raise ValueError(f"{name} has scores that aren't finite")
    return facts, scores
