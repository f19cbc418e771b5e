"""The image processor's arithmetic without its detours: the same pixels, to the bit, in a fraction of the time.

transformers' PIL backend goes from PIL to NumPy, back to PIL for resizing, to NumPy again, and rescales in float64.
Here a picture is resized by [`resize_levels`] where that may be done, by Pillow elsewhere; rescaling and normalising
an 8-bit level is a table of 256 entries.
"""

import numpy as np
import torch
from PIL import Image
from transformers import BaseImageProcessor, PilBackend

from .exact_resize import can_resize, resize_levels
from .image_processing import EvalTransform, normalisation_table, normalise_to_tensor


def evaluation_transform(processor: BaseImageProcessor) -> "EvalTransform | FusedTransform":
    """
    The fastest transform that gives exactly what a processor gives.

    Args:
        processor ([`~transformers.BaseImageProcessor`]):
            Any image processor that returns `pixel_values`.

    Returns:
        [`FusedTransform`] for processors of the PIL backend that do nothing but resize, crop, rescale and normalise;
        [`EvalTransform`] for all others.
    """
    return FusedTransform(processor) if _is_plain(processor) else EvalTransform(processor)


def _is_plain(processor: BaseImageProcessor) -> bool:
    if not isinstance(processor, PilBackend):
        return False
    # A subclass may add steps of its own; CLIP's and ViT's only set defaults.
    steps = ("_preprocess", "process_image", "resize", "center_crop", "rescale", "normalize", "convert_to_rgb")
    if any(getattr(type(processor), step) is not getattr(PilBackend, step) for step in steps):
        return False
    size, resample = processor.size or {}, processor.resample
    sized = not processor.do_resize or size.get("shortest_edge") or (size.get("height") and size.get("width"))
    return (
        bool(sized)
        and not (size.get("shortest_edge") and size.get("longest_edge"))
        and resample is not None
        and not processor.do_pad
        and bool(processor.do_rescale and processor.do_normalize)
        and len(processor.image_mean) == 3
    )


class FusedTransform:
    """
    Turns one PIL image into `pixel_values` of shape `(3, H, W)`, float32, bit-equal to a PIL-backed processor's.

    Args:
        processor ([`~transformers.PilBackend`]):
            One that [`evaluation_transform`] accepts: resizes to a shortest edge or to a height and width, crops at
            the centre, rescales and normalises.
    """

    def __init__(self, processor: PilBackend):
        self.processor = processor
        size = processor.size if processor.do_resize else {}
        self.shortest_edge: int | None = size.get("shortest_edge")
        self.size: tuple[int, int] | None = None  # width, height
        if processor.do_resize and not self.shortest_edge:
            self.size = (size["width"], size["height"])
        crop = processor.crop_size if processor.do_center_crop else None
        self.crop = None if crop is None else (crop["width"], crop["height"])
        self.resample = Image.Resampling(processor.resample)
        self.table = normalisation_table(processor.image_mean, processor.image_std, processor.rescale_factor)
        self.highest = np.float32(1 / processor.rescale_factor)
        self.mean = np.asarray(processor.image_mean, np.float32)
        self.std = np.asarray(processor.image_std, np.float32)
        # Dividing by 255 gives the table's float32 values, all of them, and takes a third of the time of looking up.
        levels = np.tile(np.arange(256, dtype=np.float32), (1, 3, 1))
        self.divides = np.array_equal(self._divided(levels)[:, 0], self.table)

    def resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """`tuple[int, int]`: Width and height, before the crop, of an image of this width and height."""
        if self.size is not None or self.shortest_edge is None:
            return self.size or size
        short, long = sorted(size)
        new_long = int(self.shortest_edge * long / short)
        upright = size[0] <= size[1]
        return (self.shortest_edge, new_long) if upright else (new_long, self.shortest_edge)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        if image.mode != "RGB":
            image = image.convert("RGB")
        size = self.resized(image.size)
        box = (0, 0, *size)
        if self.crop is not None:
            left, top = (size[0] - self.crop[0]) // 2, (size[1] - self.crop[1]) // 2
            box = (left, top, left + self.crop[0], top + self.crop[1])
        if size != image.size:
            if can_resize(image.size, size, box, self.resample):
                return torch.from_numpy(self._normalised(resize_levels(image, size, box, self.resample)))
            image = image.resize(size, self.resample)
        # An image smaller than the crop gets black around it: Pillow fills what lies outside with zeros.
        return normalise_to_tensor(image.crop(box), self.table)

    def _normalised(self, levels: np.ndarray) -> np.ndarray:
        """The table's values for whole numbers of shape `(H, 3, W)`, float32: `(3, H, W)`."""
        if self.divides:
            return self._divided(levels)
        whole = levels.astype(np.intp)
        return np.stack([self.table[channel][whole[:, channel]] for channel in range(3)])

    def _divided(self, levels: np.ndarray) -> np.ndarray:
        values = np.empty((3, len(levels), levels.shape[2]), np.float32)
        for channel, value in enumerate(values):
            np.divide(levels[:, channel], self.highest, out=value)
            np.subtract(value, self.mean[channel], out=value)
            np.divide(value, self.std[channel], out=value)
        return values


__all__ = ["FusedTransform", "evaluation_transform"]
