"""Scores the sets of a benchmark in one view: finished sets are read, images that sets share are scored once."""

import logging
from collections import Counter
from typing import Any

import datasets
import numpy as np

from .benchmark_data import TestSets, collect_metadata
from .benchmark_files import BenchmarkFolder, SetScores, load_scores
from .benchmark_views import ChangedTransform, View
from .detector_loading import LoadedDetector
from .prediction import NothingToScore, Predictions, predict_scores

logger = logging.getLogger(__name__)


class BenchmarkScorer:
    """
    Scores rows of one data set with one detector.

    Args:
        detector ([`LoadedDetector`]):
            On its device.
        dataset (`datasets.Dataset`):
            From [`load_detection_dataset`].
        paths (`list[str]`):
            Name of each row; equal names are one image.
        options (`dict`):
            `batch_size`, `num_workers`, `dtype` and `quiet` of [`predict_scores`].
    """

    def __init__(self, detector: LoadedDetector, dataset: datasets.Dataset, paths: list[str], options: dict[str, Any]):
        self.detector, self.dataset, self.paths, self.options = detector, dataset, paths, options
        self.labels = list(dataset["label"])

    def score_sets(self, view: View, sets: TestSets, folder: BenchmarkFolder) -> dict[str, SetScores]:
        """Scores of each set in one view; what is made is written set by set."""
        uses = Counter(self.paths[row] for rows in sets.rows.values() for row in rows)
        known: dict[str, dict[str, Any]] = {}  # images that several sets share, once they are scored
        unreadable: dict[str, str] = {}
        found: dict[str, SetScores] = {}
        for number, (name, rows) in enumerate(sets.rows.items(), start=1):
            if not folder.is_finished(view.name, name):
                logger.warning("%s, set %d of %d: %s, %d images", view.name, number, len(sets.rows), name, len(rows))
                seen = known.keys() | unreadable.keys()
                fresh: dict[str, dict[str, Any]] = {}
                self._score_rows(view, [row for row in rows if self.paths[row] not in seen], fresh, unreadable)
                folder.save(view.name, name, self._join(rows, known | fresh, unreadable))
            # Read back as it is stored: the same whether the run was cut off or not.
            found[name] = load_scores(folder.path, view.name, name)
            known |= {path: entry for path, entry in _entries(found[name]).items() if uses[path] > 1}
            unreadable |= found[name].skipped
        return found

    def _score_rows(
        self, view: View, rows: list[int], scored: dict[str, dict[str, Any]], unreadable: dict[str, str]
    ) -> None:
        """Adds rows to what is scored, by name; those that cannot be read with the reason."""
        if not rows:
            return
        chosen = self.dataset.select(rows)
        metadata = (
            collect_metadata(chosen, view.encode, self.options["num_workers"]) if view.has_null else [None] * len(rows)
        )
        transform = ChangedTransform(view.change, self.detector.transform)
        keep = view.name == "raw" and self.detector.takes_return_embeds
        try:
            result = predict_scores(self.detector.model, chosen, transform, return_embeds=keep, **self.options)
        except NothingToScore as error:  # the set will be refused, the others go on
            result = Predictions(np.empty(0), np.empty(0, dtype=np.int64), [], [], error.skipped)
        failed = {item["index"]: item["error"] for item in result.skipped}
        kept = [index for index in range(len(rows)) if index not in failed]
        for position, index in enumerate(kept):
            entry = scored[self.paths[rows[index]]] = {"score": result.scores[position]}
            if metadata[index] is not None:
                entry["metadata"] = metadata[index]
            if result.image_embeds is not None and result.text_embeds is not None:
                entry["image_embeds"] = result.image_embeds[position].astype(np.float16)
                entry["text_embeds"] = result.text_embeds
        unreadable |= {self.paths[rows[index]]: error for index, error in failed.items()}

    def _join(self, rows: list[int], scored: dict[str, dict[str, Any]], unreadable: dict[str, str]) -> SetScores:
        kept = [row for row in rows if self.paths[row] in scored]
        entries = [scored[self.paths[row]] for row in kept]
        arrays = {}
        for key in ("metadata", "image_embeds"):
            if entries and all(key in entry for entry in entries):
                arrays[key] = np.stack([entry[key] for entry in entries])  # (N, F) or (N, D)
        if "image_embeds" in arrays:
            arrays["text_embeds"] = entries[0]["text_embeds"]  # (2, D)
        return SetScores(
            [self.paths[row] for row in kept],
            np.array([self.labels[row] for row in kept], dtype=np.int64),
            np.array([entry["score"] for entry in entries], dtype=np.float64),
            {self.paths[row]: unreadable[self.paths[row]] for row in rows if self.paths[row] in unreadable},
            arrays,
        )


def _entries(found: SetScores) -> dict[str, dict[str, Any]]:
    """Stored scores by name."""
    entries: dict[str, dict[str, Any]] = {
        path: {"score": score} for path, score in zip(found.paths, found.scores, strict=True)
    }
    for key in ("metadata", "image_embeds"):
        if key in found.arrays:
            for path, values in zip(found.paths, found.arrays[key], strict=True):
                entries[path][key] = values
    if "text_embeds" in found.arrays:
        for entry in entries.values():
            entry["text_embeds"] = found.arrays["text_embeds"]
    return entries


__all__ = ["BenchmarkScorer"]
