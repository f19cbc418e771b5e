"""JPEGs of any size made of the photographs that the mini-benchmark carries, tile by tile at their own resolution.

Enlarged, they would be smooth and cost a decoder less than a photograph does.
"""

import io
import itertools
from pathlib import Path

from PIL import Image

CARRIED = Path(__file__).resolve().parents[1] / "minibench" / "carried" / "images"
QUALITY, SUBSAMPLING = 92, "4:2:0"
SIDE = 192  # of a carried photograph


def photographs() -> list[Path]:
    """The carried photographs, without what generators made of them."""
    return sorted(CARRIED.glob("*/*_photo.jpg"))


def mosaic(size: tuple[int, int], number: int) -> Image.Image:
    """A picture full of photographs; each `number` begins with others."""
    carried = photographs()
    files = itertools.islice(itertools.cycle(carried), 7 * number % len(carried), None)
    picture = Image.new("RGB", size)
    for top in range(0, size[1], SIDE):
        for left in range(0, size[0], SIDE):
            with Image.open(next(files)) as photograph:
                picture.paste(photograph.convert("RGB"), (left, top))
    return picture


def encode(picture: Image.Image, **options) -> bytes:
    """As JPEG, of `QUALITY` and `SUBSAMPLING` unless `options` of Pillow say otherwise."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", **{"quality": QUALITY, "subsampling": SUBSAMPLING} | options)
    return buffer.getvalue()


def make_jpegs(folder: Path, size: tuple[int, int], count: int) -> list[Path]:
    """Files of so many pictures."""
    folder.mkdir(parents=True)
    files = [folder / f"{number:03}.jpg" for number in range(count)]
    for number, file in enumerate(files):
        file.write_bytes(encode(mosaic(size, number)))
    return files


__all__ = ["encode", "make_jpegs", "mosaic", "photographs"]
