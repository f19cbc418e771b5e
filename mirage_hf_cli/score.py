"""`mirage-hf score`: any number of images into an output folder."""

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options
from .console import FAILED, FINISHED_EXCEPT_SOME, FOUND_FAKE, fail_in_one_line, importing, set_up_console, tell_of

INTERRUPTED = 130  # as a shell reports a program that Ctrl-C ended


def score(
    model: options.Detector,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Images, folders, globs, @list.txt, - for paths on stdin, .tar, .zip or .parquet with images, or one "
            "hf:name:split of `datasets`. None: go on with the output folder's.",
            metavar="INPUT...",
        ),
    ] = None,
    output_dir: Annotated[Path, typer.Option(help="Where the scores go, one Parquet file a shard.")] = Path(
        "outputs/scores"
    ),
    merge: Annotated[
        Path | None, typer.Option(help="One .parquet, .csv or .jsonl file too, when all is scored.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    fail_on: options.FailOn = None,
    restart: Annotated[bool, typer.Option(help="Forget what the output folder holds of another run.")] = False,
    list_only: Annotated[
        bool, typer.Option(help="List the input and stop; commands without INPUT then share the work.")
    ] = False,
    shard_index: Annotated[
        int | None, typer.Option(min=0, help="Which of --num-shards processes this is, such as $SLURM_ARRAY_TASK_ID.")
    ] = None,
    num_shards: Annotated[
        int | None, typer.Option(min=1, help="Processes that share the output folder; torchrun says so itself.")
    ] = None,
    shard_size: Annotated[int | None, typer.Option(min=1, help="Images in a file; 16 to 1000 by default.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes: detectors on a CPU, decoders for a GPU; one a core.")
    ] = None,
    engine: Annotated[str, typer.Option(help="local, or ray.")] = "local",
    ray_address: Annotated[
        str | None, typer.Option(help="auto or ray://...; a cluster of its own by default.")
    ] = None,
    all_files: options.AllFiles = False,
    null: options.Null = False,
    threshold: options.Threshold = None,
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
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images for each forward pass; 8 on a CPU, 64 on a GPU by default.")
    ] = None,
    quiet: options.Quiet = False,
) -> None:
    """
    Score any number of images into a folder of Parquet files, so that the work can be split, killed and gone on with.

    Run the same command again to go on where it was cut off. What can't be read gets a row that says why. Needs the
    extra `score`.
    """
    set_up_console(quiet)
    if fail_on not in (None, "fake"):
        raise typer.BadParameter("takes fake", param_hint="--fail-on")
    if (shard_index is None) != (num_shards is None):
        raise typer.BadParameter("goes with --num-shards", param_hint="--shard-index")
    part = None if shard_index is None or num_shards is None else (shard_index, num_shards)
    if part is not None and part[0] >= part[1]:
        raise typer.BadParameter(f"must be below --num-shards, {part[1]}", param_hint="--shard-index")
    with fail_in_one_line("score", extra="ray" if engine == "ray" else "score"):
        with importing():
            from dataclasses import replace

            from mirage_hf.console import setup_console
            from mirage_hf.image_io import SCORING_LIMITS
            from mirage_hf.scoring import ScoringArguments, run_scoring

        setup_console()
        if backend == "auto" and not quiet:
            tell_of("mirage_hf.backend_choice")
        given = {"max_megapixels": max_megapixels, "max_aspect_ratio": max_aspect_ratio, "min_side": min_side}
        limits: Any = {name: value for name, value in given.items() if value is not None}
        arguments = ScoringArguments(
            inputs=inputs or [],
            model=model,
            output_dir=str(output_dir),
            revision=revision,
            device=device,
            dtype=dtype,
            backend=backend,
            max_difference=max_difference,
            calibration_images=calibration_images or (),
            fake_label=fake_label,
            threshold=threshold,
            limits=replace(SCORING_LIMITS, **limits),
            sha256=sha256,
            batch_size=batch_size,
            shard_size=shard_size,
            workers=workers,
            part=part,
            all_files=all_files,
            null=null,
            engine=engine,
            ray_address=ray_address,
            merge=None if merge is None else str(merge),
            restart=restart,
            list_only=list_only,
            quiet=quiet,
        )
        try:
            summary = run_scoring(arguments)
        except KeyboardInterrupt as error:
            typer.echo("score: stopped; finished shards are kept, the same command goes on", err=True)
            raise typer.Exit(INTERRUPTED) from error
        facts = summary.to_dict()
    if as_json:
        import json

        typer.echo(json.dumps(facts, indent=1))
    else:
        typer.echo("\n".join(_lines(facts, output_dir)))
    for shard, reason in summary.failures.items():
        typer.echo(f"score: shard {shard} is not finished: {reason}", err=True)
    if summary.shards_finished < summary.shards and not list_only:
        typer.echo("score: run the same command again for what is missing", err=True)
        raise typer.Exit(FAILED)
    if merge is not None and summary.merged is None:
        typer.echo(f"score: {merge} is not written yet: other processes have shards to do", err=True)
    if fail_on == "fake" and summary.verdict.get("fake"):
        raise typer.Exit(FOUND_FAKE)
    if summary.unreadable:
        raise typer.Exit(FINISHED_EXCEPT_SOME)


def _lines(facts: dict[str, Any], output_dir: Path) -> list[str]:
    counts = {name: value for part in ("verdict", "status") for name, value in facts[part].items() if name != "ok"}
    counted = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    lines = [
        f"{facts['images']:,} images: {counted or 'none yet'}",
        f"{facts['shards_finished']:,} of {facts['shards']:,} shards in {output_dir}",
    ]
    if facts["images_scored"]:
        rate = f"{facts['images_per_second']:,.1f} images/s"
        lines.append(f"{facts['images_scored']:,} scored now in {facts['seconds']:,.1f} s, {rate}")
    if facts["merged"]:
        lines.append(f"all in {facts['merged']}")
    return lines
