"""Exports a detector for inference without this package's models: an ONNX file, or a `torch.export` program.

    >>> from mirage_hf.export import export_onnx
    >>> report = export_onnx("benchmarks/minibench/mirage-tiny", "exported")
    >>> report.comparison.max_difference_p_fake < 1e-4
    True

What is written takes `pixel_values` of the size that the checkpoint's image processor gives, in batches of any size,
and returns `logits` of shape `(B, 2)`, real before fake, in float32. MiraGe is baked first, so that there is no text
encoder in it. `config.json` and `preprocessor_config.json` lie beside it: the folder is all that scoring needs.
"""

import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import PreTrainedModel

from .backends import (
    INPUT_NAME,
    MODEL_FILE,
    OUTPUT_NAME,
    OnnxRuntimeBackend,
    import_extra,
    metadata_properties,
    one_line,
)
from .detector_loading import LoadedDetector, load_detector
from .export_comparison import Comparison, compare, synthetic_images
from .export_metadata import write_configuration
from .modeling_mirage import MiraGeForImageDetection
from .torch_margins import model_logits

OPSET = 18
LARGEST_FILE = 1_900_000_000  # bytes of weights; a protobuf file ends at 2 GiB
TORCH_FILE = "model.pt2"


@dataclass(frozen=True)
class ExportReport:
    """
    What an export wrote, and how it compares with the model in PyTorch.

    Args:
        format (`str`):
            `"onnx"` or `"torch"`.
        file (`str`, *optional*):
            Path of the model; none where it was only a step on the way to int8.
        bytes (`int`):
            Size of the model, weights in a file of their own included.
        opset (`int`, *optional*):
            Of ONNX.
        metadata (`dict`):
            What the file says of itself, see [`~mirage_hf.backends.parse_metadata`].
        comparison ([`~mirage_hf.export_comparison.Comparison`]):
            With the model in PyTorch.
    """

    format: str
    file: str | None
    bytes: int
    opset: int | None
    metadata: dict[str, Any]
    comparison: Comparison

    def to_dict(self) -> dict[str, Any]:
        """`dict`: The fields, JSON-serialisable."""
        return asdict(self)


def export_onnx(
    model: str | os.PathLike | LoadedDetector,
    folder: str | os.PathLike,
    *,
    revision: str | None = None,
    fake_label: str | None = None,
    images: Sequence[Image.Image] | None = None,
) -> ExportReport:
    """
    Export a detector as `model.onnx`, with its preprocessing, threshold and calibration among the file's metadata.

    The file is checked before the folder appears: by ONNX's own checker, and by comparing ONNX Runtime's answers with
    PyTorch's.

    Args:
        model (`str`, `PathLike` or [`LoadedDetector`]):
            Folder or Hub id of a detector, or a loaded one; see [`load_detector`].
        folder (`str` or `PathLike`):
            Where to write; a new or empty folder.
        revision, fake_label (*optional*):
            See [`load_detector`].
        images (`Sequence[PIL.Image.Image]`, *optional*):
            Images to compare on. Noise and gradients of several sizes if left out.

    Returns:
        [`ExportReport`]

    Raises:
        ImportError: the extra `onnx` is missing.
        OSError: there is no such checkpoint.
        ValueError: the folder is not empty, the detector can't be exported, or the file's answers are not PyTorch's.
    """
    onnx = import_extra("onnx", "ONNX", "onnx")
    import_extra("onnxscript", "ONNX Script", "onnx")
    loaded = _load(model, revision, fake_label)
    with finished_folder(folder) as staging:
        metadata = write_configuration(loaded, staging)
        example = torch.zeros(2, 3, *metadata["input_size"])
        file = staging / MODEL_FILE
        with _quiet_exporter(), _eager_attention(loaded.model), _named_failure(loaded.name, "ONNX"):
            program = torch.onnx.export(
                model_logits(loaded.model),
                (example,),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes={INPUT_NAME: {0: torch.export.Dim("batch")}},
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                verbose=False,
            )
            assert program is not None
            program.model.graph.metadata_props.clear()
            for node in program.model.graph.all_nodes():  # source lines, by their paths on this machine
                node.metadata_props.clear()
            program.model.metadata_props.update(metadata_properties(metadata))
            weights = sum(4 * parameter.numel() for parameter in loaded.model.parameters())
            program.save(file, external_data=weights > LARGEST_FILE)
            onnx.checker.check_model(file, full_check=True)
        comparison = _compare(loaded, OnnxRuntimeBackend(file).logits, images, metadata, file)
        return _report("onnx", Path(folder) / MODEL_FILE, staging, OPSET, metadata, comparison)


