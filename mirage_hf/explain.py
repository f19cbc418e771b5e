"""Explains a score: which parts of the image spoke for fake and which for real, on the image as it was given.

    >>> from mirage_hf import Detector
    >>> from mirage_hf.explain import explain
    >>> explanation = explain(Detector.from_pretrained("benchmarks/minibench/mirage-tiny"), "photo.jpg")
    >>> explanation.save("photo.evidence.png", "photo.jpg")

The map says where the model looked, not what is proof. How it is made is told in [`patch_evidence`], how far to trust
it in `benchmarks/results/deletion_test.md`.
"""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .detector import Detector
from .explain_picture import CAPTION, draw_overlay
from .fused_transform import FusedTransform
from .image_io import UnreadableImage, load_rgb, read_image
from .patch_evidence import patch_evidence, vision_tower
from .torch_margins import TorchMargins


@dataclass(frozen=True)
class Explanation:
    """
    A score and where it comes from.

    Args:
        p_fake (`float`):
            As [`Detector.score`] gives it.
        label (`str`):
            `"fake"` or `"real"`, by `threshold`.
        verdict (`str`):
            As `label`, but `"unsure"` where a calibrated detector abstains.
        threshold (`float`):
            On the scale of `p_fake`.
        heatmap (`np.ndarray` of shape `(H, W)`):
            What the patch at each pixel of the upright image adds to the log-odds of fake, in float32: positive speaks
            for fake. NaN where the model did not look.
        patch_evidence (`np.ndarray` of shape `(h, w)`):
            The same for each patch of `pixel_values`.
        box (`tuple[int, int, int, int]`):
            Left, upper, right and lower edge of what was looked at, in pixels of the upright image.
        pixel_values (`torch.Tensor` of shape `(3, H', W')`):
            The image as the model took it.
        patch_size (`int`):
            Pixels of `pixel_values` on a patch's edge.
        image_embeds (`torch.Tensor` of shape `(D,)`):
            Unit-norm image embedding, for [`mirage_hf.explain_index.nearest`].
    """

    p_fake: float
    label: str
    verdict: str
    threshold: float
    heatmap: np.ndarray
    patch_evidence: np.ndarray
    box: tuple[int, int, int, int]
    pixel_values: torch.Tensor
    patch_size: int
    image_embeds: torch.Tensor

    def overlay(self, image: Any) -> Image.Image:
        """
        The map on the image: orange speaks for fake, blue for real, the strongest patches for fake are outlined, what
        was not looked at is pale and hatched. Below it stand the score, the scale and that it is no proof.

        Args:
            image:
                The image that was explained, as [`load_rgb`] takes it.

        Raises:
            ValueError: it can't be read or is of another size.
        """
        return draw_overlay(load_rgb(image), self.heatmap, f"p(fake) {self.p_fake:.3f}, verdict: {self.verdict}")

    def save(self, path: str | os.PathLike, image: Any) -> None:
        """
        Write [`overlay`] as PNG, with the warning among its metadata too.

        Args:
            path (`str` or `PathLike`): of the PNG file.
            image: as in [`overlay`].
        """
        info = PngInfo()
        info.add_text("Description", f"Patches that spoke for fake and for real: {CAPTION}.")
        info.add_text("p_fake", f"{self.p_fake:.6f}")
        self.overlay(image).save(path, format="PNG", pnginfo=info)


