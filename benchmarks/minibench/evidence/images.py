"""Images of the mini-benchmark in memory, and the crops that every detector is trained on."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from mirage_hf.augmentations import AugmentationConfig, TrainAugmentation
from mirage_hf.image_dataset import DetectionImages

CONTROLS = ("bicubic_x2", "bicubic_x4")


@dataclass
class Split:
    """
    The images of one split, each once.

    Args:
        folder (`Path`): Where `paths` begin.
        paths (`list[str]`): Of the N images, sorted.
        labels (`np.ndarray` of shape `(N,)`): 0 = real, 1 = fake.
        kinds (`list[str]`): `photo`, a control's name, a generator's name for its fakes, or `partner` for the real
            images of a generator that is reported apart.
        generators (`list[str]`): Names of the generators that the image is judged with, parted by spaces.
        families (`list[str]`): Family of a fake's generator, empty for real images.
        photos (`list[str]`): Photograph that the image was made from: the unit that is resampled.
        pixels (`np.ndarray` of shape `(N, H, W, 3)`): uint8.
    """

    folder: Path
    paths: list[str]
    labels: np.ndarray
    kinds: list[str]
    generators: list[str]
    families: list[str]
    photos: list[str]
    pixels: np.ndarray


def read_split(folder: Path, split: str, apart: list[str]) -> Split:
    """
    Reads and decodes one split; no file of another one is opened.

    Raises:
        ValueError: the manifest has no such split, or its images are of several sizes.
    """
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as handle:
        rows = [row for row in csv.DictReader(handle) if row["split"] == split]
    if not rows:
        raise ValueError(f"{folder / 'manifest.csv'} has no split '{split}'")
    users: dict[str, list[str]] = {}
    for row in rows:  # a plain photograph has a row for each generator it is the partner of
        users.setdefault(row["path"], []).append(row["generator"])
    first = {row["path"]: row for row in reversed(rows)}
    paths = sorted(users)
    images = [_decode(folder / path) for path in paths]
    sizes = sorted({image.shape for image in images})
    if len(sizes) > 1:
        raise ValueError(f"the images of '{split}' are of several sizes: {sizes}")
    fake = [first[path]["label"] == "fake" for path in paths]
    kinds = []
    for path in paths:
        row, names = first[path], users[path]
        if row["label"] == "fake" or row["generator"] in CONTROLS:
            kinds.append(row["generator"])
        else:
            kinds.append("partner" if set(names) <= set(apart) else "photo")
    return Split(
        folder,
        paths,
        np.array(fake, dtype=np.int64),
        kinds,
        [" ".join(sorted(users[path])) for path in paths],
        [first[path]["family"] * is_fake for path, is_fake in zip(paths, fake, strict=True)],
        [first[path]["photo"] for path in paths],
        np.stack(images),
    )


def _decode(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def draw_schedule(split: Split, batch: dict[str, int], steps: int, seed: int) -> np.ndarray:
    """
    Which image is at which place of which batch: of every kind as many as `batch` says, each as often as another.

    Returns:
        `np.ndarray` of shape `(steps, B)`: Row numbers of the split.

    Raises:
        ValueError: the split has no image of a kind.
    """
    random = np.random.default_rng(seed)
    parts = []
    for kind, count in batch.items():
        members = np.flatnonzero(split.labels if kind == "fake" else [found == kind for found in split.kinds])
        if not len(members):
            raise ValueError(f"the split has no image of kind '{kind}'")
        rounds = -(-steps * count // len(members))
        drawn = np.concatenate([random.permutation(members) for _ in range(rounds)])
        parts.append(drawn[: steps * count].reshape(steps, count))
    return np.concatenate(parts, axis=1)


class FlipAndAugment:
    """A horizontal flip half of the time, then the package's augmentation; draws from torch's global generator."""

    def __init__(self, config: AugmentationConfig, size: int):
        self.augmentation = TrainAugmentation(config, size)

    def __call__(self, image: Image.Image) -> Image.Image:
        return self.augmentation(ImageOps.mirror(image) if torch.rand(()).item() < 0.5 else image)


class TrainingCrops:
    """
    The training images of one seed in the order in which every detector sees them. What is seen depends on the seed
    and the place in the order alone, so that detectors differ in nothing else.

    Args:
        split (`Split`): The training split.
        schedule (`np.ndarray` of shape `(steps, B)`): From [`draw_schedule`].
        augmentation ([`FlipAndAugment`]): Yields crops.
        seed (`int`): Seed of the crops.
    """

    def __init__(self, split: Split, schedule: np.ndarray, augmentation: FlipAndAugment, seed: int):
        self.split, self.augmentation, self.seed = split, augmentation, seed
        self.steps, self.batch_size = schedule.shape
        self.order = schedule.ravel()  # (steps * B,)

    @property
    def labels(self) -> np.ndarray:
        """`np.ndarray` of shape `(steps * B,)`: 0 = real, 1 = fake."""
        return self.split.labels[self.order]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict:
        row = int(self.order[index])
        return {"image": Image.fromarray(self.split.pixels[row]), "label": int(self.split.labels[row])}

    def batches(self) -> Iterator[np.ndarray]:
        """The crops batch by batch, uint8 of shape `(B, size, size, 3)`."""
        crops = DetectionImages(self, lambda image: np.asarray(self.augmentation(image)), self.seed)  # type: ignore
        for start in range(0, len(self), self.batch_size):
            yield np.stack([crops[start + place]["pixel_values"] for place in range(self.batch_size)])
