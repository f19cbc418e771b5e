"""Holds a card's figures against the files that it names: what no results file says is not published.

Three things are compared. Every value of the `model-index` with that generator's in the results. In a table, every row
that begins with a generator's name with the figures of that generator. Elsewhere every number with decimals, and every
percentage, with all figures of all files: a made-up number is found unless one of them happens to round to it.
Code, links and plain whole numbers are not read: a name such as `Stable Diffusion 3.5` is written as code.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from huggingface_hub import ModelCard

from .model_card import dataset_of, index_blocks
from .model_card_facts import CardFacts

INTERVALS = "95"  # percent: the level of every interval in this package
# A number with decimals, or a whole one before a percent sign; no part of a version, a name or a longer number.
_FIGURE = re.compile(r"(?<![\w.,/-])(\d{1,3}(?:,\d{3})+\.\d+|\d+\.\d+|\d+(?= ?%))(?!\.?\w|/)")
_NOT_READ = re.compile(r"```.*?```|`[^`\n]*`|<!--.*?-->|\]\([^)]*\)|https?://\S+", re.DOTALL)


def check_figures(text: str, facts: CardFacts) -> None:
    """
    Checks that every figure of a card stands in a file.

    Args:
        text (`str`):
            The card.
        facts ([`CardFacts`]):
            The files that go up with it.

    Raises:
        ValueError: one stands in none; the message names it and the line it is in.
    """
    card = ModelCard(text)
    _check_index(card, facts)
    everything = pool(facts.sources.values())
    generators = _figures_by_generator(facts)
    body = _NOT_READ.sub(lambda found: re.sub(r"[^\n]", " ", found.group()), card.text)
    for line in body.splitlines():
        first = line.split("|")[1].strip() if line.startswith("|") and line.count("|") > 1 else ""
        known = generators.get(first, everything)
        for token in _FIGURE.findall(line):
            if token != INTERVALS and not stands_in(token, known):
                where = "the results of that generator" if first in generators else "the results and training files"
                shown = " ".join(line.split())
                raise ValueError(
                    f"the card says {token}, and {where} don't ({', '.join(facts.sources)}); a name is written as "
                    f"`code`: {shown[:120]}"
                )


def pool(contents: Iterable[Any]) -> set[float]:
    """Every number in JSON-like contents."""
    return {abs(float(number)) for content in contents for number in _numbers(content)}


def stands_in(token: str, numbers: set[float]) -> bool:
    """Whether a number as written is one of `numbers`, or a percentage of one, rounded to its decimals."""
    token = token.replace(",", "")
    decimals = len(token.partition(".")[2])
    return any(token in (f"{number:.{decimals}f}", f"{100 * number:.{decimals}f}") for number in numbers)


def _check_index(card: ModelCard, facts: CardFacts) -> None:
    measured: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for found in facts.results:
        name, split = dataset_of(found)
        threshold, blocks = index_blocks(found)
        for generator, metrics in blocks.items():
            measured.setdefault((name, split, generator), []).append(metrics | {"threshold": threshold})
    data: Any = card.data
    for result in data.eval_results or []:
        key = (result.dataset_type, result.dataset_split, result.dataset_config)
        stated = {result.metric_type: result.metric_value}
        if "threshold" in (result.metric_args or {}):
            stated["threshold"] = result.metric_args["threshold"]
        block_says = [all(_says(block.get(k), v) for k, v in stated.items()) for block in measured.get(key, [])]
        if not any(block_says):
            of = " / ".join(map(str, key))
            raise ValueError(
                f"the card's model-index gives {' '.join(f'{k} {v}' for k, v in stated.items())} for {of}, "
                "and no results file says so: give it with --results, or take the figure out"
            )


def _says(measured: float | None, stated: Any) -> bool:
    if measured is None or isinstance(stated, bool) or not isinstance(stated, (int, float)):
        return False
    return abs(measured - stated) <= 5.1e-5  # four decimals


def _figures_by_generator(facts: CardFacts) -> dict[str, set[float]]:
    found: dict[str, set[float]] = {}
    blocks: list[tuple[str, Any]] = []
    for result in facts.results:
        content = result.content
        if result.is_benchmark:
            blocks += [item for view in content["views"].values() for item in view["sets"].items()]
        else:
            blocks += content["generators"].items()
    for name, block in blocks:
        found.setdefault(name, set()).update(pool([block]))
    return found


def _numbers(content: Any) -> Iterator[float]:
    if isinstance(content, dict):
        for value in content.values():
            yield from _numbers(value)
    elif isinstance(content, list):
        for value in content:
            yield from _numbers(value)
    elif isinstance(content, (int, float)) and not isinstance(content, bool):
        yield content


__all__ = ["check_figures", "pool", "stands_in"]