def explain(detector: Detector, image: Any) -> Explanation:
    """
    Score an image and map where the score comes from, in one forward pass.

    The score is [`Detector.score`]'s to 1e-6 in float32; half precision rounds it differently here, by less than 1e-3.

    Args:
        detector ([`Detector`]):
            MiraGe, or a baseline on CLIP, with the torch backend.
        image:
            A path, encoded bytes, `PIL.Image.Image` or array, as [`Detector.score`] takes it.

    Returns:
        [`Explanation`]

    Raises:
        UnreadableImage: the image can't be read or is out of the detector's limits.
        ValueError: the detector has no CLIP vision encoder, another backend or preprocessing of unknown geometry.
        FloatingPointError: the network's answer is not finite.
    """
    margins, transform = explainable(detector), detector.preparer.transform
    patch_size = vision_tower(margins.model).embeddings.patch_size
    if not isinstance(transform, FusedTransform):
        raise ValueError("this image processor does more than resize and crop: its map can't be laid on the image")
    reading = read_image(image, detector.preparer.limits)
    if reading.image is None:
        raise UnreadableImage(str(reading.error), reading.status)
    picture = reading.image
    pixel_values = transform(picture)
    autocast = nullcontext() if margins.dtype is None else torch.autocast(margins.device.type, dtype=margins.dtype)
    with autocast:
        margin, grid, image_embeds = patch_evidence(margins.model, pixel_values[None].to(margins.device))
    if not margin.isfinite().all():
        raise FloatingPointError("the network's answer is not finite")
    p_fake = detector.probability(float(margin[0]))
    label = "fake" if p_fake > detector.threshold else "real"
    evidence = grid[0].cpu().numpy()
    heatmap, box = lay_on_image(evidence, patch_size, pixel_values.shape[-2:], transform, picture.size)
    return Explanation(
        p_fake=p_fake,
        label=label,
        verdict=label if detector.calibration is None else detector.verdict(p_fake),
        threshold=detector.threshold,
        heatmap=heatmap,
        patch_evidence=evidence,
        box=box,
        pixel_values=pixel_values,
        patch_size=patch_size,
        image_embeds=image_embeds[0].cpu(),
    )


def explainable(detector: Detector) -> TorchMargins:
    """
    What explains a detector: its model in PyTorch.

    Raises:
        ValueError: it has none, or one without a CLIP vision encoder.
    """
    if not isinstance(detector.margins, TorchMargins):
        raise ValueError("this needs the torch backend: the others give the score alone")
    vision_tower(detector.margins.model)
    return detector.margins


def lay_on_image(
    grid: np.ndarray, patch_size: int, taken: Sequence[int], transform: FusedTransform, size: tuple[int, int]
) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """
    Undo the geometry of preprocessing: each pixel of the image gets the number of the square that its centre fell in.

    Args:
        grid (`np.ndarray` of shape `(h, w)`):
            A number for each square of `patch_size` pixels.
        patch_size (`int`):
            Pixels of a square's edge.
        taken (`Sequence[int]`):
            Height and width of `pixel_values`.
        transform ([`FusedTransform`]):
            What made them: a resize, a crop at the centre, or both.
        size (`tuple[int, int]`):
            Width and height of the image.

    Returns:
        `np.ndarray` of shape `(H, W)`, NaN outside the crop, and the crop's left, upper, right and lower edge.
    """
    columns, rows = (
        places_of(length, resized, cropped)
        for length, resized, cropped in zip(size, transform.resized(size), reversed(taken), strict=True)
    )
    heatmap = np.full((len(rows), len(columns)), np.nan, dtype=np.float32)
    seen_rows, seen_columns = np.flatnonzero(rows >= 0), np.flatnonzero(columns >= 0)
    squares = grid[np.ix_(rows[seen_rows] // patch_size, columns[seen_columns] // patch_size)]
    heatmap[np.ix_(seen_rows, seen_columns)] = squares
    box = (seen_columns[0], seen_rows[0], seen_columns[-1] + 1, seen_rows[-1] + 1)
    return heatmap, tuple(int(edge) for edge in box)  # type: ignore[return-value]


def places_of(length: int, resized: int, cropped: int) -> np.ndarray:
    """Where the pixels of an edge of `length` are after a resize and a crop at the centre; -1 where cut off."""
    offset = (resized - cropped) // 2  # negative where black was put around a smaller image
    places = np.floor((np.arange(length) + 0.5) * resized / length).astype(np.int64) - offset
    return np.where((places >= 0) & (places < cropped), places, -1)


__all__ = ["Explanation", "explain", "explainable", "lay_on_image", "places_of"]
