"""Whether a photograph, or part of one, is in two splits: by file, by pixel, by difference hash and by keypoints.

The difference hash compares photographs; crops are too often flat for it. Keypoints compare photographs with each
other and each plain crop, as it was saved, with the photographs of the other splits at full working size. How often a
crop is matched to the photograph it does come from says what that check can see.
"""

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path

import duplicates
import listing
import photos
from PIL import Image
from sources import WORK, photographs

logger = logging.getLogger(__name__)

REPORT = WORK / "leak.json"


def shared(values: Iterable[tuple[str, str, str]]) -> list[list[str]]:
    """Groups of names of one value in more than one split, from (name, split, value)."""
    by_value: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name, split, value in values:
        by_value[value].append((name, split))
    groups = [group for group in by_value.values() if len({split for _, split in group}) > 1]
    return sorted(sorted(name for name, _ in group) for group in groups)


class Fingerprint:
    """What a picture is recognised by at another size, or in part."""

    def __init__(self, image: Image.Image) -> None:
        self.hash = duplicates.difference_hash(image)
        self.keypoints = duplicates.keypoints(image)

    def near(self, other: "Fingerprint") -> bool:
        return int((self.hash != other.hash).sum()) <= duplicates.BITS_APART

    def overlaps(self, other: "Fingerprint") -> bool:
        return duplicates.same_scene(self.keypoints, other.keypoints)


def alike(prints: dict[str, Fingerprint], split: dict[str, str]) -> dict[str, list[list[str]]]:
    """Pairs of photographs in different splits with near hashes, and with matching keypoints."""
    pairs = [(a, b) for a, b in combinations(sorted(prints), 2) if split[a] != split[b]]
    return {
        "difference hash": [[a, b] for a, b in pairs if prints[a].near(prints[b])],
        "keypoints": [[a, b] for a, b in pairs if prints[a].overlaps(prints[b])],
    }


def pixel_hash(image: Image.Image) -> str:
    """sha256 of the decoded pixels."""
    return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()


def report(folder: Path) -> None:
    """Check the tier in `folder` and its photographs; write `work/leak.json`. Raises `ValueError` on a leak."""
    split = json.loads(photos.FULL_SPLIT_FILE.read_text())
    rows = {row.path: row for row in listing.read(folder)}
    whole = {name: Fingerprint(Image.open(photos.CACHE / f"{name}.png").convert("RGB")) for name in split}
    found = {
        "photographs in two splits": shared((row.photo, row.split, row.photo) for row in rows.values()),
        "source files": shared((photo.id, split[photo.id], photo.sha256) for photo in photographs()),
        "pixels of saved images": shared(
            (path, row.split, pixel_hash(Image.open(folder / path))) for path, row in rows.items()
        ),
    }
    found.update({f"{how}, photographs": pairs for how, pairs in alike(whole, split).items()})
    logger.info("photographs compared; now crops with the photographs of other splits")
    plain = {path: row for path, row in rows.items() if row.version == "photo"}
    crops = {path: duplicates.keypoints(Image.open(folder / path)) for path in plain}
    matched, recognised = [], 0
    for name in sorted(split):
        with Image.open(photos.CACHE / f"{name}.png") as image:
            detailed = duplicates.keypoints(image, side=max(image.size), count=2000)
        others = [path for path, row in plain.items() if row.split != split[name]]
        matched += [[path, name] for path in others if duplicates.same_scene(crops[path], detailed)]
        own = [path for path, row in plain.items() if row.photo == name]
        recognised += sum(duplicates.same_scene(crops[path], detailed) for path in own)
    found["keypoints, crops with photographs"] = matched
    compared = {"photographs": len(whole), "images": len(rows), "plain crops": len(plain)}
    result = {"compared": compared, "crops matched to their own photograph": recognised, "found": found}
    REPORT.write_text(json.dumps(result, indent=1) + "\n")
    logger.info("%d of %d crops are matched to their own photograph", recognised, len(plain))
    if any(found.values()):
        raise ValueError(f"in two splits: {json.dumps({how: pairs for how, pairs in found.items() if pairs})}")
