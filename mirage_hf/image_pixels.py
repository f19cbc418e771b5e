"""Pixels of any mode to 8-bit RGB, in strips, so that a picture at the limit of size is never held twice.

Transparency is composited on white, 16-bit levels are scaled by 1/257 (Pillow's own conversion clips them), floats are
refused because they have no defined range. Colour profiles are not applied: CLIP and the detectors of this field were
trained on pixels as they are stored.
"""

from collections.abc import Iterator

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import BITSPERSAMPLE, TiffImageFile

from .image_formats import ImageLimits, check_size
from .reading import ImageStatus, UnreadableImage

# Pixels of a strip.
_STRIP = 1 << 18


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Where a file may say how it is to be turned.
_ORIENTATION_RECORDS = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")


def turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    """The picture as its EXIF `orientation` (1 to 8) wants it displayed; turned once, it has none any more."""
    if orientation == 1:
        return image
    turned = image.transpose(_TURNS[orientation])
    turned.info = {name: value for name, value in image.info.items() if name not in _ORIENTATION_RECORDS}
    return turned


def to_rgb(image: Image.Image, highest: int = 65535) -> Image.Image:
    """
    Convert a decoded picture to RGB. Its own pixels may be used up: pass a copy of what is needed afterwards.

    Args:
        image (`PIL.Image.Image`):
            Of any mode.
        highest (`int`, *optional*, defaults to 65535):
            Level of white if the pixels are integers of more than 8 bits.

    Raises:
        UnreadableImage: float pixels, or integers outside 0..65535.
    """
    if image.mode == "F":
        raise UnreadableImage("float pixels have no defined range", ImageStatus.UNSUPPORTED)
    if image.mode.startswith("I"):
        return _to_eight_bits(image, highest)
    if image.mode in ("La", "RGBa"):  # premultiplied: Pillow converts these to nothing else
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if image.has_transparency_data:
        return _on_white(image if image.mode == "RGBA" else image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def detached(image: Image.Image) -> Image.Image:
    """The same pixels without the decoder, which may hold more memory than they do."""
    return image._new(image.im)


def array_to_image(array: np.ndarray, limits: ImageLimits) -> Image.Image:
    """
    A picture from an array.

    Args:
        array (`np.ndarray` of shape `(H, W)`, `(H, W, 1)`, `(H, W, 3)` or `(H, W, 4)`):
            Gray, RGB or RGBA; uint8, uint16 (scaled by 1/257) or bool.
        limits ([`ImageLimits`]):
            Of its size.

    Raises:
        UnreadableImage: another shape or type, or outside the limits.
    """
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        reason = f"an array of shape {array.shape}: pass (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
        raise UnreadableImage(reason, ImageStatus.UNSUPPORTED)
    check_size((array.shape[1], array.shape[0]), limits)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype.kind == "u" and array.dtype.itemsize == 2:
        scaled = np.empty(array.shape, np.uint8)
        rows = max(1, _STRIP // max(1, array.shape[1]))
        for top in range(0, len(array), rows):
            scaled[top : top + rows] = _scale(array[top : top + rows], 65535)
        array = scaled
    elif array.dtype != np.uint8:
        reason = f"an array of {array.dtype}: its range is not defined; pass uint8, uint16 or bool"
        raise UnreadableImage(reason, ImageStatus.UNSUPPORTED)
    return Image.fromarray(np.ascontiguousarray(array))


def highest_level(image: Image.Image) -> int:
    """Level of white in a picture of more than 8 bits."""
    # Pillow unpacks the 12 bits of such a TIFF as they are; in other formats it scales 9 to 15 bits up to 16.
    twelve = isinstance(image, TiffImageFile) and image.tag_v2.get(BITSPERSAMPLE) == (12,)
    return 4095 if twelve else 65535


def _to_eight_bits(image: Image.Image, highest: int) -> Image.Image:
    hidden = image.info.get("transparency")
    rgb = Image.new("RGB", image.size)
    for box in _strips(image):
        levels = np.asarray(image.crop(box))
        if levels.min() < 0 or levels.max() > 65535:
            raise UnreadableImage("integer pixels outside 0..65535", ImageStatus.UNSUPPORTED)
        scaled = _scale(levels, highest)
        if isinstance(hidden, int):
            scaled[levels == hidden] = 255
        rgb.paste(Image.fromarray(scaled).convert("RGB"), box)
    return rgb


def _scale(levels: np.ndarray, highest: int) -> np.ndarray:
    return ((levels.astype(np.uint32) * 255 + highest // 2) // highest).astype(np.uint8)


def _on_white(image: Image.Image) -> Image.Image:
    for box in _strips(image):
        strip = image.crop(box)
        image.paste(Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip), box)
    try:
        # RGBA and RGB are laid out alike in memory: the same pixels under another mode.
        return Image.fromarrow(image, "RGB", image.size)
    except ValueError:  # allocated in several blocks, outside `pillow_switches`
        return image.convert("RGB")


def _strips(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(image.height, top + rows)
