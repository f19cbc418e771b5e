"""`mirage-hf explain`: where a detector looked."""

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options
from .console import FINISHED_EXCEPT_SOME, fail_in_one_line, importing, set_up_console


def explain(
    model: Annotated[str, typer.Option(help="Folder or Hub id of MiraGe, or of a baseline on CLIP.")],
    images: Annotated[list[Path] | None, typer.Argument(help="Image files.")] = None,
    output_dir: Annotated[Path, typer.Option(help="Where the overlays go.")] = Path("outputs/explain"),
    index: Annotated[Path | None, typer.Option(help="Report the nearest of the labelled images in this file.")] = None,
    neighbors: Annotated[int, typer.Option(min=1, help="How many.")] = 5,
    build_index: Annotated[
        str | None, typer.Option(help="Write --index first, from this folder, archive, manifest or Hub id.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of --build-index.")] = "train",
    deletion: Annotated[
        bool, typer.Option(help="Score again without the hottest fifth of the patches, and without random ones.")
    ] = False,
    c2pa: Annotated[bool, typer.Option(help="Read content credentials; needs the extra `c2pa`.")] = False,
    trust_anchors: Annotated[
        Path | None, typer.Option(help="PEM file of the certificates that --c2pa is to trust.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Git revision on the Hub.")] = None,
    device: options.Device = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each image.")] = False,
    quiet: Annotated[bool, typer.Option(help="Errors alone on stderr.")] = False,
) -> None:
    """
    Show where a detector looked: each image with the patches that spoke for fake, in orange, and for real, in blue.

    Prints a row for each image and writes its overlay as PNG. A map shows what moved this model, not what is proof of
    where an image comes from.
    """
    set_up_console(quiet)
    if build_index is not None and index is None:
        raise typer.BadParameter("needs --index, the file to write", param_hint="--build-index")
    if build_index is None and not images:
        raise typer.BadParameter("name at least one image", param_hint="IMAGES")
    unreadable = 0
    with fail_in_one_line("explain", extra="train"):
        with importing():
            import json

            from mirage_hf.console import setup_console
            from mirage_hf.detector import Detector
            from mirage_hf.explain_run import ExplainArguments, explain_files, write_index

        setup_console()
        detector = Detector.from_pretrained(model, revision=revision, device=device)
        if build_index is not None and index is not None:
            count, skipped = write_index(detector, build_index, index, split)
            unreadable = len(skipped)
            for path, reason in skipped:
                typer.echo(f"explain: not read: {path}: {' '.join(reason.split())}", err=True)
            if not quiet:
                typer.echo(f"explain: {count} images in {index}", err=True)
        arguments = ExplainArguments(output_dir, index, neighbors, deletion, c2pa, trust_anchors)
        for row in explain_files(detector, images, arguments) if images else ():
            unreadable += row["status"] != "ok"
            typer.echo(json.dumps(row) if as_json else "\n".join(_lines(row)))
    if unreadable:
        raise typer.Exit(FINISHED_EXCEPT_SOME)


def _lines(row: dict[str, Any]) -> list[str]:
    if row["status"] != "ok":
        lines = [f"{row['path']}: {row['status']}: {row['error']}"]
    else:
        lines = [f"{row['path']}: p(fake) {row['p_fake']:.3f}, {row['label']}, verdict {row['verdict']}"]
        lines.append(f"  overlay: {row['overlay']}")
    if row.get("deletion"):
        found = row["deletion"]
        lines.append(
            f"  without the hottest {100 * found['fraction']:.0f}% of the patches: p(fake) "
            f"{found['p_fake_without_hottest']:.3f}; without random ones {found['p_fake_without_random']:.3f}"
        )
    for one in row.get("neighbors") or ():
        lines.append(f"  {one['similarity']:.3f}  {one['label']}  {one['generator']}  {one['path']}")
    if "c2pa" in row:
        lines.append(f"  content credentials: {_credentials(row['c2pa'])}")
    return lines


def _credentials(found: dict[str, Any] | None) -> str:
    if found is None:
        return "none"
    if found["ai_generated"] is None:
        return f"{found['state']}: {found['note']}"
    says = "says that it was made by a model" if found["ai_generated"] else "doesn't say that it was made by a model"
    note = f": {found['note']}" if found["note"] else ""
    return f"{found['state']}{note}; {says}; written by {found['claim_generator']}, signed by {found['signer']}"
