"""Whether an exported model answers as the model in PyTorch does, on the same images, in batches of several sizes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from .detector_loading import LoadedDetector

TOLERANCE = 1e-4
BATCH_SIZES = (1, 3, 8)  # in turns


@dataclass(frozen=True)
class Comparison:
    """
    An exported model beside the one in PyTorch.

    Args:
        images (`int`):
            Images compared.
        batch_sizes (`list[int]`):
            Batch sizes they were compared in.
        max_difference_p_fake, max_difference_logits (`float`):
            Largest differences, of the probability before any calibration.
        max_logit (`float`):
            Largest logit in PyTorch, in absolute value.
    """

    images: int
    batch_sizes: list[int]
    max_difference_p_fake: float
    max_difference_logits: float
    max_logit: float


def synthetic_images(side: int, count: int = 12) -> list[Image.Image]:
    """Noise on gradients, in sizes from half to twice `side` and in several shapes; always the same."""
    random = np.random.default_rng(0)
    images = []
    for _ in range(count):
        height, width = random.integers(max(side // 2, 16), 2 * side + 16, size=2)
        ramp = np.linspace(0, 1, height)[:, None, None] * random.uniform(0, 255, 3)  # (H, 1, 3)
        noise = random.normal(0, random.uniform(0, 80), (height, width, 3))
        images.append(Image.fromarray(np.clip(ramp + noise, 0, 255).astype(np.uint8)))
    return images


def compare(
    loaded: LoadedDetector,
    exported: Callable[[np.ndarray], np.ndarray],
    images: Sequence[Image.Image],
    file: str,
) -> Comparison:
    """
    Compares an exported model with the model in PyTorch.

    Args:
        loaded ([`LoadedDetector`]):
            The model in PyTorch, with its image processor.
        exported (`Callable[[np.ndarray], np.ndarray]`):
            `pixel_values` of shape `(B, 3, H, W)` to logits of shape `(B, 2)`: real, fake.
        images (`Sequence[PIL.Image.Image]`):
            RGB images.
        file (`str`):
            What the message calls the exported model.

    Raises:
        ValueError: there are no images, or the two differ by more than 1e-4 in the probability of fake, or by more
            than that share of the largest logit (of 1, if it is smaller), which also tells where all probabilities are
            0 or 1.
    """
    if not images:
        raise ValueError(f"there are no images to compare {file} on")
    pixel_values = torch.stack([loaded.transform(image) for image in images])  # (N, 3, H, W)
    ours: list[torch.Tensor] = []
    theirs: list[torch.Tensor] = []
    start = 0
    while start < len(images):
        batch = pixel_values[start : start + BATCH_SIZES[len(ours) % len(BATCH_SIZES)]]
        with torch.inference_mode():
            ours.append(loaded.model(pixel_values=batch).logits.double())
            theirs.append(torch.from_numpy(exported(batch.numpy())).double())
        start += len(batch)
    logits, answers = torch.cat(ours), torch.cat(theirs)  # (N, 2)
    of_logits = (logits - answers).abs().max().item()
    of_p_fake = (logits.softmax(dim=-1) - answers.softmax(dim=-1)).abs().max().item()
    largest = logits.abs().max().item()
    if not (of_p_fake <= TOLERANCE and of_logits <= TOLERANCE * max(1.0, largest)):  # NaN fails too
        raise ValueError(
            f"{file} was not written: it differs from {loaded.name} in PyTorch by {of_p_fake:.1e} in the probability "
            f"of fake and by {of_logits:.1e} in the logits, more than {TOLERANCE:g}"
        )
    return Comparison(len(images), sorted({len(part) for part in ours}), of_p_fake, of_logits, largest)


__all__ = ["Comparison", "compare", "synthetic_images"]
