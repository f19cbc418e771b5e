"""Photographs to splits and crops: near-duplicates kept together, traces of the source's own compression wiped."""

import hashlib
import io
import json
import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.spatial.distance import cdist
from sources import WORK, Photograph, photographs, read_photograph

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
CROP = 128
CONTEXT = 256  # generators see this much around a crop and the middle is kept: no zero padding near the result
STYLE_CONTEXT = 384  # what the arbitrary-style network takes
CROPS_PER_PHOTO = {"train": 2, "validation": 2, "test": 2}
SALT = "second split: "  # the first one's test photographs had been looked at
SHORT_SIDE = 600
LARGEST_SCALE = 0.625
FLATTEST = 5.0  # mean absolute difference to the right plus to below, grey levels
HASH_BITS_APART = 50  # of 256
CACHE = WORK / "photos"
SPLIT_FILE = WORK / "split.json"


@dataclass(frozen=True)
class Crop:
    photo: Photograph
    split: str
    index: int
    quality: int  # JPEG quality of every version of this crop
    context: Image.Image  # CONTEXT x CONTEXT
    style_context: Image.Image  # STYLE_CONTEXT x STYLE_CONTEXT

    @property
    def name(self) -> str:
        return f"{self.split}/{self.photo.id}_{self.index}"


def shrink(image: Image.Image) -> Image.Image:
    """The photograph at working size: its short side near 600 and never above 5/8 of the original."""
    scale = min(LARGEST_SCALE, SHORT_SIDE / min(image.size))
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)


def prepare() -> None:
    """Shrink and split the photographs: `work/photos/<id>.png` and `work/split.json`."""
    images = {}
    for photo in photographs():
        path = CACHE / f"{photo.id}.png"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            image = shrink(Image.open(io.BytesIO(read_photograph(photo))).convert("RGB"))
            partial = path.with_suffix(".partial")
            image.save(partial, "PNG", compress_level=1)
            partial.rename(path)
        images[photo.id] = Image.open(path).convert("RGB")
    logger.info("%d photographs at working size; looking for near-duplicates", len(images))
    split = {}
    for group in near_duplicates(images):
        if len(group) > 1:
            logger.info("kept together: %s", ", ".join(group))
        # By name, so that a photograph added later moves no other one.
        draw = int(hashlib.sha256(f"{SALT}{min(group)}".encode()).hexdigest(), 16) % 100
        split.update(dict.fromkeys(group, "train" if draw < 50 else "validation" if draw < 64 else "test"))
    SPLIT_FILE.write_text(json.dumps(split, indent=1, sort_keys=True))
    logger.info("photographs: %s", {name: list(split.values()).count(name) for name in SPLITS})


def near_duplicates(images: dict[str, Image.Image]) -> list[list[str]]:
    """Groups of photographs of one scene, by difference hash or by matched ORB keypoints.

    The hash finds the same picture at another size; the keypoints find a tighter crop, which the hash misses.
    """
    names = list(images)
    hashes = np.stack([_difference_hash(images[name]) for name in names])
    features = [_keypoints(images[name]) for name in names]
    parent = list(range(len(names)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for i in range(len(names)):
        close = (hashes[i] != hashes[:i]).sum(1) <= HASH_BITS_APART
        for j in range(i):
            if root(i) != root(j) and (close[j] or _same_scene(features[i], features[j])):
                parent[root(i)] = root(j)
    groups: dict[int, list[str]] = {}
    for i, name in enumerate(names):
        groups.setdefault(root(i), []).append(name)
    return list(groups.values())


def _difference_hash(image: Image.Image) -> np.ndarray:
    grey = np.asarray(image.convert("L").resize((17, 16), Image.Resampling.BOX), np.int16)
    return (grey[:, 1:] > grey[:, :-1]).ravel()


def _keypoints(image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    from skimage.feature import ORB

    small = image.convert("L")
    small.thumbnail((384, 384))
    orb = ORB(n_keypoints=200, fast_threshold=0.05)
    try:
        orb.detect_and_extract(np.asarray(small, np.float64) / 255)
    except RuntimeError:  # no corner at all: nothing to match
        return np.zeros((0, 2)), np.zeros((0, 256), bool)
    return orb.keypoints, orb.descriptors


def _same_scene(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> bool:
    """Whether at least 15 mutual matches agree on one similarity transform."""
    from skimage.measure import ransac
    from skimage.transform import SimilarityTransform

    if min(len(a[1]), len(b[1])) < 15:
        return False
    distances = cdist(a[1], b[1], "hamming")
    forward, backward = distances.argmin(1), distances.argmin(0)
    index = np.arange(len(forward))
    mutual = (backward[forward] == index) & (distances[index, forward] < 0.25)
    if mutual.sum() < 15:
        return False
    source, target = a[0][mutual], b[0][forward[mutual]]
    model, inliers = ransac(
        (source, target), SimilarityTransform, min_samples=3, residual_threshold=3, max_trials=200, rng=0
    )
    return model is not None and inliers is not None and inliers.sum() >= 15


def crops() -> Iterator[Crop]:
    """The crops of every photograph, the same ones each time."""
    split_of = json.loads(SPLIT_FILE.read_text())
    for photo in photographs():
        split = split_of[photo.id]
        image = Image.open(CACHE / f"{photo.id}.png").convert("RGB")
        draw = random.Random(photo.id)
        cells = [
            (x, y)
            for y in range(0, image.height - CROP + 1, CROP)
            for x in range(0, image.width - CROP + 1, CROP)
            if _roughness(image.crop((x, y, x + CROP, y + CROP))) >= FLATTEST
        ]
        draw.shuffle(cells)
        for index, (x, y) in enumerate(cells[: CROPS_PER_PHOTO[split]]):
            quality = draw.randint(70, 95)
            yield Crop(
                photo, split, index, quality, _around(image, x, y, CONTEXT), _around(image, x, y, STYLE_CONTEXT)
            )


def _roughness(crop: Image.Image) -> float:
    grey = np.asarray(crop.convert("L"), np.float32)
    return float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean())


def _around(image: Image.Image, x: int, y: int, size: int) -> Image.Image:
    """The `size` square centred on the crop at (x, y), moved or mirrored as little as the photograph's edge asks."""
    margin = (size - CROP) // 2
    padded = np.pad(np.asarray(image), ((margin, margin), (margin, margin), (0, 0)), "reflect")
    return Image.fromarray(np.ascontiguousarray(padded[y : y + size, x : x + size]))


def middle(image: Image.Image) -> Image.Image:
    """The crop in the middle of its context."""
    left, top = (image.width - CROP) // 2, (image.height - CROP) // 2
    return image.crop((left, top, left + CROP, top + CROP))
