"""What the captions of a benchmark say: what fake means, what the means cover, what was left out, what was not run.

Each function gives the sentences that apply, in a list.
"""

from collections.abc import Iterable
from typing import Any

Results = dict[str, Any]
AT_THRESHOLD = ("accuracy", "real_accuracy", "fake_accuracy", "balanced_accuracy")
AT_OWN_THRESHOLD = tuple(f"calibrated_{key}" for key in AT_THRESHOLD)
_MOST_NOTES = 10  # in a caption


def main_views(results: Results) -> list[str]:
    """The views that stand for the run, raw and format-aligned; the first one if there is neither."""
    return [view for view in ("raw", "aligned") if view in results["views"]] or list(results["views"])[:1]


def published_rows(results: Results, metric: str, field: str = "published") -> list[tuple[str, dict[str, Any]]]:
    """Published rows of a metric with a name for each: the method's, and the row's note where methods repeat."""
    rows = [row for row in results.get(field) or [] if row["metric"] == metric]
    methods = [row["method"] for row in rows]
    repeated = [methods.count(method) > 1 for method in methods]
    return [
        (f"{row['method']}, {row['note']}" if again and row.get("note") else row["method"], row)
        for row, again in zip(rows, repeated, strict=True)
    ]


def set_columns(results: Results, metric: str) -> list[str]:
    """The sets of the run, then those that published rows alone have."""
    names = [name for view in main_views(results) for name in results["views"][view]["sets"]]
    names += [name for _, row in published_rows(results, metric) for name in row["values"] if name != "mean"]
    return list(dict.fromkeys(names))


def meaning_of_fake(results: Results, metric: str) -> list[str]:
    """The threshold of a metric that has one."""
    if metric in AT_THRESHOLD:
        return [f"Fake means a score above {results['protocol']['threshold']:g}."]
    if metric in AT_OWN_THRESHOLD and results["model"]["threshold"] is not None:
        return [f"Fake means a score above {results['model']['threshold']:.4g}, the detector's own threshold."]
    return []


def meaning_of_mean(results: Results) -> list[str]:
    """How many sets the mean covers, and which it doesn't."""
    content = results["views"][main_views(results)[0]]
    count = len(content["mean"]["over"])
    text = f"The mean covers {count} {'set' if count == 1 else 'sets'}, each counting the same"
    planned = results["protocol"].get("mean_over")
    return [
        f"{text}{f' (the protocol: {planned})' if planned else ''}; in brackets its 95% interval.",
        *one_class_notes(content),
    ]


def one_class_notes(content: dict[str, Any]) -> list[str]:
    """The sets of a view that are outside its mean."""
    over = content["mean"]["over"]
    one_class = [name for name, s in content["sets"].items() if name not in over and not (s["n_real"] and s["n_fake"])]
    other = [name for name in content["sets"] if name not in over and name not in one_class]
    return [
        *([f"One class only, so outside the mean: {', '.join(one_class)}."] if one_class else []),
        *([f"Outside the mean: {', '.join(other)}."] if other else []),
    ]


def skipped_images(results: Results, views: Iterable[str]) -> list[str]:
    """How many images of each view were left out."""
    counts = {view: sum(block["skipped"] for block in results["views"][view]["sets"].values()) for view in views}
    texts = [f"{count:,} ({view})" for view, count in counts.items() if count]
    return [f"Images skipped because they can't be read: {', '.join(texts) or 'none'}."]


def published_notes(results: Results, metric: str, field: str = "published") -> list[str]:
    """Where published rows come from, and how their sets differ from the run's."""
    sources: dict[str, list[str]] = {}
    for name, row in published_rows(results, metric, field):
        note = row.get("note") if name == row["method"] else ""
        sources.setdefault(row["source"] + (f"; {note}" if note else ""), []).append(name)
    notes = [
        f"Published, not run here: {'; '.join(dict.fromkeys(names))} ({source})." for source, names in sources.items()
    ]
    trained_on = results["protocol"].get("trained_on")
    unsaid = any(not row.get("note") for _, row in published_rows(results, metric, field))
    if trained_on and unsaid and field == "published":
        notes.append(f"Published detectors were trained on {trained_on}.")
    run = {name for view in main_views(results) for name in results["views"][view]["sets"]}
    missing = [name for name in set_columns(results, metric) if name not in run]
    if notes and missing and field == "published":
        notes.append(f"Not in this run, so the means are of different sets: {', '.join(missing)}.")
    return notes


def refused_sets(results: Results) -> list[str]:
    """The sets that could not be used, and why."""
    return [f"Refused: {name}, since {reason}." for name, reason in results.get("refused", {}).items()]


def run_notes(notes: list[str]) -> list[str]:
    """The run's own notes, the first ten of them."""
    more = len(notes) - _MOST_NOTES
    rest = [f"{more:,} more notes stand in the run's results."] if more > 0 else []
    return [*map(sentence, notes[:_MOST_NOTES]), *rest]


def sentence(text: str) -> str:
    """The text with a full stop, if it doesn't end in one."""
    return text if text.endswith((".", "!", "?")) else f"{text}."
