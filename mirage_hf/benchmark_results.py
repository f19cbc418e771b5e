"""Puts the scores of a benchmark together: metrics, intervals, null, representation, published rows, and warnings."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from .benchmark_data import TestSets, refusal
from .benchmark_files import SetScores, join_sets
from .benchmark_metrics import METRICS, set_metrics
from .evaluation import mean_of_defined
from .intervals import ScoredSet, bootstrap_sets
from .metadata_null import metadata_null
from .protocols import Protocol
from .published import published_results
from .representation import representation_distances

SCHEMA_VERSION = 1
NULL_WARNING = 0.6  # balanced accuracy of a null from which tables say so
# What the null's features differ in; an aligned file's header is the same for all, only its length isn't.
NULL_SEES = {
    "raw": "format, size, bytes, JPEG tables: scores there may owe much to the format",
    "aligned": "the bytes that an aligned image takes: how smooth it is, or how it was compressed before",
}
# Published names of degradations -> views.
DEGRADATION_COLUMNS = {
    "LR_112": "resize_112",
    "LR_64": "resize_64",
    "JPEG_65": "jpeg_65",
    "JPEG_30": "jpeg_30",
    "blur_3": "blur_3",
    "blur_5": "blur_5",
}


def assemble_results(
    protocol: Protocol,
    model: dict[str, Any],
    environment: dict[str, str],
    arguments: dict[str, Any],
    layout: str,
    sets: TestSets,
    views: dict[str, tuple[str, dict[str, SetScores]]],
    replicates: int = 1000,
) -> dict[str, Any]:
    """
    Results as `benchmark.schema.json` says.

    Args:
        protocol ([`Protocol`]):
            What was run.
        model, environment, arguments (`dict`):
            Taken over; `model` holds the calibrated `threshold`, or `None`.
        layout (`str`):
            As recognised.
        sets ([`TestSets`]):
            Refused sets and notes; sets found to be unusable now are added.
        views (`dict[str, tuple[str, dict[str, SetScores]]]`):
            Description and scores by set of each view.
        replicates (`int`, *optional*, defaults to 1000):
            Bootstrap draws.

    Raises:
        ValueError: no set is left.
    """
    refused = dict(sets.refused)
    for _, scored in views.values():
        for name, found in scored.items():
            counts = [int((found.labels == label).sum()) for label in (0, 1)]
            if not any(counts) or (not all(counts) and not protocol.one_class_sets):
                refused.setdefault(name, refusal(counts))
    described = {
        view: describe_view(
            protocol,
            description,
            {name: found for name, found in scored.items() if name not in refused},
            model["threshold"],
            replicates,
        )
        for view, (description, scored) in views.items()
    }
    if not described["raw"]["sets"]:
        raise ValueError(
            f"no test set of {protocol.title} can be used: {'; '.join(f'{n}: {r}' for n, r in refused.items())}"
        )
    published_views = []
    if protocol.published_views is not None:
        for row in published_results((protocol.published_views,)):
            values = {DEGRADATION_COLUMNS.get(name, name): value for name, value in row["values"].items()}
            published_views.append(row | {"values": values})
    return {
        "schema_version": SCHEMA_VERSION,
        "protocol": {
            "name": protocol.name,
            "title": protocol.title,
            "source": protocol.source,
            "metrics": list(protocol.metrics),
            "threshold": protocol.threshold,
            "mean_over": protocol.mean_over,
            "trained_on": protocol.trained_on,
        },
        "model": model,
        "environment": environment,
        "arguments": arguments,
        "layout": layout,
        "refused": refused,
        "notes": [*null_warnings(described), *sets.notes],
        "views": described,
        "published": published_results(protocol.published),
        "published_views": published_views,
    }


def describe_view(
    protocol: Protocol, description: str, scored: dict[str, SetScores], calibrated: float | None, replicates: int
) -> dict[str, Any]:
    """One view: each set, the means, the null over all images, the representation."""
    samples = {name: ScoredSet(found.paths, found.labels, found.scores) for name, found in scored.items()}
    metrics = {
        name: set_metrics(found.scores, found.labels, protocol.threshold, calibrated) for name, found in scored.items()
    }
    intervals, mean_intervals = (
        ({}, {}) if not scored else bootstrap_sets(samples, protocol.threshold, calibrated, replicates=replicates)
    )
    covered = [name for name, found in metrics.items() if found["balanced_accuracy"] is not None]
    described = {}
    for name, found in scored.items():
        described[name] = {
            "n_real": int((found.labels == 0).sum()),
            "n_fake": int((found.labels == 1).sum()),
            "skipped": len(found.skipped),
            "metrics": _rounded(metrics[name]),
            "intervals": _rounded(intervals[name]),
            "null": _null({name: found}),
            "representation": _representation({name: found}),
        }
    means = {key: mean_of_defined([metrics[name][key] for name in covered]) if covered else None for key in METRICS}
    return {
        "description": description,
        "sets": described,
        "mean": {
            "metrics": _rounded(means),
            "intervals": _rounded({key: mean_intervals.get(key) for key in METRICS}),
            "over": covered,
        },
        "null": _null(scored),
        "representation": _representation(scored),
    }


def null_warnings(views: dict[str, dict[str, Any]]) -> list[str]:
    """A line for each view in which the null tells real from fake, and for sets where it does."""
    lines = []
    for view, described in views.items():
        above = {
            name: found["null"]["balanced_accuracy"]
            for name, found in described["sets"].items()
            if found["null"] and (found["null"]["balanced_accuracy"] or 0) > NULL_WARNING
        }
        pooled = described["null"] and described["null"]["balanced_accuracy"]
        if pooled and pooled > NULL_WARNING:
            above = {"all sets together": pooled, **above}
        if above:
            shown = ", ".join(f"{name} {100 * value:.0f}%" for name, value in above.items())
            lines.append(
                f"{view}: a null that reads no pixel ({NULL_SEES[view]}) tells real from fake with a balanced "
                f"accuracy above {100 * NULL_WARNING:.0f}%: {shown}."
            )
    return lines


def _null(scored: Mapping[str, SetScores]) -> dict[str, Any] | None:
    """The null over some sets, each image once."""
    images = join_sets(scored)
    if "metadata" not in images.arrays:
        return None
    null = metadata_null(images.arrays["metadata"], images.labels)
    return None if null["balanced_accuracy"] is None else _rounded(null)


def _representation(scored: Mapping[str, SetScores]) -> dict[str, Any] | None:
    """Definitions 4.1 and 4.2 over some sets, each image once, each set being a distribution."""
    images = join_sets(scored)
    if "image_embeds" not in images.arrays or len(np.unique(images.labels)) < 2:
        return None
    measured = representation_distances(
        torch.from_numpy(images.arrays["image_embeds"]).float(),
        torch.from_numpy(images.labels),
        torch.from_numpy(next(iter(scored.values())).arrays["text_embeds"]).float(),
        torch.from_numpy(np.unique(images.arrays["sets"], return_inverse=True)[1]),
    )
    return {distance: _rounded(values) for distance, values in measured.items()}


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    """Numbers with six decimals; NaN becomes `None`."""

    def plain(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        if isinstance(value, float):
            return None if np.isnan(value) else round(value, 6)
        return value

    return {key: plain(value) for key, value in values.items()}


__all__ = ["assemble_results"]
