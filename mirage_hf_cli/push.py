"""`mirage-hf push`: a detector on the Hub, with a card whose figures are held against their files."""

from pathlib import Path
from typing import Annotated

import typer

from .console import fail_in_one_line, importing, set_up_console


def push(
    folder: Annotated[Path, typer.Argument(help="A MiraGe checkpoint.")],
    repo_id: Annotated[str, typer.Argument(help="owner/name on the Hub; made if it isn't there.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch; made if it isn't there.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all, list it and show the card; send nothing.")
    ] = False,
    results: Annotated[
        list[Path] | None,
        typer.Option(help="Results of evaluate or benchmark, or a folder of them; repeatable. Found by default."),
    ] = None,
    adapter: Annotated[bool, typer.Option("--adapter", help="Prompts and mappings only.")] = False,
    full: Annotated[bool, typer.Option("--full", help="The encoders as well.")] = False,
    base: Annotated[
        str | None, typer.Option(help="Hub id of an adapter's CLIP, where the checkpoint names a folder.")
    ] = None,
    export: Annotated[Path | None, typer.Option(help="Folder of mirage-hf export; goes up as onnx/.")] = None,
    quiet: Annotated[bool, typer.Option(help="Print the address only.")] = False,
) -> None:
    """
    Publish a detector: weights, image processor, configuration with its calibration, code, card and results.

    Nothing else goes up. A card with a figure that no results file holds is refused, as are results of other weights,
    another preprocessing or another threshold. Words for the card go into card.yaml in the folder. A killed push goes
    on where it stopped. Needs the extra `train`.
    """
    if adapter and full:
        raise typer.BadParameter("choose one of --adapter and --full")
    set_up_console(quiet)
    with fail_in_one_line("push", extra="train"):
        with importing():
            import tempfile

            from mirage_hf.console import setup_console
            from mirage_hf.publishing import PushArguments, plan_push

        setup_console()
        arguments = PushArguments(
            folder=str(folder),
            repo_id=repo_id,
            private=private,
            revision=revision,
            results=[str(path) for path in results or []],
            kind="adapter" if adapter else "full" if full else None,
            base=base,
            export=None if export is None else str(export),
        )
        with tempfile.TemporaryDirectory(prefix="mirage-hf-push-") as staging:
            plan = plan_push(arguments, Path(staging))
            if not quiet:
                for file in plan.files:
                    typer.echo(f"{file.size:>14,}  {file.path:40}  {file.what}")
                typer.echo(f"{sum(file.size for file in plan.files):>14,}  bytes in {len(plan.files)} files")
                for name, reason in plan.left:
                    typer.echo(f"stays here: {name} ({reason})")
                for note in plan.notes:
                    typer.echo(f"note: {note}", err=True)
            if dry_run:
                if not quiet:
                    typer.echo(f"\n{(Path(staging) / plan.files[0].path).read_text(encoding='utf-8')}")
                typer.echo(f"nothing was sent; without --dry-run it goes to {repo_id}, {revision or 'main'}")
                return
            from mirage_hf.publishing_upload import upload

            typer.echo(upload(plan))
