"""The evidence table as Markdown."""

from collections.abc import Callable, Iterable
from typing import Any

HALF_WIDTH = "A cell is the mean over seeds ± half the width of its 95% interval, in percent."


def render(table: dict[str, Any], sweeps: list[dict[str, Any]]) -> str:
    """
    Args:
        table (`dict`): From [`~.tables.build_table`].
        sweeps (`list[dict]`): From [`~.tables.summarise_sweeps`].
    """
    generators = [name for name in table["generators"] if name not in table["apart"]]
    generators.sort(key=lambda name: name not in table["seen"])
    headings = {name: f"{name} (seen)" if name in table["seen"] else name for name in generators}
    families = [group for group in table["groups"] if group.startswith("family ")]
    sections = [_introduction(table), _headline(table), _differences(table), _equal_rates(table)]
    for metric, title in (
        ("ap", "Average precision"),
        ("auc", "Area under the ROC curve"),
        ("balanced_chosen", "Balanced accuracy at the threshold chosen on validation"),
        ("balanced_half", "Balanced accuracy at probability 0.5"),
    ):
        columns = {f"{metric}/{name}": headings[name] for name in generators}
        sections.append(_section(f"{title}, by generator", table, columns))
        if metric != "balanced_half":
            columns = {f"{metric}/{name}": name.removeprefix("family ") for name in families}
            sections.append(_section(f"{title}, by family", table, columns))
    if table["apart"]:
        columns = {
            f"{metric}/{name}": f"{name} {label}"
            for name in table["apart"]
            for metric, label in (("ap", "AP"), ("auc", "AUC"), ("balanced_chosen", "bal. acc."))
        }
        note = "Other content and resolution than the photographs, so never averaged in."
        sections.append(
            _section("Generators that sample from noise, against real partners of their own", table, columns, note)
        )
    sections += [_runs(table), _sweeps(sweeps)]
    return "\n".join(section for section in sections if section)


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def with_interval(cell: list[float]) -> str:
    return f"{percent(cell[0])} [{percent(cell[1])}, {percent(cell[2])}]"


def with_half_width(cell: list[float]) -> str:
    return f"{percent(cell[0])} ± {percent((cell[2] - cell[1]) / 2)}"


def signed(cell: list[float]) -> str:
    return f"{100 * cell[0]:+.1f} [{100 * cell[1]:+.1f}, {100 * cell[2]:+.1f}]"


