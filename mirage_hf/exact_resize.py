"""Pillow's resizing of the part that a crop keeps, to the bit, as matrix products.

Pillow resizes 8-bit pixels along rows, rounds, then along columns and rounds again. It sums integers: levels times
weights in units of 2^-22. In float32 such a sum is off by less than a known bound, so its rounding can differ from the
integers' only where it lies that close to the middle between two levels. These few sums are done again in integers.

The integer weights are taken from Pillow itself, by resizing pictures of single points: its filters and its arithmetic
are not written down here a second time. [`is_exact_here`] says whether this way can be trusted in this process.

NumPy multiplies here, not PyTorch: its matrices are in float32 whatever precision a user has set for PyTorch's, and on
AMD it is half as fast again. Products are kept small, because a large one would start threads in every worker process.
"""

import threading
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image

_BITS = 22  # of a weight behind the point: Pillow's PRECISION_BITS
_HALF = 1 << (_BITS - 1)
# Half the width of each filter, in pixels of the smaller picture.
_SUPPORT = {
    Image.Resampling.BOX: 0.5,
    Image.Resampling.BILINEAR: 1.0,
    Image.Resampling.HAMMING: 1.0,
    Image.Resampling.BICUBIC: 2.0,
    Image.Resampling.LANCZOS: 3.0,
}
# Pixels of the result in one product, by whether their windows are narrow: more of them multiply more zeros, fewer are
# more calls.
_BLOCKS = {True: 16, False: 8}
_NARROW = 16
# Multiplications of one product: OpenBLAS uses one thread for as many, and strips of that size stay in the cache.
_PRODUCT = 1 << 18

_AT_ONCE = 1 << 14  # sums done again in integers at a time
_KEPT = 1 << 22  # numbers that a thread's scratch array holds at most: 16 MiB

Box = tuple[int, int, int, int]


class _Scratch(threading.local):
    """Arrays that a thread uses again: memory fresh from the system costs as much as the arithmetic done in it."""

    def __init__(self):
        self.arrays: dict[str, np.ndarray] = {}

    def get(self, name: str, rows: int, columns: int) -> np.ndarray:
        """A float32 array with whatever is in it."""
        count = rows * columns
        array = self.arrays.get(name)
        if array is None or array.size < count:
            array = np.empty(count, np.float32)
            if count <= _KEPT:
                self.arrays[name] = array
        return array[:count].reshape(rows, columns)


_scratch = _Scratch()


class _Axis(NamedTuple):
    """
    How pixels `low` to `high` of a resized row come about.

    Args:
        first (`int`), last (`int`): Pixels of the source that take part, `last` excluded.
        start (`np.ndarray` of shape `(n,)`): First pixel of each result's window, counted from `first`.
        weights (`np.ndarray` of shape `(n, taps)`): Of the pixels in the window, int64 in units of 2^-22.
        blocks (`list[tuple[slice, slice, np.ndarray]]`): Of each product the results, the pixels that they are made of
            (counted from `first`) and the matrix of shape `(pixels, results)`, float32.
        lines (`int`): So many may be multiplied at a time.
        doubt (`float`): A sum is in doubt if it is further than this from the nearest level.
    """

    first: int
    last: int
    start: np.ndarray
    weights: np.ndarray
    blocks: list[tuple[slice, slice, np.ndarray]]
    lines: int
    doubt: np.float32


def can_resize(source: tuple[int, int], size: tuple[int, int], box: Box, resample: Image.Resampling) -> bool:
    """
    Whether [`resize_levels`] gives what Pillow would.

    Args:
        source (`tuple[int, int]`): Width and height of the picture.
        size (`tuple[int, int]`): Width and height of the whole resized picture.
        box (`tuple[int, int, int, int]`): Part of it that is wanted: left, top, right, bottom.
        resample ([`~PIL.Image.Resampling`]): Filter.
    """
    inside = 0 <= box[0] < box[2] <= size[0] and 0 <= box[1] < box[3] <= size[1]
    # Pillow resizes such a column along its columns first.
    column = source[1] > 100 * source[0]
    return inside and not column and resample in _SUPPORT and is_exact_here(resample)


