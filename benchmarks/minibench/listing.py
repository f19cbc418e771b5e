"""`manifest.csv`: one row for each image and generator, in both tiers alike."""

import csv
import hashlib
import logging
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Row:
    """One row. A plain photograph has one for each generator that it stands against."""

    path: str  # relative to the manifest: images/<split>/<photo>_<index>_<version>.jpg
    label: str  # "real" or "fake"
    generator: str  # of a real image, the one it stands against, or the name of its control
    family: str  # of the generator, or "control"
    split: str
    photo: str
    source: str
    license: str
    sha256: str

    @property
    def index(self) -> int:
        """Number of the crop among those of its photograph."""
        return int(self._tail[0])

    @property
    def version(self) -> str:
        """What was done to the crop: "photo", "native<side>", a control or a generator."""
        return self._tail[2]

    @property
    def crop(self) -> str:
        return f"{self.split}/{self.photo}_{self.index}"

    @property
    def _tail(self) -> tuple[str, str, str]:
        return Path(self.path).stem.removeprefix(f"{self.photo}_").partition("_")


COLUMNS = tuple(field.name for field in fields(Row))


def read(folder: Path) -> list[Row]:
    """The rows of `folder/manifest.csv`."""
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as handle:
        return [Row(**row) for row in csv.DictReader(handle)]


def write(folder: Path, rows: Iterable[Row]) -> None:
    """Write `folder/manifest.csv`, in an order that doesn't depend on how the build went."""
    path = folder / "manifest.csv"
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(COLUMNS)
        ordered = sorted(rows, key=lambda row: (SPLITS.index(row.split), row.generator, row.label, row.path))
        writer.writerows(astuple(row) for row in ordered)
    partial.rename(path)
    logger.info("manifest of the %s tier: sha256 %s", folder.name, checksum(folder))


def checksum(folder: Path) -> str:
    """sha256 of `folder/manifest.csv`."""
    return hashlib.sha256((folder / "manifest.csv").read_bytes()).hexdigest()
