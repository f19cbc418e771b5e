"""Model cards: what a checkpoint is, how it was made, what was measured, what it can't do; each figure with its file.

    >>> from pathlib import Path
    >>> from mirage_hf.model_card import build_card
    >>> from mirage_hf.model_card_facts import read_facts
    >>> card = build_card(read_facts(Path("outputs/mine"), [], is_adapter=True))

The text is the template `model_cards/template.md`'s; the metadata is what the Hub reads. `train` writes a card beside
the weights and `push` makes it anew from all results that there are; words of one's own go into `card.yaml`.
"""

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from .benchmark_tables import percent
from .model_card_facts import CardFacts, Results, read_facts
from .model_card_tables import (
    data_text,
    metrics_text,
    operating_points,
    prompts_text,
    recipe_table,
    results_text,
    share,
    short,
)

CARD_FILE = "README.md"
TAGS = ["mirage", "ai-generated-image-detection", "deepfake-detection", "clip", "prompt-learning"]
METRIC_NAMES = {"balanced_accuracy": "balanced accuracy", "average_precision": "AP", "roc_auc": "AUC"}
METRIC_IDS = ["accuracy", "average_precision", "roc_auc"]
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
SUMMARY = (
    "A detector of AI-generated images: it scores a picture as real or fake. Made with "
    "[MiraGe](https://arxiv.org/abs/2508.01525) in the package `mirage_hf`."
)
_SEAL = re.compile(r"\n<!-- made by mirage_hf.model_card, ([0-9a-f]{16}); .*-->\n\Z")


def build_card(facts: CardFacts, repo_id: str | None = None) -> ModelCard:
    """
    The card of a checkpoint.

    Args:
        facts ([`CardFacts`]):
            What its files say.
        repo_id (`str`, *optional*):
            Where on the Hub it will be.

    Raises:
        ValueError: a text of `card.yaml` can't be rendered, or the card lacks what every card has.
    """
    notes, evaluations = facts.notes, [found for found in facts.results if not found.is_benchmark]
    known: dict[str, Any] = {"calibration": facts.calibration, "config": facts.config}
    if evaluations:
        known["evaluation"] = evaluations[0].content
    if "metrics" in facts.training:
        known["metrics"] = facts.training["metrics"]
    environment = SandboxedEnvironment(undefined=StrictUndefined)
    environment.filters["percent"] = percent

    def rendered(name: str, text: str | None) -> str:
        try:
            return "" if text is None else environment.from_string(text).render(known).strip()
        except (TemplateError, TypeError) as error:
            raise ValueError(f"card.yaml: `{name}` can't be filled in from the results given: {error}") from error

    card = ModelCard.from_template(
        card_metadata(facts, repo_id),
        template_path=str(template_path()),
        percent=share,
        short=short,
        name=facts.name,
        summary=rendered("summary", notes.summary) or SUMMARY,
        commands=rendered("commands", notes.commands),
        limits=[rendered("limits", limit) for limit in notes.limits],
        calibration=facts.calibration,
        operating_points=None if facts.calibration is None else operating_points(facts.calibration),
        threshold=facts.config.get("threshold"),
        model_id=repo_id or notes.model_id or facts.name,
        example=(notes.example if repo_id is None else None) or "photo.jpg",
        results=[
            {"title": _title(found), "text": results_text(found), "shown": found.shown} for found in facts.results
        ],
        evaluation_notes=rendered("evaluation", notes.evaluation),
        training_notes=rendered("training", notes.training),
        training=_training_blocks(facts),
        shown=facts.shown,
    )
    card = ModelCard(seal(re.sub(r"\n{3,}", "\n\n", str(card)).rstrip() + "\n"))
    check_structure(str(card))
    return card


def template_path() -> Path:
    """The template: in a wheel beside the modules, in a checkout beside the package."""
    package = Path(__file__).resolve().parent
    inside = package / "model_cards" / "template.md"
    return inside if inside.is_file() else package.parent / "model_cards" / "template.md"


def card_metadata(facts: CardFacts, repo_id: str | None = None) -> ModelCardData:
    """The card's metadata, as the Hub reads it; what isn't known is left out."""
    base = facts.notes.base_model or facts.config.get("base_model_name_or_path")
    base = base if base is not None and is_hub_id(base) else None
    data = facts.training.get("run", {}).get("data", {})
    datasets = facts.notes.datasets or ([data["name"]] if data.get("hub") else [])
    measured = evaluation_results(facts)
    return ModelCardData(
        license=facts.notes.license,
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=[*TAGS, *facts.notes.tags],
        base_model=base,
        base_model_relation=None if base is None else "adapter" if facts.is_adapter else "finetune",
        datasets=datasets or None,
        metrics=METRIC_IDS if measured else None,
        model_name=facts.name if measured else None,
        eval_results=measured or None,
    )


def is_hub_id(name: str) -> bool:
    """Whether a name is of the form `owner/name`, and not a folder here."""
    return HUB_ID.fullmatch(name) is not None and not os.path.isdir(name)


