"""The data set a model trains on: rows of a loaded set, decoded, augmented, and never the cause of a crash."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import datasets
import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import TrainerCallback

from .image_io import decode_rgb

logger = logging.getLogger(__name__)


class DetectionImages(Dataset):
    """
    Map-style data set of model inputs.

    What an augmentation draws depends on the seed, the epoch and the row alone. A run is therefore the same for any
    number of workers or processes, and one that was stopped in the middle of an epoch goes on as if it had not been.
    An image that cannot be decoded is replaced by the next row of its class, with a warning, so that batches keep
    their size.

    Args:
        dataset (`datasets.Dataset`):
            Rows with `image` and `label`, as from [`load_detection_dataset`]. Any map-style data set will do.
        transform (`Callable[[PIL.Image.Image], torch.Tensor]`):
            An RGB image to `(3, H, W)`, such as [`TrainTransform`] or [`EvalTransform`]. What it draws must come from
            torch's global generator.
        seed (`int`, *optional*, defaults to 0):
            Seed of the augmentation.

    Returns:
        `dict` for each row: `pixel_values` of shape `(3, H, W)`, float32, and `labels`, 0 = real and 1 = fake.

    Raises:
        `ValueError`: If no image of a class can be decoded.
    """

    def __init__(self, dataset: Any, transform: Callable[[Image.Image], torch.Tensor], seed: int = 0):
        # Without the format, rows hold the encoded image and decoding happens here, where its failure is handled.
        self.rows = dataset.with_format(None) if isinstance(dataset, datasets.Dataset) else dataset
        self.transform = transform
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Makes the next pass draw anew; [`SetEpoch`] calls it in training."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        image = decode_rgb(row["image"])
        if image is None:
            image = self._next_of_class(index, row["label"])
        state = torch.get_rng_state()
        try:
            torch.default_generator.manual_seed(hash((self.seed, self.epoch, index)) & (2**63 - 1))
            return {"pixel_values": self.transform(image), "labels": row["label"]}
        finally:
            torch.set_rng_state(state)

    def _next_of_class(self, index: int, label: int) -> Image.Image:
        for offset in range(1, len(self)):
            row: Mapping[str, Any] = self.rows[(index + offset) % len(self)]
            image = decode_rgb(row["image"]) if row["label"] == label else None
            if image is not None:
                return image
        raise ValueError(f"no image of class {label} can be decoded; check the files with `check_images=True`")


class SetEpoch(TrainerCallback):
    """
    Tells a [`DetectionImages`] the epoch before each pass.

    Args:
        dataset ([`DetectionImages`]):
            The trainer's training set.

    Raises:
        `ValueError`: On the start of training with persistent workers, which would not hear of the next epoch.
    """

    def __init__(self, dataset: DetectionImages):
        self.dataset = dataset

    def on_train_begin(self, args, state, control, **kwargs):
        if args.dataloader_persistent_workers and args.dataloader_num_workers:
            raise ValueError("`dataloader_persistent_workers` would repeat one epoch's augmentations; turn it off.")

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.dataset.set_epoch(int(state.epoch or 0))


__all__ = ["DetectionImages", "SetEpoch"]
