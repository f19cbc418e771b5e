"""Intervals of a sweep: over seeds by Student's t, and over test images and seeds together by a bootstrap."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student_t

from .intervals import ScoredSet, draw_weights, find_strata, percentiles
from .weighted_metrics import weighted_metrics

LEVEL = 0.95


def student_interval(values: Sequence[float | None], level: float = LEVEL) -> dict[str, Any] | None:
    """
    Mean of independent runs with its interval: mean ± t · s / √n, t with n - 1 degrees of freedom.

    It covers what training seeds change, not which images were in the test set.

    Args:
        values (`Sequence[float]`): One for each seed.
        level (`float`, *optional*, defaults to 0.95): Coverage.

    Returns:
        `dict`: `mean`, `low`, `high` (`None` for a single run) and `values`; `None` if a value is undefined.
    """
    defined = [value for value in values if value is not None]
    if not defined or len(defined) < len(values):
        return None
    mean, low, high = float(np.mean(defined)), None, None
    if len(defined) > 1:
        half = float(student_t.ppf((1 + level) / 2, len(defined) - 1) * np.std(defined, ddof=1) / len(defined) ** 0.5)
        low, high = mean - half, mean + half
    return {"mean": mean, "low": low, "high": high, "values": defined}


def paired_interval(
    values: Mapping[int, float | None], reference: Mapping[int, float | None], level: float = LEVEL
) -> dict[str, Any] | None:
    """[`student_interval`] of the differences to a reference, seed by seed, over the seeds that both have."""
    seeds = [seed for seed in values if seed in reference]
    pairs = [(values[seed], reference[seed]) for seed in seeds]
    found = student_interval([None if a is None or b is None else a - b for a, b in pairs], level)
    return None if found is None else found | {"seeds": seeds}


class ScoredRun(NamedTuple):
    """
    Stored scores of one run on one test set.

    Args:
        rows (`list[tuple[str, str, int]]`): Path, generator and label of each row.
        scores (`np.ndarray` of shape `(N,)`): Probability of fake.
        threshold (`float`, *optional*): The run's own.
    """

    rows: list[tuple[str, str, int]]
    scores: np.ndarray
    threshold: float | None


def read_scores(path: Path, threshold: float | None) -> ScoredRun:
    """What [`~sweep_scoring.write_scores`] wrote."""
    with open(path, newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    rows = [(row["path"], row["generator"], int(row["label"])) for row in table]
    return ScoredRun(rows, np.array([float(row["p_fake"]) for row in table]), threshold)


def bootstrap_settings(
    settings: Mapping[str, Mapping[int, ScoredRun]],
    metrics: Sequence[str],
    reference: str | None = None,
    *,
    replicates: int = 1000,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, dict[str, dict[str, list[float] | None]]]:
    """
    Percentile intervals over test images and seeds together, of means over generators.

    Each replicate draws images (as [`~intervals.bootstrap_sets`] does) and, anew, seeds, both with replacement; all
    settings get the same draws, so that differences are paired.

    Args:
        settings (`Mapping[str, Mapping[int, ScoredRun]]`): Runs by seed, by setting, all on the same images.
        metrics (`Sequence[str]`): Keys of `METRICS`.
        reference (`str`, *optional*): Setting to compare with; one with other seeds has no difference.
        replicates, seed, level (*optional*): Of the bootstrap.

    Returns:
        `dict`: Setting -> `"mean"` and `"difference"` (setting less reference) -> metric -> [low, high] or `None`.

    Raises:
        ValueError: two runs were scored on different images.
    """
    rows = next(run.rows for runs in settings.values() for run in runs.values())
    for name, runs in settings.items():
        for number, run in runs.items():
            if run.rows != rows:
                raise ValueError(
                    f"{name} seed{number} was scored on other images than the rest: run it again (--redo)"
                )
    labels = np.array([label for _, _, label in rows])
    generators = np.array([generator for _, generator, _ in rows], dtype=object)
    members = {name: np.flatnonzero(generators == name) for name in dict.fromkeys(generators)}
    both = {name: found for name, found in members.items() if 0 < labels[found].sum() < len(found)}
    sets = {
        name: ScoredSet([rows[row][0] for row in found], labels[found], np.zeros(len(found)))
        for name, found in (both or members).items()
    }
    images, strata = find_strata(sets)
    values = {
        name: {key: np.empty((len(runs), replicates)) for key in metrics} for name, runs in settings.items()
    }  # (S, R)
    first = 0
    for weights in draw_weights(strata, replicates, seed):
        span = slice(first, first + len(weights))
        for name, runs in settings.items():
            for position, run in enumerate(runs.values()):
                by_set = [
                    weighted_metrics(run.scores[found], labels[found], weights[:, columns], 0.5, run.threshold)
                    for found, columns in zip((both or members).values(), images, strict=True)
                ]
                for key in metrics:
                    values[name][key][position, span] = np.mean([found[key] for found in by_set], axis=0)
        first += len(weights)
    averaged = {
        name: {key: _draw_seeds(column, seed) for key, column in columns.items()} for name, columns in values.items()
    }
    intervals: dict[str, dict[str, dict[str, list[float] | None]]] = {}
    for name in settings:
        intervals[name] = {"mean": {key: _percentiles(averaged[name][key], level) for key in metrics}}
        if reference is not None and list(settings[name]) == list(settings[reference]):
            intervals[name]["difference"] = {
                key: _percentiles(averaged[name][key] - averaged[reference][key], level) for key in metrics
            }
    return intervals


def _draw_seeds(values: np.ndarray, seed: int) -> np.ndarray:
    """Mean over as many runs drawn with replacement, (S, R) to (R,); the same draws for equal S and R."""
    count, replicates = values.shape
    drawn = np.random.default_rng([seed, count, replicates]).integers(count, size=(count, replicates))
    return np.take_along_axis(values, drawn, axis=0).mean(axis=0)


def _percentiles(column: np.ndarray, level: float) -> list[float] | None:
    """[`~intervals.percentiles`] as JSON gives them back."""
    found = percentiles(column, level)
    return None if found is None else list(found)


__all__ = ["ScoredRun", "bootstrap_settings", "paired_interval", "read_scores", "student_interval"]
