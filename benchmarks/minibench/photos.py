"""Photographs to splits and crops: near-duplicates kept together, traces of the source's own compression wiped."""

import hashlib
import io
import json
import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from duplicates import near_duplicates
from listing import SPLITS
from PIL import Image
from sources import HERE, WORK, Photograph, photographs, read_photograph

logger = logging.getLogger(__name__)

CROP = 192
CONTEXT = 256  # generators see this much around a crop and the middle is kept: no zero padding near the result
STYLE_CONTEXT = 384  # what the arbitrary-style network takes
CROPS_PER_PHOTO = {"train": 4, "validation": 4, "test": 2}  # of the full tier; the carried one has the first of them
SALT = "second split: "  # the first one's test photographs had been looked at
SHORT_SIDE = 600
LARGEST_SCALE = 0.625
FLATTEST = 5.0  # mean absolute difference to the right plus to below, grey levels
CACHE = WORK / "photos"
SPLIT_FILE = WORK / "split.json"  # the redistributable photographs alone: what the small backbone is pretrained on
FULL_SPLIT_FILE = WORK / "split_full.json"
CHECKSUMS = HERE / "carried" / "checksums.json"


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
    """Shrink and split the photographs: `work/photos/<id>.png`, `work/split.json` and `work/split_full.json`.

    Raises `ValueError` if the split isn't the recorded one.
    """
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
    redistributable = {photo.id for photo in photographs() if photo.redistributable}
    split = {}
    for group in near_duplicates(images):
        if len(group) > 1:
            logger.info("kept together: %s", ", ".join(group))
        # By name, and a redistributable one if there is any, so that a photograph added later moves no other one.
        name = min(redistributable.intersection(group) or group)
        draw = int(hashlib.sha256(f"{SALT}{name}".encode()).hexdigest(), 16) % 100
        split.update(dict.fromkeys(group, "train" if draw < 50 else "validation" if draw < 64 else "test"))
    check_split(split)
    for file, names in ((SPLIT_FILE, redistributable), (FULL_SPLIT_FILE, set(split))):
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps({name: split[name] for name in names}, indent=1, sort_keys=True))
        partial.rename(file)
        logger.info("%s: %s", file.name, {each: sum(split[name] == each for name in names) for each in SPLITS})


def split_checksums(split: dict[str, str]) -> dict[str, str]:
    """sha256 of each tier's sorted lines `<photograph>,<sha256 of its file>,<split>`."""
    lines: dict[str, list[str]] = {"carried": [], "full": []}
    for photo in photographs():
        line = f"{photo.id},{photo.sha256},{split[photo.id]}\n"
        lines["full"].append(line)
        if photo.redistributable:
            lines["carried"].append(line)
    return {tier: hashlib.sha256("".join(sorted(own)).encode()).hexdigest() for tier, own in lines.items()}


def check_split(split: dict[str, str]) -> None:
    """Compare with the recorded checksums; record them where there are none. Raises `ValueError`."""
    checksums = json.loads(CHECKSUMS.read_text()) if CHECKSUMS.exists() else {}
    for tier, digest in split_checksums(split).items():
        logger.info("split checksum, %s tier: %s", tier, digest)
        if checksums.setdefault("split", {}).setdefault(tier, digest) != digest:
            raise ValueError(
                f"the {tier} tier's photographs or splits aren't those recorded in {CHECKSUMS.name} "
                f"({checksums['split'][tier]}): scores would not compare. Delete the entry if that's meant"
            )
    CHECKSUMS.write_text(json.dumps(checksums, indent=1, sort_keys=True) + "\n")


def crops(split: str) -> Iterator[Crop]:
    """The crops of a split's photographs, the same ones each time."""
    split_of = json.loads(FULL_SPLIT_FILE.read_text())
    for photo in photographs():
        if split_of[photo.id] != split:
            continue
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
