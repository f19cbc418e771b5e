"""Random and mutated files: whatever the bytes, a status comes back, and `ok` means an RGB picture."""

import struct
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nasty_bytes import animated, encoded, exif, photo
from PIL import Image, features

from mirage_hf.image_formats import FORMATS
from mirage_hf.image_io import ImageLimits, ImageStatus, UnreadableImage, load_rgb, read_image

# A picture of one megapixel takes 10 ms.
LIMITS = ImageLimits(max_megapixels=1)


def seeds() -> dict[str, bytes]:
    """Real files of each format that is opened."""
    image = photo()
    files = {
        "jpeg": encoded(image, "JPEG", exif=exif(6)),
        "progressive": encoded(image, "JPEG", progressive=True),
        "cmyk": encoded(image.convert("CMYK"), "JPEG"),
        "mpo": animated("MPO", 2),
        "png": encoded(image.convert("RGBA"), "PNG"),
        "apng": animated("PNG", 2),
        "palette": encoded(image.quantize(16), "PNG", transparency=0),
        "gif": animated("GIF", 2),
        "bmp": encoded(image.quantize(16), "BMP"),
        "dib": encoded(image, "DIB"),
        "tiff": encoded(image, "TIFF", compression="tiff_lzw"),
        "gray_tiff": encoded(Image.new("I;16", (64, 48), 9), "TIFF"),
        "ppm": encoded(image, "PPM"),
        "qoi": encoded(image, "QOI"),
    }
    if features.check("webp"):
        files |= {"webp": encoded(image, "WEBP"), "animated_webp": animated("WEBP", 2)}
    if features.check("avif"):
        files["avif"] = encoded(image, "AVIF")
    if features.check("jpg_2000"):
        files["jp2"] = encoded(image, "JPEG2000")
    return files


SEEDS = seeds()
MARKS = [data[:16] for data in SEEDS.values()] + [b"<svg", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\0\0\0\x18ftypheic"]
EXTREMES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]

random_files = st.builds(
    lambda mark, rest: mark + rest, st.one_of(st.just(b""), st.sampled_from(MARKS)), st.binary(max_size=400)
)


@st.composite
def mutated_files(draw) -> bytes:
    """A real file after a few changes, most of them in its header."""
    data = bytearray(draw(st.sampled_from([*SEEDS.values()])))
    for _ in range(draw(st.integers(1, 4))):
        last = max(1, len(data) - 1)
        position = draw(st.one_of(st.integers(0, min(64, last)), st.integers(0, last)))
        change = draw(st.sampled_from(["flip", "set", "number", "cut", "drop", "repeat", "splice"]))
        if not data:
            break
        if change == "flip":
            data[position % len(data)] ^= 1 << draw(st.integers(0, 7))
        elif change == "set":
            data[position % len(data)] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
        elif change == "number":
            data[position : position + 4] = struct.pack(
                draw(st.sampled_from("<>")) + "I", draw(st.sampled_from(EXTREMES))
            )
        elif change == "cut":
            del data[position:]
        elif change == "drop":
            del data[position : position + draw(st.integers(1, 64))]
        elif change == "repeat":
            data[position:position] = data[position : position + draw(st.integers(1, 64))] * draw(st.integers(1, 20))
        else:
            other = draw(st.sampled_from([*SEEDS.values()]))
            data[position:] = other[draw(st.integers(0, len(other) - 1)) :]
    return bytes(data)


def check(data: bytes) -> ImageStatus:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reading = read_image(data, LIMITS, sha256=True)
        try:
            loaded = load_rgb(data, LIMITS)
        except UnreadableImage as error:
            assert (reading.status, reading.error) == (error.status, str(error))
            assert reading.image is None and str(error).isprintable() and " at 0x" not in str(error)
        else:
            assert reading.status == ImageStatus.OK and reading.error is None
            assert reading.image.mode == loaded.mode == "RGB" and reading.image.tobytes() == loaded.tobytes()
            assert (reading.width, reading.height) == loaded.size and loaded.width * loaded.height <= 1e6
            assert reading.format in (*FORMATS, "MPO") and reading.had_alpha is not None
    assert len(reading.sha256) == 64
    return reading.status


stable = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@settings(stable, max_examples=60)
@given(random_files)
def test_random_bytes(data):
    check(data)


@settings(stable, max_examples=120)
@given(mutated_files())
def test_mutated_files(data):
    check(data)


@pytest.mark.parametrize("name", SEEDS)
def test_every_cut_and_every_byte_of_the_header(name):
    """The file itself is read; cut off, it gives an error; with any one byte of its header changed, a status."""
    data = SEEDS[name]
    assert check(data) == "ok"
    statuses = {check(data[: len(data) * part // 8]) for part in range(8)}
    assert "ok" not in statuses or name in ("mpo", "apng", "gif", "animated_webp")  # the first frame may be whole
    for position in range(min(40, len(data))):
        check(data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :])
