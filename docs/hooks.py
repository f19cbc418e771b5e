"""What MkDocs calls while it builds the pages: the command line's options, and links within the API reference.

The command line is a package that loads neither torch nor transformers, so the reference of its options comes from the
commands themselves.
"""

import html
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PLACE = "<!-- commands -->"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Puts the options of all commands where commands.md asks for them."""
    return markdown.replace(PLACE, command_reference()) if PLACE in markdown else markdown


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """Turns [`Name`], which docstrings write for a name of this package, into a link where the page has the name."""
    anchors = {name.rpartition(".")[2]: name for name in re.findall(r'id="(mirage_hf\.[\w.]+)"', content)}

    def link(match: re.Match) -> str:
        anchor = anchors.get(match[1].rpartition(".")[2])
        name = f"<code>{match[1].lstrip('~')}</code>"
        return name if anchor is None else f'<a href="#{anchor}">{name}</a>'

    return re.sub(r"\[<code>(~?[\w.]+)</code>\]", link, content)


def command_reference() -> str:
    """Every command with its arguments and options, as Markdown."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    import typer

    from mirage_hf_cli.main import app

    group: Any = typer.main.get_command(app)
    return "\n".join(describe(name, command) for name, command in group.commands.items())


def describe(name: str, command: Any) -> str:
    """One command: its help, and a table of its parameters."""
    lines = [f"## mirage-hf {name}", "", inline(" ".join((command.help or "").split())), ""]
    rows = []
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            names = f"`{parameter.metavar or parameter.name.upper()}`"
        else:
            names = ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
        default = "required" if parameter.required else default_of(parameter)
        rows.append(f"| {names} | {default} | {inline(parameter.help or '')} |")
    if rows:
        lines += ["| argument | default | meaning |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def default_of(parameter: Any) -> str:
    """The default in code style; nothing where leaving the option out says all."""
    value = parameter.default
    if value is None or value is False or callable(value) or value == ():
        return ""
    return f"`{value}`"


def inline(text: str) -> str:
    """Text that Markdown takes as it stands, within a table."""
    return html.escape(text, quote=False).replace("|", "\\|").replace("*", "\\*").replace("_", "\\_")
