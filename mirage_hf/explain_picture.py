"""Draws a map of evidence on its image with Pillow alone: for colour-blind readers, and for print without colours."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CAPTION = "where the model looked, not proof"
# Okabe and Ito's: told apart with any colour vision, and in gray by their lightness.
FAKE, REAL = np.array([213.0, 94.0, 0.0]), np.array([86.0, 180.0, 233.0])
SMALLEST, LARGEST = 384, 2048  # pixels on the longer edge of a drawn image
OUTLINED = 0.9  # quantile of the map above which a patch is outlined, if it speaks for fake
STRONGEST = 0.8  # opacity
SATURATED = 0.98  # quantile of the map, without its sign, from which on colours are the strongest
TEXT_SIZE, MARGIN = 14, 6


def draw_overlay(image: Image.Image, heatmap: np.ndarray, title: str) -> Image.Image:
    """
    Lay a map on its image, with a legend below.

    Args:
        image (`PIL.Image.Image`):
            RGB.
        heatmap (`np.ndarray` of shape `(H, W)`):
            Evidence for fake at each pixel, NaN where there is none.
        title (`str`):
            First line of the legend.

    Returns:
        `PIL.Image.Image`: RGB; the image in its own size, small ones enlarged by whole factors, large ones shrunk.

    Raises:
        ValueError: the map is of another size.
    """
    if heatmap.shape != (image.height, image.width):
        height, width = heatmap.shape
        raise ValueError(f"the map is of {width} x {height} pixels, the image of {image.width} x {image.height}")
    longer = max(image.size)
    zoom = max(1, SMALLEST // longer) if longer <= LARGEST else LARGEST / longer
    size = (max(1, round(image.width * zoom)), max(1, round(image.height * zoom)))
    image = image.resize(size, Image.Resampling.NEAREST if zoom > 1 else Image.Resampling.BOX)
    heatmap = np.asarray(Image.fromarray(heatmap).resize(size, Image.Resampling.NEAREST))
    limit = strongest(heatmap)
    picture = Image.fromarray(_colour(np.asarray(image.convert("L"), dtype=np.float64), heatmap, limit))
    return _with_legend(picture, title, limit)


def strongest(heatmap: np.ndarray) -> float:
    """`float`: The end of the scale of colours; few patches beyond it would make all others pale."""
    seen = np.abs(heatmap[np.isfinite(heatmap)])
    return float(np.quantile(seen, SATURATED) or seen.max())


def _colour(gray: np.ndarray, heatmap: np.ndarray, limit: float) -> np.ndarray:
    """(H, W) gray levels and evidence to (H, W, 3) levels."""
    gray = 64 + gray * 0.625  # black outlines stand out, colours show on black and on white
    seen = np.isfinite(heatmap)
    evidence = np.where(seen, heatmap, 0.0) / (limit or 1.0)
    opacity = STRONGEST * np.abs(evidence).clip(max=1)[..., None]
    colour = np.where(evidence[..., None] > 0, FAKE, REAL)
    levels = (1 - opacity) * gray[..., None] + opacity * colour
    rows, columns = np.indices(gray.shape)
    hatched = np.where((rows + columns) % 8 == 0, 128.0, 180 + gray / 4)
    levels = np.where(seen[..., None], levels, hatched[..., None])
    hot = seen & (evidence > 0)
    if hot.any():
        hot &= evidence >= np.quantile(evidence[seen], OUTLINED)
    levels[_rim(hot, max(1, max(gray.shape) // 400))] = 0
    return np.rint(levels).astype(np.uint8)


def _rim(region: np.ndarray, thickness: int) -> np.ndarray:
    """The pixels of a region within `thickness` of its edge; the picture's own edge counts as one."""
    inner = region
    for _ in range(thickness):
        padded = np.pad(inner, 1)
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return region & ~inner


def _with_legend(picture: Image.Image, title: str, limit: float) -> Image.Image:
    font = ImageFont.load_default(TEXT_SIZE)
    lines = [title, "outlined: strongest tenth, for fake", "hatched: not looked at", CAPTION]
    ends = ("real", f"fake   ±{limit:.2g} log-odds a patch, or more")
    line = TEXT_SIZE + MARGIN
    texts = max(font.getlength(text) for text in lines)
    bar = (MARGIN + round(font.getlength(ends[0])) + MARGIN, 120)  # left edge, width
    width = max(picture.width, round(texts) + 2 * MARGIN, sum(bar) + round(font.getlength(ends[1])) + 2 * MARGIN)
    page = Image.new("RGB", (width, picture.height + (len(lines) + 1) * line + MARGIN), "white")
    page.paste(picture, (0, 0))
    draw = ImageDraw.Draw(page)
    top = picture.height + MARGIN
    for row, text in zip((0, 2, 3, 4), lines, strict=True):
        draw.text((MARGIN, top + row * line), text, fill="black", font=font)
    draw.text((MARGIN, top + line), ends[0], fill="black", font=font)
    draw.text((sum(bar) + MARGIN, top + line), ends[1], fill="black", font=font)
    scale = np.linspace(-1, 1, bar[1], dtype=np.float32)[None].repeat(TEXT_SIZE, axis=0)
    opacity = STRONGEST * np.abs(scale)[..., None]
    colours = (1 - opacity) * 255 + opacity * np.where(scale[..., None] > 0, FAKE, REAL)
    page.paste(Image.fromarray(np.rint(colours).astype(np.uint8)), (bar[0], top + line))
    return page


__all__ = ["CAPTION", "draw_overlay", "strongest"]
