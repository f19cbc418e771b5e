"""Options that several commands have, with one text for all of them."""

from typing import Annotated

import typer

Detector = Annotated[str, typer.Option(help="Folder or Hub id of a detector: MiraGe, a baseline, any two-class one.")]
Revision = Annotated[str | None, typer.Option(help="Git revision of a detector on the Hub.")]
FakeLabel = Annotated[str | None, typer.Option(help="Class of the detector that means fake.")]
Device = Annotated[str | None, typer.Option(help="cuda, cpu, ...; the GPU if there is one.")]
Quiet = Annotated[bool, typer.Option(help="No progress.")]

# Of images to be scored.
AllFiles = Annotated[bool, typer.Option(help="Files in folders whatever their extension.")]
Null = Annotated[bool, typer.Option("--null", "-0", help="Paths of lists and stdin end with NUL.")]
MaxMegapixels = Annotated[float | None, typer.Option(min=0.001, help="Larger images are not decoded.")]
MaxAspectRatio = Annotated[float | None, typer.Option(min=1, help="Nor more elongated ones.")]
MinSide = Annotated[int | None, typer.Option(min=1, help="Smaller images get no verdict.")]
Sha256 = Annotated[bool, typer.Option(help="Hash every file.")]
Threshold = Annotated[float | None, typer.Option(min=0, max=1, help="Fake above it, instead of the checkpoint's own.")]
FailOn = Annotated[str | None, typer.Option(help="fake: exit with 4 if an image gets that verdict.")]

# Of the way the detector is run.
Backend = Annotated[
    str,
    typer.Option(
        help="torch, for an exported detector onnx or openvino, or auto: the fastest here within --max-difference."
    ),
]
MaxDifference = Annotated[
    float, typer.Option(min=0, max=1, help="For auto: largest difference of p_fake from torch in float32.")
]
CalibrationImages = Annotated[
    list[str] | None,
    typer.Option(help="For auto: images to measure differences on, a file, folder or glob; synthetic by default."),
]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16, float16 or int8.")]
