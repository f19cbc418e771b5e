"""Measures ways to run a detector against PyTorch in float32: differences of the log-odds, and speed by turns."""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .backend_choice_cache import Measured, keep
from .detection import Preparer
from .detector_loading import LoadedDetector
from .export_comparison import synthetic_images
from .reading import one_line
from .torch_margins import torch_margins

SYNTHETIC_IMAGES, MOST_IMAGES = 16, 64
BATCH_SIZE, TURN_SECONDS, ROUNDS = 8, 2.0, 5
FLOAT32, INT8 = "float32", "int8"
Margins = Callable[[torch.Tensor], np.ndarray]


@dataclass(frozen=True)
class Way:
    """
    A way to run a detector: arguments of [`Detector.from_pretrained`].

    Args:
        backend (`str`): `"torch"`, `"onnx"` or `"openvino"`.
        dtype (`str`, *optional*, defaults to `"float32"`): As there.
        export (`str`, *optional*): Folder of the exported network.
    """

    backend: str
    dtype: str = "float32"
    export: str | None = None

    def load(self, loaded: LoadedDetector, threads: int) -> Margins:
        """The detector's log-odds of fake in this way, on the CPU, by so many threads where it isn't PyTorch's."""
        if self.export is None:
            return torch_margins(loaded, "cpu", self.dtype)
        from .backends import load_backend

        return load_backend(self.export, self.backend, threads, self.dtype)


def given_pixels(loaded: LoadedDetector, images: Iterable[Any]) -> list[torch.Tensor]:
    """
    The first 64 images that can be read, preprocessed, in batches `(B, 3, H, W)` of one shape.

    Raises:
        ValueError: none can be read; the reason for the last one is given.
    """
    prepared = map(Preparer(loaded.transform), images)
    reason = "there are none"

    def readable() -> Iterable[torch.Tensor]:
        nonlocal reason
        for item in prepared:
            if item.pixel_values is None:
                reason = str(item.reading.error) if item.path is None else f"{item.path}: {item.reading.error}"
            else:
                yield item.pixel_values

    pixels = list(islice(readable(), MOST_IMAGES))
    if not pixels:
        raise ValueError(f"none of `calibration_images` can be read: {reason}")
    return _batches(pixels)


def synthetic_pixels(loaded: LoadedDetector) -> list[torch.Tensor]:
    """16 images of noise on gradients, always the same, preprocessed, in batches `(B, 3, H, W)` of one shape."""
    side = max(loaded.transform(Image.new("RGB", (500, 375))).shape[1:])
    return _batches([loaded.transform(image) for image in synthetic_images(side, SYNTHETIC_IMAGES)])


def _batches(pixels: list[torch.Tensor]) -> list[torch.Tensor]:
    by_shape: dict[torch.Size, list[torch.Tensor]] = {}  # a foreign processor need not bring all to one size
    for image in pixels:
        by_shape.setdefault(image.shape, []).append(image)
    return [batch for images in by_shape.values() for batch in torch.stack(images).split(BATCH_SIZE)]


def measure(
    loaded: LoadedDetector, ways: dict[str, Way], batches: list[torch.Tensor], threads: int
) -> tuple[dict[str, Measured], str | None]:
    """
    Measures every way, making the exports that it needs.

    Args:
        loaded ([`LoadedDetector`]): The detector.
        ways (`dict[str, Way]`): By name, PyTorch in float32 first.
        batches (`list[torch.Tensor]`): Preprocessed images.
        threads (`int`): Threads of a forward pass.

    Returns:
        `tuple[dict[str, Measured], str | None]`: What was found, without the ways that a full disk or the like kept
        from being tried; and the reason, if there were such.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        reference = next(iter(ways.values())).load(loaded, threads)
        expected = _all(reference, batches)
        begin = time.perf_counter()
        reference(batches[0][:1])
        count = max(1, min(len(batches[0]), int(TURN_SECONDS / (time.perf_counter() - begin))))
        found: dict[str, Measured] = {}
        trouble = None
        for number, (name, way) in enumerate(ways.items()):
            try:
                _make_export(loaded, way)
                margins = way.load(loaded, threads) if number else reference
                difference = float(np.abs(_all(margins, batches) - expected).max())
                if not np.isfinite(difference):
                    found[name] = Measured(failure="its answers are not finite")
                else:
                    found[name] = Measured(difference, *_take_turns(margins, reference, batches[0][:count]))
            except OSError as error:
                trouble = one_line(error)
            except Exception as error:  # of exporters and runtimes, which raise almost anything
                found[name] = Measured(failure=one_line(error))
        return found, trouble
    finally:
        torch.set_num_threads(before)


def _all(margins: Margins, batches: list[torch.Tensor]) -> np.ndarray:
    return np.concatenate([margins(batch) for batch in batches])  # (N,)


def _take_turns(margins: Margins, reference: Margins, pixels: torch.Tensor) -> tuple[list[float], list[float]]:
    """Seconds for an image, of both in each round; every other round the other begins."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(ROUNDS):
        for which in ((0, 1), (1, 0))[number % 2]:
            begin = time.perf_counter()
            (margins, reference)[which](pixels)
            seconds[which].append((time.perf_counter() - begin) / len(pixels))
    return seconds


def _make_export(loaded: LoadedDetector, way: Way) -> None:
    if way.export is None:
        return
    from .backends import load_backend
    from .export import export_onnx
    from .quantization import write_int8

    folder = Path(way.export)
    whole = folder.with_name(FLOAT32)
    keep(whole, lambda target: export_onnx(loaded, target))
    if folder.name == INT8:

        def quantize(target: Path) -> None:
            target.mkdir()
            write_int8(load_backend(whole), target)

        keep(folder, quantize)


def gain(measured: Measured) -> float:
    """`float`: How many times as fast as PyTorch in float32, the median over rounds."""
    assert measured.seconds is not None and measured.torch_seconds is not None
    return statistics.median(b / a for a, b in zip(measured.seconds, measured.torch_seconds, strict=True))


__all__ = ["FLOAT32", "INT8", "SYNTHETIC_IMAGES", "Way", "gain", "given_pixels", "measure", "synthetic_pixels"]
