"""Turns an exported detector's weights into 8-bit integers, if labelled images show that it still ranks them as well.

    >>> from mirage_hf.data import load_detection_dataset
    >>> from mirage_hf.quantization import quantize_onnx
    >>> report = quantize_onnx("exported", "exported-int8", load_detection_dataset("images", split="validation"))
    >>> report.auroc_float32 - report.auroc_int8
    0.0012

The quantisation is ONNX Runtime's dynamic one: weights of matrix products once, with a scale for each output channel,
activations as they come. Nothing is fitted to the images; they only judge. CPUs without VNNI add these products up in
16 bits, which can overflow: judge on the kind of machine that will score. The activations of a batch would share a
scale, and an image's score depend on those beside it (by up to 0.03 with the demo detector), so the backends run an
int8 model image by image.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor

from .backends import MODEL_FILE, ExportedDetector, OnnxRuntimeBackend, import_extra, load_backend
from .calibration import Calibration
from .detector_loading import LoadedDetector
from .export import ExportReport, check_new, export_onnx, finished_folder
from .image_processing import EvalTransform

# Not Conv, which is the patch embedding: 8 bits lose most there, and it is a small part of the work.
QUANTIZED = ("MatMul", "Gemm")
NO_DATA = "int8 is not made without labelled images to judge it on: pass `dataset` (--data)"
FILES = ("config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class QuantizationReport:
    """
    What quantisation changed on labelled images.

    Args:
        file (`str`):
            Path of the quantised model.
        bytes, bytes_float32 (`int`):
            Sizes of the quantised model and of the one it was made of.
        n_real, n_fake (`int`):
            Images that both were judged on.
        skipped (`int`):
            Images that could not be decoded.
        auroc_float32, auroc_int8 (`float`):
            Areas under the ROC curve.
        max_auroc_drop (`float`):
            How much lower the latter was allowed to be.
        max_difference_p_fake, mean_difference_p_fake (`float`):
            Between the two, calibrated where the detector is.
        flipped (`int`):
            Images on the other side of the threshold than before.
    """

    file: str
    bytes: int
    bytes_float32: int
    n_real: int
    n_fake: int
    skipped: int
    auroc_float32: float
    auroc_int8: float
    max_auroc_drop: float
    max_difference_p_fake: float
    mean_difference_p_fake: float
    flipped: int

    def to_dict(self) -> dict[str, Any]:
        """`dict`: The fields, JSON-serialisable."""
        return asdict(self)


def quantize_onnx(
    source: str | os.PathLike,
    folder: str | os.PathLike,
    dataset: Any,
    max_auroc_drop: float = 0.01,
    batch_size: int = 16,
) -> QuantizationReport:
    """
    Quantise an exported detector into a folder of its own, which appears only if the images show little loss.

    Args:
        source (`str` or `PathLike`):
            Folder that [`~mirage_hf.export.export_onnx`] wrote.
        folder (`str` or `PathLike`):
            Where to write; a new or empty folder.
        dataset (map-style dataset):
            Rows with `image`, a `PIL.Image.Image` or `None` where it can't be decoded, and `label`, 0 for real and 1
            for fake; such as [`load_detection_dataset`] gives.
        max_auroc_drop (`float`, *optional*, defaults to 0.01):
            How much lower the area under the ROC curve may be than with float32.
        batch_size (`int`, *optional*, defaults to 16):
            Images for each forward pass.

    Returns:
        [`QuantizationReport`]

    Raises:
        ImportError: the extras `onnx` and `train` are missing.
        OSError: there is no exported detector.
        ValueError: there are no labelled images of both classes, the area falls further than allowed, the folder is
            not empty, or the source is quantised already.
    """
    if dataset is None:
        raise ValueError(NO_DATA)
    if not 0 <= max_auroc_drop <= 1:
        raise ValueError(f"`max_auroc_drop` must lie in [0, 1], got {max_auroc_drop!r}")
    reference = load_backend(source, "onnx")
    if reference.metadata["precision"] != "float32":
        raise ValueError(f"{reference.file} is of {reference.metadata['precision']} already; quantise the float32 one")
    with finished_folder(folder) as staging:
        quantized = write_int8(reference, staging)
        report = _judge(reference, quantized, dataset, max_auroc_drop, batch_size, Path(folder))
        if report.auroc_int8 < report.auroc_float32 - max_auroc_drop:
            raise ValueError(
                f"int8 was not written: its AUROC on {report.n_real} real and {report.n_fake} fake images is "
                f"{report.auroc_int8:.4f}, that of float32 {report.auroc_float32:.4f}, a fall by more than "
                f"{max_auroc_drop:g} (--max-auroc-drop)"
            )
    return report


def export_int8(
    model: str | os.PathLike | LoadedDetector,
    folder: str | os.PathLike,
    dataset: Any,
    *,
    max_auroc_drop: float = 0.01,
    batch_size: int = 16,
    revision: str | None = None,
    fake_label: str | None = None,
    images: Sequence[Image.Image] | None = None,
) -> tuple[ExportReport, QuantizationReport]:
    """
    [`~mirage_hf.export.export_onnx`] and [`quantize_onnx`] in one; the float32 model is not kept.

    Args:
        model, folder, revision, fake_label, images:
            See [`~mirage_hf.export.export_onnx`].
        dataset, max_auroc_drop, batch_size:
            See [`quantize_onnx`].

    Raises:
        ImportError, OSError, ValueError: as these two do.
    """
    if dataset is None:
        raise ValueError(NO_DATA)
    target = Path(folder)
    check_new(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
        whole = Path(temporary) / "float32"
        exported = export_onnx(model, whole, revision=revision, fake_label=fake_label, images=images)
        return replace(exported, file=None), quantize_onnx(whole, folder, dataset, max_auroc_drop, batch_size)


def write_int8(reference: ExportedDetector, folder: Path) -> OnnxRuntimeBackend:
    """
    Quantises an exported detector into an existing folder, judged by nobody yet.

    Raises:
        ImportError: the extra `onnx` is missing.
    """
    onnx = import_extra("onnx", "ONNX", "onnx")
    file = folder / MODEL_FILE
    _quantize(reference.file, file)
    model = onnx.load(file)
    properties = dict(reference.properties) | {"precision": "int8", "fingerprint": f"{reference.fingerprint}-int8"}
    onnx.helper.set_model_props(model, properties)
    onnx.save(model, file)
    for name in FILES:
        shutil.copyfile(reference.file.parent / name, folder / name)
    return OnnxRuntimeBackend(file)


def _quantize(source: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _without_advice():
        quantize_dynamic(
            source, target, op_types_to_quantize=list(QUANTIZED), per_channel=True, weight_type=QuantType.QInt8
        )


def _judge(
    reference: ExportedDetector,
    quantized: ExportedDetector,
    dataset: Any,
    max_auroc_drop: float,
    batch_size: int,
    folder: Path,
) -> QuantizationReport:
    from sklearn.metrics import roc_auc_score

    transform = EvalTransform(AutoImageProcessor.from_pretrained(reference.file.parent))
    labels: list[int] = []
    margins: list[tuple[np.ndarray, np.ndarray]] = []
    for start in range(0, len(dataset), batch_size):
        rows = [dataset[index] for index in range(start, min(start + batch_size, len(dataset)))]
        rows = [row for row in rows if row["image"] is not None]
        if rows:
            pixel_values = torch.stack([transform(row["image"]) for row in rows])  # (B, 3, H, W)
            margins.append((reference(pixel_values), quantized(pixel_values)))
            labels += [row["label"] for row in rows]
    n_fake = sum(labels)
    if not 0 < n_fake < len(labels):
        raise ValueError(
            f"int8 is judged by real and fake images: there are {len(labels) - n_fake} and {n_fake} that can be read"
        )
    before, after = (np.concatenate(column) for column in zip(*margins, strict=True))  # (N,)
    threshold, stated = reference.metadata["threshold"], reference.metadata["calibration"]
    if stated is None:
        p_before, p_after = (torch.from_numpy(column).sigmoid().numpy() for column in (before, after))
    else:
        calibration = Calibration.from_dict(stated)
        p_before, p_after = (calibration.probability(column) for column in (before, after))
        threshold = calibration.threshold
    return QuantizationReport(
        file=str(folder / MODEL_FILE),
        bytes=quantized.file.stat().st_size,
        bytes_float32=sum(path.stat().st_size for path in reference.file.parent.glob(f"{MODEL_FILE}*")),
        n_real=len(labels) - n_fake,
        n_fake=n_fake,
        skipped=len(dataset) - len(labels),
        auroc_float32=float(roc_auc_score(labels, before)),
        auroc_int8=float(roc_auc_score(labels, after)),
        max_auroc_drop=max_auroc_drop,
        max_difference_p_fake=float(np.abs(p_after - p_before).max()),
        mean_difference_p_fake=float(np.abs(p_after - p_before).mean()),
        flipped=int(((p_before > threshold) != (p_after > threshold)).sum()),
    )


@contextmanager
def _without_advice() -> Iterator[None]:
    """ONNX Runtime advises on the root logger to preprocess the model, which dynamic quantisation does not need."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


__all__ = ["QuantizationReport", "export_int8", "quantize_onnx"]
