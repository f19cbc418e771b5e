"""Nearest neighbours of an image among images whose labels are known: what the model takes it to be like.

An index is one safetensors file, no pickle: unit-norm embeddings in float16, labels, and generators and paths as JSON.
Search is exact, one matrix product.
"""

import json
import os
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn import functional as F

from .detector import Detector
from .explain import explainable
from .layouts import LABELS

FORMAT = "mirage_hf neighbours 1"


@dataclass(frozen=True)
class Neighbour:
    """
    An image of the index.

    Args:
        label (`str`): `"real"` or `"fake"`.
        generator (`str`): as its data set names it; of a real image, the generator it is compared with.
        path (`str`): as in its data set.
        similarity (`float`): cosine.
    """

    label: str
    generator: str
    path: str
    similarity: float

    def to_dict(self) -> dict[str, Any]:
        """As a row."""
        return asdict(self)


@dataclass(frozen=True)
class Index:
    """
    Embeddings of labelled images.

    Args:
        embeds (`torch.Tensor` of shape `(N, D)`): unit-norm, in float16.
        labels (`torch.Tensor` of shape `(N,)`): 0 = real, 1 = fake.
        generators, paths (`list[str]`): of length N.
        model, revision (`str`): the detector that the embeddings are of.
    """

    embeds: torch.Tensor
    labels: torch.Tensor
    generators: list[str]
    paths: list[str]
    model: str
    revision: str


def build_index(detector: Detector, dataset: Any) -> tuple[Index, list[tuple[str, str]]]:
    """
    Embed the images of a data set.

    Args:
        detector ([`Detector`]):
            MiraGe, or a baseline on CLIP, with the torch backend.
        dataset (`datasets.Dataset`):
            As from [`load_detection_dataset`]; an image that several generators share is embedded once.

    Returns:
        [`Index`] and a list of path and reason for each image that couldn't be read.

    Raises:
        ValueError: the detector has no CLIP vision encoder, or no image could be read.
    """
    margins = explainable(detector)
    embeds, rows, skipped = [], [], []
    plain = dataset.with_format(None)
    # `datasets` reads columns without decoding an image.
    first = {path: number for number, path in reversed(list(enumerate(plain["path"])))}
    numbers = iter(sorted(first.values()))
    while batch := list(islice(numbers, detector.batch_size)):
        by_shape: dict[torch.Size, list[tuple[Any, torch.Tensor]]] = {}
        for row in map(plain.__getitem__, batch):
            prepared = detector.preparer(row["image"])
            if prepared.pixel_values is None:
                skipped.append((row["path"], str(prepared.reading.error)))
            else:
                by_shape.setdefault(prepared.pixel_values.shape, []).append((row, prepared.pixel_values))
        for items in by_shape.values():
            pixel_values = torch.stack([pixels for _, pixels in items]).to(margins.device)  # (B, 3, H, W)
            with torch.inference_mode():
                embeds.append(margins.model(pixel_values=pixel_values, return_embeds=True).image_embeds.half().cpu())
            rows += [row for row, _ in items]
    if not rows:
        raise ValueError("no image of the data set could be read")
    index = Index(
        torch.cat(embeds),
        torch.tensor([row["label"] for row in rows], dtype=torch.uint8),
        [row["generator"] for row in rows],
        [row["path"] for row in rows],
        detector.name,
        detector.revision,
    )
    return index, skipped


def save_index(index: Index, path: str | os.PathLike) -> None:
    """Write an index as a safetensors file; a reader never sees a half-written one."""
    # The header of a safetensors file is bounded, so the texts are a tensor too.
    texts = json.dumps({"generators": index.generators, "paths": index.paths}).encode("ascii")
    tensors = {
        "embeds": index.embeds.contiguous(),
        "labels": index.labels,
        "texts": torch.frombuffer(bytearray(texts), dtype=torch.uint8),
    }
    partial = Path(f"{os.fspath(path)}.part")
    partial.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, partial, {"format": FORMAT, "model": index.model, "revision": index.revision})
    os.replace(partial, path)


def load_index(path: str | os.PathLike, detector: Detector | None = None) -> Index:
    """
    Read an index.

    Args:
        path (`str` or `PathLike`):
            From [`save_index`].
        detector ([`Detector`], *optional*):
            The one whose images are to be looked up.

    Raises:
        OSError: there is no such file.
        ValueError: it is no index, or of another detector.
    """
    try:
        with safe_open(path, framework="pt") as file:
            stated = file.metadata() or {}
            if stated.get("format") != FORMAT:
                raise ValueError(f"{path} is no index of neighbours; make one with `mirage-hf explain --build-index`")
            embeds, labels, texts = (file.get_tensor(name) for name in ("embeds", "labels", "texts"))
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from error
    if detector is not None and stated["revision"] != detector.revision:
        raise ValueError(
            f"{path} was made with another detector, {stated['model']} ({stated['revision']}), not with "
            f"{detector.name} ({detector.revision}); make it again"
        )
    return Index(
        embeds, labels, **json.loads(texts.numpy().tobytes()), model=stated["model"], revision=stated["revision"]
    )


def nearest(index: Index, image_embeds: torch.Tensor, k: int = 5) -> list[list[Neighbour]]:
    """
    The images of an index with the largest cosine.

    Args:
        index ([`Index`]):
            From [`load_index`].
        image_embeds (`torch.Tensor` of shape `(B, D)`):
            Of any length.
        k (`int`, *optional*, defaults to 5):
            Neighbours of each; all where the index has fewer. Ties go by place in the index.

    Returns:
        `list[list[Neighbour]]`: for each image, the nearest first.
    """
    if k < 1:
        raise ValueError(f"`k` must be at least 1, got {k}")
    queries = F.normalize(image_embeds.float().cpu(), dim=-1)
    cosines = queries @ F.normalize(index.embeds.float(), dim=-1).T  # (B, N)
    order = cosines.argsort(dim=1, descending=True, stable=True)[:, :k]
    return [
        [
            Neighbour(LABELS[int(index.labels[n])], index.generators[n], index.paths[n], float(row[n]))
            for n in chosen.tolist()
        ]
        for row, chosen in zip(cosines, order, strict=True)
    ]


__all__ = ["Index", "Neighbour", "build_index", "load_index", "nearest", "save_index"]
