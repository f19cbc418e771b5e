"""What a detector would score without looking at a pixel: file size and JPEG quantisation tables alone."""

import csv
import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

logger = logging.getLogger(__name__)


def auc(positive: Iterable[float], negative: Iterable[float]) -> float:
    """Probability that a positive outranks a negative, ties counted half."""
    a, b = np.asarray(list(positive))[:, None], np.asarray(list(negative))[None]
    return float(((a > b) + 0.5 * (a == b)).mean())


def measure(folder: Path, split: str) -> dict[str, tuple[float, float]]:
    """For each generator, the AUC of file size and of the luminance table's sum, fakes against plain photographs."""
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as handle:
        rows = [row for row in csv.DictReader(handle) if row["split"] == split]
    facts = {}
    for path in {row["path"] for row in rows}:
        with Image.open(folder / path) as image:
            facts[path] = ((folder / path).stat().st_size, sum(image.quantization[0]))
    result = {}
    for generator in sorted({row["generator"] for row in rows if row["label"] == "fake"}):
        chosen = [row for row in rows if row["generator"] == generator]
        fake, real = ([facts[row["path"]] for row in chosen if row["label"] == label] for label in ("fake", "real"))
        result[generator] = tuple(auc((f[i] for f in fake), (r[i] for r in real)) for i in range(2))
    return result


def report(folder: Path) -> None:
    for split in ("train", "validation", "test"):
        for generator, (size, table) in measure(folder, split).items():
            logger.info("%-10s %-10s AUC of file size %.2f, of quantisation table %.2f", split, generator, size, table)
