"""Scoring a data set: every row once, in order, whatever some of its files are like."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from .image_io import load_rgb


class NothingToScore(ValueError):
    """
    No row could be scored.

    Args:
        message (`str`):
            Why.
        skipped (`list[dict]`):
            As in [`Predictions`].
    """

    def __init__(self, message: str, skipped: list[dict[str, Any]]):
        super().__init__(message)
        self.skipped = skipped


class Predictions(NamedTuple):
    """
    What [`predict_scores`] returns. The first four and `margins` are aligned and in the dataset's order, skipped rows
    left out.

    Args:
        scores (`np.ndarray` of shape `(N,)`, float64): probability of fake.
        labels (`np.ndarray` of shape `(N,)`, int64): 0 for real and 1 for fake.
        generators (`list[str]`): from the column `generator`, `""` where there is none.
        paths (`list[str | None]`): from the column `path`.
        skipped (`list[dict]`): `index`, `path` and `error` of every row whose image could not be decoded.
        image_embeds (`np.ndarray` of shape `(N, D)`, float32, *optional*): where asked for and given by the model.
        text_embeds (`np.ndarray` of shape `(2, D)`, float32, *optional*): the text anchors of real and of fake.
        margins (`np.ndarray` of shape `(N,)`, float64, *optional*): logit of fake less logit of real, which tells
            images apart where `scores`, a softmax in float32, are 0 or 1.
    """

    scores: np.ndarray
    labels: np.ndarray
    generators: list[str]
    paths: list[str | None]
    skipped: list[dict[str, Any]]
    image_embeds: np.ndarray | None = None
    text_embeds: np.ndarray | None = None
    margins: np.ndarray | None = None


def predict_scores(
    model: torch.nn.Module,
    dataset,
    transform: Callable[[Image.Image], torch.Tensor],
    batch_size: int = 64,
    device: str | torch.device | None = None,
    num_workers: int = 0,
    dtype: torch.dtype | None = None,
    quiet: bool = False,
    return_embeds: bool = False,
) -> Predictions:
    """
    Score every row of a dataset exactly once, in order. One process: nothing is padded or repeated.

    Args:
        model (`torch.nn.Module`):
            `model(pixel_values=...).logits` has shape `(B, 2)`: real, fake. Its training mode is restored afterwards.
        dataset (map-style dataset):
            `len(dataset)`, and rows with `image` and `label`, `generator` and `path` where known.
        transform (`Callable[[PIL.Image.Image], torch.Tensor]`):
            Such as [`EvalTransform`].
        batch_size (`int`, *optional*, defaults to 64):
            Images for each forward pass.
        device (`str` or `torch.device`, *optional*):
            The model is moved there. By default it stays where it is.
        num_workers (`int`, *optional*, defaults to 0):
            Processes that decode and transform.
        dtype (`torch.dtype`, *optional*):
            Run under autocast to this type, such as `torch.bfloat16`. The softmax is in float32 in any case.
        quiet (`bool`, *optional*, defaults to `False`):
            No progress bar. There is none either when stderr is not a terminal.
        return_embeds (`bool`, *optional*, defaults to `False`):
            Keep the embeddings too, of a model that takes `return_embeds` as [`MiraGeForImageDetection`] does.

    Returns:
        [`Predictions`]

    Raises:
        NothingToScore: no image could be decoded.
        ValueError: the logits are not finite or not of shape `(B, 2)`.
    """
    if device is not None:
        model.to(device)
    device = next(model.parameters()).device
    loader: DataLoader = DataLoader(
        _ScoringRows(dataset, transform),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=_collate_scoring,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # a loader draws a seed: not from the global generator of a training run
    )
    autocast = nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)
    options = {"return_embeds": True} if return_embeds else {}
    probabilities: list[torch.Tensor] = []
    margins: list[torch.Tensor] = []
    image_embeds: list[torch.Tensor] = []
    text_embeds: torch.Tensor | None = None
    kept: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []
    was_training = model.training
    model.eval()
    try:
        # disable=None: tqdm looks for a terminal itself.
        with tqdm(total=len(dataset), unit=" images", disable=True if quiet else None) as progress:
            for pixel_values, rows, failures in loader:
                skipped.extend(failures)
                if rows:
                    with torch.inference_mode(), autocast:
                        output = model(pixel_values=pixel_values.to(device, non_blocking=True), **options)
                    logits = output.logits
                    if logits.shape != (len(rows), 2):
                        raise ValueError(f"`logits` must have shape ({len(rows)}, 2), got {tuple(logits.shape)}")
                    probabilities.append(logits.float().softmax(dim=-1)[:, 1].cpu())  # (B,)
                    real, fake = logits.float().cpu().double().unbind(dim=-1)
                    margins.append(fake - real)  # (B,)
                    if return_embeds and output.image_embeds is not None:
                        image_embeds.append(output.image_embeds.float().cpu())  # (B, D)
                        text_embeds = output.text_embeds
                    kept.extend(rows)
                progress.update(len(rows) + len(failures))
    finally:
        model.train(was_training)
    if not kept:
        reason = f"; the first error: {skipped[0]['error']}" if skipped else ": it is empty"
        raise NothingToScore(f"no row of `dataset` could be scored{reason}", skipped)
    scores = torch.cat(probabilities).double().numpy()
    if not np.isfinite(scores).all():
        row = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise ValueError(f"the model's logits are not finite for {kept[row]['path'] or f'row {row}'}")
    labels = np.array([row["label"] for row in kept], dtype=np.int64)
    return Predictions(
        scores,
        labels,
        [row["generator"] for row in kept],
        [row["path"] for row in kept],
        skipped,
        torch.cat(image_embeds).numpy() if image_embeds else None,
        None if text_embeds is None else text_embeds.float().cpu().numpy(),
        torch.cat(margins).numpy(),
    )


class _ScoringRows(Dataset):
    """Rows ready for the model, or the reason why one is not."""

    def __init__(self, dataset, transform):
        # Without the format, rows hold the encoded image, and a failure to decode it keeps its reason.
        self.dataset = dataset.with_format(None) if isinstance(dataset, datasets.Dataset) else dataset
        self.transform = transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = None
        try:
            row = self.dataset[index]
            path = row.get("path")
            image = load_rgb(row["image"])
        except Exception as error:  # decoders of damaged files raise almost anything
            return {"index": index, "path": path, "error": f"{type(error).__name__}: {error}"}
        # Outside the try: an error of the transform is a bug, not a damaged file.
        return {
            "pixel_values": self.transform(image),
            "label": row["label"],
            "generator": row.get("generator", ""),
            "path": path,
        }


def _collate_scoring(items: list[dict[str, Any]]) -> tuple[torch.Tensor | None, list[dict], list[dict]]:
    failures = [item for item in items if "error" in item]
    rows = [item for item in items if "error" not in item]
    pixel_values = torch.stack([row.pop("pixel_values") for row in rows]) if rows else None  # (B, 3, H, W)
    return pixel_values, rows, failures


__all__ = ["NothingToScore", "Predictions", "predict_scores"]
