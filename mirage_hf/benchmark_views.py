"""What a benchmark does to every image before it is scored: nothing, one format for all, or a degradation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from .alignment import FormatAlignment
from .degradations import DEGRADATIONS, degrade
from .image_io import load_rgb


@dataclass(frozen=True)
class View:
    """
    What is done to an image before the detector's own transform; it can be sent to worker processes.

    Args:
        name (`str`):
            `raw`, `aligned`, or a degradation.
        description (`str`):
            For the tables.
        change (`Callable`, *optional*):
            From an RGB image to an RGB image.
        encode (`Callable`, *optional*):
            From the value of an `image` column to the file that the null looks at; `None` means the file as it is.
        has_null (`bool`, *optional*, defaults to `False`):
            Whether there is a file for the null to look at.
    """

    name: str
    description: str
    change: Callable[[Image.Image], Image.Image] | None = None
    encode: Callable[[Any], bytes] | None = None
    has_null: bool = False


@dataclass(frozen=True)
class _Degrade:
    name: str

    def __call__(self, image: Image.Image) -> Image.Image:
        return degrade(image, self.name)


@dataclass(frozen=True)
class _Encode:
    alignment: FormatAlignment

    def __call__(self, value: Any) -> bytes:
        return self.alignment.encode(load_rgb(value))


@dataclass(frozen=True)
class ChangedTransform:
    """A view's change, then the detector's transform: an RGB image to `(3, H, W)`."""

    change: Callable[[Image.Image], Image.Image] | None
    transform: Callable[[Image.Image], torch.Tensor]

    def __call__(self, image: Image.Image) -> torch.Tensor:
        return self.transform(image if self.change is None else self.change(image))


def list_views(alignment: FormatAlignment | None, degradations: Sequence[str]) -> list[View]:
    """
    `raw`, `aligned` if there is an alignment, and degradations by name; `"all"` is all of them.

    Raises:
        ValueError: a degradation is unknown.
    """
    views = [View("raw", "images as they are", has_null=True)]
    if alignment is not None:
        described = f"{alignment.geometry} to {alignment.size} x {alignment.size}, then JPEG {alignment.quality}"
        views.append(View("aligned", described, alignment, _Encode(alignment), has_null=True))
    names = list(DEGRADATIONS) if "all" in degradations else list(dict.fromkeys(degradations))
    unknown = [name for name in names if name not in DEGRADATIONS]
    if unknown:
        raise ValueError(f"unknown degradation {unknown[0]!r}: choose all or some of {', '.join(DEGRADATIONS)}")
    return views + [View(name, DEGRADATIONS[name].description, _Degrade(name)) for name in names]


__all__ = ["ChangedTransform", "View", "list_views"]
