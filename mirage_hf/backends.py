"""Scores with an exported detector, without PyTorch's model: through ONNX Runtime or OpenVINO, on the CPU.

    >>> from mirage_hf.backends import load_backend
    >>> backend = load_backend("exported", "onnx", threads=1)
    >>> backend(pixel_values)
    array([-4.81])

[`~mirage_hf.export.export_onnx`] writes the folder. [`Detector.from_pretrained`] with `backend="onnx"` puts decoding
and calibration around it. ONNX files are data: loading one runs no code of its author.
"""

import importlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from .signal_stack import kept_signal_stack

MODEL_FILE = "model.onnx"
INPUT_NAME, OUTPUT_NAME = "pixel_values", "logits"
TEXT_PROPERTIES = ("mirage_hf_version", "source", "revision", "fingerprint", "precision")
JSON_PROPERTIES = (
    "id2label",
    "source_id2label",
    "threshold",
    "calibration",
    "preprocessor_config",
    "input_size",
    "tile_size",
)


class ExportedDetector:
    """
    What the backends have in common: `backend(pixel_values)` is the log-odds of fake.

    A backend may be pickled; whoever unpickles it loads the file again.

    Args:
        file (`Path`):
            The ONNX file.
        threads (`int`, *optional*):
            Threads of one forward pass; the library's own choice if left out.

    Attributes:
        properties (`dict[str, str]`):
            The file's `metadata_props`.
        metadata (`dict[str, Any]`):
            The same, parsed: see [`parse_metadata`].
        fingerprint (`str`):
            Of the source's weights and image processor, as in [`LoadedDetector`], with `-int8` behind it where they
            were quantised.
        input_size (`tuple[int, int]`):
            Height and width of `pixel_values`.
    """

    def __init__(self, file: Path, threads: int | None = None):
        if threads is not None and threads < 1:
            raise ValueError(f"`threads` must be at least 1, got {threads!r}")
        self.file, self.threads = file, threads
        self.properties = dict(self._open())
        self.metadata = parse_metadata(self.properties, file)
        self.fingerprint: str = self.metadata["fingerprint"]
        self.input_size: tuple[int, int] = tuple(self.metadata["input_size"])

    def _open(self) -> Mapping[str, str]:
        """Loads the file and returns its metadata properties."""
        raise NotImplementedError

    def logits(self, pixel_values: np.ndarray) -> np.ndarray:
        """float32 of shape `(B, 3, H, W)` to float32 of shape `(B, 2)`: real, fake."""
        raise NotImplementedError

    def __call__(self, pixel_values: torch.Tensor) -> np.ndarray:
        """
        Args:
            pixel_values (`torch.Tensor` of shape `(B, 3, H, W)`):
                Preprocessed images of `input_size`.

        Returns:
            `np.ndarray` of shape `(B,)`, float64: logit of fake less that of real.

        Raises:
            ValueError: `pixel_values` have another shape.
        """
        expected = (3, *self.input_size)
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != expected:
            raise ValueError(
                f"{self.file} takes `pixel_values` of (B, 3, {self.input_size[0]}, {self.input_size[1]}), "
                f"got {tuple(pixel_values.shape)}"
            )
        pixels = np.ascontiguousarray(pixel_values.detach().float().cpu().numpy())
        if self.metadata["precision"] == "int8":  # the activations of a batch would share a scale
            logits = np.concatenate([self.logits(pixels[i : i + 1]) for i in range(len(pixels))])
        else:
            logits = self.logits(pixels)
        return logits[:, 1].astype(np.float64) - logits[:, 0]

    def __reduce__(self):
        return type(self), (self.file, self.threads)


class OnnxRuntimeBackend(ExportedDetector):
    """An [`ExportedDetector`] through ONNX Runtime's CPU provider."""

    def _open(self) -> Mapping[str, str]:
        runtime = import_extra("onnxruntime", "ONNX Runtime", "onnx")
        runtime.disable_telemetry_events()  # which its builds for Windows send
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        try:
            self.session = runtime.InferenceSession(self.file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no common base class
            raise ValueError(f"{self.file} can't be read as an ONNX model: {one_line(error)}") from error
        _check_names(self.file, [i.name for i in self.session.get_inputs()], self.output_names())
        return self.session.get_modelmeta().custom_metadata_map

    def output_names(self) -> list[str]:
        """`list[str]`: Names of the outputs."""
        return [output.name for output in self.session.get_outputs()]

    def logits(self, pixel_values: np.ndarray) -> np.ndarray:
        return self.session.run([OUTPUT_NAME], {INPUT_NAME: pixel_values})[0]


class OpenVINOBackend(ExportedDetector):
    """
    An [`ExportedDetector`] through OpenVINO's CPU plugin.

    Args:
        file, threads:
            See [`ExportedDetector`].
        precision (`str`, *optional*, defaults to `"f32"`):
            Type to compute in (`INFERENCE_PRECISION_HINT`). `None` leaves the choice to OpenVINO, which takes bfloat16
            on CPUs that have it: faster, and with other scores.
    """

    def __init__(self, file: Path, threads: int | None = None, precision: str | None = "f32"):
        self.precision = precision
        super().__init__(file, threads)

    def _open(self) -> Mapping[str, str]:
        openvino = _import_openvino()
        # By the frontend of ONNX alone: `Core.read_model` asks those of TensorFlow and others about a broken file.
        frontend = openvino.frontend.FrontEndManager().load_by_framework("onnx")
        try:
            model = frontend.convert(frontend.load(str(self.file)))
        except Exception as error:
            raise ValueError(f"{self.file} can't be read as an ONNX model: {one_line(error)}") from error
        _check_names(self.file, *[[p.any_name for p in ports] for ports in (model.inputs, model.outputs)])
        options: dict[str, Any] = {"NUM_STREAMS": 1}
        if self.precision is not None:
            options["INFERENCE_PRECISION_HINT"] = self.precision
        if self.threads is not None:
            options["INFERENCE_NUM_THREADS"] = self.threads
            options["ENABLE_CPU_PINNING"] = False  # it would tie every process of such few threads to the same cores
        with kept_signal_stack():
            self.compiled = openvino.Core().compile_model(model, "CPU", options)
        if not model.has_rt_info("framework"):  # its name for ONNX's metadata
            return {}
        return {name: value.astype(str) for name, value in model.get_rt_info()["framework"].items()}

    def logits(self, pixel_values: np.ndarray) -> np.ndarray:
        return self.compiled({INPUT_NAME: pixel_values})[OUTPUT_NAME]

    def __reduce__(self):
        return type(self), (self.file, self.threads, self.precision)


BACKENDS = ("onnx", "openvino")
PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}  # in OpenVINO's words


