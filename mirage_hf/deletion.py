"""The deletion test of a map of evidence: without the patches it calls hot, the score has to fall more than without
others (Petsiuk et al., https://arxiv.org/abs/1806.07421).

Random patches are the control, as many of them. What is put in their place is the same for both: by default each
image's mean colour. That leaves edges which no camera and no generator makes, so single numbers are not to be trusted,
only the difference of the two.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class DeletionCurves:
    """
    Scores of B images with patches taken away.

    Args:
        fractions (`np.ndarray` of shape `(F,)`):
            Share of the patches that were taken away.
        intact (`np.ndarray` of shape `(B,)`):
            Probability of fake of the images as they are.
        hottest (`np.ndarray` of shape `(B, F)`):
            Without the patches of most evidence for fake.
        random (`np.ndarray` of shape `(B, F)`):
            Without as many random ones, mean over draws.
    """

    fractions: np.ndarray
    intact: np.ndarray
    hottest: np.ndarray
    random: np.ndarray

    @property
    def area(self) -> np.ndarray:
        """
        `np.ndarray` of shape `(B,)`: Area between the two curves from 0 to the largest fraction, over that fraction:
        how much further, on average, the score falls without the hottest patches.
        """
        gap = np.pad(self.random - self.hottest, ((0, 0), (1, 0)))  # (B, 1 + F); nothing taken away, no difference
        return np.trapezoid(gap, np.append(0.0, self.fractions), axis=1) / self.fractions[-1]


def deletion_test(
    score: Callable[[torch.Tensor], np.ndarray],
    pixel_values: torch.Tensor,
    grid: torch.Tensor,
    patch_size: int,
    fractions: Sequence[float] = (0.05, 0.1, 0.2, 0.4),
    draws: int = 5,
    generator: torch.Generator | None = None,
    fill: torch.Tensor | None = None,
) -> DeletionCurves:
    """
    Take away the hottest patches, and random ones, and score what is left.

    Args:
        score (`Callable[[torch.Tensor], np.ndarray]`):
            `pixel_values` of shape `(B, 3, H, W)` to the probability of fake, `(B,)`.
        pixel_values (`torch.Tensor` of shape `(B, 3, H, W)`):
            Images as the model takes them.
        grid (`torch.Tensor` of shape `(B, h, w)`):
            Evidence for fake, as from [`patch_evidence`]; squares of NaN are never taken away.
        patch_size (`int`):
            Pixels of a square's edge.
        fractions (`Sequence[float]`, *optional*):
            Increasing, in (0, 1]; at least one patch is taken away.
        draws (`int`, *optional*, defaults to 5):
            Random sets of patches for each image and fraction.
        generator (`torch.Generator`, *optional*):
            Of the draws, on the CPU.
        fill (`torch.Tensor` of shape `(B, 3, H, W)`, *optional*):
            What takes the patches' place. Defaults to each image's mean colour.

    Returns:
        [`DeletionCurves`]

    Raises:
        ValueError: `fractions` or `draws` is out of range, or the grid doesn't fit the images.
    """
    height, width = pixel_values.shape[-2:]
    expected = (len(pixel_values), -(-height // patch_size), -(-width // patch_size))
    if tuple(grid.shape) != expected:
        raise ValueError(f"`grid` must be of shape {expected} for these images and patches, got {tuple(grid.shape)}")
    shares = np.asarray(fractions, dtype=np.float64)
    if not len(shares) or shares[0] <= 0 or shares[-1] > 1 or (np.diff(shares) <= 0).any():
        raise ValueError(f"`fractions` must increase and lie in (0, 1], got {list(fractions)}")
    if draws < 1:
        raise ValueError(f"`draws` must be at least 1, got {draws}")
    if fill is None:
        fill = pixel_values.mean(dim=(-2, -1), keepdim=True).expand_as(pixel_values)
    orders = [grid.cpu(), *(torch.rand(grid.shape, generator=generator) for _ in range(draws))]
    hottest, *random = (
        np.stack([score(without(pixel_values, order, grid, patch_size, share, fill)) for share in shares], axis=1)
        for order in orders
    )  # (B, F) each
    return DeletionCurves(shares, score(pixel_values), hottest, np.mean(random, axis=0))


def without(
    pixel_values: torch.Tensor,
    order: torch.Tensor,
    grid: torch.Tensor,
    patch_size: int,
    share: float,
    fill: torch.Tensor,
) -> torch.Tensor:
    """
    Images with a share of their patches replaced, those that come first in `order`; see [`deletion_test`].

    Args:
        order (`torch.Tensor` of shape `(B, h, w)`):
            On the CPU, the largest first; ties go by place.
    """
    looked_at = grid.isfinite().cpu()
    ranks = torch.where(looked_at, order, -torch.inf).flatten(1).argsort(dim=1, descending=True, stable=True)
    ranks = ranks.argsort(dim=1).view(grid.shape)  # (B, h, w), from 0
    count = (share * looked_at.sum(dim=(1, 2))).round().clamp(min=1)  # (B,)
    gone = ranks < count[:, None, None]
    gone = gone.repeat_interleave(patch_size, dim=-2).repeat_interleave(patch_size, dim=-1)
    gone = gone[:, None, : pixel_values.shape[-2], : pixel_values.shape[-1]]  # (B, 1, H, W)
    return torch.where(gone.to(pixel_values.device), fill, pixel_values)


__all__ = ["DeletionCurves", "deletion_test", "without"]
