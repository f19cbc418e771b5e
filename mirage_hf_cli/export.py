"""`mirage-hf export`: a detector as an ONNX file or a `torch.export` program."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .console import FINISHED_EXCEPT_SOME, fail_in_one_line, importing, set_up_console

if TYPE_CHECKING:
    from mirage_hf.export import ExportReport
    from mirage_hf.quantization import QuantizationReport

COMPARED = 32  # images of --data that the exported model is compared on


class Format(StrEnum):
    """What to export to."""

    ONNX = "onnx"
    TORCH = "torch"


def export(
    model: options.Detector,
    output_dir: Annotated[Path, typer.Option(help="Where the files go; a new or empty folder.")],
    export_format: Annotated[Format, typer.Option("--format", help="model.onnx, or model.pt2 of torch.export.")] = (
        Format.ONNX
    ),
    int8: Annotated[bool, typer.Option("--int8", help="Quantise to 8 bits; needs --data to judge by.")] = False,
    data: Annotated[
        str | None, typer.Option(help="Labelled images to compare on: folder, archive, manifest or Hub id.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of --data.")] = "validation",
    limit_per_class: Annotated[int | None, typer.Option(min=1, help="Only so many images of each class.")] = None,
    max_auroc_drop: Annotated[float, typer.Option(min=0, max=1, help="How far AUROC may fall with --int8.")] = 0.01,
    batch_size: Annotated[int, typer.Option(min=1, help="Images for each forward pass with --int8.")] = 16,
    revision: options.Revision = None,
    fake_label: options.FakeLabel = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the measurements as JSON.")] = False,
    quiet: Annotated[bool, typer.Option(help="No messages.")] = False,
) -> None:
    """
    Export a detector for inference elsewhere; what is written is compared with PyTorch first.

    The folder holds the model with its preprocessing, threshold and calibration: score with it through
    `--backend onnx` or `--backend openvino`. Needs the extra `onnx`, and `train` for --data.
    """
    if int8 and data is None:
        raise typer.BadParameter("needs labelled images to judge it by: name them with --data", param_hint="--int8")
    if int8 and export_format is not Format.ONNX:
        raise typer.BadParameter("is for --format onnx", param_hint="--int8")
    set_up_console(quiet)
    with fail_in_one_line("export"):
        with importing():
            import json

            from mirage_hf.console import setup_console
            from mirage_hf.export import export_onnx, export_torch
            from mirage_hf.quantization import export_int8

        setup_console()
        dataset, unreadable = None, 0
        options: dict[str, Any] = {"revision": revision, "fake_label": fake_label}
        if data is not None:
            from mirage_hf.backends import import_extra

            import_extra("datasets", "The package datasets", "train")
            from mirage_hf.data import load_detection_dataset

            dataset, report = load_detection_dataset(
                data, split=split, max_per_class=limit_per_class, allow_one_class=not int8, return_report=True
            )
            unreadable = len(report.skipped)
            options["images"] = _images(dataset)
        quantized = None
        if int8:
            exported, quantized = export_int8(
                model, output_dir, dataset, max_auroc_drop=max_auroc_drop, batch_size=batch_size, **options
            )
            unreadable += quantized.skipped
        else:
            exported = (export_onnx if export_format is Format.ONNX else export_torch)(model, output_dir, **options)
        if as_json:
            parts = {"export": exported.to_dict(), "int8": None if quantized is None else quantized.to_dict()}
            typer.echo(json.dumps(parts, indent=1))
        else:
            typer.echo(_in_words(exported, quantized, "synthetic" if data is None else data))
    if unreadable:
        typer.echo(f"export: {unreadable} images of {data} could not be read", err=True)
        raise typer.Exit(FINISHED_EXCEPT_SOME)


def _images(dataset: Any) -> list[Any]:
    """Some of the images that can be decoded, from all over the data set."""
    step = max(1, len(dataset) // COMPARED)
    images = [dataset[index]["image"] for index in range(0, len(dataset), step)][:COMPARED]
    return [image for image in images if image is not None]


def _in_words(exported: "ExportReport", quantized: "QuantizationReport | None", images: str) -> str:
    metadata, compared = exported.metadata, exported.comparison
    height, width = metadata["input_size"]
    tiles = "" if metadata["tile_size"] is None else f", in tiles of {metadata['tile_size']}"
    opset = "" if exported.opset is None else f", opset {exported.opset}"
    written = exported if quantized is None else quantized
    lines = [
        f"{written.file}: {_megabytes(written.bytes)}{opset}, pixel_values of {height} x {width}{tiles}",
        f"float32 against PyTorch on {compared.images} images ({images}) in batches of "
        f"{', '.join(map(str, compared.batch_sizes))}: largest difference {compared.max_difference_p_fake:.1e} in the "
        f"probability of fake, {compared.max_difference_logits:.1e} in the logits",
    ]
    if quantized is not None:
        lines.append(
            f"int8 against float32 ({_megabytes(quantized.bytes_float32)}) on {quantized.n_real} real and "
            f"{quantized.n_fake} fake images: AUROC {quantized.auroc_int8:.4f} for {quantized.auroc_float32:.4f}; "
            f"probability of fake {quantized.mean_difference_p_fake:.4f} off on average, "
            f"{quantized.max_difference_p_fake:.4f} at most; {quantized.flipped} images across the threshold"
        )
    return "\n".join(lines)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
