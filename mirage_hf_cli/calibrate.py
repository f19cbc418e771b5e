"""`mirage-hf calibrate`: probabilities that can be believed, a threshold and a band of verdict "unsure"."""

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .console import FINISHED_EXCEPT_SOME, fail_in_one_line, importing, set_up_console


def calibrate(
    model: options.Detector,
    data: Annotated[str, typer.Option(help="Folder, archive, manifest or Hub id of images not trained on.")],
    output_dir: Annotated[
        Path | None, typer.Option(help="New folder for the calibrated checkpoint; in place by default.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the data.")] = "validation",
    layout: Annotated[str, typer.Option(help="Layout of the data; recognised if left at auto.")] = "auto",
    generators: Annotated[list[str] | None, typer.Option(help="Calibrate on this generator only; repeatable.")] = None,
    fake_id: Annotated[int | None, typer.Option(help="Number that means fake, where labels are numbers.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Label column of a manifest or Hub data set.")] = None,
    real_root: Annotated[str | None, typer.Option(help="Folder of real images for sets of fakes only.")] = None,
    max_per_class: Annotated[int | None, typer.Option(min=1, help="Real, and fake, images to draw.")] = None,
    max_fpr: Annotated[
        float, typer.Option(min=0, max=0.99, help="Real images, of every generator, that may be labelled fake.")
    ] = 0.05,
    alpha: Annotated[
        float, typer.Option(min=0.001, max=0.5, help="Images of a class that may get the other one's verdict.")
    ] = 0.1,
    prior: Annotated[
        float, typer.Option(min=0.0001, max=0.9999, help="Share of fakes among your images, for p_fake.")
    ] = 0.5,
    revision: options.Revision = None,
    fake_label: options.FakeLabel = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images for each forward pass.")] = 64,
    num_workers: Annotated[int, typer.Option(min=0, help="Processes that decode.")] = 0,
    device: options.Device = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Print the calibration as JSON.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """
    Calibrate a detector on held-out images, and store the result in its config.json.

    Learns a temperature and a bias, so that p_fake is a probability; the threshold for a false-positive rate; what is
    found at rates of 5, 1 and 0.1%; and the band in which the verdict is "unsure". All hold for images like these: not
    for other generators, other photographs or recompressed files. Needs the extra `benchmark`.
    """
    set_up_console(quiet)
    with fail_in_one_line("calibrate", extra="benchmark"):
        with importing():
            import json

            from mirage_hf.calibration_run import CalibrationArguments, run_calibration
            from mirage_hf.console import setup_console

        setup_console()
        report = run_calibration(
            CalibrationArguments(
                model=model,
                data=data,
                output_dir=None if output_dir is None else str(output_dir),
                revision=revision,
                fake_label=fake_label,
                layout=layout,
                split=split,
                generators=generators,
                max_per_class=max_per_class,
                fake_id=fake_id,
                label_column=label_column,
                real_root=real_root,
                max_fpr=max_fpr,
                alpha=alpha,
                prior=prior,
                batch_size=batch_size,
                num_workers=num_workers,
                device=device,
                dtype=dtype,
                quiet=quiet,
            )
        )
        typer.echo(json.dumps(report.to_dict(), indent=1) if as_json else report.to_text(), nl=as_json)
    for item in report.unreadable:
        typer.echo(f"calibrate: not read: {item['path']}: {' '.join(str(item['error']).split())}", err=True)
    if report.unreadable:
        raise typer.Exit(FINISHED_EXCEPT_SOME)
