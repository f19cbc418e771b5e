"""The part of the nasty suite that is no file: values of many types, and members of zip archives."""

import io
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from nasty_bytes import CORNER, SIZE, encoded, photo
from PIL import Image

OF_SIZE = {"width": 64, "height": 48}


class PathOfAnother:
    """A path as other libraries have them."""

    def __init__(self, path: Path):
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


class Broken(dict):
    """A row whose image cannot be asked for."""

    def get(self, *_: Any) -> Any:
        raise RuntimeError("two\nlines")


def values() -> Iterator[tuple[str, Any, str, dict[str, Any]]]:
    """Name, value, status and facts."""
    data = encoded(photo(), "PNG")
    whole = OF_SIZE | {"format": "PNG", "pixel": CORNER}
    yield "bytes", data, "ok", whole
    yield "bytearray", bytearray(data), "ok", whole
    yield "memoryview", memoryview(data), "ok", whole
    yield "strided_memoryview", memoryview(bytes(np.repeat(np.frombuffer(data, np.uint8), 2)))[::2], "ok", whole
    stream = io.BytesIO(b"header of something" + data)
    stream.seek(19)
    yield "file_from_here", stream, "ok", whole
    yield "dict_of_bytes", {"bytes": data, "path": "nowhere.png"}, "ok", whole
    yield "picture", photo().copy(), "ok", OF_SIZE | {"format": None, "pixel": CORNER, "sha256": None}
    yield "premultiplied", Image.new("RGBa", SIZE, (51, 0, 0, 51)), "ok", {"pixel": (255, 204, 204), "had_alpha": True}
    yield "gray_premultiplied", Image.new("La", SIZE, (0, 51)), "ok", {"pixel": (204,) * 3, "had_alpha": True}
    palette = Image.new("PA", SIZE, (0, 0))
    yield "palette_with_alpha", palette, "ok", {"pixel": (255, 255, 255), "had_alpha": True}
    big_endian = Image.frombytes("I;16B", SIZE, b"\x64\x64" * (64 * 48))
    yield "sixteen_bits_big_endian", big_endian, "ok", {"pixel": (100, 100, 100)}
    yield "lab", Image.new("LAB", SIZE), "ok", OF_SIZE
    yield "closed_picture", _closed(), "corrupt", {}
    yield "no_area", Image.new("RGB", (0, 5)), "too_small", {}
    yield from _arrays()
    yield "float_picture", Image.new("F", SIZE), "unsupported", {}
    yield "none", None, "unsupported", {}
    yield "number", 3, "unsupported", {}
    yield "list", [], "unsupported", {}
    yield "object", object(), "unsupported", {}
    yield "empty_dict", {}, "unsupported", {}
    yield "dict_of_none", {"bytes": None, "path": None}, "unsupported", {}
    yield "broken_dict", Broken(), "error", {}
    yield "no_bytes", b"", "unsupported", {}
    yield "text_file", io.StringIO("text"), "unsupported", {}
    closed = io.BytesIO(data)
    closed.close()
    yield "closed_file", closed, "error", {}
    yield "no_name", "", "not_found", {}
    yield "null_in_name", "photo\0.png", "not_found", {}
    yield "surrogate_in_name", "\ud800.png", "not_found", {}
    yield "long_name", "x" * 5000, "not_found", {}
    yield "address", "https://example.com/photo.jpg", "not_found", {}


def _closed() -> Image.Image:
    image = Image.open(io.BytesIO(encoded(photo(), "PNG")))
    image.close()
    return image


def _arrays() -> Iterator[tuple[str, Any, str, dict[str, Any]]]:
    rows = SIZE[::-1]
    colours = np.asarray(photo())
    yield "array_rgb", colours, "ok", OF_SIZE | {"pixel": CORNER, "format": None, "n_frames": 1, "had_alpha": False}
    yield "array_mirrored", np.asarray(photo())[:, ::-1][:, ::-1], "ok", {"pixel": CORNER}
    yield "array_rgba", np.full((*rows, 4), (255, 0, 0, 51), np.uint8), "ok", {"pixel": (255, 204, 204)}
    yield "array_gray", np.full(rows, 90, np.uint8), "ok", {"pixel": (90, 90, 90)}
    yield "array_gray_3d", np.full((*rows, 1), 90, np.uint8), "ok", {"pixel": (90, 90, 90)}
    yield "array_bool", np.ones(rows, bool), "ok", {"pixel": (255, 255, 255)}
    yield "array_uint16", np.full((*rows, 3), 257 * 100, np.uint16), "ok", {"pixel": (100, 100, 100)}
    yield "array_big_endian", np.full(rows, 257 * 100, ">u2"), "ok", {"pixel": (100, 100, 100)}
    for name, array in {
        "float32": np.zeros((*rows, 3), np.float32),
        "nan": np.full(rows, np.nan),
        "int64": np.zeros(rows, np.int64),
        "int8": np.zeros(rows, np.int8),
        "object": np.zeros(rows, object),
        "channels_first": np.zeros((3, *rows), np.uint8),
        "two_channels": np.zeros((*rows, 2), np.uint8),
        "batch": np.zeros((1, *rows, 3), np.uint8),
        "scalar": np.array(3, np.uint8),
        "one_dimension": np.zeros(64, np.uint8),
    }.items():
        yield f"array_{name}", array, "unsupported", {}
    yield "array_empty", np.zeros((0, 0, 3), np.uint16), "too_small", {}
    yield "array_line", np.zeros((1, 30_000, 3), np.uint8), "too_elongated", {}
    yield "array_huge", np.broadcast_to(np.uint8(0), (10_000, 10_000)), "too_large", {}


def zip_members(folder: Path) -> Iterator[tuple[str, Any, str, dict[str, Any]]]:
    """Sources `zip://<member>::<archive>`, of archives that are written to the folder."""
    data = encoded(photo(), "PNG")
    path = folder / "archive.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/photo.png", data)
        archive.writestr("bomb.png", bytes(16 << 20))
        archive.writestr(zipfile.ZipInfo("damaged.png"), b"SOMEDATA" + data)
    content = bytearray(path.read_bytes().replace(b"SOMEDATA", b"EVILDATA", 1))
    # The archive claims that the second member has two gigabytes.
    entry = content.index(b"PK\1\2", content.index(b"PK\1\2") + 1)
    content[entry + 24 : entry + 28] = struct.pack("<I", 1 << 31)
    path.write_bytes(content)
    (folder / "broken.zip").write_bytes(b"PK\3\4 no archive")
    yield "zip_member", f"zip://a/photo.png::{path}", "ok", OF_SIZE | {"format": "PNG", "pixel": CORNER}
    yield "zip_bomb", f"zip://bomb.png::{path}", "too_large", {}
    yield "zip_damaged", f"zip://damaged.png::{path}", "corrupt", {}
    yield "zip_no_member", f"zip://b.png::{path}", "not_found", {}
    yield "zip_no_archive", f"zip://b.png::{folder / 'no.zip'}", "not_found", {}
    yield "zip_broken", f"zip://b.png::{folder / 'broken.zip'}", "corrupt", {}
    yield "zip_folder", f"zip://b.png::{folder}", "not_a_file", {}
    yield "path_of_another", PathOfAnother(folder / "photo.png"), "ok", OF_SIZE | {"pixel": CORNER}
