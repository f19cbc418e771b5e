"""The work on one shard as a value that can be sent to another process or machine."""

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from .detector import Detector
from .detector_loading import load_detector
from .image_io import SCORING_LIMITS, ImageLimits
from .scoring_inputs import Entry, named_images
from .scoring_shard import ShardStats, score_shard

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


@dataclass(frozen=True)
class DetectorSettings:
    """Arguments of [`Detector.from_pretrained`]."""

    model: str
    revision: str | None = None
    device: str | None = None
    dtype: str = "float32"
    backend: str = "torch"
    export: str | None = None
    max_difference: float = 0.001
    calibration_images: tuple[str, ...] = ()
    fake_label: str | None = None
    threshold: float | None = None
    limits: ImageLimits = SCORING_LIMITS
    sha256: bool = False
    batch_size: int = 8

    def load(self, threads: int | None = None) -> Detector:
        """The detector; `threads` are those of one forward pass in a backend other than torch."""
        arguments: dict[str, Any] = {name: value for name, value in vars(self).items() if name != "model"}
        return Detector.from_pretrained(self.model, **arguments | {"threads": threads, "calibration_images": None})

    def settled(self, threads: int) -> "DetectorSettings":
        """The same with the backend that `auto` chooses, for as many threads, so that no process chooses again."""
        if self.backend != "auto":
            return self
        from .backend_choice import choose_backend

        if self.dtype != "float32":
            raise ValueError("`dtype` is chosen by backend auto: leave it out")
        loaded = load_detector(self.model, self.revision, self.fake_label)
        images = named_images(self.calibration_images) if self.calibration_images else None
        way = choose_backend(loaded, self.device, threads, self.max_difference, images)
        return replace(self, backend=way.backend, dtype=way.dtype, export=way.export)


class Source(Protocol):
    """The images of a run, in shards."""

    def entries(self, shard: int) -> Iterator[Entry]:
        """The images of a shard, in order."""


@dataclass(frozen=True)
class ShardJob:
    """
    Scores the shards of a run.

    Args:
        settings ([`DetectorSettings`]): The detector.
        source ([`Source`]): The images.
        files (`dict[int, tuple[Path, dict]]`): Output file and metadata of each shard there is to do.
        threads (`int`): Threads of one forward pass.
        detector ([`Detector`], *optional*): Already loaded; it does not travel to other processes.
    """

    settings: DetectorSettings
    source: Source
    files: dict[int, tuple[Path, dict[str, str]]]
    threads: int = 1
    detector: Detector | None = field(default=None, compare=False)

    def loaded(self) -> "ShardJob":
        """The same with its detector."""
        return self if self.detector is not None else replace(self, detector=self.settings.load(self.threads))

    def score(
        self,
        shard: int,
        progress: Callable[[int], object] | None = None,
        entries: Iterator[Entry] | None = None,
    ) -> ShardStats:
        """
        Score one shard.

        Args:
            shard (`int`): Its number.
            progress (`Callable`, *optional*): As in [`score_shard`].
            entries (`Iterator[Entry]`, *optional*): Its images, where they were prepared elsewhere.
        """
        assert self.detector is not None
        file, metadata = self.files[shard]
        return score_shard(self.detector, entries or self.source.entries(shard), file, metadata, progress)

    def __reduce__(self):
        return type(self), (self.settings, self.source, self.files, self.threads)


def settle_process(threads: int) -> None:
    """
    Set a process up for nothing but scoring: so many threads, and freed memory kept for the next batch.

    By default glibc hands each large block back to the kernel when a tensor is freed and has its pages zeroed again
    for the next one; on the demo detector that took a fifth of the time. Blocks above 32 MiB still go back.
    """
    torch.set_num_threads(threads)
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(M_TRIM_THRESHOLD, 512 << 20)
    except (AttributeError, OSError, TypeError):  # another C library
        pass


__all__ = ["DetectorSettings", "ShardJob", "Source", "settle_process"]
