"""Headers of image files: which formats are opened, and what is refused before a pixel is decoded.

Pillow knows fifty formats. Some of them start other programs (EPS), some are no pictures (HDF5), and some have no mark
by which they could be recognised (TGA), so that any bytes may pass for one. Those in `FORMATS` are opened; HEIC and
JPEG XL too where their plugins are installed.
"""

import importlib
import io
import math
import re
from dataclasses import dataclass
from typing import BinaryIO

from PIL import (  # the plugins: importing one makes its format known to Pillow
    AvifImagePlugin,  # noqa: F401
    BmpImagePlugin,  # noqa: F401
    ExifTags,
    GifImagePlugin,  # noqa: F401
    Image,
    ImageFile,
    Jpeg2KImagePlugin,  # noqa: F401
    JpegImagePlugin,
    PngImagePlugin,  # noqa: F401
    PpmImagePlugin,  # noqa: F401
    QoiImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from .reading import MAX_BYTES, ImageStatus, UnreadableImage

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "TIFF", "BMP", "JPEG2000", "PPM", "QOI", "DIB")
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1")

# What an unknown file looks like, by how it begins, and what to do about it.
_LOOKS = {
    b"<!doctype html": "looks like HTML",
    b"<html": "looks like HTML",
    b"<svg": "looks like SVG",
    b"<?xml": "looks like XML or SVG",
    b"version https://git-lfs": "a Git LFS pointer: run `git lfs pull`",
    b"%pdf": "looks like PDF",
    b"%!ps": "looks like PostScript",
    b"\xc5\xd0\xd3\xc6": "looks like PostScript",
    b"\xd7\xcd\xc6\x9a": "looks like a Windows metafile",
    b"8bps": "looks like Photoshop: export it as PNG",
    b"\0\0\1\0": "looks like an icon: save it as PNG",
    b"pk\3\4": "looks like a zip archive",
    b"\x1f\x8b": "looks like gzip",
}

_TEXT = bytes(range(32, 127)) + b"\t\r\n"

# Bytes that a decoder holds for each pixel at its peak, measured with Pillow 13; the others hold the picture only, in
# up to 4. openjpeg decodes to 32-bit integers, libwebp's animation decoder keeps three canvases.
_DECODER_BYTES = {"WEBP": 16, "AVIF": 16, "HEIF": 16, "JPEG2000": 24, "JXL": 24}
# A picture at the limit of pixels may take this much for each: 582 MB at the default limit.
_ALLOWED_BYTES = 6.5
# Modes in 4 bytes a pixel that are converted into a second picture; RGBA is composited in place.
_CONVERTED_MODES = ("CMYK", "I", "LA", "La", "PA", "RGBa", "YCbCr", "LAB", "HSV")
MAX_COUNTED_FRAMES = 1000


@dataclass(frozen=True)
class ImageLimits:
    """
    What a picture may be like at most, and at least.

    Args:
        max_megapixels (`float`, *optional*, defaults to 89.478485):
            Width times height in millions. The default is Pillow's threshold for suspecting a decompression bomb.
            It bounds memory, by 6.5 bytes for each pixel: of WebP, AVIF, JPEG 2000 and progressive JPEG, whose
            decoders hold more, and of what must be turned upright, the limit is proportionally lower.
        max_aspect_ratio (`float`, *optional*, defaults to 20):
            Longer side over shorter side. A picture of 1 x 30,000 pixels costs 6 GB when its short side is resized to
            224.
        min_side (`int`, *optional*, defaults to 1):
            Pixels of the shorter side.
        max_bytes (`int`, *optional*, defaults to `1 << 30`):
            Size of the encoded picture.

    Raises:
        ValueError: a limit that no picture could meet.
    """

    max_megapixels: float = 89.478485
    max_aspect_ratio: float = 20
    min_side: int = 1
    max_bytes: int = MAX_BYTES

    def __post_init__(self):
        least = {"max_megapixels": 1e-6, "max_aspect_ratio": 1, "min_side": 1, "max_bytes": 1}
        for name, value in least.items():
            if not getattr(self, name) >= value:
                raise ValueError(f"`{name}` must be at least {value:g}, got {getattr(self, name)}")


DEFAULT_LIMITS = ImageLimits()


def open_image(file: BinaryIO, limits: ImageLimits = DEFAULT_LIMITS) -> ImageFile.ImageFile:
    """
    Read an image's header and check what it says; no pixel is decoded.

    Raises:
        UnreadableImage: not an image, of a format that is not opened, or outside the limits. Damaged bytes may raise
            anything else, too.
    """
    image = identify(file)
    check_header(image, limits)
    return image


def identify(file: BinaryIO) -> ImageFile.ImageFile:
    """Read an image's header, whatever it says; as [`open_image`] in all else."""
    # Not Image.open: it warns and refuses by a limit of its own, which is one for the whole process, and says "cannot
    # identify" of a damaged header.
    file.seek(0)
    prefix = file.read(32)
    if not prefix:
        raise UnreadableImage("empty file", ImageStatus.UNSUPPORTED)
    if len(prefix) < 4:  # less than any mark of a format
        raise UnreadableImage("not an image", ImageStatus.UNSUPPORTED)
    plugin, remedy = _plugin_for(prefix)
    failure: Exception | None = None
    for name in (*FORMATS, *([plugin] if plugin else [])):
        factory, accept = Image.OPEN[name]
        accepted = accept is None or accept(prefix[:16])
        if isinstance(accepted, str):  # Pillow was built without this format
            remedy = accepted
        elif accepted:
            file.seek(0)
            try:
                return factory(file, "")
            except Exception as error:
                failure = failure or error
    if remedy:
        raise UnreadableImage(remedy, ImageStatus.UNSUPPORTED)
    # Text that begins like an image, such as "BMW" or "P6": any other file with a known mark is a damaged image.
    if failure and prefix.translate(None, _TEXT):
        raise failure
    start = prefix.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    looks = next((f": {text}" for mark, text in _LOOKS.items() if start.startswith(mark)), "")
    raise UnreadableImage(f"not an image{looks}", ImageStatus.UNSUPPORTED)


