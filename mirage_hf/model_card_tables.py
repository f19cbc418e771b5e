"""The tables of a model card, in Markdown, from what a checkpoint's files hold."""

from collections.abc import Iterable, Sequence
from typing import Any

from .benchmark_captions import AT_OWN_THRESHOLD
from .benchmark_metrics import METRICS
from .benchmark_tables import Cell, metric_cell, percent
from .calibration import Calibration
from .evaluation import EvaluationReport
from .model_card_facts import Results

# Arguments of the recipe that a reader needs, in the order of a card; the rest is in `training_args.json`.
RECIPE = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_epochs",
    "warmup_learning_rate",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "optim",
    "optim_args",
    "weight_decay",
    "max_grad_norm",
    "discriminative_weight",
    "temperature",
    "memory_size",
    "text_anchors",
    "memory_as_anchors",
    "discriminative_reduction",
    "bf16",
    "fp16",
    "seed",
)
PROMPTS = ("num_prompt_tokens", "prompt_depth", "prompt_position", "prompt_modality", "mapping", "shared_mapping")
# What the Trainer measured on validation images, and what it is called here.
VALIDATION = {
    "eval_balanced_accuracy": "balanced acc. at 0.5",
    "eval_average_precision": "AP",
    "eval_roc_auc": "AUC",
}


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; all columns but the first are set to the right."""
    lines = [f"| {' | '.join(columns)} |", "|---" + "|--:" * (len(columns) - 1) + "|"]
    lines += [f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines)


def short(value: float) -> str:
    """A number with four digits."""
    return f"{value:.4g}"


def share(value: float) -> str:
    """A share as percent, without digits that say nothing: `5%`, `0.1%`."""
    return f"{100 * value:.4g}%"


def operating_points(calibration: Calibration) -> str:
    """What is found at low false-positive rates, on the images that the calibration was learned from."""
    rows = []
    for point in calibration.operating_points:
        cells = [
            f"{share(round(point[name], 3))} [{', '.join(f'{100 * end:.1f}' for end in point[f'{name}_interval'])}]"
            for name in ("fpr", "tpr")
        ]
        note = "" if point["supported"] else " (too few real images to tell)"
        rows.append([f"{share(point['max_fpr'])}{note}", short(point["threshold"]), *cells])
    columns = ["false positives, at most", "`p_fake` above", "reals called fake", "fakes found"]
    return markdown_table(columns, rows) + "\n\nOn the calibration images themselves; in brackets exact 95% intervals."


def results_text(found: Results) -> str:
    """The table of a results file, by generator, and how it was made."""
    content = found.content
    if found.is_benchmark:
        return f"{_benchmark_text(content)}\n\n{_made_with(content['environment'])}"
    report = EvaluationReport(**{name: content[name] for name in EvaluationReport.__dataclass_fields__})
    unread = f" Images that could not be read: {len(content['skipped'])}." if content["skipped"] else ""
    made_with = _made_with({"device": content["device"], **content["versions"]})
    return f"{report.to_markdown().strip()} Percent.{unread}\n\n{made_with}"


def _benchmark_text(content: dict[str, Any]) -> str:
    """A table by set, and one by view, with 95% intervals."""
    raw, threshold, own = content["views"]["raw"], content["protocol"]["threshold"], content["model"]["threshold"]
    metrics = ["balanced_accuracy", *(AT_OWN_THRESHOLD if own is not None else ())]
    metrics = [name for name in metrics if name.endswith("balanced_accuracy")] + ["average_precision", "roc_auc"]
    titles = [METRICS[name] for name in metrics]
    blocks = [(name, block) for name, block in raw["sets"].items()]
    rows = [
        [name, block["n_real"], block["n_fake"], *(_cell(metric_cell(block, metric, True)) for metric in metrics)]
        for name, block in blocks
    ]
    mean = raw["mean"]
    rows.append(
        [f"**mean of {len(mean['over'])}**", "", "", *(_cell(metric_cell(mean, metric, True)) for metric in metrics)]
    )
    own_text = "" if own is None else f", with “own thr.” above {short(own)}"
    lines = [
        markdown_table(["generator", "real", "fake", *titles], rows),
        "",
        f"Percent, with 95% intervals by image. Fake means a score above {threshold:g}{own_text}.",
    ]
    if len(content["views"]) > 1:
        chosen = content["protocol"]["metrics"]
        views = [
            [name, view["description"], *(_cell(metric_cell(view["mean"], metric, True)) for metric in chosen)]
            for name, view in content["views"].items()
        ]
        table = markdown_table(["view", "what is done to the images", *(METRICS[name] for name in chosen)], views)
        lines += ["", "The mean of the generators, with images changed first:", "", table]
    if content["notes"]:
        lines += ["", *(f"- {note}" for note in content["notes"])]
    return "\n".join(lines)


def _cell(cell: Cell) -> str:
    return f"{cell.number} {cell.brackets}".strip()


def _made_with(environment: dict[str, str]) -> str:
    return f"Made with {', '.join(f'{name} {value}' for name, value in environment.items())}."


def recipe_table(arguments: dict[str, Any]) -> str:
    """The arguments of a training run that a reader needs."""
    rows = [[f"`{name}`", _plain(arguments[name])] for name in RECIPE if arguments.get(name) is not None]
    return markdown_table(["argument", "value"], rows)


def prompts_text(config: dict[str, Any]) -> str:
    """The prompts that the configuration describes, as a sentence."""
    return f"Prompts: {', '.join(f'`{name}` {_plain(config[name])}' for name in PROMPTS)}."


def data_text(run: dict[str, Any], calibrated: bool) -> str:
    """What was trained on, how often, where and how long; and where the threshold is from, unless a calibration is."""
    data, found = run["data"], run["evaluation"]
    rows = [[name, data["split"], *pair] for name, pair in data["counts"].items()]
    if found is not None:
        rows += [[name, found["split"], *pair] for name, pair in found["counts"].items()]
    hardware, repeats = run["hardware"], run["generator_repeats"]
    lines = [
        markdown_table([f"generator of `{data['name']}`", "split", "real", "fake"], rows),
        "",
        f"Images that could not be read: {data['unreadable']}. An epoch has {run['rows_per_epoch']:,} images"
        + (f", those of {', '.join(f'{name} {times} times' for name, times in repeats.items())}" if repeats else "")
        + (", the smaller class repeated up to the larger." if run["balance_classes"] else "."),
        f"Base model: {run['base_model'] or 'none'}"
        + (f", revision {run['base_model_revision']}" if run["base_model_revision"] else "")
        + (f"; LoRA of rank {run['lora_rank']}, merged" if run["lora_rank"] else "")
        + ".",
        f"Seed {run['seed']}; {run['seconds']:,.0f} seconds on {hardware['device']} ({hardware['processor']}), "
        f"processes: {hardware['processes']}, threads: {hardware['threads']}; "
        + ", ".join(f"{name} {value}" for name, value in run["versions"].items())
        + ".",
        "Augmentation: " + ", ".join(f"`{name}` {_plain(value)}" for name, value in run["augmentation"].items()) + ".",
    ]
    if run["threshold_fpr"] is not None and not calibrated:
        lines.append(
            "The threshold was fixed on validation images: the smallest at which at most "
            f"{share(run['threshold_fpr'])} of the real ones, in every group of them, is called fake."
        )
    return "\n".join(lines)


def metrics_text(metrics: dict[str, Any]) -> str:
    """What the Trainer measured; empty if it measured nothing that a card shows."""
    parts = [f"{title} {percent(metrics[name])}" for name, title in VALIDATION.items() if name in metrics]
    lines = []
    if parts:
        counts = f"{metrics['eval_n_real']} real and {metrics['eval_n_fake']} fake validation images"
        lines.append(f"On {counts}, which chose what there was to choose: {', '.join(parts)} (percent).")
    if "train_runtime" in metrics:
        loss = f"Training took {metrics['train_runtime']:,.0f} seconds without the evaluations; mean loss"
        lines.append(f"{loss} {metrics['train_loss']:.3f}.")
    return "\n".join(lines)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"({', '.join(map(str, value))})" if isinstance(value, (list, tuple)) else str(value)


__all__ = [
    "data_text",
    "markdown_table",
    "metrics_text",
    "operating_points",
    "prompts_text",
    "recipe_table",
    "results_text",
    "share",
    "short",
]
