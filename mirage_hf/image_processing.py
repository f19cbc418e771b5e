"""Image processors and transforms: from PIL images to the model's `pixel_values`.

Evaluation and the `pipeline` go through a transformers image processor. Training goes through an augmentation that
already yields the right size, then through the very same rescaling and normalisation.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from transformers import PilBackend
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling

from .image_io import as_rgb

PROCESSOR_GEOMETRIES = ("resize", "crop")


def build_image_processor(
    image_size: int = 224,
    geometry: str = "resize",
    image_mean: Sequence[float] = OPENAI_CLIP_MEAN,
    image_std: Sequence[float] = OPENAI_CLIP_STD,
) -> PilBackend:
    r"""
    CLIP's image processor on the PIL backend, whatever else is installed.

    The result is a plain [`~transformers.PilBackend`] with all of CLIP's settings, equal pixel for pixel to
    `CLIPImageProcessorPil`. It is not the latter because transformers (5.23) saves that class under the name
    `CLIPImageProcessor`, which `AutoImageProcessor` and `pipeline` resolve to the torchvision backend wherever
    torchvision is installed: the scores of a checkpoint would then depend on the machine. The name `PilBackend` is
    saved as it is and always resolves to PIL.

    Args:
        image_size (`int`, *optional*, defaults to 224):
            Height and width of the output in pixels.
        geometry (`str`, *optional*, defaults to `"resize"`):
            `"resize"`: shortest edge to `image_size` (bicubic), then the central square, as CLIP was trained.
            `"crop"`: the central square at native resolution, which keeps the traces of a generator that resampling
            erases; an image smaller than the square is centred on black (zeros before normalisation).
        image_mean (`Sequence[float]`, *optional*, defaults to CLIP's):
            Mean of each channel, on the scale from 0 to 1.
        image_std (`Sequence[float]`, *optional*, defaults to CLIP's):
            Standard deviation of each channel, on the scale from 0 to 1.

    Returns:
        [`~transformers.PilBackend`]: `processor(image, return_tensors="pt")["pixel_values"]` has shape `(1, 3, H, W)`.

    Raises:
        ValueError: an argument is out of range; the message names it.

    Example:

    ```python
    >>> from PIL import Image
    >>> from mirage_hf.image_processing import build_image_processor

    >>> processor = build_image_processor(image_size=224)
    >>> processor(Image.new("L", (500, 375)), return_tensors="pt")["pixel_values"].shape
    torch.Size([1, 3, 224, 224])
    ```"""
    if image_size < 1:
        raise ValueError(f"`image_size` must be at least 1, got {image_size!r}")
    if geometry not in PROCESSOR_GEOMETRIES:
        raise ValueError(f"`geometry` must be one of {PROCESSOR_GEOMETRIES}, got {geometry!r}")
    if len(image_mean) != 3:
        raise ValueError(f"`image_mean` must hold 3 numbers, got {image_mean!r}")
    if len(image_std) != 3 or min(image_std) <= 0:
        raise ValueError(f"`image_std` must hold 3 positive numbers, got {image_std!r}")
    return PilBackend(
        do_convert_rgb=True,
        do_resize=geometry == "resize",
        size={"shortest_edge": image_size},
        resample=PILImageResampling.BICUBIC,
        do_center_crop=True,
        crop_size={"height": image_size, "width": image_size},
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=list(image_mean),
        image_std=list(image_std),
    )


def derive_image_processor(
    name: str, image_size: int | None, geometry: str | None = None, revision: str | None = None
) -> PilBackend:
    """
    [`build_image_processor`] with the normalisation that a checkpoint's own processor states; CLIP's if it has none.

    Args:
        name (`str`):
            Folder or Hub id of a CLIP or MiraGe checkpoint.
        image_size (`int`, *optional*):
            Height and width of the output in pixels. `None` means the checkpoint's `crop_size`.
        geometry (`str`, *optional*):
            Defaults to the checkpoint's: `"crop"` if it says not to resize.
        revision (`str`, *optional*):
            Git revision, where it is a Hub repository.

    Raises:
        ValueError: `image_size` is `None` and the checkpoint states no `crop_size`.
    """
    try:
        stated, _ = PilBackend.get_image_processor_dict(name, revision=revision)
    except OSError:
        stated = {}
    if image_size is None:
        if "crop_size" not in stated:
            raise ValueError(f"{name} has no image processor with a `crop_size`; name the size of evaluation images.")
        image_size = stated["crop_size"]["height"]
    if geometry is None:
        geometry = "resize" if stated.get("do_resize", True) else "crop"
    normalisation = {key: stated[key] for key in ("image_mean", "image_std") if key in stated}
    return build_image_processor(image_size, geometry, **normalisation)


class EvalTransform:
    """
    Turns one PIL image into `pixel_values` of shape `(3, H, W)`, float32, through an image processor.

    Args:
        processor ([`~transformers.BaseImageProcessor`]):
            Any image processor that returns `pixel_values`.
    """

    def __init__(self, processor):
        self.processor = processor

    def __call__(self, image: Image.Image) -> torch.Tensor:
        return self.processor(image, return_tensors="pt")["pixel_values"][0]  # (3, H, W)


class TrainTransform:
    """
    Turns one PIL image into `pixel_values` of shape `(3, H, W)`, float32: an augmentation, then the processor's
    rescaling and normalisation (not its geometry, which belongs to the augmentation here).

    Args:
        processor ([`~transformers.BaseImageProcessor`]):
            Gives `crop_size`, `rescale_factor`, `image_mean` and `image_std`.
        augmentation (`Callable[[PIL.Image.Image], PIL.Image.Image]`):
            Such as [`TrainAugmentation`]; yields RGB images of the processor's crop size.
    """

    def __init__(self, processor, augmentation: Callable[[Image.Image], Image.Image]):
        self.augmentation = augmentation
        self.output_size = (processor.crop_size["width"], processor.crop_size["height"])
        self.table = normalisation_table(processor.image_mean, processor.image_std, processor.rescale_factor)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        image = self.augmentation(image)
        if image.size != self.output_size:
            raise ValueError(
                f"the augmentation gave an image of {image.size}, the processor's `crop_size` is {self.output_size}"
            )
        return normalise_to_tensor(image, self.table)


def normalisation_table(image_mean: Sequence[float], image_std: Sequence[float], rescale_factor: float) -> np.ndarray:
    """Normalised value of every 8-bit level in each channel, `(3, 256)` float32, bit-equal to transformers' steps."""
    levels = (np.arange(256, dtype=np.float64) * rescale_factor).astype(np.float32)
    mean = np.asarray(image_mean, dtype=np.float32)[:, None]  # (3, 1)
    std = np.asarray(image_std, dtype=np.float32)[:, None]
    return (levels - mean) / std  # (3, 256)


def normalise_to_tensor(image: Image.Image, table: np.ndarray) -> torch.Tensor:
    """
    Rescale and normalise an image without touching its geometry.

    Args:
        image (`PIL.Image.Image`):
            The image; converted to RGB as at evaluation.
        table (`np.ndarray` of shape `(3, 256)`):
            From [`normalisation_table`].

    Returns:
        `torch.Tensor` of shape `(3, H, W)`, float32.
    """
    pixels = np.asarray(as_rgb(image))  # (H, W, 3)
    values = np.empty((3, *pixels.shape[:2]), dtype=np.float32)
    for channel in range(3):
        np.take(table[channel], pixels[:, :, channel], out=values[channel], mode="clip")
    return torch.from_numpy(values)  # (3, H, W)