def check_header(image: ImageFile.ImageFile, limits: ImageLimits) -> None:
    """Refuse a picture whose header shows that it is outside the limits, or that it would take too much memory."""
    check_size(displayed_size(image), limits, _ALLOWED_BYTES / _decoder_bytes(image), f" for such {image.format}")


def check_size(size: tuple[int, int], limits: ImageLimits, share: float = 1.0, kind: str = "") -> None:
    """Refuse a width and height outside the limits; of pixels only a `share` of them may be had."""
    width, height = size
    share = min(share, 1.0)
    highest = limits.max_megapixels * share
    if width * height > highest * 1e6:
        remedy = f"--max-megapixels {math.ceil(width * height / 1e6 / share)} would let it pass"
        limit = f"{highest:.4g} megapixels, the limit{kind if share < 1 else ''}"
        raise UnreadableImage(f"{width}x{height} is more than {limit}; {remedy}", ImageStatus.TOO_LARGE)
    if max(width, height) > limits.max_aspect_ratio * min(width, height) > 0:
        reason = f"{width}x{height} is more elongated than {limits.max_aspect_ratio:g}:1"
        raise UnreadableImage(reason, ImageStatus.TOO_ELONGATED)
    if min(width, height) < limits.min_side:
        reason = f"{width}x{height}: the shorter side is under {limits.min_side} pixels"
        raise UnreadableImage(reason, ImageStatus.TOO_SMALL)


def _plugin_for(prefix: bytes) -> tuple[str | None, str | None]:
    """The format of a file that needs a plugin: its name if the plugin is there, what to install if not."""
    if prefix[4:8] == b"ftyp" and prefix[8:12] in _HEIC_BRANDS:
        name, module, remedy = "HEIF", "pillow_heif", "HEIC: install pillow-heif"
    elif prefix.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")):
        name, module, remedy = "JXL", "pillow_jxl", "JPEG XL: install pillow-jxl-plugin"
    else:
        return None, None
    if name not in Image.OPEN:
        try:
            plugin = importlib.import_module(module)
            if name == "HEIF":
                plugin.register_heif_opener()
        except ImportError:
            # Under the last two brands there may be AVIF, which Pillow reads itself.
            surely = any(brand in prefix[8:] for brand in _HEIC_BRANDS[:-2]) or name == "JXL"
            return None, remedy if surely else None
    return name, None


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) to 8; 1 where it is damaged or missing."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # whatever is wrong with the EXIF record, the pixels are no worse for it
        return 1
    return orientation if orientation in range(1, 9) else 1


def header_orientation(image: ImageFile.ImageFile) -> int:
    """As [`orientation_of`], without decoding: PNG may have it behind the pixels."""
    return orientation_of(image) if "exif" in image.info or image.format == "TIFF" else 1


def displayed_size(image: ImageFile.ImageFile) -> tuple[int, int]:
    """Width and height when turned upright, by the header. Pillow itself turns TIFF, and gives its size so."""
    turned = header_orientation(image) > 4 and image.format != "TIFF"
    return image.size[::-1] if turned else image.size


def _decoder_bytes(image: ImageFile.ImageFile) -> float:
    held = _DECODER_BYTES.get(image.format or "", 4.0)
    if isinstance(image, JpegImagePlugin.JpegImageFile) and "progressive" in image.info:
        # libjpeg keeps the coefficients of the whole picture, 16 bits each.
        areas = [layer[1] * layer[2] for layer in image.layer]
        held += 2 * sum(areas) / max(areas)
    second = header_orientation(image) != 1 or image.mode in _CONVERTED_MODES
    second = second or (image.mode == "RGB" and "transparency" in image.info)
    return max(held, 8.0 if second else 0.0)


def count_frames(image: ImageFile.ImageFile, file: BinaryIO) -> int | None:
    """Frames or pages of a file, counted up to `MAX_COUNTED_FRAMES`; `None` where they cannot be counted."""
    try:
        if image.format == "GIF":
            return _count_gif_frames(file)
        if image.format == "TIFF":
            # Pillow's own count takes quadratic time in the number of pages.
            for page in range(1, MAX_COUNTED_FRAMES):
                try:
                    image.seek(page)
                except EOFError:
                    return page
            return MAX_COUNTED_FRAMES
        return getattr(image, "n_frames", 1)
    except Exception:
        return None


def _count_gif_frames(file: BinaryIO) -> int:
    # Pillow counts by parsing each frame in full: minutes for a file of a million empty ones.
    file.seek(10)
    flags = file.read(3)[0]
    file.seek(_table_bytes(flags), io.SEEK_CUR)
    frames = 0
    while frames < MAX_COUNTED_FRAMES and (kind := file.read(1)) in (b"!", b","):
        if kind == b",":
            frames += 1
            flags = file.read(9)[8]
            file.seek(_table_bytes(flags) + 1, io.SEEK_CUR)
        else:
            file.read(1)
        while (length := file.read(1)) not in (b"", b"\0"):
            file.seek(length[0], io.SEEK_CUR)
    return frames


def _table_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def is_unsupported(error: Exception) -> bool:
    """Whether a decoder's complaint is of what it does not know rather than of damage."""
    return isinstance(error, NotImplementedError) or bool(_UNSUPPORTED.search(str(error)))


_UNSUPPORTED = re.compile(
    r"not support|unsupported|cannot handle|unknown (pixel|colou?r|data org|raw)|conversion from", re.I
)
