"""Some hundred files and values that image readers stumble over, with what should be said of each.

Whatever reads images here (the detector, the command line, bulk scoring) is tried on all of them:

```python
for case in write_nasty_suite(folder):
    assert read_image(case.source).status == case.status
```
"""

import io
import os
import socket
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from nasty_bytes import (
    CORNER,
    SIZE,
    animated,
    encoded,
    exif,
    exif_bomb,
    flipped,
    jpeg_with_exif,
    jpeg_with_header,
    photo,
    png,
    tiff,
    uniform_png,
    with_chunk,
)
from nasty_values import values, zip_members
from PIL import Image, features

WHITE = (255, 255, 255)
# The largest square under the limit of 89,478,485 pixels.
LIMIT_SIDE = 9459


class NastyCase(NamedTuple):
    """
    One file or value.

    Args:
        name (`str`): unique, plain ASCII.
        source (`Any`): a `Path` in the folder; a value where there is no file.
        status (`str`): of `ImageStatus`, at the limits for scoring.
        facts (`dict`): attributes of the `ImageReading`, where they are known; `pixel` is the top left one, within 6.
    """

    name: str
    source: Any
    status: str
    facts: dict[str, Any]


def write_nasty_suite(folder: str | Path) -> list[NastyCase]:
    """Write the files and list all cases. A case that the platform cannot produce is left out."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    cases = []
    for name, data, status, facts in _files():
        (folder / name).write_bytes(data)
        cases.append(NastyCase(_plain(name), folder / name, status, facts))
    cases += _names(folder)
    cases += _special_files(folder)
    cases += [NastyCase(*case) for case in (*zip_members(folder), *values())]
    assert len({case.name for case in cases}) == len(cases)
    return cases


def _files() -> Iterator[tuple[str, bytes, str, dict[str, Any]]]:
    yield from _pictures()
    yield from damaged_files()
    yield from _no_pictures()
    yield from _outside_the_limits()


def _ok(name: str, data: bytes, file_format: str, pixel=CORNER, size=SIZE, frames: int = 1, alpha: bool = False):
    width, height = size
    facts = {"width": width, "height": height, "format": file_format, "n_frames": frames, "had_alpha": alpha}
    return name, data, "ok", facts | {"pixel": pixel}


def _pictures():
    image = photo()
    jpeg, plain = encoded(image, "JPEG", quality=95), encoded(image, "PNG")
    yield _ok("photo.jpg", jpeg, "JPEG")
    yield _ok("progressive.jpg", encoded(image, "JPEG", progressive=True, quality=95), "JPEG")
    yield _ok("gray.jpg", encoded(Image.new("L", SIZE, 90), "JPEG"), "JPEG", (90, 90, 90))
    # Pillow writes CMYK as Adobe does, inverted.
    yield _ok("cmyk.jpg", encoded(image.convert("CMYK"), "JPEG", quality=95), "JPEG")
    yield _ok("two_views.mpo", animated("MPO", 2), "MPO", frames=2)
    # Where the pixel that is displayed top left is stored.
    for turn, stored in {3: (63, 47), 6: (0, 47), 8: (63, 0)}.items():
        facts = {"pixel": image.getpixel(stored), "size": SIZE if turn == 3 else SIZE[::-1]}
        yield _ok(f"turned_{turn}.png", encoded(image, "PNG", exif=exif(turn)), "PNG", **facts)
        yield _ok(f"turned_{turn}.tiff", encoded(image, "TIFF", exif=exif(turn)), "TIFF", **facts)
        data = encoded(image, "JPEG", exif=exif(turn), quality=95)
        facts["pixel"] = Image.open(io.BytesIO(encoded(image, "JPEG", quality=95))).getpixel(stored)
        yield _ok(f"turned_{turn}.jpg", data, "JPEG", **facts)
    yield _ok("bad_exif.jpg", jpeg_with_exif(b"II*\0\xff\xff\xff\xff not exif"), "JPEG")
    yield _ok("no_exif.jpg", jpeg_with_exif(b"no such record"), "JPEG")
    yield _ok("no_exif.png", with_chunk(plain, b"eXIf", b"no such record"), "PNG")
    yield _ok("exif_bomb.jpg", jpeg_with_exif(exif_bomb()), "JPEG")
    yield _ok("photo.png", plain, "PNG")
    yield _ok("rgba.png", encoded(Image.new("RGBA", SIZE, (255, 0, 0, 51)), "PNG"), "PNG", (255, 204, 204), alpha=True)
    yield _ok("gray_alpha.png", encoded(Image.new("LA", SIZE, (0, 0)), "PNG"), "PNG", WHITE, alpha=True)
    yield _ok("one_bit.png", encoded(Image.new("1", SIZE, 1), "PNG"), "PNG", WHITE)
    palette = image.quantize(16)
    hidden = palette.getpixel((0, 0))
    yield _ok("palette.png", encoded(palette, "PNG"), "PNG")
    yield _ok("palette_alpha.png", encoded(palette, "PNG", transparency=hidden), "PNG", WHITE, alpha=True)
    yield _ok("rgb_key.png", encoded(image, "PNG", transparency=CORNER), "PNG", WHITE, alpha=True)
    gray = encoded(Image.fromarray(np.full(SIZE[::-1], 257 * 100, np.uint16)), "PNG")
    yield _ok("gray_16.png", gray, "PNG", (100, 100, 100))
    yield _ok("gray_16_key.png", with_chunk(gray, b"tRNS", b"\x64\x64"), "PNG", WHITE, alpha=True)
    yield _ok("rgb_16.png", png(*SIZE, 16, 2, (b"\0" + b"\x64\x64" * 3 * 64) * 48), "PNG", (100, 100, 100))
    yield _ok("twelve_bits.tiff", tiff(*SIZE, 12, 1, b"\xff" * (96 * 48)), "TIFF", WHITE)
    yield _ok("gray_16.tiff", tiff(*SIZE, 16, 1, b"\x64\x64" * (64 * 48)), "TIFF", (100, 100, 100))
    yield _ok("cmyk.tiff", encoded(image.convert("CMYK"), "TIFF"), "TIFF")
    yield _ok("lzw.tiff", encoded(image, "TIFF", compression="tiff_lzw"), "TIFF")
    yield _ok("pages.tiff", animated("TIFF"), "TIFF", frames=3)
    yield _ok("animation.gif", animated("GIF"), "GIF", frames=3)
    yield _ok("animation.png", animated("PNG"), "PNG", frames=3)
    yield _ok("photo.bmp", encoded(image, "BMP"), "BMP")
    yield _ok("photo.ppm", encoded(image, "PPM"), "PPM")
    yield _ok("photo.qoi", encoded(image, "QOI"), "QOI")
    if features.check("webp"):
        yield _ok("photo.webp", encoded(image, "WEBP", quality=95), "WEBP")
        yield _ok("animation.webp", animated("WEBP"), "WEBP", frames=3)
    if features.check("avif"):
        yield _ok("photo.avif", encoded(image, "AVIF", quality=95), "AVIF")
    if features.check("jpg_2000"):
        yield _ok("photo.jp2", encoded(image, "JPEG2000"), "JPEG2000")
    yield _ok("png_inside.jpg", plain, "PNG")
    yield _ok("no_extension", jpeg, "JPEG")
    yield _ok("trailing.jpg", jpeg + b"garbage\0" * 100, "JPEG")
    yield _ok("two_in_one.jpg", jpeg + encoded(Image.new("RGB", (80, 80)), "JPEG"), "JPEG")
    square = (LIMIT_SIDE, LIMIT_SIDE)
    pixel = (255, 0, 0, 51)
    yield _ok("limit_rgba.png", uniform_png(*square, 8, 6, bytes(pixel)), "PNG", (255, 204, 204), square, alpha=True)
    yield _ok("limit_16.png", uniform_png(*square, 16, 0, b"\x64\x64"), "PNG", (100, 100, 100), square)


def damaged_files():
    """Name, bytes, status and facts of files that were cut off or changed."""
    image = photo()
    files = {"jpg": "JPEG", "png": "PNG", "gif": "GIF", "bmp": "BMP", "tiff": "TIFF", "ppm": "PPM", "qoi": "QOI"}
    files |= {"webp": "WEBP"} if features.check("webp") else {}
    files |= {"avif": "AVIF"} if features.check("avif") else {}
    files |= {"jp2": "JPEG2000"} if features.check("jpg_2000") else {}
    for extension, file_format in files.items():
        data = encoded(image, file_format)
        yield f"cut.{extension}", data[: len(data) * 2 // 3], "corrupt", {}
    progressive = encoded(image, "JPEG", progressive=True)
    yield "cut_late.jpg", progressive[:-40], "corrupt", {"width": 64, "height": 48, "format": "JPEG"}
    plain = encoded(image, "PNG")
    yield "cut_in_header.png", plain[:20], "corrupt", {}
    yield "bad_crc.png", flipped(plain, len(plain) // 2), "corrupt", {"width": 64, "height": 48}
    yield "bad_header_crc.png", flipped(plain, 30), "corrupt", {}
    yield "no_pixels.png", png(64, 48, 8, 2, b""), "corrupt", {}
    yield "no_width.png", png(0, 48, 8, 2, b"\0"), "corrupt", {}
    yield "no_size.jpg", jpeg_with_header(height=0, width=0), "corrupt", {}
    bomb = zlib.compress(b"a" * (80 << 20), 9)
    yield "ztxt_bomb.png", with_chunk(plain, b"zTXt", b"Comment\0\0" + bomb), "corrupt", {}
    yield "itxt_bomb.png", with_chunk(plain, b"iTXt", b"Comment\0\1\0\0\0" + bomb), "corrupt", {}
    yield "iccp_bomb.png", with_chunk(plain, b"iCCP", b"profile\0\0" + bomb), "corrupt", {}
    yield "zeros_inside.webp", b"RIFF\x40\0\0\0WEBPVP8 " + bytes(60), "corrupt", {}


def _no_pictures():
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)
    contents = {
        "empty.jpg": b"",
        "one_byte.jpg": b"\xff",
        "text.jpg": b"this is no image\n",
        "text_bm.bmp": b"BMW is a car, and this is no image at all\n",
        "page.jpg": b"<!DOCTYPE html><html><body>404</body></html>",
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="48"/>',
        "fake.heic": heic,
        "fake.jxl": b"\xff\x0a" + bytes(64),
        "paper.pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
        "figure.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\nshowpage\n",
        "drawing.wmf": b"\xd7\xcd\xc6\x9a" + bytes(60),
        "icon.ico": encoded(photo(), "ICO"),
        "photo.tga": encoded(photo(), "TGA"),
        "layers.psd": b"8BPS\0\1" + bytes(64),
        "film.mp4": b"\0\0\0\x18ftypisom\0\0\2\0isommp41" + bytes(64),
        "pointer.png": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n",
        "zeros.jpg": bytes(4096),
        "random.jpg": b"\x93" + np.random.default_rng(1).bytes(4095),
        "twelve_bits.jpg": jpeg_with_header(bits=12),
        "float.tiff": encoded(Image.new("F", SIZE, 0.5), "TIFF"),
        "nan.tiff": encoded(Image.fromarray(np.full(SIZE[::-1], np.nan, np.float32)), "TIFF"),
        "deep.tiff": encoded(Image.fromarray(np.full(SIZE[::-1], 70_000, np.int32)), "TIFF"),
    }
    for name, data in contents.items():
        yield name, data, "unsupported", {}


def _outside_the_limits():
    def facts(width: int, height: int) -> dict[str, Any]:
        return {"width": width, "height": height, "n_frames": None}

    yield "huge_header.png", png(50_000, 50_000, 8, 6, b"\0"), "too_large", facts(50_000, 50_000)
    yield "huge_header.jpg", jpeg_with_header(8, 65535, 65535), "too_large", facts(65535, 65535)
    yield "hundred_megapixels.png", png(10_000, 10_000, 8, 2, b"\0"), "too_large", facts(10_000, 10_000)
    yield "just_over.png", png(LIMIT_SIDE + 1, LIMIT_SIDE + 1, 8, 2, b"\0"), "too_large", {}
    if features.check("webp"):
        data = encoded(Image.new("RGB", (6200, 6200)), "WEBP", method=0, lossless=True)
        yield "hungry_decoder.webp", data, "too_large", facts(6200, 6200)
    gif = encoded(photo().quantize(16), "GIF")
    start = gif.index(b",\0\0\0\0") + 5
    yield "huge_frame.gif", gif[:start] + b"\x60\xea\x60\xea" + gif[start + 4 :], "too_large", {}
    yield "line.png", encoded(Image.new("L", (30_000, 1)), "PNG"), "too_elongated", facts(30_000, 1)
    yield "column.png", encoded(Image.new("L", (1, 30_000)), "PNG"), "too_elongated", facts(1, 30_000)
    turned = encoded(Image.new("L", (20, 401)), "JPEG", exif=exif(6))
    yield "turned_column.jpg", turned, "too_elongated", facts(401, 20)
    yield "one_pixel.png", encoded(Image.new("RGB", (1, 1)), "PNG"), "too_small", facts(1, 1)
    yield "fifteen.jpg", encoded(Image.new("RGB", (40, 15)), "JPEG"), "too_small", facts(40, 15)
    yield _ok("sixteen.jpg", encoded(Image.new("RGB", (320, 16)), "JPEG"), "JPEG", (0, 0, 0), (320, 16))


def _names(folder: Path) -> Iterator[NastyCase]:
    data = encoded(photo(), "PNG")
    names = [
        b"caf\xe9 \xff.png",
        "фото-写真-🙂.png".encode(),
        b"line\nbreak.png",
        b"-rf.png",
        b" .png",
        b"a,b;c\"d'.png",
    ]
    for name in (*names, b"x" * 240 + b".png"):
        path = folder / os.fsdecode(name)
        try:
            path.write_bytes(data)
        except OSError:  # file systems that want UTF-8
            continue
        yield NastyCase(f"name_{_plain(os.fsdecode(name))[:40]}", path, "ok", {"width": 64, "height": 48})


def _special_files(folder: Path) -> Iterator[NastyCase]:
    (folder / "folder.jpg").mkdir(exist_ok=True)
    (folder / "dangling.jpg").unlink(missing_ok=True)
    (folder / "dangling.jpg").symlink_to("nowhere.jpg")
    (folder / "loop.jpg").unlink(missing_ok=True)
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "link.jpg").unlink(missing_ok=True)
    (folder / "link.jpg").symlink_to("photo.jpg")
    (folder / "endless.jpg").unlink(missing_ok=True)
    (folder / "endless.jpg").symlink_to("/dev/zero")
    with open(folder / "sparse.jpg", "wb") as file:
        file.truncate((1 << 30) + 1)
    for name, status in {
        "folder.jpg": "not_a_file",
        "dangling.jpg": "not_found",
        "loop.jpg": "not_found",
        "missing.jpg": "not_found",
        "link.jpg": "ok",
        "endless.jpg": "not_a_file",
        "sparse.jpg": "too_large",
    }.items():
        yield NastyCase(_plain(name), folder / name, status, {})
    yield NastyCase("below_a_file", folder / "photo.jpg" / "x.jpg", "not_found", {})
    if not (folder / "pipe.jpg").exists():
        os.mkfifo(folder / "pipe.jpg")
    yield NastyCase("pipe.jpg", folder / "pipe.jpg", "not_a_file", {})
    if len(str(folder)) < 90:  # the name of a socket has 107 bytes at most
        (folder / "socket.jpg").unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "socket.jpg"))
        yield NastyCase("socket.jpg", folder / "socket.jpg", "not_a_file", {})


def _plain(name: str) -> str:
    return name.encode("ascii", "backslashreplace").decode().replace("\n", "\\n")
