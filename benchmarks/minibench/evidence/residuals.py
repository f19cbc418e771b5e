"""Reference detectors without a backbone: spectra of residuals, and a small network on NPR residuals."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

RADIAL_BINS = 24
ANGULAR_BINS = 8
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def neighbour_residual(image: np.ndarray) -> np.ndarray:
    """
    What each pixel adds to the upper left one of its 2 x 2 block: the trace of upsampling layers that NPR looks at
    (https://arxiv.org/abs/2312.10461).

    Args:
        image (`np.ndarray` of shape `(..., H, W)`): H and W even.
    """
    return image - image[..., ::2, ::2].repeat(2, axis=-2).repeat(2, axis=-1)


def smoothing_residual(image: np.ndarray) -> np.ndarray:
    """The image less its 3 x 3 mean, borders reflected; shape `(..., H, W)` is kept."""
    padded = np.pad(image, [(0, 0)] * (image.ndim - 2) + [(1, 1), (1, 1)], mode="reflect")
    height, width = image.shape[-2:]
    shifted = (padded[..., i : i + height, j : j + width] for i in range(3) for j in range(3))
    return image - sum(shifted) / 9


def spectrum_bins(size: int) -> np.ndarray:
    """
    Which frequencies are averaged: rings of equal width from 0 to the Nyquist frequency, then sectors of equal angle
    in the outer half.

    Returns:
        `np.ndarray` of shape `(RADIAL_BINS + ANGULAR_BINS, size * size)`: Each row sums to 1.
    """
    y, x = np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size), indexing="ij")
    radius = np.hypot(y, x)  # cycles per pixel
    ring = np.floor(radius / 0.5 * RADIAL_BINS).astype(int)
    sector = np.floor(np.arctan2(y, x) % np.pi / np.pi * ANGULAR_BINS).astype(int) % ANGULAR_BINS
    outer = (radius >= 0.25) & (radius <= 0.5)
    masks = [ring == index for index in range(RADIAL_BINS)]
    masks += [outer & (sector == index) for index in range(ANGULAR_BINS)]
    rows = np.stack([mask.ravel() for mask in masks]).astype(np.float32)
    return rows / rows.sum(axis=1, keepdims=True)


def spectral_features(pixels: np.ndarray) -> np.ndarray:
    """
    Logarithms of the mean power of two residuals of luma and of one colour difference, in rings and sectors.

    Args:
        pixels (`np.ndarray` of shape `(N, S, S, 3)`): uint8, S even.

    Returns:
        `np.ndarray` of shape `(N, 4 * (RADIAL_BINS + ANGULAR_BINS))`: float32.
    """
    size = pixels.shape[1]
    window = np.hanning(size).astype(np.float32)
    bins = spectrum_bins(size)
    values = pixels.astype(np.float32)
    features = []
    for channel in (values @ LUMA, values[..., 0] - values[..., 1]):  # (N, S, S)
        for residual in (smoothing_residual(channel), neighbour_residual(channel)):
            power = np.abs(np.fft.fft2(residual * window[:, None] * window)) ** 2  # (N, S, S)
            features.append(np.log(power.reshape(len(pixels), -1) @ bins.T + 1.0))
    return np.concatenate(features, axis=1).astype(np.float32)


class ResidualNetwork(nn.Module):
    """Four convolutions on NPR residuals, their mean over the image, one score."""

    def __init__(self):
        super().__init__()
        widths, strides = (3, 24, 32, 48, 64), (1, 2, 2, 2)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
                for i, o, stride in zip(widths[:-1], widths[1:], strides, strict=True)
            )
        )
        self.head = nn.Linear(widths[-1], 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """
        Args:
            images (`torch.Tensor` of shape `(B, 3, H, W)`): In [0, 1], H and W even.

        Returns:
            `torch.Tensor` of shape `(B,)`: Log-odds of fake.
        """
        residual = images - F.interpolate(images[..., ::2, ::2], scale_factor=2, mode="nearest")
        return self.head(self.blocks(4 * residual).mean(dim=(2, 3)))[:, 0]
