"""`mirage-hf compare`: finished benchmark runs beside each other."""

from pathlib import Path
from typing import Annotated

import typer

from .console import fail_in_one_line, importing, set_up_console


def compare(
    folders: Annotated[list[Path], typer.Argument(help="Output folders of `benchmark`; the first is the reference.")],
    output_dir: Annotated[Path, typer.Option(help="Where tables and pictures go.")] = Path("outputs/comparison"),
    replicates: Annotated[int, typer.Option(min=20, help="Bootstrap draws for the differences.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """
    Compare detectors that ran the same benchmark: means, paired differences with intervals, pictures side by side.

    Writes comparison.json, .md, .csv and pictures. Needs the extra `benchmark`.
    """
    set_up_console(quiet=False)
    with fail_in_one_line("compare", extra="benchmark"):
        with importing():
            import json

            from mirage_hf.benchmark_compare import comparison_markdown, write_comparison

        comparison = write_comparison(list(folders), output_dir, replicates)
        typer.echo(json.dumps(comparison, indent=1) if as_json else comparison_markdown(comparison), nl=as_json)