def load_backend(
    path: str | os.PathLike, backend: str = "onnx", threads: int | None = None, dtype: str = "float32"
) -> ExportedDetector:
    """
    Load an exported detector.

    Args:
        path (`str` or `PathLike`):
            The folder that [`~mirage_hf.export.export_onnx`] wrote, or the ONNX file in it.
        backend (`str`, *optional*, defaults to `"onnx"`):
            `"onnx"` for ONNX Runtime, `"openvino"` for OpenVINO.
        threads (`int`, *optional*):
            Threads of one forward pass; the library's own choice if left out.
        dtype (`str`, *optional*, defaults to `"float32"`):
            `"bfloat16"` lets OpenVINO compute in it, where the CPU can.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: the backend's package is missing; the extra is named.
        ValueError: the file is no ONNX model, or none that this package wrote.
    """
    if backend not in BACKENDS:
        raise ValueError(f"`backend` must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if dtype not in (PRECISIONS if backend == "openvino" else ("float32",)):
        raise ValueError(f"`dtype` was settled at export: {backend} can't compute in {dtype!r}")
    file = Path(path)
    if file.is_dir():
        file = file / MODEL_FILE
    if not file.is_file():
        raise FileNotFoundError(f"there is no {file}; `mirage-hf export` writes one")
    if backend == "openvino":
        return OpenVINOBackend(file, threads, PRECISIONS[dtype])
    return OnnxRuntimeBackend(file, threads)


def metadata_properties(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The metadata as an ONNX file keeps it, text by text; [`parse_metadata`] turns it back."""
    texts = {name: metadata[name] for name in TEXT_PROPERTIES}
    return texts | {name: json.dumps(metadata[name], sort_keys=True) for name in JSON_PROPERTIES}


def parse_metadata(properties: Mapping[str, str], file: Path) -> dict[str, Any]:
    """
    What an ONNX file says of itself.

    Args:
        properties (`Mapping[str, str]`):
            Its `metadata_props`.
        file (`Path`):
            For the messages.

    Returns:
        `dict`: `mirage_hf_version`; `source` (name), `revision` and `fingerprint` of the checkpoint; `precision`,
        `"float32"` or `"int8"`; `id2label` of the logits, and `source_id2label` of the checkpoint's; `threshold` and
        `calibration`; `preprocessor_config`; `input_size`, height and width of `pixel_values`, and `tile_size`, side
        of the tiles that they are cut into, if they are.

    Raises:
        ValueError: something is missing or damaged; `file` is named.
    """
    missing = [name for name in (*TEXT_PROPERTIES, *JSON_PROPERTIES) if name not in properties]
    if missing:
        raise ValueError(
            f"{file} is an ONNX model, but `mirage-hf export` did not write it: it states no {missing[0]}"
        )
    try:
        parsed = {name: json.loads(properties[name]) for name in JSON_PROPERTIES}
    except ValueError as error:
        raise ValueError(f"the metadata of {file} is damaged: {error}") from error
    return {name: properties[name] for name in TEXT_PROPERTIES} | parsed


def import_extra(module: str, title: str, extra: str) -> ModuleType:
    """
    Import a package that an extra brings.

    Raises:
        ImportError: it is missing; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{title} is missing: `pip install mirage_hf[{extra}]`", name=module) from error


def _import_openvino() -> ModuleType:
    if sys.modules.get("openvino") is not None:
        return sys.modules["openvino"]
    # `import openvino` reports itself to Google Analytics (https://github.com/openvinotoolkit/openvino/pull/23832),
    # unless its reporting package can't be found.
    reporting = sys.modules.get("openvino_telemetry")
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        return import_extra("openvino", "OpenVINO", "openvino")
    finally:
        del sys.modules["openvino_telemetry"]
        if reporting is not None:
            sys.modules["openvino_telemetry"] = reporting


def _check_names(file: Path, inputs: list[str], outputs: list[str]) -> None:
    if inputs != [INPUT_NAME] or outputs != [OUTPUT_NAME]:
        raise ValueError(
            f"{file} is an ONNX model, but `mirage-hf export` did not write it: it turns {', '.join(inputs)} into "
            f"{', '.join(outputs)}, not {INPUT_NAME} into {OUTPUT_NAME}"
        )


def one_line(error: BaseException) -> str:
    """The error's message without its line breaks."""
    return " ".join(str(error).split())


__all__ = ["ExportedDetector", "OnnxRuntimeBackend", "OpenVINOBackend", "load_backend", "parse_metadata"]
