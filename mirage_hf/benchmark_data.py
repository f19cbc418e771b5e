"""The test sets of a protocol, taken from a loaded data set: which rows belong to which, and which are refused."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from .image_io import UnreadableImage
from .metadata_null import read_metadata
from .protocols import Protocol


@dataclass
class TestSets:
    """
    The rows of each test set.

    Args:
        rows (`dict[str, list[int]]`):
            Row numbers by set, in the order of the table.
        refused (`dict[str, str]`):
            Sets that cannot be used, and why.
        notes (`list[str]`):
            What else was decided.
    """

    __test__ = False  # no test class, whatever pytest thinks of the name

    rows: dict[str, list[int]]
    refused: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def split_into_sets(
    protocol: Protocol,
    labels: Sequence[int],
    generators: Sequence[str],
    paths: Sequence[str],
    limit_per_class: int | None = None,
) -> TestSets:
    """
    Share out the rows of a data set.

    Args:
        protocol ([`Protocol`]):
            Names the sets.
        labels, generators, paths (`Sequence` of length N):
            Columns of the data set.
        limit_per_class (`int`, *optional*):
            At most so many real and so many fake images of each set, drawn by a hash of the path, so that a shared
            image is drawn for all sets or for none.

    Raises:
        ValueError: no set is left.
    """
    by_set: dict[str, list[int]] = {}
    left_out: dict[str, int] = {}
    with_fakes = {name for name, label in zip(generators, labels, strict=True) if label == 1}
    free = [
        row
        for row, (name, label) in enumerate(zip(generators, labels, strict=True))
        if protocol.free_reals and label == 0 and name not in with_fakes
    ]
    taken = set(free)
    for row, generator in enumerate(generators):
        if row in taken:
            continue
        name = protocol.set_of(generator)
        if name is None:
            left_out[generator] = left_out.get(generator, 0) + 1
        else:
            by_set.setdefault(name, []).append(row)
    found = TestSets({})
    for name in protocol.order(by_set):
        rows = by_set[name] + free
        counts = [sum(labels[row] == label for row in rows) for label in (0, 1)]
        if not all(counts) and not protocol.one_class_sets:
            found.refused[name] = refusal(counts)
        else:
            found.rows[name] = rows if limit_per_class is None else _draw(rows, labels, paths, limit_per_class)
    if protocol.sets:
        missing = [test_set.name for test_set in protocol.sets if test_set.name not in by_set]
        if missing:
            found.notes.append(
                f"the means cover {len(found.rows)} of {len(protocol.sets)} sets; not there: {', '.join(missing)}"
            )
    if left_out:
        shown = ", ".join(f"{name} ({count} images)" for name, count in sorted(left_out.items()))
        found.notes.append(f"not part of the protocol, so left out: {shown}")
    if not found.rows:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in found.refused.items())
        raise ValueError(f"no test set of {protocol.title} can be used: {reasons or found.notes[-1]}")
    return found


def refusal(counts: Sequence[int]) -> str:
    """Why a set with so many real and fake images is refused."""
    if not any(counts):
        return "no image could be read"
    return f"it holds {counts[0]} real and {counts[1]} fake images, and needs both"


def _draw(rows: list[int], labels: Sequence[int], paths: Sequence[str], count: int) -> list[int]:
    ranked = sorted(rows, key=lambda row: hashlib.blake2b(paths[row].encode("utf-8", "replace")).digest())
    drawn = [[row for row in ranked if labels[row] == label][:count] for label in (0, 1)]
    return sorted(drawn[0] + drawn[1])


def relative_paths(paths: Sequence[str | None], root: str) -> list[str]:
    """Paths without the folder that the data lie in; what lies elsewhere keeps its whole path."""
    folder = os.path.abspath(root)
    above = (folder if os.path.isdir(folder) else os.path.dirname(folder)) + os.sep
    named = (path or f"row {row}" for row, path in enumerate(paths))
    return [path.removeprefix(root) if path.startswith(f"{root}#") else path.removeprefix(above) for path in named]


def listing_hash(paths: Sequence[str], labels: Sequence[int], generators: Sequence[str]) -> str:
    """Hash over names, labels and generators of all rows; the images' bytes aren't read."""
    digest = hashlib.sha256()
    for path, label, generator in zip(paths, labels, generators, strict=True):
        digest.update(f"{path}\0{label}\0{generator}\n".encode("utf-8", "backslashreplace"))
    return digest.hexdigest()[:32]


def collect_metadata(
    dataset: Any, encode: Callable[[Any], Any] | None = None, num_workers: int = 0
) -> list[np.ndarray | None]:
    """
    What a null may know of each image.

    Args:
        dataset (`datasets.Dataset`):
            Rows with `image`, not decoded.
        encode (`Callable`, *optional*):
            Turns the value of `image` into the file that is looked at; by default it is looked at as it is.
        num_workers (`int`, *optional*, defaults to 0):
            Processes.

    Returns:
        `list`: Features of shape `(F,)` of each row, `None` where the file cannot be read.
    """
    rows = _MetadataRows(dataset.with_format(None), encode)
    loader: DataLoader = DataLoader(
        rows, batch_size=32, num_workers=num_workers, collate_fn=list, generator=torch.Generator()
    )
    return [features for batch in loader for features in batch]


class _MetadataRows(Dataset):
    def __init__(self, dataset: Any, encode: Callable[[Any], Any] | None):
        self.dataset, self.encode = dataset, encode

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> np.ndarray | None:
        value = self.dataset[index]["image"]
        try:
            return read_metadata(value if self.encode is None else self.encode(value))
        except UnreadableImage:
            return None


__all__ = ["TestSets", "collect_metadata", "listing_hash", "refusal", "relative_paths", "split_into_sets"]
