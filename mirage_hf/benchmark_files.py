"""Where a benchmark keeps the scores of each test set, so that a run that was cut off goes on where it stopped.

`scores/<view>/<set>.csv` holds `path,label,p_fake`; `.npz` beside it what the null and the pictures need; `.json` the
images that could not be read. The last is written last: a set is finished when it is there.
"""

import csv
import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .files import write_atomically

DECIMALS = 8  # of stored probabilities; what is computed, is computed from these


@dataclass
class SetScores:
    """
    Scores of one test set in one view; rows of unreadable images are left out.

    Args:
        paths (`list[str]` of length N):
            Relative to the data's root.
        labels (`np.ndarray` of shape `(N,)`, int64):
            0 for real and 1 for fake.
        scores (`np.ndarray` of shape `(N,)`, float64):
            Probability of fake.
        skipped (`dict[str, str]`):
            Path and reason of each image that could not be read.
        arrays (`dict[str, np.ndarray]`):
            `metadata` (N, F) for the null, `image_embeds` (N, D) and `text_embeds` (2, D), where there are any.
    """

    paths: list[str]
    labels: np.ndarray
    scores: np.ndarray
    skipped: dict[str, str] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


class BenchmarkFolder:
    """
    The folder of one benchmark run.

    Args:
        path (`Path`):
            Made if it isn't there.
        identity (`dict`):
            All that scores depend on; JSON-serialisable.

    Raises:
        ValueError: the folder holds scores of another identity; the field that differs is named.
    """

    def __init__(self, path: Path, identity: dict[str, Any]):
        self.path = path
        mark = path / "identity.json"
        identity = json.loads(json.dumps(identity))
        if mark.is_file():
            stored = json.loads(mark.read_text(encoding="utf-8"))
            differing = [key for key in identity.keys() | stored.keys() if identity.get(key) != stored.get(key)]
            if differing:
                raise ValueError(
                    f"'{path}' holds scores made with another {', '.join(sorted(differing))}: choose another "
                    "output folder, or remove this one"
                )
        else:
            write_atomically(mark, json.dumps(identity, indent=1, sort_keys=True) + "\n")

    def is_finished(self, view: str, name: str) -> bool:
        """Whether the set was scored in this view."""
        return scores_file(self.path, view, name, ".json").is_file()

    def save(self, view: str, name: str, found: SetScores) -> None:
        """Writes the scores of a set."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["path", "label", "p_fake"])
        writer.writerows(
            (path, label, f"{score:.{DECIMALS}f}")
            for path, label, score in zip(found.paths, found.labels, found.scores, strict=True)
        )
        arrays = io.BytesIO()
        np.savez_compressed(arrays, allow_pickle=False, **found.arrays)
        write_atomically(scores_file(self.path, view, name, ".csv"), text.getvalue())
        write_atomically(scores_file(self.path, view, name, ".npz"), arrays.getvalue())
        write_atomically(
            scores_file(self.path, view, name, ".json"),
            json.dumps({"set": name, "skipped": found.skipped}, indent=1) + "\n",
        )


def load_scores(folder: Path, view: str, name: str) -> SetScores:
    """The scores of a finished set of the benchmark run in this folder."""
    with open(scores_file(folder, view, name, ".csv"), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with np.load(scores_file(folder, view, name, ".npz"), allow_pickle=False) as arrays:
        kept = dict(arrays)
    stated = json.loads(scores_file(folder, view, name, ".json").read_text(encoding="utf-8"))
    return SetScores(
        [row["path"] for row in rows],
        np.array([int(row["label"]) for row in rows], dtype=np.int64),
        np.array([float(row["p_fake"]) for row in rows]),
        stated["skipped"],
        kept,
    )


def join_sets(scored: Mapping[str, SetScores]) -> SetScores:
    """
    All sets as one, an image that several share taken once. `arrays` has `metadata` and `image_embeds` where every set
    has them, and `sets` (N,), the name of the first set that holds each image.
    """
    chosen: dict[str, tuple[str, int]] = {}  # where an image is met first
    for name, found in scored.items():
        for row, path in enumerate(found.paths):
            chosen.setdefault(path, (name, row))
    arrays = {"sets": np.array([name for name, _ in chosen.values()])}
    for key in ("metadata", "image_embeds"):
        if chosen and all(key in found.arrays for found in scored.values()):
            arrays[key] = np.stack([scored[name].arrays[key][row] for name, row in chosen.values()])
    return SetScores(
        list(chosen),
        np.array([scored[name].labels[row] for name, row in chosen.values()], dtype=np.int64),
        np.array([scored[name].scores[row] for name, row in chosen.values()], dtype=np.float64),
        {},
        arrays,
    )


def scores_file(folder: Path, view: str, name: str, suffix: str) -> Path:
    """Where one file of a set's scores lies."""
    return folder / "scores" / view / f"{file_name(name)}{suffix}"


def file_name(name: str) -> str:
    """A set's name as a file name: unusual characters become `_`, and a hash tells such names apart."""
    plain = re.sub(r"[^\w.-]", "_", name)
    if plain == name and not plain.startswith("."):
        return plain
    return f"{plain.lstrip('.')}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


__all__ = ["BenchmarkFolder", "SetScores", "join_sets", "load_scores"]
