"""Scores images one by one, in lists or in streams: what a program calls that wants an answer for every image.

    >>> from mirage_hf import Detector
    >>> detector = Detector.from_pretrained("benchmarks/minibench/mirage-tiny")
    >>> detector.score("photo.jpg").verdict
    'real'

Work that may run elsewhere, decoding and preprocessing, is a [`Preparer`]'s; [`Detector.judge`] is the network and the
verdict. `score` and `stream` join the two in one process, `mirage_hf.scoring` over many.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoImageProcessor, PreTrainedConfig

from .calibration import Calibration
from .detection import Detection, Prepared, Preparer
from .detector_loading import load_detector
from .fused_transform import evaluation_transform
from .image_io import SCORING_LIMITS, ImageLimits, ImageStatus
from .torch_margins import DTYPES, INT8, torch_margins

BACKENDS = ("torch", "onnx", "openvino", "auto")


class Detector:
    """
    A detector of AI-generated images that answers for every image, readable or not.

    Args:
        margins (`Callable[[torch.Tensor], np.ndarray]`):
            `pixel_values` of shape `(B, 3, H, W)` to the log-odds of fake, logit of fake less that of real, `(B,)`.
        preparer ([`Preparer`]):
            Reading and preprocessing.
        name, revision (`str`):
            As in [`Detection`].
        threshold (`float`, *optional*, defaults to 0.5):
            `p_fake` above which an image is labelled fake; calibrated, if there is a calibration.
        calibration ([`Calibration`], *optional*):
            From log-odds to probabilities, and when to abstain.
        batch_size (`int`, *optional*, defaults to 16):
            Images for each forward pass.
        backend (`str`, *optional*):
            What `margins` computes with and in which type, in words such as `"onnx int8"`.
    """

    def __init__(
        self,
        margins: Callable[[torch.Tensor], np.ndarray],
        preparer: Preparer,
        name: str,
        revision: str,
        threshold: float = 0.5,
        calibration: Calibration | None = None,
        batch_size: int = 16,
        backend: str | None = None,
    ):
        if not 0 <= threshold <= 1:
            raise ValueError(f"`threshold` must lie in [0, 1], got {threshold!r}")
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size!r}")
        self.margins, self.preparer = margins, preparer
        self.name, self.revision = name, revision
        self.threshold, self.calibration, self.batch_size = threshold, calibration, batch_size
        self.backend = backend

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike,
        *,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: str = "float32",
        backend: str = "torch",
        export: str | os.PathLike | None = None,
        threads: int | None = None,
        max_difference: float = 0.001,
        calibration_images: Iterable[Any] | None = None,
        fake_label: str | None = None,
        threshold: float | None = None,
        limits: ImageLimits = SCORING_LIMITS,
        sha256: bool = False,
        batch_size: int = 16,
    ) -> "Detector":
        """
        Load a detector from a folder or the Hub.

        Args:
            name (`str` or `PathLike`):
                A MiraGe checkpoint, one of its baselines, any image classifier with the two classes real and fake; for
                the backends onnx and openvino a folder that `mirage-hf export` wrote.
            revision (`str`, *optional*):
                Git revision of a Hub repository.
            device (`str` or `torch.device`, *optional*):
                The GPU if there is one. The backends onnx and openvino run on the CPU.
            dtype (`str`, *optional*, defaults to `"float32"`):
                `"float32"`, autocast to `"bfloat16"` or `"float16"`, or on the CPU `"int8"`. OpenVINO takes
                `"bfloat16"`, too; otherwise an exported detector's type was settled at export.
            backend (`str`, *optional*, defaults to `"torch"`):
                `"torch"`, `"onnx"`, `"openvino"`, or `"auto"`: the fastest on this machine whose `p_fake` stays within
                `max_difference` of PyTorch's in float32, measured once and remembered; see
                [`~mirage_hf.backend_choice.choose_backend`].
            export (`str` or `PathLike`, *optional*):
                Folder of the exported network where `name` is the checkpoint that it was made of, whose threshold and
                calibration then count.
            threads (`int`, *optional*):
                Threads of a forward pass with onnx and openvino, the library's own choice if left out; and what auto
                measures with, `torch.get_num_threads()` if left out.
            max_difference (`float`, *optional*, defaults to 0.001):
                For auto.
            calibration_images (`Iterable`, *optional*):
                For auto: images like those to be scored, as [`score`] takes them, to measure differences on. Synthetic
                ones if left out.
            fake_label (`str`, *optional*):
                Class that means fake, where the names of a foreign classifier don't say so.
            threshold (`float`, *optional*):
                Instead of the checkpoint's, on the scale of `p_fake`.
            limits, sha256:
                See [`Preparer`].
            batch_size (`int`, *optional*, defaults to 16):
                Images for each forward pass.

        Raises:
            ImportError: the backend's package is missing.
            OSError: there is no such checkpoint.
            ValueError: it is no detector with two classes, or an argument doesn't fit.
        """
        name, loaded = os.fspath(name), None
        if backend not in BACKENDS:
            raise ValueError(f"`backend` must be one of {', '.join(BACKENDS)}, got {backend!r}")
        if dtype not in (*DTYPES, INT8):
            raise ValueError(f"`dtype` must be one of {', '.join((*DTYPES, INT8))}, got {dtype!r}")
        if backend == "auto":
            if dtype != "float32" or export is not None:
                raise ValueError('`dtype` and `export` are chosen by backend="auto": leave them out')
            from .backend_choice import choose_backend

            loaded = load_detector(name, revision, fake_label)
            way = choose_backend(loaded, device, threads, max_difference, calibration_images)
            backend, dtype, export = way.backend, way.dtype, way.export
        elif backend != "torch" and (device not in (None, "cpu") or (export is None and fake_label is not None)):
            raise ValueError(f"`device` and `fake_label` were settled at export; not with {backend}")
        margins: Callable[[torch.Tensor], np.ndarray]
        if backend == "torch":
            loaded = loaded or load_detector(name, revision, fake_label)
            margins = torch_margins(loaded, device, dtype)
            config, transform, precision = loaded.config, loaded.transform, dtype
            mark = stated_revision(config) or loaded.fingerprint
        else:
            from .backends import load_backend

            margins = exported = load_backend(export or name, backend, threads, dtype)
            config = AutoConfig.from_pretrained(name, revision=revision)
            transform = evaluation_transform(AutoImageProcessor.from_pretrained(name, revision=revision))
            precision = exported.metadata["precision"] if exported.metadata["precision"] == INT8 else dtype
            stated = stated_revision(config) if export is None else None  # which doesn't tell int8
            mark = stated or exported.fingerprint
        calibration = stated_calibration(config)
        if threshold is None:
            threshold = calibration.threshold if calibration is not None else stated_threshold(config)
        return cls(
            margins,
            Preparer(transform, limits, sha256),
            name.rstrip("/").rpartition("/")[2],
            mark,
            threshold,
            calibration,
            batch_size,
            f"{backend} {precision}",
        )

    def score(self, images: Any) -> "Detection | list[Detection]":
        """
        Score one image, or a list or tuple of them.

        Args:
            images:
                A path, encoded bytes, file object, `PIL.Image.Image` or array of shape `(H, W)` or `(H, W, 3)`, or a
                list of such.

        Returns:
            [`Detection`], or a list of them in the same order. What can't be read has a `status` that says why.
        """
        if isinstance(images, (list, tuple)):
            return list(self.stream(images))
        return self.judge([self.preparer(images)])[0]

    def stream(self, images: Iterable[Any], num_workers: int = 0) -> Iterator[Detection]:
        """
        Score an iterable of any length, in order, with a bounded number of images in memory.

        Args:
            images:
                What [`score`] takes, one by one; read no further ahead than two batches.
            num_workers (`int`, *optional*, defaults to 0):
                Threads that read and preprocess while the network runs.
        """
        prepared = map(self.preparer, images) if num_workers == 0 else self._prepare_ahead(images, num_workers)
        prepared = iter(prepared)
        while batch := list(islice(prepared, self.batch_size)):
            yield from self.judge(batch)

    def _prepare_ahead(self, images: Iterable[Any], num_workers: int) -> Iterator[Prepared]:
        pool, waiting = ThreadPoolExecutor(num_workers), deque[Future[Prepared]]()
        try:
            for image in images:
                waiting.append(pool.submit(self.preparer, image))
                if len(waiting) >= 2 * self.batch_size:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # also where the consumer stops early
            pool.shutdown(cancel_futures=True)

    def judge(self, prepared: Sequence[Prepared]) -> list[Detection]:
        """Scores and verdicts of prepared images, in order; those that could not be read keep their reason."""
        by_shape: dict[torch.Size, list[int]] = {}  # a foreign processor need not bring all to one size
        for index, item in enumerate(prepared):
            if item.pixel_values is not None:
                by_shape.setdefault(item.pixel_values.shape, []).append(index)
        margins: dict[int, float] = {}
        for indices in by_shape.values():
            pixel_values = torch.stack([_pixels(prepared[index]) for index in indices])  # (B, 3, H, W)
            margins |= dict(zip(indices, self.margins(pixel_values).tolist(), strict=True))
        return [self._detection(item, margins.get(index)) for index, item in enumerate(prepared)]

    def _detection(self, item: Prepared, margin: float | None) -> Detection:
        reading = item.reading
        status, error = reading.status, reading.error
        p_fake = label = verdict = None
        if margin is not None and not np.isfinite(margin):
            status, error = ImageStatus.ERROR, "the network's answer is not finite"
        elif margin is not None:
            p_fake = self.probability(margin)
            label = "fake" if p_fake > self.threshold else "real"
            verdict = label if self.calibration is None else self.verdict(p_fake)
        return Detection(
            path=item.path,
            status=status.value,
            error=error,
            p_fake=p_fake,
            label=label,
            verdict=verdict,
            threshold=self.threshold,
            width=reading.width,
            height=reading.height,
            format=reading.format,
            n_frames=reading.n_frames,
            had_alpha=reading.had_alpha,
            sha256=reading.sha256,
            model=self.name,
            revision=self.revision,
            calibration_id=None if self.calibration is None else self.calibration.id,
        )

    def probability(self, margin: float) -> float:
        """`float`: Probability of fake at a log-odds, calibrated where there is a calibration."""
        if self.calibration is not None:
            return float(self.calibration.probability(np.float64(margin)))
        return float(torch.tensor(margin, dtype=torch.float64).sigmoid())

    def verdict(self, p_fake: float) -> str:
        """`"fake"`, `"real"` or, inside the calibration's band widened to hold the threshold, `"unsure"`."""
        assert self.calibration is not None
        if p_fake > max(self.calibration.unsure_high, self.threshold):
            return "fake"
        return "real" if p_fake < min(self.calibration.unsure_low, self.threshold) else "unsure"


def _pixels(item: Prepared) -> torch.Tensor:
    assert item.pixel_values is not None
    return item.pixel_values


def stated_revision(config: PreTrainedConfig) -> str | None:
    """`str`, *optional*: The commit that a checkpoint of the Hub was loaded from; transformers sets it for those."""
    return vars(config).get("_commit_hash")


def stated_threshold(config: PreTrainedConfig) -> float:
    """`float`: Probability, not calibrated, above which a checkpoint calls an image fake; 0.5 if it doesn't say."""
    return config.threshold if config.model_type.startswith("mirage") else 0.5


def stated_calibration(config: PreTrainedConfig) -> Calibration | None:
    """
    The calibration in a checkpoint's configuration, if it has one.

    Raises:
        ValueError: there is one that can't be used; the field is named.
    """
    stated = config.to_dict().get("calibration")
    return None if stated is None else Calibration.from_dict(stated)


__all__ = ["Detector", "stated_calibration", "stated_revision", "stated_threshold"]
