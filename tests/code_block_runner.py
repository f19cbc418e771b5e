"""Runs the code blocks of a page, each by the rule of its language; a language without a rule is an error."""

import json
import re
import subprocess
from pathlib import Path
from typing import TextIO

import yaml
from code_block_rules import rewrite
from code_block_sandbox import Sandbox, open_session
from code_block_server import is_close
from code_blocks import Block

TIMEOUT = 600  # seconds for a block
ROOT = Path(__file__).resolve().parent.parent


class BlockFailed(AssertionError):
    """A block that doesn't do what the page says."""


class PageRunner:
    """
    Runs the blocks of one page in order. What one leaves behind, files and Python names, the next one finds.

    Args:
        sandbox ([`Sandbox`]): Where.
        address (`str`): Socket of `code_block_server.py`, for the Python blocks.
        log (`TextIO`): An open file for what Python blocks print.
    """

    def __init__(self, sandbox: Sandbox, address: str, log: TextIO):
        self.sandbox, self.address, self.log = sandbox, address, log
        self.session = None
        self.printed = ""

    def run(self, block: Block) -> None:
        """
        Raises:
            BlockFailed: the block is wrong, or nothing checks a block of its language.
        """
        rule = RULES_OF_LANGUAGES.get(block.language)
        if rule is None:
            raise BlockFailed(f"{block}: nothing checks a block of language {block.language!r}")
        failure = rule(self, block)
        if failure is not None:
            raise BlockFailed(f"{block}: {failure}")

    def close(self) -> None:
        """Ends the session of Python blocks."""
        if self.session is not None:
            self.session.close()

    def shell(self, block: Block) -> str | None:
        """Runs in bash, as rewritten by `code_block_rules.py`."""
        try:
            done = self.sandbox.shell(rewrite(block.text), TIMEOUT)
        except subprocess.TimeoutExpired:
            return f"not done after {TIMEOUT} s"
        self.printed = done.stdout
        if done.returncode == 0:
            return None
        return f"exit code {done.returncode}\n{rewrite(block.text)}\n{done.stdout[-3000:]}"

    def python(self, block: Block) -> str | None:
        """Runs in the page's session; answers behind prompts are compared."""
        if self.session is None:
            self.session = open_session(self.address, self.sandbox, self.log)
            self.channel = self.session.makefile("rw", encoding="utf-8")
        self.channel.write(json.dumps({"text": block.text, "name": str(block)}) + "\n")
        self.channel.flush()
        answer = self.channel.readline()
        return json.loads(answer) if answer else "the interpreter died"

    def text(self, block: Block) -> str | None:
        """Each line, in this order, was printed by the shell block before; `...` stands for any lines."""
        lines = iter(self.printed.splitlines())
        for expected in block.text.splitlines():
            if expected.strip() not in ("", "...") and not any(is_close(expected, line) for line in lines):
                return f"the block before doesn't print {expected!r} at this place, but\n{self.printed[-3000:]}"
        return None

    def layout(self, block: Block) -> str | None:
        """A data set on disk, which is made for the blocks behind."""
        for line in block.text.splitlines():
            self.sandbox.write_layout(line)
        return None

    def recipe(self, block: Block) -> str | None:
        """A YAML file named in the first line, which is written for the blocks behind."""
        name = re.match(r"# ([\w.]+\.yaml)\n", block.text)
        if name is None:
            return "the first line must name the file: `# my_recipe.yaml`"
        if not isinstance(yaml.safe_load(block.text), dict):
            return "holds no `name: value` lines"
        (self.sandbox.root / name[1]).write_text(block.text, encoding="utf-8")
        return None

    def citation(self, block: Block) -> str | None:
        """Title, year and address are those of CITATION.cff."""
        cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["preferred-citation"]
        wanted = (cited["title"], str(cited["year"]), cited["identifiers"][0]["value"], cited["collection-title"])
        missing = [text for text in wanted if f"{{{text}}}" not in block.text]
        return f"lacks {', '.join(missing)}" if missing else None


RULES_OF_LANGUAGES = {
    "sh": PageRunner.shell,
    "": PageRunner.shell,
    "python": PageRunner.python,
    "py": PageRunner.python,
    "text": PageRunner.text,
    "layout": PageRunner.layout,
    "yaml": PageRunner.recipe,
    "bibtex": PageRunner.citation,
}
