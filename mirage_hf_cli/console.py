"""What the commands share: quicker imports, messages on stderr, errors in one line, exit codes."""

import gc
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

FAILED = 1
FINISHED_EXCEPT_SOME = 3
FOUND_FAKE = 4


def set_up_console(quiet: bool) -> None:
    """Messages as plain lines on stderr; errors alone with `quiet`."""
    logging.basicConfig(level=logging.ERROR if quiet else logging.WARNING, format="%(message)s", stream=sys.stderr)


def tell_of(module: str) -> None:
    """Shows what a module of the library tells, too: what it chose, not only what is wrong."""
    logging.getLogger(module).setLevel(logging.INFO)


@contextmanager
def importing() -> Iterator[None]:
    """
    Keeps the garbage collector away from imports, and from what they made ever after.

    Modules are not garbage, yet the collector goes through all of PyTorch's and transformers' objects again and again
    while they are imported, and once more when the process ends.
    """
    enabled, modules = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > modules:
            gc.freeze()
        if enabled:
            gc.enable()


@contextmanager
def fail_in_one_line(command: str, extra: str | None = None) -> Iterator[None]:
    """
    Turns an error of the user's files or arguments into a line on stderr and exit code 1.

    Args:
        command (`str`): Its name, which begins the line.
        extra (`str`, *optional*): Extra of the package that the command needs.
    """
    try:
        yield
    except ImportError as error:
        hint = "" if extra is None else f": install the extra that it needs, `pip install mirage_hf[{extra}]`"
        typer.echo(f"{command}: {' '.join(str(error).split())}{hint}", err=True)
        raise typer.Exit(FAILED) from error
    except (OSError, ValueError) as error:
        typer.echo(f"{command}: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(FAILED) from error
