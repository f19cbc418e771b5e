"""`mirage-hf predict`: a verdict for each image."""

import glob
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from .console import FINISHED_EXCEPT_SOME, FOUND_FAKE, fail_in_one_line, importing, set_up_console, tell_of


def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Images, folders, globs, @list.txt, - for paths on stdin, .tar, .zip or .parquet with images.",
            metavar="INPUT...",
        ),
    ],
    model: Annotated[str, typer.Option(help="Folder or Hub id of a detector: MiraGe, a baseline, any two-class one.")],
    output: Annotated[Path | None, typer.Option(help="Write the rows to a .jsonl, .csv or .parquet file.")] = None,
    as_json: Annotated[
        bool | None,
        typer.Option("--json/--table", help="JSON Lines or a table on stdout; the latter by default on a terminal."),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Fake above it, instead of the checkpoint's own.")
    ] = None,
    fail_on: Annotated[str | None, typer.Option(help="fake: exit with 4 if an image gets that verdict.")] = None,
    all_files: Annotated[bool, typer.Option(help="Files in folders whatever their extension.")] = False,
    null: Annotated[bool, typer.Option("--null", "-0", help="Paths of lists and stdin end with NUL.")] = False,
    allow_urls: Annotated[bool, typer.Option(help="Fetch http and https addresses, capped in size and time.")] = False,
    max_megapixels: Annotated[float | None, typer.Option(min=0.001, help="Larger images are not decoded.")] = None,
    max_aspect_ratio: Annotated[float | None, typer.Option(min=1, help="Nor more elongated ones.")] = None,
    min_side: Annotated[int | None, typer.Option(min=1, help="Smaller images get no verdict.")] = None,
    sha256: Annotated[bool, typer.Option(help="Hash every file.")] = False,
    revision: Annotated[str | None, typer.Option(help="Git revision of a detector on the Hub.")] = None,
    fake_label: Annotated[str | None, typer.Option(help="Class of the detector that means fake.")] = None,
    backend: Annotated[
        str,
        typer.Option(
            help="torch, for an exported detector onnx or openvino, or auto: the fastest here within --max-difference."
        ),
    ] = "torch",
    max_difference: Annotated[
        float, typer.Option(min=0, max=1, help="For auto: largest difference of p_fake from torch in float32.")
    ] = 0.001,
    calibration_images: Annotated[
        list[str] | None,
        typer.Option(help="For auto: images to measure differences on, a file, folder or glob; synthetic by default."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cuda, cpu, ...; the GPU if there is one.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or int8.")] = "float32",
    batch_size: Annotated[int, typer.Option(min=1, help="Images for each forward pass.")] = 16,
    num_workers: Annotated[int, typer.Option(min=0, help="Threads that decode.")] = 2,
    quiet: Annotated[bool, typer.Option(help="No progress.")] = False,
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
