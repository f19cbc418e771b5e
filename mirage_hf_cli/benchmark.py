"""`mirage-hf benchmark`: a protocol of the field on a detector."""

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .console import FINISHED_EXCEPT_SOME, fail_in_one_line, importing, set_up_console


def _list_protocols(wanted: bool) -> None:
    if wanted:
        from mirage_hf.protocols import PROTOCOLS

        for protocol in PROTOCOLS:
            typer.echo(f"{protocol.name:20} {protocol.title}; {', '.join(protocol.metrics)}; {protocol.source}")
        raise typer.Exit()


def benchmark(
    protocol: Annotated[str, typer.Argument(help="Name of the protocol; `folder` for any images of yours.")],
    data: Annotated[str, typer.Option(help="Folder, archive, manifest or Hub id of the test images.")],
    model: options.Detector,
    output_dir: Annotated[
        Path | None, typer.Option(help="Where scores and tables go; outputs/benchmark/<protocol> by default.")
    ] = None,
    list_protocols: Annotated[
        bool, typer.Option("--list", callback=_list_protocols, is_eager=True, help="List the protocols.")
    ] = False,
    align: Annotated[bool, typer.Option(help="Score all images in one size and format as well.")] = False,
    align_size: Annotated[int | None, typer.Option(help="Height and width of aligned images.")] = None,
    align_geometry: Annotated[str | None, typer.Option(help="resize, or crop at native resolution.")] = None,
    align_quality: Annotated[int | None, typer.Option(help="JPEG quality of aligned images.")] = None,
    degrade: Annotated[
        list[str] | None,
        typer.Option(help="Score degraded images as well: all, or a name such as jpeg_65; repeatable."),
    ] = None,
    calibrate_on: Annotated[
        str | None, typer.Option(help="Validation images of the training generator, to fix a threshold on.")
    ] = None,
    calibrate_split: Annotated[str, typer.Option(help="Split of --calibrate-on.")] = "validation",
    calibrate_fpr: Annotated[float, typer.Option(help="Real images there that may be called fake.")] = 0.05,
    layout: Annotated[str | None, typer.Option(help="Layout of the data, if not the protocol's own.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of the data, if not the protocol's own.")] = None,
    config_name: Annotated[str | None, typer.Option(help="Configuration of a Hub data set.")] = None,
    real_root: Annotated[str | None, typer.Option(help="Folder of real images for sets of fakes only.")] = None,
    fake_id: Annotated[int | None, typer.Option(help="Number that means fake, where labels are numbers.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Label column of a manifest or Hub data set.")] = None,
    revision: options.Revision = None,
    fake_label: options.FakeLabel = None,
    limit_per_class: Annotated[int | None, typer.Option(min=1, help="Only so many of each class and set.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images for each forward pass.")] = 64,
    num_workers: Annotated[int, typer.Option(min=0, help="Processes that decode.")] = 0,
    device: options.Device = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    replicates: Annotated[int, typer.Option(min=20, help="Bootstrap draws for the intervals.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON instead of tables.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """
    Run a benchmark on a detector: the paper's table with the published rows beside it, and how far to believe it.

    Each set is scored once, as it is, in one format (--align) and degraded (--degrade); finished sets are kept, so
    that the same command goes on where it was cut off. Writes results.json, .md, .tex, .csv, .html and pictures.
    Needs the extra `benchmark`.
    """
    set_up_console(quiet)
    with fail_in_one_line("benchmark", extra="benchmark"):
        with importing():
            import json

            from mirage_hf.benchmark import BenchmarkArguments, run_benchmark
            from mirage_hf.benchmark_output import write_outputs
            from mirage_hf.benchmark_report import to_markdown
            from mirage_hf.console import setup_console

        setup_console()
        folder = output_dir or Path("outputs") / "benchmark" / protocol
        arguments = BenchmarkArguments(
            protocol=protocol,
            model=model,
            data=data,
            output_dir=str(folder),
            layout=layout,
            split=split,
            config_name=config_name,
            real_root=real_root,
            fake_id=fake_id,
            label_column=label_column,
            revision=revision,
            fake_label=fake_label,
            align=align,
            align_size=align_size,
            align_geometry=align_geometry,
            align_quality=align_quality,
            degrade=tuple(degrade or ()),
            calibrate_on=calibrate_on,
            calibrate_split=calibrate_split,
            calibrate_fpr=calibrate_fpr,
            limit_per_class=limit_per_class,
            batch_size=batch_size,
            num_workers=num_workers,
            device=device,
            dtype=dtype,
            replicates=replicates,
            quiet=quiet,
        )
        results = run_benchmark(arguments)
        write_outputs(results, folder)
        typer.echo(json.dumps(results, indent=1) if as_json else to_markdown(results), nl=as_json)
    for name, reason in results["refused"].items():
        typer.echo(f"benchmark: refused {name}: {reason}", err=True)
    unreadable = sum(found["skipped"] for found in results["views"]["raw"]["sets"].values())
    if unreadable:
        typer.echo(
            f"benchmark: {unreadable} images could not be read; they are listed in {folder}/scores/raw", err=True
        )
    if unreadable or results["refused"]:
        raise typer.Exit(FINISHED_EXCEPT_SOME)
