"""Encoded images made by hand: what no encoder writes, byte for byte the same on every machine."""

import io
import struct
import zlib
from functools import cache

import numpy as np
from PIL import Image

SIZE = (64, 48)
CORNER = (200, 30, 30)


@cache
def photo() -> Image.Image:
    """64 x 48 pixels of smooth noise, so that every format has data to cut off, with a corner of one colour."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize(SIZE, Image.Resampling.BICUBIC)
    image.paste(CORNER, (0, 0, 24, 24))
    return image


def encoded(image: Image.Image, file_format: str, **options) -> bytes:
    """The image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def animated(file_format: str, frames: int = 3) -> bytes:
    """Frames whose corners are ever darker."""
    images = [photo().copy() for _ in range(frames)]
    for index, image in enumerate(images[1:], 1):
        image.paste((200 - 20 * index, 30, 30), (0, 0, 24, 24))
    return encoded(images[0], file_format, save_all=True, append_images=images[1:])


def chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG chunk with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG file of filtered rows (uncompressed), with extra chunks before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = zlib.compress(rows, 1) if rows else b""
    body = chunk(b"IHDR", header) + b"".join(extra) + (chunk(b"IDAT", data) if data else b"")
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def uniform_png(width: int, height: int, depth: int, colour: int, pixel: bytes) -> bytes:
    """A PNG file of one colour, made without holding its pixels: at 89 megapixels they would be 358 MB."""
    row = b"\0" + pixel * width
    packer = zlib.compressobj(1)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def with_chunk(data: bytes, kind: bytes, content: bytes) -> bytes:
    """A PNG file with one more chunk behind its header."""
    return data[:33] + chunk(kind, content) + data[33:]


def tiff(width: int, height: int, bits: int, sample_format: int, pixels: bytes) -> bytes:
    """An uncompressed gray TIFF file of one strip."""
    entries = {
        256: (4, width),
        257: (4, height),
        258: (3, bits),
        259: (3, 1),
        262: (3, 1),
        273: (4, 8),
        277: (3, 1),
        278: (4, height),
        279: (4, len(pixels)),
        339: (3, sample_format),
    }
    pixels += b"\0" * (len(pixels) % 2)
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, (kind, value) in entries.items())
    start = struct.pack("<2sHI", b"II", 42, 8 + len(pixels))
    return start + pixels + struct.pack("<H", len(entries)) + directory + struct.pack("<I", 0)


def jpeg_with_header(bits: int = 8, height: int = SIZE[1], width: int = SIZE[0]) -> bytes:
    """A JPEG file whose frame header says something else than its data."""
    data = encoded(photo(), "JPEG")
    start = data.index(b"\xff\xc0") + 4
    return data[:start] + struct.pack(">BHH", bits, height, width) + data[start + 5 :]


def exif(orientation: int) -> Image.Exif:
    """An EXIF record that says how to turn the image."""
    record = Image.Exif()
    record[0x0112] = orientation
    return record


def jpeg_with_exif(record: bytes) -> bytes:
    """A JPEG file with these bytes as its EXIF record."""
    data = encoded(photo(), "JPEG")
    content = b"Exif\0\0" + record
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + data[2:]


def exif_bomb() -> bytes:
    """An EXIF record of 4,000 entries, each of which claims two gigabytes."""
    entries = b"".join(struct.pack("<HHII", 0x9000 + index, 1, 0x7FFFFFFF, 8) for index in range(4000))
    return struct.pack("<2sHIH", b"II", 42, 8, 4000) + entries + struct.pack("<I", 8)


def flipped(data: bytes, position: int) -> bytes:
    """The same bytes but for one."""
    position %= len(data)
    return data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]
