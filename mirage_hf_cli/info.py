"""`mirage-hf info`: what a checkpoint is."""

from typing import Annotated, Any

import typer

from .console import fail_in_one_line, importing, set_up_console


def info(
    model: Annotated[str, typer.Argument(help="Folder or Hub id of a detector.")],
    revision: Annotated[str | None, typer.Option(help="Git revision on the Hub.")] = None,
    fake_label: Annotated[str | None, typer.Option(help="Class that means fake, of a foreign classifier.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Describe a detector: method, size, prompts, preprocessing, threshold, calibration."""
    set_up_console(quiet=True)
    with fail_in_one_line("info"):
        with importing():
            import json

            from mirage_hf.console import setup_console
            from mirage_hf.description import describe_detector

        setup_console()
        facts = describe_detector(model, revision, fake_label)
        typer.echo(json.dumps(facts, indent=1, default=str) if as_json else "\n".join(_lines(facts)))


def _lines(facts: dict[str, Any]) -> list[str]:
    lines = []
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {item}" for key, item in value.items())
        elif isinstance(value, int) and not isinstance(value, bool):
            value = f"{value:,}"
        lines.append(f"{name:14} {'none' if value is None else value}")
    return lines
