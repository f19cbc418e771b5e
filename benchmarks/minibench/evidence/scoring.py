"""From stored scores to metrics, each with all its bootstrap replicates."""

from collections.abc import Sequence

import numpy as np

from .bootstrap import ranking_metrics, weighted_share
from .images import CONTROLS

RANKINGS = ("ap", "auc", "tpr")
THRESHOLDS = ("chosen", "equal", "half")
REAL_KINDS = ("photo", *CONTROLS)


def list_generators(columns: dict[str, np.ndarray]) -> dict[str, str]:
    """Generators of the fakes among these images, in order of their names, and the family of each."""
    fake = columns["label"] == 1
    return dict(sorted(set(zip(columns["kind"][fake].tolist(), columns["family"][fake].tolist(), strict=True))))


def average_groups(families: dict[str, str], seen: Sequence[str], apart: Sequence[str]) -> dict[str, list[list[str]]]:
    """
    What metrics are averaged over, beside each generator: a mean over parts, each a mean over generators.

    Args:
        families (`dict[str, str]`): From [`list_generators`].
        seen (`Sequence[str]`): Generators that were trained on.
        apart (`Sequence[str]`): Generators that are never averaged in.

    Returns:
        `dict[str, list[list[str]]]`: `unseen`, all generators not trained on; `unseen families`, one part for each
        family without a seen generator; `family <name>` for each family.
    """
    members: dict[str, list[str]] = {}
    for name, family in families.items():
        if name not in apart:
            members.setdefault(family, []).append(name)
    groups = {"unseen": [[name] for names in members.values() for name in names if name not in seen]}
    groups["unseen families"] = [names for names in members.values() if not set(names) & set(seen)]
    return groups | {f"family {family}": [names] for family, names in sorted(members.items())}


def score_setting(
    scores: np.ndarray,
    thresholds: list[dict[str, float]],
    columns: dict[str, np.ndarray],
    groups: dict[str, list[list[str]]],
    image_weights: np.ndarray,
    seed_weights: np.ndarray,
) -> dict[str, np.ndarray]:
    """
    All metrics of a setting on the test split.

    Args:
        scores (`np.ndarray` of shape `(S, N)`): Log-odds of fake.
        thresholds (`list[dict[str, float]]` of length S): For each run, log-odds by the names in `THRESHOLDS`.
        columns (`dict[str, np.ndarray]`): `label`, `kind`, `generators` and `family` of the images.
        groups (`dict`): From [`average_groups`].
        image_weights, seed_weights (`np.ndarray` of shapes `(1 + R, N)` and `(1 + R, S)`): From
            [`~.bootstrap.draw_weights`]. A setting of one run gets its weight whatever the seeds drawn.

    Returns:
        `dict[str, np.ndarray]`, each of shape `(1 + R,)`: `<metric>/<generator or group>` with the metrics
        `ap`, `auc`, `tpr` (at the same false positives on test) and `balanced_<threshold>`, and
        `fpr_<threshold>/<kind of real image>`.
    """
    if len(scores) == 1:
        seed_weights = np.ones((len(image_weights), 1))
    found: dict[str, np.ndarray] = {}
    for run, (log_odds, cut) in enumerate(zip(scores, thresholds, strict=True)):
        for name, values in _score_run(log_odds, cut, columns, image_weights).items():
            found[name] = found.get(name, 0.0) + seed_weights[:, run] * values
    metrics = sorted({name.partition("/")[0] for name in found if not name.startswith("fpr_")})
    for metric in metrics:
        for group, parts in groups.items():
            if parts:
                means = [np.mean([found[f"{metric}/{name}"] for name in names], axis=0) for names in parts]
                found[f"{metric}/{group}"] = np.mean(means, axis=0)
    return found


def _score_run(
    log_odds: np.ndarray, thresholds: dict[str, float], columns: dict[str, np.ndarray], weights: np.ndarray
) -> dict[str, np.ndarray]:
    found = {}
    used_with = [set(names.split()) for names in columns["generators"].tolist()]
    for name in list_generators(columns):
        fake = (columns["label"] == 1) & (columns["kind"] == name)
        real = (columns["label"] == 0) & np.array([name in names for names in used_with])
        both = fake | real
        for metric, values in ranking_metrics(log_odds[both], columns["label"][both], weights[:, both]).items():
            found[f"{metric}/{name}"] = values
        for which in THRESHOLDS:
            above = log_odds > thresholds[which]
            hit, false_alarm = (weighted_share(above[part], weights[:, part]) for part in (fake, real))
            found[f"balanced_{which}/{name}"] = (hit + 1 - false_alarm) / 2
    for kind in REAL_KINDS:
        members = columns["kind"] == kind
        for which in THRESHOLDS:
            found[f"fpr_{which}/{kind}"] = weighted_share(log_odds[members] > thresholds[which], weights[:, members])
    return found