def export_torch(
    model: str | os.PathLike | LoadedDetector,
    folder: str | os.PathLike,
    *,
    revision: str | None = None,
    fake_label: str | None = None,
    images: Sequence[Image.Image] | None = None,
) -> ExportReport:
    """
    Export a detector as `model.pt2`, for `torch.export.load` and ahead-of-time compilation.

    `torch.export.load` unpickles parts of what it reads (it calls `torch.load(..., weights_only=False)` where an
    archive asks for it), so a file of a stranger's can run code: load only your own. This package reads no such file.

    Args:
        model, folder, revision, fake_label, images:
            As in [`export_onnx`].

    Returns:
        [`ExportReport`]

    Raises:
        OSError: there is no such checkpoint.
        ValueError: the folder is not empty, the detector can't be exported, or the file's answers are not those of
            the model.
    """
    loaded = _load(model, revision, fake_label)
    with finished_folder(folder) as staging:
        metadata = write_configuration(loaded, staging)
        example = torch.zeros(2, 3, *metadata["input_size"])
        file = staging / TORCH_FILE
        with _quiet_exporter(), _named_failure(loaded.name, "torch.export"):
            program = torch.export.export(
                model_logits(loaded.model), (example,), dynamic_shapes={INPUT_NAME: {0: torch.export.Dim("batch")}}
            )
            for node in program.graph.nodes:  # source lines, by their paths on this machine
                node.meta.pop("stack_trace", None)
            torch.export.save(program, file, extra_files=metadata_properties(metadata))
            answer = torch.export.load(file).module()
        comparison = _compare(loaded, lambda array: answer(torch.from_numpy(array)).numpy(), images, metadata, file)
        return _report("torch", Path(folder) / TORCH_FILE, staging, None, metadata, comparison)


def check_new(folder: Path) -> None:
    """
    Raises:
        ValueError: `folder` is there and no empty folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not an empty folder; name a new one to export to")


@contextmanager
def finished_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """
    A folder to write to that becomes `folder` if all goes well and vanishes if not.

    Raises:
        ValueError: as [`check_new`].
    """
    folder = Path(folder)
    check_new(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        staging = Path(temporary) / "export"
        staging.mkdir()
        yield staging
        if folder.exists():
            folder.rmdir()
        staging.rename(folder)


def _load(model: str | os.PathLike | LoadedDetector, revision: str | None, fake_label: str | None) -> LoadedDetector:
    loaded = model if isinstance(model, LoadedDetector) else load_detector(os.fspath(model), revision, fake_label)
    if isinstance(loaded.model, MiraGeForImageDetection):
        loaded.model.bake()
    loaded.model.float().cpu().eval()
    return loaded


def _compare(
    loaded: LoadedDetector,
    exported: Callable[[np.ndarray], np.ndarray],
    images: Sequence[Image.Image] | None,
    metadata: dict[str, Any],
    file: Path,
) -> Comparison:
    if images is None:
        images = synthetic_images(max(metadata["input_size"]))
    return compare(loaded, exported, images, file.name)


def _report(
    kind: str, file: Path, staging: Path, opset: int | None, metadata: dict[str, Any], comparison: Comparison
) -> ExportReport:
    size = sum(path.stat().st_size for path in staging.glob(f"{file.name}*"))
    return ExportReport(kind, str(file), size, opset, metadata, comparison)


@contextmanager
def _named_failure(name: str, title: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of an exporter, which raises almost anything
        reason = one_line(error.__cause__ or error)
        raise ValueError(f"{name} can't be exported to {title}: {reason[:300]}") from error


@contextmanager
def _eager_attention(model: nn.Module) -> Iterator[None]:
    """Attention written out: torch.onnx fails on the fused one of some models, Swin's for one."""
    configs = [module.config for module in model.modules() if isinstance(module, PreTrainedModel)]
    before = [config._attn_implementation for config in configs]
    for config in configs:
        config._attn_implementation = "eager"
    try:
        yield
    finally:
        for config, implementation in zip(configs, before, strict=True):  # a setting reaches the parts', which follow
            config._attn_implementation = implementation


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without the exporters' remarks on missing packages, deprecated functions and parts they could not simplify."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


__all__ = ["ExportReport", "export_onnx", "export_torch"]
