"""Makes the model cards of this repository again, from the files that hold their figures:

    python benchmarks/model_cards.py

`mirage-tiny.md`, the carried detector's, is its `README.md` as well; `mirage-vitl14.md` is of a checkpoint that is
still to be trained, so it has a recipe and no results.
"""

import sys
from dataclasses import fields
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # from a checkout, installed or not

from mirage_hf.detector_loading import load_detector  # noqa: E402
from mirage_hf.model_card import build_card  # noqa: E402
from mirage_hf.model_card_facts import CardFacts, read_facts, read_notes  # noqa: E402
from mirage_hf.model_card_figures import check_figures  # noqa: E402
from mirage_hf.publishing import check_results  # noqa: E402
from mirage_hf.training_args import MiraGeTrainingArguments  # noqa: E402

CARDS = ROOT / "model_cards"
RESULTS = ROOT / "benchmarks" / "results"
TINY = ROOT / "benchmarks" / "minibench" / "mirage-tiny"
RECIPE = ROOT / "training" / "recipes" / "genimage_sdv14.yaml"


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tiny_facts() -> CardFacts:
    """The carried detector, with the results that are kept of it."""
    files = [RESULTS / "mirage-tiny" / "evaluation.json", RESULTS / "benchmark" / "mirage-tiny" / "results.json"]
    return read_facts(TINY, files, is_adapter=False, beside=[RESULTS / "mirage-tiny"], shown_as=shown)


def vitl14_facts() -> CardFacts:
    """No checkpoint: the recipe, and the defaults of the arguments that it leaves as they are."""
    defaults = {item.name: item.default for item in fields(MiraGeTrainingArguments)}
    recipe = defaults | yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    return CardFacts(
        name="mirage-vitl14",
        config={},
        is_adapter=True,
        notes=read_notes(CARDS / "mirage-vitl14.yaml"),
        calibration=None,
        training={"arguments": recipe},
        results=[],
        shown={"config": "config.json", "arguments": shown(RECIPE)},
    )


def make_cards() -> dict[Path, str]:
    """
    Every card by the file it belongs in.

    Raises:
        ValueError: a card has a figure that no file holds, or results are of other weights or another threshold.
    """
    check_results(tiny_facts(), load_detector(str(TINY)).fingerprint)
    cards = {}
    for name, facts in (("mirage-tiny", tiny_facts()), ("mirage-vitl14", vitl14_facts())):
        text = str(build_card(facts))
        check_figures(text, facts)
        cards[CARDS / f"{name}.md"] = text
    cards[TINY / "README.md"] = cards[CARDS / "mirage-tiny.md"]
    return cards


if __name__ == "__main__":
    for path, text in make_cards().items():
        path.write_text(text, encoding="utf-8")
        print(shown(path))