@lru_cache
def is_exact_here(resample: Image.Resampling) -> bool:
    """Whether noise comes out as from Pillow: another build of it or of NumPy may calculate otherwise."""
    noise = np.random.default_rng(0).integers(0, 256, (211, 157, 3), dtype=np.uint8)
    image, size, box = Image.fromarray(noise), (98, 120), (5, 7, 93, 113)
    expected = np.asarray(image.resize(size, resample).crop(box))
    return np.array_equal(resize_levels(image, size, box, resample).transpose(0, 2, 1), expected)


def resize_levels(image: Image.Image, size: tuple[int, int], box: Box, resample: Image.Resampling) -> np.ndarray:
    """
    `image.resize(size, resample).crop(box)`, without what the crop leaves out.

    Args:
        image (`PIL.Image.Image`): Of mode RGB.
        size (`tuple[int, int]`): Width and height of the whole resized picture.
        box (`tuple[int, int, int, int]`): Part of it that is wanted, inside it: left, top, right, bottom.
        resample ([`~PIL.Image.Resampling`]): Any filter but the nearest neighbour.

    Returns:
        `np.ndarray` of shape `(H, 3, W)`: whole numbers from 0 to 255, float32.
    """
    left, top, right, bottom = box
    across = _axis(image.width, size[0], left, right, resample)
    down = _axis(image.height, size[1], top, bottom, resample)
    narrow = _scratch.get("narrow", (down.last - down.first) * 3, right - left)  # (rows * 3, W)
    rows = max(1, across.lines // 3)
    for begin in range(down.first, down.last, rows):
        end = min(begin + rows, down.last)
        strip = image.crop((across.first, begin, across.last, end))
        source = _scratch.get("source", strip.height * 3, strip.width)  # (rows * 3, w)
        _split(strip, source.reshape(strip.height, 3, strip.width))
        sums = narrow[(begin - down.first) * 3 : (end - down.first) * 3]
        for results, pixels, matrix in across.blocks:
            np.matmul(source[:, pixels], matrix, out=sums[:, results])
        _round(sums, across.doubt, lambda at, of, s=source: _exact_sums(across, of, s.T, at))  # type: ignore[misc]
    source = narrow.reshape(down.last - down.first, -1)  # (rows, 3 * W)
    levels = np.empty((bottom - top, source.shape[1]), np.float32)  # (H, 3 * W)
    for begin in range(0, source.shape[1], down.lines):
        lines = slice(begin, begin + down.lines)
        for results, pixels, matrix in down.blocks:
            np.matmul(matrix.T, source[pixels, lines], out=levels[results, lines])
    _round(levels, down.doubt, lambda of, at: _exact_sums(down, of, source, at))
    return levels.reshape(bottom - top, 3, right - left)


def _split(image: Image.Image, planes: np.ndarray) -> None:
    """Levels of an RGB picture into `planes` of shape `(H, 3, W)`: a row of red, one of green, one of blue."""
    # Pillow holds 4 bytes for each pixel; shifting them as one number is faster than picking every fourth.
    pixels = np.frombuffer(image.tobytes("raw", "RGBX"), "<i4").reshape(image.height, image.width)
    levels = np.empty_like(pixels)
    for channel in range(3):
        np.right_shift(pixels, 8 * channel, out=levels)
        np.bitwise_and(levels, 255, out=levels)
        planes[:, channel] = levels


def _round(sums: np.ndarray, doubt: np.float32, exact: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    """Levels in place of sums; `exact` gives the integer sums at rows and columns where floats don't decide."""
    rounded = np.rint(sums, out=_scratch.get("rounded", *sums.shape))
    np.subtract(sums, rounded, out=sums)
    np.abs(sums, out=sums)
    doubtful = np.flatnonzero(sums > doubt)
    np.clip(rounded, 0, 255, out=sums)
    for begin in range(0, doubtful.size, _AT_ONCE):
        row, column = np.divmod(doubtful[begin : begin + _AT_ONCE], sums.shape[1])
        sums[row, column] = np.clip((exact(row, column) + _HALF) >> _BITS, 0, 255)


def _exact_sums(axis: _Axis, of: np.ndarray, source: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Sums of results `of` in integers; `source` has the axis first and then lines, of which `at` are meant."""
    window = axis.start[of][:, None] + np.arange(axis.weights.shape[1])  # (n, taps)
    return (axis.weights[of] * source[window, at[:, None]].astype(np.int64)).sum(1)


@lru_cache(maxsize=64)
def _axis(pixels: int, resized: int, low: int, high: int, resample: Image.Resampling) -> _Axis:
    start, weights = _pillow_weights(pixels, resized, resample)
    start, weights = start[low:high], weights[low:high]
    # Windows as narrow as the weights allow.
    used = weights != 0
    taps = int((weights.shape[1] - used[:, ::-1].argmax(1) - used.argmax(1)).max())
    narrower = np.minimum(start + used.argmax(1), pixels - taps)
    shift = (narrower - start)[:, None] + np.arange(taps)
    # Behind the window there was no weight, and there is none here.
    inside = shift < weights.shape[1]
    weights = np.where(inside, np.take_along_axis(weights, np.minimum(shift, weights.shape[1] - 1), 1), 0)
    first, last = int(narrower.min()), int(narrower.max()) + taps
    start = narrower - first
    blocks = []
    block = _BLOCKS[taps <= _NARROW]
    for begin in range(0, high - low, block):
        theirs = start[begin : begin + block]
        lowest, highest = int(theirs.min()), int(theirs.max()) + taps
        matrix = np.zeros((highest - lowest, len(theirs)), np.float32)
        rows = (theirs - lowest)[:, None] + np.arange(taps)
        matrix[rows, np.arange(len(theirs))[:, None]] = weights[begin : begin + block] / (1 << _BITS)
        blocks.append((slice(begin, begin + len(theirs)), slice(lowest, highest), matrix))
    lines = max(1, _PRODUCT // max(matrix.size for *_, matrix in blocks))
    # A weight is exact in float32. Each of `taps` products and of the additions, in any order, is off by 2^-24 of the
    # sum of magnitudes at most (Higham, Accuracy and Stability, section 3.1); one more for terms of second order.
    magnitude = 255 * float(np.abs(weights).sum(1).max()) / (1 << _BITS)
    doubt = np.float32(0.5 - (taps + 1) * 2.0**-24 * magnitude)
    return _Axis(first, last, start, weights, blocks, lines, np.nextafter(doubt, np.float32(0)))


def _pillow_weights(pixels: int, resized: int, resample: Image.Resampling) -> tuple[np.ndarray, np.ndarray]:
    """Windows that hold all weights of each result: their first pixels `(n,)` and weights `(n, period)`."""
    scale = pixels / resized
    reach = int(np.ceil(_SUPPORT[resample] * max(scale, 1.0)))
    period = min(2 * reach + 3, pixels)
    # Each row has a point in every `period` pixels, so a result sees one of them at most. In mode I, whose pixels are
    # 32-bit integers, Pillow rounds weight times 2^22 just as it rounds the weights of 8-bit pixels.
    points = np.zeros((period, pixels), np.int32)
    every = np.arange(pixels)
    points[every % period, every] = 1 << _BITS
    seen = np.asarray(Image.fromarray(points).resize((resized, period), resample)).T  # (n, period)
    centre = (np.arange(resized) + 0.5) * scale
    start = np.clip(np.floor(centre - period / 2).astype(np.int64), 0, pixels - period)
    window = (start[:, None] + np.arange(period)) % period
    return start, np.take_along_axis(seen, window, 1).astype(np.int64)


__all__ = ["can_resize", "is_exact_here", "resize_levels"]
