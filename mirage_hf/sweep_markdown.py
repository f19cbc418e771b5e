"""The tables of a sweep as text: Markdown to be read, CSV to go on with."""

import csv
import io
from typing import Any

from .benchmark_metrics import METRICS

COSTS = {
    "training_minutes": ("training, minutes", 1),
    "training_cpu_minutes": ("CPU minutes", 1),
    "training_images_per_second": ("images/s", 1),
    "latency_ms_per_image": ("latency, ms/image", 2),
    "peak_process_mib": ("memory, MiB", 0),
    "peak_device_mib": ("GPU memory, MiB", 0),
}


def render_markdown(results: dict[str, Any], figures: list[str]) -> str:
    """The tables to be read: percent, each with half the width of its interval."""
    lines = [f"# {results['title']}", ""]
    for test, facts in results["sets"].items():
        if len(results["sets"]) > 1:
            lines += [f"## {test}", ""]
        lines += _main_table(results, test) + [""]
        for key in _defined_metrics(results, test):
            lines += [f"**{METRICS[key]} by generator**", "", *_generator_table(results, test, key), ""]
        left_out = [name for name in facts["generators"] if name not in facts["mean_over"]]
        if left_out:
            lines += [f"One class only, so outside the mean: {', '.join(left_out)}.", ""]
    lines += _cost_table(results) + ["", *(f"![{name}]({name})\n" for name in figures), *_notes(results)]
    if results["published"] is not None:
        lines += ["", *_published_table(results["published"])]
    return "\n".join(lines) + "\n"


def _defined_metrics(results: dict[str, Any], test: str) -> list[str]:
    """Without those that no setting has, such as accuracies at thresholds that were never calibrated."""
    means = [setting["sets"][test]["mean"] for setting in results["settings"].values()]
    return [key for key in results["metrics"] if any(mean[key] is not None for mean in means)]


def _main_table(results: dict[str, Any], test: str) -> list[str]:
    compared = results["reference"] in results["settings"]
    metrics = _defined_metrics(results, test)
    head, rows = ["setting", "runs"], []
    for key in metrics:
        head += [METRICS[key], *(["difference"] if compared else [])]
        head += ["over images and seeds"] if results["replicates"] else []
    for name, setting in results["settings"].items():
        row = [setting["title"], str(len(setting["seeds"]))]
        for key in metrics:
            row.append(_percent(setting["sets"][test]["mean"][key]))
            if compared:
                row.append(
                    "reference"
                    if name == results["reference"]
                    else _percent(setting["differences"][test][key], signed=True)
                )
            if results["replicates"]:
                row.append(_range(setting["bootstrap"][test], key))
        rows.append(row)
    return _table(head, rows)


def _generator_table(results: dict[str, Any], test: str, key: str) -> list[str]:
    generators = list(results["sets"][test]["generators"])
    rows = []
    for setting in results["settings"].values():
        cells = setting["sets"][test]["generators"]
        rows.append([setting["title"], *(_percent(cells[name][key]) for name in generators)])
        rows[-1].append(_percent(setting["sets"][test]["mean"][key]))
    return _table(["setting", *generators, f"mean of {len(results['sets'][test]['mean_over'])}"], rows)


def _cost_table(results: dict[str, Any]) -> list[str]:
    settings = results["settings"].values()
    shown = [key for key in COSTS if any(setting["cost"][key] is not None for setting in settings)]
    rows = [
        [
            setting["title"],
            f"{setting['cost']['parameters']:,}",
            *(_plain(setting["cost"][key], COSTS[key][1]) for key in shown),
        ]
        for setting in settings
    ]
    return _table(["setting", "parameters at test", *(COSTS[key][0] for key in shown)], rows)


def _notes(results: dict[str, Any]) -> list[str]:
    count = len(results["seeds"])
    lines = [
        f"Mean over {count} training seeds ± half of its 95% interval (Student's t), percent. That interval covers "
        "what another seed changes, not what other test images would."
        if count > 1
        else "One training seed, percent: no interval."
    ]
    if results["replicates"]:
        lines.append(
            f"In brackets: 95% interval over test images and seeds together ({results['replicates']} draws); the "
            "second is the difference's."
        )
    if results["reference"] in results["settings"]:
        title = results["settings"][results["reference"]]["title"]
        lines.append(f"Differences are to {title}, seed by seed.")
    lines.append(
        "Latency is the forward pass alone, at the evaluation's batch size. Memory is the largest while training, of "
        "a process that may have done other runs before."
    )
    if results["missing"]:
        lines.append(f"Not finished: {', '.join(results['missing'])}.")
    for what, values in (("machines", results["environments"]), ("versions of the libraries", results["versions"])):
        if len(values) > 1:
            lines.append(f"Runs come from {len(values)} {what}, listed in results.json: don't compare their seconds.")
    described = ", ".join(f"{key} {value}" for key, value in results["environments"][0].items() if value is not None)
    lines.append(f"Machine: {described}.")
    return [f"- {line}" for line in lines]


def _published_table(published: dict[str, Any]) -> list[str]:
    rows = published["rows"]
    return [
        f"**Published ({published['source']}); other data, nothing of it was run here**",
        "",
        *_table(list(rows[0]), [list(row.values()) for row in rows]),
    ]


def render_csv(results: dict[str, Any]) -> str:
    """A row for each setting, test set, generator (or `mean`) and metric; fractions."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        "setting,test_set,generator,metric,runs,mean,low,high,difference,difference_low,difference_high".split(",")
    )
    for name, setting in results["settings"].items():
        for test, cells in setting["sets"].items():
            compared = setting["differences"].get(test, {})
            for generator, columns in [*cells["generators"].items(), ("mean", cells["mean"])]:
                for key, cell in columns.items():
                    difference = compared.get(key) if generator == "mean" else None
                    writer.writerow(
                        [name, test, generator, key, len(setting["seeds"]), *_limits(cell), *_limits(difference)]
                    )
    return text.getvalue()


def _limits(cell: dict[str, Any] | None) -> list[Any]:
    return (
        ["", "", ""] if cell is None else ["" if cell[key] is None else cell[key] for key in ("mean", "low", "high")]
    )


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _percent(cell: dict[str, Any] | None, signed: bool = False) -> str:
    if cell is None:
        return "–"
    mean = f"{100 * cell['mean']:+.1f}" if signed else f"{100 * cell['mean']:.1f}"
    return mean if cell["low"] is None else f"{mean} ± {50 * (cell['high'] - cell['low']):.1f}"


def _range(intervals: dict[str, Any], key: str) -> str:
    parts = [intervals[what].get(key) for what in ("mean", "difference") if what in intervals]
    return " ".join("–" if part is None else f"[{100 * part[0]:.1f}, {100 * part[1]:.1f}]" for part in parts)


def _plain(cell: dict[str, Any] | None, digits: int) -> str:
    return "–" if cell is None else f"{cell['mean']:.{digits}f}"


__all__ = ["render_csv", "render_markdown"]
