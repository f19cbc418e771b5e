"""Upsamplers that invent detail without a trained network: what the small backbone learns invented detail from.

Each takes a (side, side, 3) array of grey levels that was shrunk by `factor` and gives one enlarged by it. None is a
neural generator: the networks have freshly drawn weights, the rest are classical methods whose few tables are fitted
on the training photographs by least squares or are patches of them.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter, gaussian_laplace, sobel, uniform_filter
from torch.nn import functional as F

BICUBIC = Image.Resampling.BICUBIC
GREY = np.float32([0.299, 0.587, 0.114])
ANGLES, STRENGTHS, COHERENCES = 8, 3, 3
NETWORKS = ("transposed", "shuffle", "convolution")


def enlarge(small: np.ndarray, factor: int) -> np.ndarray:
    """Bicubic enlargement of (h, w, 3) float32 without rounding."""
    size = (small.shape[1] * factor, small.shape[0] * factor)
    planes = [np.asarray(Image.fromarray(np.ascontiguousarray(small[..., c])).resize(size, BICUBIC)) for c in range(3)]
    return np.stack(planes, 2)


def shrink(image: np.ndarray, factor: int) -> np.ndarray:
    """Bicubic reduction of (h, w, 3) bytes to float32 grey levels, rounded as a saved small image is."""
    size = (image.shape[1] // factor, image.shape[0] // factor)
    return np.asarray(Image.fromarray(image).resize(size, BICUBIC), np.float32)


def cut(photo: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """A random `side` square of (h, w, 3)."""
    top, left = (int(rng.integers(length - side + 1)) for length in photo.shape[:2])
    return photo[top : top + side, left : left + side]


def windows(plane: np.ndarray, size: int) -> np.ndarray:
    """The `size` x `size` surroundings of every pixel of (h, w): (h * w, size * size)."""
    padded = np.pad(plane, size // 2, "reflect")
    return np.lib.stride_tricks.sliding_window_view(padded, (size, size)).reshape(-1, size * size)


def _buckets(grey: np.ndarray) -> np.ndarray:
    """Angle, strength and coherence of the structure tensor as one number for each pixel: (h * w,)."""
    gy, gx = sobel(grey, 0) / 8, sobel(grey, 1) / 8
    xx, yy, xy = (gaussian_filter(product, 1.2) for product in (gx * gx, gy * gy, gx * gy))
    spread = np.sqrt((xx - yy) ** 2 + 4 * xy * xy)
    strong, weak = np.sqrt(np.maximum((xx + yy + spread) / 2, 0)), np.sqrt(np.maximum((xx + yy - spread) / 2, 0))
    angle = np.minimum((np.arctan2(2 * xy, xx - yy) / (2 * np.pi) + 0.5) * ANGLES, ANGLES - 1).astype(int)
    strength = np.digitize(strong, (2.0, 8.0))
    coherence = np.digitize((strong - weak) / (strong + weak + 1e-6), (0.25, 0.5))
    return ((angle * STRENGTHS + strength) * COHERENCES + coherence).ravel()


@dataclass(frozen=True)
class FittedFilters:
    """One linear filter for each kind of neighbourhood, as in RAISR (https://arxiv.org/abs/1606.01299)."""

    factor: int
    size: int
    filters: np.ndarray  # (buckets, size * size, factor * factor): what to add to the bicubic enlargement

    @classmethod
    def fit(cls, photographs: list[np.ndarray], factor: int, rng: np.random.Generator) -> "FittedFilters":
        size = int(rng.choice((3, 5, 7)))
        ridge, sharpening = 10 ** rng.uniform(0, 3), float(rng.choice((0.0, rng.uniform(0.2, 1.2))))
        count = ANGLES * STRENGTHS * COHERENCES
        left, right = np.zeros((count, size**2, size**2)), np.zeros((count, size**2, factor**2))
        for index in rng.permutation(len(photographs))[:40]:
            region = cut(photographs[index], 144, rng)
            small, target = shrink(region, factor) @ GREY, region.astype(np.float32) @ GREY
            target = target + sharpening * (target - gaussian_filter(target, 1.0))
            base = enlarge(np.repeat(small[..., None], 3, 2), factor)[..., 0]
            around = windows(small, size)
            around = around - around.mean(1, keepdims=True)
            wanted = _blocks(target - base, factor)
            kinds = _buckets(small)
            for kind in np.unique(kinds):
                chosen = kinds == kind
                left[kind] += around[chosen].T @ around[chosen]
                right[kind] += around[chosen].T @ wanted[chosen]
        filters = np.linalg.solve(left + ridge * np.eye(size**2), right)
        return cls(factor, size, filters.astype(np.float32))

    def __call__(self, small: np.ndarray, gain: float, coloured: bool) -> np.ndarray:
        """Enlarges (h, w, 3); the detail found is multiplied by `gain`, and is grey unless `coloured`."""
        grey = small @ GREY
        chosen = self.filters[_buckets(grey)]  # (h * w, size^2, factor^2)
        planes = [small[..., c] for c in range(3)] if coloured else [grey]
        details = []
        for plane in planes:
            around = windows(plane, self.size)
            detail = np.matmul((around - around.mean(1, keepdims=True))[:, None], chosen)[:, 0]
            details.append(_unblocks(detail, grey.shape, self.factor))
        return enlarge(small, self.factor) + gain * np.stack(details, 2)


def _blocks(plane: np.ndarray, factor: int) -> np.ndarray:
    """(h * f, w * f) to (h * w, f * f)."""
    h, w = plane.shape[0] // factor, plane.shape[1] // factor
    return plane.reshape(h, factor, w, factor).transpose(0, 2, 1, 3).reshape(h * w, factor * factor)


def _unblocks(blocks: np.ndarray, shape: tuple[int, ...], factor: int) -> np.ndarray:
    """The reverse of `_blocks`, for a small image of `shape`."""
    h, w = shape
    return blocks.reshape(h, w, factor, factor).transpose(0, 2, 1, 3).reshape(h * factor, w * factor)


@dataclass(frozen=True)
class PatchExamples:
    """Detail pasted from photographs' patches that look alike when small (https://doi.org/10.1109/38.988747)."""

    factor: int
    size: int
    keys: np.ndarray  # (patches, size * size), unit norm
    details: np.ndarray  # (patches, (2 * factor)^2), in units of the small patch's contrast

    @classmethod
    def fit(cls, photographs: list[np.ndarray], factor: int, rng: np.random.Generator) -> "PatchExamples":
        size = int(rng.choice((3, 5)))
        keys, details = [], []
        for index in rng.permutation(len(photographs))[:40]:
            region = cut(photographs[index], 144, rng)
            small = shrink(region, factor) @ GREY
            residual = region.astype(np.float32) @ GREY - enlarge(np.repeat(small[..., None], 3, 2), factor)[..., 0]
            key, contrast = _normalised(windows(small, size))
            detail = _wide_blocks(residual, factor) / contrast
            chosen = rng.permutation(np.flatnonzero(contrast[:, 0] > 12))[:60]
            keys.append(key[chosen])
            details.append(detail[chosen])
        return cls(factor, size, np.concatenate(keys), np.concatenate(details).astype(np.float32))

    def __call__(self, small: np.ndarray, gain: float, coloured: bool) -> np.ndarray:
        """Enlarges (h, w, 3); the pasted detail is multiplied by `gain`, and is grey unless `coloured`."""
        planes = [small[..., c] for c in range(3)] if coloured else [small @ GREY]
        details = []
        for plane in planes:
            key, contrast = _normalised(windows(plane, self.size))
            found = self.details[(key @ self.keys.T).argmax(1)] * np.minimum(contrast, 120)
            details.append(_overlap(found, plane.shape, self.factor))
        return enlarge(small, self.factor) + gain * np.stack(details, 2)


def _normalised(around: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    around = around - around.mean(1, keepdims=True)
    contrast = np.sqrt((around**2).sum(1, keepdims=True)) + 1e-3
    return around / contrast, contrast


def _wide_blocks(plane: np.ndarray, factor: int) -> np.ndarray:
    """For each small pixel the (2f, 2f) pixels around its block: (h * w, 4 * f * f)."""
    half = factor // 2
    padded = np.pad(plane, (half, 2 * factor - half), "reflect")
    seen = np.lib.stride_tricks.sliding_window_view(padded, (2 * factor, 2 * factor))[::factor, ::factor]
    h, w = plane.shape[0] // factor, plane.shape[1] // factor
    return seen[:h, :w].reshape(h * w, 4 * factor * factor)


def _overlap(blocks: np.ndarray, shape: tuple[int, ...], factor: int) -> np.ndarray:
    """The average of overlapping (2f, 2f) blocks, the reverse of `_wide_blocks`."""
    h, w = shape
    blocks = blocks.reshape(h, w, 2, factor, 2, factor).transpose(2, 4, 0, 3, 1, 5)  # (2, 2, h, f, w, f)
    total = np.zeros(((h + 1) * factor, (w + 1) * factor), np.float32)
    for i in range(2):
        for j in range(2):
            part = blocks[i, j].reshape(h * factor, w * factor)
            total[i * factor : (i + h) * factor, j * factor : (j + w) * factor] += part / 4
    half = factor // 2
    return total[half : half + h * factor, half : half + w * factor]


def shock_filter(image: np.ndarray, steps: int, scale: float) -> np.ndarray:
    """Edges pulled together by inverse diffusion (https://doi.org/10.1137/0727053), guided by the grey image."""
    values = image.astype(np.float32)
    for _ in range(steps):
        sign = np.tanh(gaussian_laplace(values @ GREY, scale) / 2)[..., None]
        gy, gx = np.gradient(values, axis=(0, 1))
        values = values - 0.35 * sign * np.sqrt(gx * gx + gy * gy)
    return values


def network_detail(small: np.ndarray, factor: int, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Detail that an upsampling network with random weights draws from (h, w, 3): (h * f, w * f, 1 or 3), unit scale.

    `factor` 1 shrinks inside the network first, as an autoencoder does.
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    width, slope = int(rng.choice((6, 12))), float(rng.choice((0.0, 0.2, 0.5)))

    def weight(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    def activate(values: torch.Tensor) -> torch.Tensor:
        values = values - values.mean((2, 3), keepdim=True)
        return F.leaky_relu(values / (values.std((2, 3), keepdim=True) + 1e-6), slope)

    x = torch.from_numpy(np.ascontiguousarray(small.transpose(2, 0, 1)))[None] / 255  # (1, 3, h, w)
    x = activate(F.conv2d(x, weight(width, 3, 3, 3), padding=1))
    doublings = {1: 1, 2: 1, 4: 2}[factor]
    if factor == 1:
        x = activate(F.conv2d(x, weight(width, width, 3, 3), stride=2, padding=1))
    if rng.random() < 0.5:
        x = activate(F.conv2d(x, weight(width, width, 3, 3), padding=1))
    for _ in range(doublings):
        if kind == "transposed":
            kernel = int(rng.choice((2, 4)))
            x = F.conv_transpose2d(x, weight(width, width, kernel, kernel), stride=2, padding=kernel // 2 - 1)
        elif kind == "shuffle":
            x = F.pixel_shuffle(F.conv2d(x, weight(4 * width, width, 3, 3), padding=1), 2)
        else:
            x = F.conv2d(F.interpolate(x, scale_factor=2), weight(width, width, 3, 3), padding=1)
        x = activate(x)
    channels = 1 if rng.random() < 0.7 else 3  # mostly grey detail, as most networks add
    detail = F.conv2d(x, weight(channels, width, 3, 3), padding=1)[0].permute(1, 2, 0).numpy()
    detail = detail - uniform_filter(detail, (5, 5, 0))
    return detail / (detail.std() + 1e-6)
