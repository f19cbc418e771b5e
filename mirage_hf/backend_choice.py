"""The fastest way to run a detector on this machine that stays near enough to PyTorch in float32.

    >>> from mirage_hf import Detector
    >>> Detector.from_pretrained("benchmarks/minibench/mirage-tiny", backend="auto", max_difference=0.05).backend
    'openvino float32'

The ways are PyTorch in float32, bfloat16 and int8 and, where the packages are installed, ONNX Runtime in float32 and
int8 and OpenVINO in float32 and bfloat16. Each is measured by turns with the first, once; see
[`mirage_hf.backend_choice_cache`] for where that is remembered.

**What is compared.** A way's largest difference of the log-odds from float32's, over some images, is turned into the
difference of `p_fake` that it makes where `p_fake` is steepest, at 0.5: so it doesn't matter whether one of these
images happens to lie there. The images are noise on gradients unless others are given. Differences on photographs are
larger (with the demo detector by 1.2 times in bfloat16, up to 3.4 times in int8), so those on synthetic images count
four times. Give images like those to be scored, and what is measured counts as it is.
"""

import hashlib
import importlib.metadata
import json
import logging
import math
import statistics
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from .backend_choice_cache import (
    Measured,
    cache_folder,
    check_writable,
    is_whole,
    key_of,
    read_record,
    write_record,
)
from .backend_choice_measure import (
    FLOAT32,
    INT8,
    SYNTHETIC_IMAGES,
    Way,
    gain,
    given_pixels,
    measure,
    synthetic_pixels,
)
from .detector import stated_calibration
from .detector_loading import LoadedDetector
from .environment import processor_name, versions
from .reading import one_line

logger = logging.getLogger(__name__)

LEAST_GAIN = 1.1  # times as fast as PyTorch in float32; less is noise
SYNTHETIC_COUNTS = 4  # times: benchmarks/speed.py backends compares them with photographs
EXPORT_PACKAGES, OPENVINO = ("onnx", "onnxscript", "onnxruntime"), "openvino"
REFERENCE = "torch float32"
COSMETIC = ("calibration", "threshold", "_name_or_path", "transformers_version")  # of a configuration, to a network


def choose_backend(
    loaded: LoadedDetector,
    device: str | torch.device | None = None,
    threads: int | None = None,
    max_difference: float = 0.001,
    images: Iterable[Any] | None = None,
) -> Way:
    """
    Choose how to run a detector, from measurements that are made now unless they are remembered.

    Args:
        loaded ([`LoadedDetector`]):
            The detector.
        device (`str` or `torch.device`, *optional*):
            Where it is to run, the GPU if there is one. Off the CPU that is PyTorch, and nothing is measured.
        threads (`int`, *optional*):
            Threads of a forward pass; PyTorch's own number if left out.
        max_difference (`float`, *optional*, defaults to 0.001):
            Largest difference of `p_fake` from PyTorch's in float32, calibrated where the detector is.
        images (`Iterable`, *optional*):
            What differences are measured on, as [`Detector.score`] takes them; the first 64 that can be read.

    Returns:
        [`Way`]: PyTorch in float32 unless another is at least a tenth faster.

    Raises:
        ValueError: an argument doesn't fit, or none of the images can be read.
    """
    if not 0 <= max_difference <= 1:
        raise ValueError(f"`max_difference` must lie in [0, 1], got {max_difference!r}")
    if threads is not None and threads < 1:
        raise ValueError(f"`threads` must be at least 1, got {threads!r}")
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if place.type != "cpu":
        logger.info("%s: %s, as always on %s", loaded.name, REFERENCE, place.type)
        return Way("torch")
    threads = threads or torch.get_num_threads()
    batches = None if images is None else given_pixels(loaded, images)
    network = describe_network(loaded)
    facts = network | describe_conditions(threads, batches)
    calibration = stated_calibration(loaded.config)
    scale = (SYNTHETIC_COUNTS if batches is None else 1) / (1.0 if calibration is None else calibration.temperature)

    ways, record = possible_ways(None), None
    try:
        record = cache_folder("choices") / f"{key_of(facts)}.json"
        ways = possible_ways(cache_folder("exports") / key_of(network))
        measured = read_record(record, facts, list(ways))
        if measured is not None:
            name = decide(measured, max_difference, scale)
            if (export := ways[name].export) is None or is_whole(Path(export)):
                logger.info("%s", explain(loaded.name, name, measured, max_difference, scale, "remembered"))
                return ways[name]
        check_writable(record.parent)
    except OSError as error:
        logger.warning("what is found of backends can't be remembered, PyTorch's alone are tried: %s", one_line(error))
        ways, record = possible_ways(None), None
    logger.info("%s: measuring %s, once for this machine", loaded.name, ", ".join(ways))
    if batches is None:
        batches = synthetic_pixels(loaded)
    measured, trouble = measure(loaded, ways, batches, threads)
    try:
        if record is not None:
            write_record(record, facts, measured)
    except OSError as error:
        trouble = one_line(error)
    if trouble is not None:
        logger.warning("not all that is found of backends can be remembered: %s", trouble)
    name = decide(measured, max_difference, scale)
    logger.info("%s", explain(loaded.name, name, measured, max_difference, scale, "measured now"))
    return ways[name]


