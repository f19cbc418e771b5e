"""`mirage-hf predict`: a verdict for each image."""

import glob
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from . import options
from .console import FINISHED_EXCEPT_SOME, FOUND_FAKE, fail_in_one_line, importing, set_up_console, tell_of


def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Images, folders, globs, @list.txt, - for paths on stdin, .tar, .zip or .parquet with images.",
            metavar="INPUT...",
        ),
    ],
    model: options.Detector,
    output: Annotated[Path | None, typer.Option(help="Write the rows to a .jsonl, .csv or .parquet file.")] = None,
    as_json: Annotated[
        bool | None,
        typer.Option("--json/--table", help="JSON Lines or a table on stdout; the latter by default on a terminal."),
    ] = None,
    threshold: options.Threshold = None,
    fail_on: options.FailOn = None,
    all_files: options.AllFiles = False,
    null: options.Null = False,
    allow_urls: Annotated[bool, typer.Option(help="Fetch http and https addresses, capped in size and time.")] = False,
    max_megapixels: options.MaxMegapixels = None,
    max_aspect_ratio: options.MaxAspectRatio = None,
    min_side: options.MinSide = None,
    sha256: options.Sha256 = False,
    revision: options.Revision = None,
    fake_label: options.FakeLabel = None,
    backend: options.Backend = "torch",
    max_difference: options.MaxDifference = 0.001,
    calibration_images: options.CalibrationImages = None,
    device: options.Device = None,
    dtype: options.Dtype = "float32",
    batch_size: Annotated[int, typer.Option(min=1, help="Images for each forward pass.")] = 16,
    num_workers: Annotated[int, typer.Option(min=0, help="Threads that decode.")] = 2,
    quiet: options.Quiet = False,
) -> None:
    """
    Score images: the probability of being AI-generated, and a verdict, "unsure" where a calibrated detector abstains.

    What can't be read gets a row that says why, and the exit code is then 3. For many files use `score`, which goes on
    where it was cut off.
    """
    set_up_console(quiet)
    if fail_on not in (None, "fake"):
        raise typer.BadParameter("takes fake", param_hint="--fail-on")
    fakes = unreadable = 0
    with fail_in_one_line("predict", extra="score"), ExitStack() as stack:
        with importing():
            from dataclasses import fields, replace

            from tqdm import tqdm

            from mirage_hf.console import setup_console
            from mirage_hf.detection import Detection
            from mirage_hf.detector import Detector
            from mirage_hf.image_io import SCORING_LIMITS
            from mirage_hf.row_files import RowFile
            from mirage_hf.scoring_inputs import named_images
            from mirage_hf.urls import is_url

        setup_console()
        if backend == "auto" and not quiet:
            tell_of("mirage_hf.backend_choice")
        given = {"max_megapixels": max_megapixels, "max_aspect_ratio": max_aspect_ratio, "min_side": min_side}
        limits: Any = {name: value for name, value in given.items() if value is not None}
        columns = [field.name for field in fields(Detection)]
        file = None if output is None else stack.enter_context(RowFile(output, columns))

        def images() -> Iterator[Any]:
            for argument in inputs:
                # A file that isn't there costs its row, not what comes after it.
                missing = not (
                    argument == "-" or argument.startswith("@") or is_url(argument) or glob.has_magic(argument)
                )
                if missing and not os.path.lexists(argument):
                    yield argument
                else:
                    yield from named_images([argument], all_files, null, allow_urls)

        detector = Detector.from_pretrained(
            model,
            revision=revision,
            device=device,
            dtype=dtype,
            backend=backend,
            max_difference=max_difference,
            calibration_images=None if not calibration_images else named_images(calibration_images),
            fake_label=fake_label,
            threshold=threshold,
            limits=replace(SCORING_LIMITS, **limits),
            sha256=sha256,
            batch_size=batch_size,
        )
        table = sys.stdout.isatty() if as_json is None else not as_json
        progress = tqdm(unit=" images", disable=True if quiet or table else None)  # None: where stderr is a terminal
        for detection in detector.stream(images(), num_workers):
            row = detection.to_dict()
            fakes += detection.verdict == "fake"
            unreadable += detection.status != "ok"
            if file is not None:
                file.write(row)
            if file is None or as_json is not None:
                _print(row, table)
            progress.update()
        progress.close()
    if fail_on == "fake" and fakes:
        raise typer.Exit(FOUND_FAKE)
    if unreadable:
        raise typer.Exit(FINISHED_EXCEPT_SOME)


def _print(row: dict[str, Any], table: bool) -> None:
    import json

    if not table:
        typer.echo(json.dumps(row))
    elif row["status"] == "ok":
        typer.echo(f"{row['verdict']:7}{row['p_fake']:8.4f}  {row['path']}")
    else:
        typer.echo(f"{row['status']:15}  {row['path']}: {row['error']}")