def evaluation_results(facts: CardFacts) -> list[EvalResult]:
    """
    One entry of the card's `model-index` for each generator with both classes and each of three metrics. Of a
    generator that several files cover on the same data and split, the first file counts; `evaluation.json` comes
    before benchmarks.
    """
    entries: list[EvalResult] = []
    seen: set[tuple[str, str, str]] = set()
    for found in sorted(facts.results, key=lambda found: found.is_benchmark):
        data, split = dataset_of(found)
        threshold, blocks = index_blocks(found)
        for generator, metrics in blocks.items():
            key = (data, split, generator)
            if key in seen or metrics["balanced_accuracy"] is None:
                continue
            seen.add(key)
            for name, title in METRIC_NAMES.items():
                at_threshold = name == "balanced_accuracy"
                entries.append(
                    EvalResult(
                        task_type="image-classification",
                        task_name="Detection of AI-generated images",
                        dataset_type=data,
                        dataset_name=f"{data}: {generator}",
                        dataset_config=generator,
                        dataset_split=split,
                        metric_type=name,
                        metric_name=f"{title} at a threshold of {short(threshold)}" if at_threshold else title,
                        metric_value=round(float(metrics[name]), 4),
                        metric_args={"source": found.shown} | ({"threshold": threshold} if at_threshold else {}),
                    )
                )
    return entries


def dataset_of(found: Results) -> tuple[str, str]:
    """The data set of a result, a Hub id or a folder's name, and its split."""
    data = str(found.content["arguments"]["data"])
    return data if is_hub_id(data) else Path(data).name, found.content["arguments"]["split"] or "test"


def index_blocks(found: Results) -> tuple[float, dict[str, dict[str, Any]]]:
    """The threshold and the metrics of each generator that stand in a card's `model-index`."""
    content = found.content
    if not found.is_benchmark:
        return content["threshold"], content["generators"]
    sets = {name: block["metrics"] for name, block in content["views"]["raw"]["sets"].items()}
    own = content["model"]["threshold"]
    if own is None:
        return content["protocol"]["threshold"], sets
    return own, {
        name: metrics | {"balanced_accuracy": metrics["calibrated_balanced_accuracy"]}
        for name, metrics in sets.items()
    }


def seal(text: str) -> str:
    """The card's text with a last line that says who made it and tells whether it was changed since."""
    words = "text of one's own goes into card.yaml"
    return f"{text}\n<!-- made by mirage_hf.model_card, {_text_hash(text)}; {words} -->\n"


def is_sealed(text: str) -> bool:
    """Whether a card is as it was made: nobody changed it."""
    found = _SEAL.search(text)
    return found is not None and found.group(1) == _text_hash(text[: found.start()])


def check_structure(text: str) -> None:
    """
    Checks offline what the Hub asks of a card, and what every card of a detector has.

    Raises:
        ValueError: something is missing or malformed; the message names it.
    """
    data = ModelCard(text).data.to_dict()
    for name, value in (("library_name", "transformers"), ("pipeline_tag", "image-classification")):
        if data.get(name) != value:
            raise ValueError(f"the card's `{name}` must be {value!r}, got {data.get(name)!r}")
    for name in ("base_model", "datasets"):
        values = data.get(name) or []
        for value in [values] if isinstance(values, str) else values:
            if HUB_ID.fullmatch(value) is None:
                raise ValueError(f"the card's `{name}` must be of the form owner/name, got {value!r}")
    for model in data.get("model-index", []):
        for result in model["results"]:
            for metric in result["metrics"]:
                if isinstance(metric["value"], bool) or not isinstance(metric["value"], (int, float)):
                    raise ValueError(f"the card's `model-index` must hold numbers, got {metric['value']!r}")
    for words in ("## What it can't do", "no proof of origin", "```bibtex"):
        if words not in text:
            raise ValueError(f"the card must hold {words!r}")


def write_card(folder: Path, **options: Any) -> None:
    """
    Writes `README.md` into a checkpoint's folder. A card that somebody changed or wrote stays as it is.

    Args:
        folder (`Path`):
            The checkpoint, with the files of its training.
        options:
            As [`read_facts`] takes them, `is_adapter` among them.

    Raises:
        OSError, ValueError: as [`read_facts`] and [`build_card`].
    """
    file = folder / CARD_FILE
    if file.is_file() and not is_sealed(file.read_text(encoding="utf-8")):
        return
    build_card(read_facts(folder, [], **options)).save(file)


def _title(found: Results) -> str:
    data, split = dataset_of(found)
    title = f"{data}, split {split}"
    return f"{title}: {found.content['protocol']['title']}" if found.is_benchmark else title


def _training_blocks(facts: CardFacts) -> list[dict[str, str]]:
    blocks = []
    if "model_type" in facts.config:
        blocks.append({"text": prompts_text(facts.config), "shown": facts.shown["config"]})
    texts: dict[str, Callable[[dict[str, Any]], str]] = {
        "arguments": recipe_table,
        "run": lambda run: data_text(run, calibrated=facts.calibration is not None),
        "metrics": metrics_text,
    }
    for key, text_of in texts.items():
        if key in facts.training and (text := text_of(facts.training[key])):
            blocks.append({"text": text, "shown": facts.shown[key]})
    return blocks


def _text_hash(text: str) -> str:
    return hashlib.sha256(text.strip().encode()).hexdigest()[:16]


__all__ = ["build_card", "card_metadata", "check_structure", "is_sealed", "seal", "template_path", "write_card"]
