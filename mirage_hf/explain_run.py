"""Explains files: what `mirage-hf explain` does, one row for each image, whatever the images hold."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .deletion import deletion_test
from .detection import Prepared
from .detector import Detector
from .explain import Explanation, explain, explainable
from .explain_index import build_index, load_index, nearest, save_index
from .image_io import ImageStatus, read_image
from .provenance import read_c2pa

DELETED, DRAWS, SEED = 0.2, 10, 0  # share of patches, random sets of as many


@dataclass(frozen=True)
class ExplainArguments:
    """
    What to do for each image beside the map.

    Args:
        output_dir (`Path`):
            Folder of the overlays.
        index (`Path`, *optional*):
            Where to look for neighbours.
        neighbors (`int`, *optional*, defaults to 5):
            How many.
        deletion (`bool`, *optional*, defaults to `False`):
            Score the image without its hottest patches, and without random ones.
        c2pa (`bool`, *optional*, defaults to `False`):
            Read content credentials.
        trust_anchors (`Path`, *optional*):
            Certificates to trust, for these.
    """

    output_dir: Path
    index: Path | None = None
    neighbors: int = 5
    deletion: bool = False
    c2pa: bool = False
    trust_anchors: Path | None = None


def explain_files(
    detector: Detector, images: Sequence[str | Path], arguments: ExplainArguments
) -> Iterator[dict[str, Any]]:
    """
    Explain images one by one.

    Args:
        detector ([`Detector`]):
            MiraGe, or a baseline on CLIP, with the torch backend.
        images (`Sequence` of paths):
            Files; one that can't be read gets a row that says why.
        arguments ([`ExplainArguments`]):
            What else to do.

    Returns:
        Rows as of [`~mirage_hf.detection.Detection.to_dict`], with `overlay`, the file that was written, and where
        asked for `deletion`, `neighbors` and `c2pa`.

    Raises:
        OSError: an overlay can't be written, or a file named in `arguments` can't be read.
        ValueError: the detector can't be explained, or the index is another one's.
    """
    explainable(detector)
    index = None if arguments.index is None else load_index(arguments.index, detector)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    for path in images:
        row, explanation, picture = _explain_one(detector, path)
        row["overlay"] = None
        if explanation is not None:
            overlay = arguments.output_dir / _free_name(path, taken)
            explanation.save(overlay, picture)
            row["overlay"] = str(overlay)
        if arguments.deletion:
            row["deletion"] = None if explanation is None else delete_patches(detector, explanation)
        if index is not None:
            found = (
                None if explanation is None else nearest(index, explanation.image_embeds[None], arguments.neighbors)
            )
            row["neighbors"] = None if found is None else [neighbour.to_dict() for neighbour in found[0]]
        if arguments.c2pa:
            row["c2pa"] = read_c2pa(path, arguments.trust_anchors)
        yield row


def _explain_one(detector: Detector, path: str | Path) -> tuple[dict[str, Any], Explanation | None, Any]:
    reading = read_image(path, detector.preparer.limits, detector.preparer.sha256)
    name = os.fsencode(path).decode("utf-8", "backslashreplace")
    (detection,) = detector.judge([Prepared(name, reading, None)])
    row = detection.to_dict()
    if reading.image is None:
        return row, None, None
    try:
        explanation = explain(detector, reading.image)
    except FloatingPointError as error:
        return row | {"status": ImageStatus.ERROR.value, "error": str(error)}, None, None
    scored = {key: getattr(explanation, key) for key in ("p_fake", "label", "verdict")}
    return row | scored, explanation, reading.image


def _free_name(path: str | Path, taken: set[str]) -> str:
    """A name for an overlay that no other image of this run has; images of one name may come from several folders."""
    stem = os.fsencode(Path(path).stem).decode("utf-8", "backslashreplace").replace("\\", "_")
    name, number = f"{stem}.evidence.png", 1
    while name in taken:
        number += 1
        name = f"{stem}.{number}.evidence.png"
    taken.add(name)
    return name


def delete_patches(detector: Detector, explanation: Explanation) -> dict[str, float]:
    """`p_fake` without the hottest fifth of the patches, and without as many random ones: mean over draws."""

    def score(pixel_values: torch.Tensor) -> np.ndarray:
        return np.array([detector.probability(margin) for margin in detector.margins(pixel_values)])

    curves = deletion_test(
        score,
        explanation.pixel_values[None],
        torch.from_numpy(explanation.patch_evidence)[None],
        explanation.patch_size,
        fractions=(DELETED,),
        draws=DRAWS,
        generator=torch.Generator().manual_seed(SEED),
    )
    return {
        "fraction": DELETED,
        "p_fake_without_hottest": float(curves.hottest[0, 0]),
        "p_fake_without_random": float(curves.random[0, 0]),
    }


def write_index(detector: Detector, data: str, path: Path, split: str) -> tuple[int, list[tuple[str, str]]]:
    """
    Build an index of a data set and save it.

    Args:
        detector ([`Detector`]): as in [`build_index`].
        data (`str`): folder, archive, manifest or Hub id.
        path (`Path`): of the index.
        split (`str`): of the data.

    Returns:
        How many images it holds, and path and reason for each that couldn't be read.
    """
    from .data import load_detection_dataset

    dataset, report = load_detection_dataset(data, split=split, allow_one_class=True, return_report=True)
    index, skipped = build_index(detector, dataset)
    save_index(index, path)
    return len(index.paths), report.skipped + skipped


__all__ = ["ExplainArguments", "delete_patches", "explain_files", "write_index"]
