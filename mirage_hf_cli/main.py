"""The Typer application that the console script `mirage-hf` starts."""

from importlib.metadata import version
from typing import Annotated

import typer

from .benchmark import benchmark
from .calibrate import calibrate
from .compare import compare
from .demo import demo
from .evaluate import evaluate
from .explain import explain
from .export import export
from .info import info
from .predict import predict
from .push import push
from .score import score
from .train import train

app = typer.Typer(
    name="mirage-hf",
    help=(
        "Detect AI-generated images. Exit codes: 0 all done, 1 failed, 2 wrong usage, 3 done except some files, "
        "4 a fake was found with --fail-on fake."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("mirage_hf"))
        raise typer.Exit()


@app.callback()
def main(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the command."""


# These two hand all that follows to transformers' parser of dataclasses, its --help included.
FORWARDING = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

app.command("predict")(predict)
app.command("score")(score)
app.command("explain")(explain)
app.command("info")(info)
app.command("train", context_settings=FORWARDING)(train)
app.command("evaluate", context_settings=FORWARDING)(evaluate)
app.command("benchmark")(benchmark)
app.command("compare")(compare)
app.command("calibrate")(calibrate)
app.command("export")(export)
app.command("demo")(demo)
app.command("push")(push)