def markdown_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; all columns but the first are aligned right."""
    titles = list(header)
    lines = [f"| {' | '.join(titles)} |", "|---" + "|--:" * (len(titles) - 1) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _section(
    title: str,
    table: dict[str, Any],
    columns: dict[str, str],
    note: str = HALF_WIDTH,
    show: Callable[[list[float]], str] = with_half_width,
    part: str = "metrics",
) -> str:
    rows = [
        [found["title"], *(show(found[part][key]) if key in found[part] else "–" for key in columns)]
        for name, found in table["settings"].items()
        if part == "metrics" or name != table["reference"]
    ]
    return f"## {title}\n\n{note}\n\n{markdown_table(['detector', *columns.values()], rows)}"


def _introduction(table: dict[str, Any]) -> str:
    counts = ", ".join(f"{name} {count}" for name, count in table["counts"].items())
    return (
        "# Mini-benchmark: detectors trained on one generator, tested on others\n\n"
        "Made by `python benchmarks/minibench/evidence/run.py table` from the stored scores beside this file. Trained "
        f"on {', '.join(table['seen'])}; `grid.yaml` holds all settings. Real images are the plain photographs; "
        "controls are the same photographs resampled without a network, and real as well. Intervals: 95%, percentiles "
        f"of {table['replicates']} draws of photographs and of seeds, the same draws for all rows. It isn't a "
        "benchmark of text-to-image models and says nothing about them.\n\n"
        f"Test: {table['photographs']} photographs; images: {counts}.\n"
    )


def _headline(table: dict[str, Any]) -> str:
    columns = {
        "ap/unseen": "AP",
        "auc/unseen": "AUC",
        "balanced_chosen/unseen": "bal. acc.",
        "auc/unseen families": "AUC, families",
        "balanced_chosen/unseen families": "bal. acc., families",
        "fpr_chosen/photo": "FPR photo",
        "fpr_chosen/bicubic_x2": "FPR ×2",
        "fpr_chosen/bicubic_x4": "FPR ×4",
    }
    note = (
        "Means over the generators, or over the families, that weren't trained on. Threshold: of those that call at "
        "most 15% of the validation photographs and 10% of the controls fake, the one of best balanced accuracy there."
    )
    return _section("Unseen generators", table, columns, note, with_interval)


def _differences(table: dict[str, Any]) -> str:
    columns = {
        "ap/unseen": "AP",
        "auc/unseen": "AUC",
        "balanced_chosen/unseen": "bal. acc.",
        "balanced_equal/unseen": "bal. acc. at equal FPR",
        "fpr_chosen/photo": "FPR photo",
        "fpr_chosen/bicubic_x2": "FPR ×2",
        "fpr_chosen/bicubic_x4": "FPR ×4",
    }
    title = table["settings"][table["reference"]]["title"]
    note = f"Points by which “{title}” is above the row: same photographs, same seeds. Mean over unseen generators."
    return _section("Paired differences", table, columns, note, signed, part="differences")


def _equal_rates(table: dict[str, Any]) -> str:
    columns = {
        "balanced_equal/unseen": "bal. acc.",
        "fpr_equal/photo": "FPR photo",
        "fpr_equal/bicubic_x2": "FPR ×2",
        "fpr_equal/bicubic_x4": "FPR ×4",
        "tpr/unseen": "fakes found at that FPR on test",
    }
    rate = percent(table["equal_fpr"])
    note = (
        f"First with thresholds that call {rate}% of the validation photographs fake; last column: the point of the "
        f"test ROC curve at {rate}% of the test photographs. Unseen generators."
    )
    return _section("At equal false positives", table, columns, note, with_interval)


def _runs(table: dict[str, Any]) -> str:
    keys = ("real_variation", "fake_variation", "intra_class_variation", "inter_class_separation")
    rows = []
    for found in table["settings"].values():
        space = found.get("representation", {})
        rows.append(
            [
                found["title"],
                str(len(found["seeds"])),
                f"{found['training_cpu_seconds']:.0f}",
                f"{found['test_cpu_seconds']:.0f}",
                percent(found["validation"]["auc_photo"]),
                percent(found["validation"]["auc_control"]),
                *(f"{space[key]:.3f}" if key in space else "–" for key in keys),
            ]
        )
    header = ["detector", "runs", "training s", "test s", "validation AUC, photo", "control"]
    header += ["variation, real", "fake", "largest (Def. 4.1)", "separation (Def. 4.2)"]
    note = "Means over seeds; seconds of processor time. Variation and separation: unit embeddings, test split."
    return f"## Runs and embeddings\n\n{note}\n\n{markdown_table(header, rows)}"


def _sweeps(sweeps: list[dict[str, Any]]) -> str:
    if not sweeps:
        return ""
    keys = ("selection", "auc_photo", "auc_control", "balanced_accuracy", "fpr_photo", "fpr_control")
    header = ["setting", "runs", "selection", "AUC, photo", "AUC, control", "bal. acc.", "FPR photo", "FPR control"]
    rows = [
        [row["setting"], str(row["runs"]), *(percent(row[key]) for key in keys), percent(row["spread"])]
        for row in sweeps
    ]
    note = "Validation only. Selection: mean of both AUCs. Spread: range of the selection over seeds."
    return f"## Sweeps\n\n{note}\n\n{markdown_table([*header, 'spread'], rows)}"