def possible_ways(exports: Path | None) -> dict[str, Way]:
    """
    The ways that can be tried with what is installed, by name, PyTorch in float32 first.

    Args:
        exports (`Path`, *optional*): Where exported networks go; without it only PyTorch's ways are there.
    """
    ways = {REFERENCE: Way("torch")} | {f"torch {dtype}": Way("torch", dtype) for dtype in ("bfloat16", "int8")}
    if exports is None or not all(map(find_spec, EXPORT_PACKAGES)):
        return ways
    whole, small = str(exports / FLOAT32), str(exports / INT8)
    ways |= {"onnx float32": Way("onnx", export=whole), "onnx int8": Way("onnx", export=small)}
    if find_spec(OPENVINO):
        ways |= {f"openvino {dtype}": Way("openvino", dtype, whole) for dtype in ("float32", "bfloat16")}
    return ways


def decide(measured: dict[str, Measured], max_difference: float, scale: float = 1.0) -> str:
    """The name of the fastest way within the limit, PyTorch in float32 where none is a tenth faster."""
    near = [
        name
        for name, entry in measured.items()
        if entry.failure is None and difference_of_p_fake(entry, scale) <= max_difference
    ]
    faster = [name for name in near if name != REFERENCE and gain(measured[name]) >= LEAST_GAIN]
    return max(faster, key=lambda name: gain(measured[name]), default=REFERENCE)


def difference_of_p_fake(measured: Measured, scale: float = 1.0) -> float:
    """`float`: What `scale` times the difference of the log-odds makes of `p_fake` where it is steepest, at 0.5."""
    return math.tanh(scale * measured.difference / 4)  # sigmoid(d / 2) - sigmoid(-d / 2)


def explain(detector: str, chosen: str, measured: dict[str, Measured], limit: float, scale: float, source: str) -> str:
    """One line on what was chosen and why."""
    reason = f"none within {limit:g} of it in p_fake is a tenth faster"
    if chosen != REFERENCE:
        reason = f"the fastest within {limit:g} of {REFERENCE} in p_fake"
    parts = []
    for name, entry in measured.items():
        if entry.failure is not None or entry.seconds is None:
            parts.append(f"{name} fails: {entry.failure}")
        elif name == REFERENCE:
            parts.append(f"{name} {1000 * statistics.median(entry.seconds):.3g} ms an image")
        else:
            difference = difference_of_p_fake(entry, scale)
            parts.append(f"{name} {gain(entry):.2f} times as fast, within {difference:.1g}")
    return f"{detector}: {chosen}, {reason} ({source}: {'; '.join(parts)})"


def describe_network(loaded: LoadedDetector) -> dict[str, Any]:
    """All that an exported network depends on: weights, preprocessing, configuration, packages."""
    config = {name: value for name, value in loaded.config.to_dict().items() if name not in COSMETIC}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    # The fingerprint samples the weights, which is too little to take an export for theirs.
    for name, tensor in sorted(loaded.model.state_dict().items()):  # other names where classes are turned round
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    packages = [name for name in EXPORT_PACKAGES if find_spec(name)]
    return {
        "fingerprint": loaded.fingerprint,
        "weights": digest.hexdigest(),
        "versions": versions() | {name: importlib.metadata.version(name) for name in packages},
    }


def describe_conditions(threads: int, batches: list[torch.Tensor] | None) -> dict[str, Any]:
    """What measurements depend on besides."""
    images = f"{SYNTHETIC_IMAGES} synthetic"
    if batches is not None:
        digest = hashlib.sha256()
        for batch in batches:
            digest.update(repr(tuple(batch.shape)).encode())
            digest.update(batch.contiguous().numpy().tobytes())
        images = digest.hexdigest()
    openvino = importlib.metadata.version(OPENVINO) if find_spec(OPENVINO) else None
    return {"processor": processor_name(), "threads": threads, "images": images, "openvino": openvino}


__all__ = ["choose_backend", "decide", "difference_of_p_fake", "possible_ways"]
