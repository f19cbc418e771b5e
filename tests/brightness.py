"""A detector whose scores are a known function of the image, and trees of flat images for it."""

from pathlib import Path

import torch
from PIL import Image
from transformers import PreTrainedConfig
from transformers.modeling_outputs import ImageClassifierOutput

from mirage_hf.detector_loading import LoadedDetector
from mirage_hf.image_processing import EvalTransform, build_image_processor

SIZE = 16


class BrightnessConfig(PreTrainedConfig):
    model_type = "brightness"


class Brightness(torch.nn.Module):
    """P(fake) is the sigmoid of the image's mean level, centred, less a bias: without one above 0.5 from level 128."""

    def __init__(self, bias: float = 0.0):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(8.0))
        self.bias = bias
        self.images = 0

    def forward(self, pixel_values: torch.Tensor) -> ImageClassifierOutput:
        self.images += len(pixel_values)
        level = self.scale * (pixel_values.mean(dim=(1, 2, 3)) - 0.5) - self.bias
        return ImageClassifierOutput(logits=torch.stack([-level / 2, level / 2], dim=1))


def brightness_detector(threshold: float | None = None, bias: float = 0.0) -> LoadedDetector:
    """A fresh one; `model.images` counts what it was given."""
    transform = EvalTransform(build_image_processor(SIZE, image_mean=(0, 0, 0), image_std=(1, 1, 1)))
    return LoadedDetector(
        Brightness(bias), transform, "brightness", BrightnessConfig(), threshold, f"bias {bias}", False
    )


def write_levels(root: Path, folders: dict[str, list[int]], suffix: str = ".png") -> Path:
    """Writes flat gray images, one for each level of each folder, named by their number."""
    for folder, levels in folders.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number, level in enumerate(levels):
            Image.new("RGB", (20, 20), (level,) * 3).save(root / folder / f"{number}{suffix}")
    return root
