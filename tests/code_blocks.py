"""Finds the fenced code blocks of the pages that people read."""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/pages/*.md",
    "benchmarks/README.md",
    "benchmarks/minibench/README.md",
    "benchmarks/minibench/*/README.md",
    "examples/**/*.md",
    "model_cards/mirage-*.md",
)
FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<language>[\w-]*)[^`\n]*$")


@dataclass(frozen=True)
class Block:
    """
    A fenced code block.

    Args:
        page (`str`): Its page's path within the project.
        line (`int`): Of its first line, from 1.
        language (`str`): The word behind the fence; empty without one.
        text (`str`): Without the page's indentation.
    """

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def find_pages(root: Path) -> list[Path]:
    """The pages under a root, in a fixed order."""
    return [path for pattern in PAGES for path in sorted(root.glob(pattern))]


def find_blocks(text: str, page: str) -> list[Block]:
    """
    The blocks of a page, in order.

    Raises:
        ValueError: a fence is never closed.
    """
    blocks: list[Block] = []
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        opening = FENCE.match(lines[number])
        number += 1
        if opening is None:
            continue
        first = number
        while number < len(lines) and lines[number].strip() != opening["fence"]:
            number += 1
        if number == len(lines):
            raise ValueError(f"{page}:{first}: this fence is never closed")
        body = textwrap.dedent("\n".join(lines[first:number]) + "\n")
        blocks.append(Block(page, first + 1, opening["language"], body))
        number += 1
    return blocks


def commands_of(text: str) -> list[str]:
    """The lines of a shell block, with continued lines joined; here-documents come line by line."""
    return re.sub(r"\\\n\s*", "", text).splitlines()
