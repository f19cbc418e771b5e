"""Writes small image trees in the layouts of the field's data sets."""

import io
import zipfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from PIL import Image

FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".bmp": "BMP",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".gif": "GIF",
    ".avif": "AVIF",
    ".jp2": "JPEG2000",
}


@cache
def image_bytes(extension: str = ".png", colour: tuple[int, int, int] = (200, 30, 30), size: int = 8) -> bytes:
    """An encoded image of one colour, in the format of a file extension (in capitals or not)."""
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(buffer, FORMATS[extension.lower()])
    return buffer.getvalue()


def encoded(name: str) -> bytes:
    """The bytes of a file of that name: an image where the name is an image's."""
    suffix = Path(name).suffix.lower()
    return image_bytes(suffix) if suffix in FORMATS else b"no image"


def write_image(path: Path) -> Path:
    """Write an image in the format that the name asks for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(path.name))
    return path


def write_tree(root: Path, files: Iterable[str]) -> Path:
    """Write images under a folder. `{0..4}` in a name stands for five names."""
    for name in files:
        for expanded in expand(name):
            write_image(root / expanded)
    return root


def write_zip(path: Path, files: Iterable[str]) -> Path:
    """Write a zip archive of images; names as in `write_tree`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in files:
            for expanded in expand(name):
                archive.writestr(expanded, encoded(expanded))
    return path


def expand(name: str) -> list[str]:
    """`a{0..2}.png` to `a0.png`, `a1.png`, `a2.png`."""
    if "{" not in name:
        return [name]
    start, _, rest = name.partition("{")
    numbers, _, end = rest.partition("}")
    first, last = numbers.split("..")
    return [f"{start}{number}{end}" for number in range(int(first), int(last) + 1)]
