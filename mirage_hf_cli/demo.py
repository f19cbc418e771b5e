"""`mirage-hf demo`: a page on which people can try a detector."""

import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from . import options
from .console import fail_in_one_line, importing, set_up_console

LOOPBACK = ("localhost", "::1")


def demo(
    model: options.Detector,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets others in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 7860,
    max_file_mb: Annotated[int, typer.Option(min=1, help="Larger files are refused while they arrive.")] = 20,
    max_files: Annotated[int, typer.Option(min=1, help="Pictures at once.")] = 16,
    max_megapixels: options.MaxMegapixels = None,
    revision: options.Revision = None,
    fake_label: options.FakeLabel = None,
    device: options.Device = None,
    quiet: Annotated[bool, typer.Option(help="Errors alone on stderr.")] = False,
) -> None:
    """
    Show a detector on a page of this computer: verdicts, where the model looked, what degrading a picture does to its
    score, metadata, and a JSON API.

    Nobody else can reach the page unless --host says so. No other host is asked for anything, and uploaded pictures
    are deleted. With a model in a folder the Hub is not asked either; HF_HUB_OFFLINE=0 lets it, for a base model that
    is not here yet. Needs the extra `demo`.
    """
    set_up_console(quiet)
    if Path(model).is_dir():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with fail_in_one_line("demo", extra="demo"):
        with importing():
            from mirage_hf.console import setup_console
            from mirage_hf.demo import DemoArguments, serve_demo

        setup_console()
        if not quiet and not (host in LOOPBACK or host.startswith("127.")):
            typer.echo(f"demo: whoever can reach {host}:{port} can use this page; it asks for no password", err=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as by Ctrl-C, so that uploads are deleted
        serve_demo(
            DemoArguments(
                model=model,
                revision=revision,
                device=device,
                fake_label=fake_label,
                host=host,
                port=port,
                max_file_mb=max_file_mb,
                max_files=max_files,
                max_megapixels=max_megapixels,
            )
        )
