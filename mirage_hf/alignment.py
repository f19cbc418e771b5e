"""Format alignment: every image through one size and one JPEG encoder, so that a file's format tells nothing.

In GenImage the fakes are PNG files of fixed sizes and the photographs JPEG files, mostly of quality 96, of many sizes;
detectors learn that instead of the traces of generators (Grommelt et al., 2024, "Fake or JPEG?"). Their remedy,
UnbiasedGenImage, saves the fakes as JPEG of quality 96 too and keeps images of 450 to 550 pixels. Here every image of
a test is treated alike, whatever it was; scores on this aligned view stand beside the raw ones.

Alignment makes the headers equal. It does not undo what a former compression or resizing did to the pixels: that shows
in how well the image compresses once more, so in the byte count of the aligned file, the one thing about it that
[`~mirage_hf.metadata_null.read_metadata`] still sees vary. The byte count is kept among its features for that reason.
How much it tells, measured where the content of "reals" and "fakes" is drawn alike, the former saved as JPEG of
quality 75 to 95 and of 307 to 479 pixels, the latter as PNG of 384 (`biased_files(2000, 384, seed=21)` of
`tests/test_alignment.py`; balanced accuracy of the metadata-only null in percent, of which two points either way are
chance; 100 before alignment):

| quality              | 75   | 80   | 85   | 90   | 93   | 96   |
|---|--:|--:|--:|--:|--:|--:|
| `"resize"`, size 256 | 51.8 | 50.8 | 53.6 | 54.3 | 59.5 | 80.2 |
| `"crop"`, size 256   | 54.6 | 54.3 | 56.4 | 59.7 | 68.1 | 88.2 |

A high quality keeps the history, and so does a crop at native resolution, whose blocks the former compression has
already emptied; hence the defaults, `"resize"` and 80. On a set where content or generator differ between the classes,
the byte count also tells how smooth the pictures are, which is no fault of their format.
"""

import io
from dataclasses import dataclass

from PIL import Image

from .augmentations import native_center_crop, resize_and_center_crop
from .image_io import load_rgb

ALIGNMENT_GEOMETRIES = ("resize", "crop")
# The largest edge of a JPEG file as libjpeg writes it.
MAX_EDGE = 65_500


@dataclass(frozen=True)
class FormatAlignment:
    r"""
    Gives every image the same size and encodes it as JPEG with the same tables, at chroma sampling 4:2:0, without
    metadata.

    Args:
        size (`int`, *optional*, defaults to 256):
            Height and width of the aligned image in pixels.
        geometry (`str`, *optional*, defaults to `"resize"`):
            `"resize"`: shorter edge to `size` (bicubic, with antialiasing), then the central square. `"crop"`: the
            central square at native resolution, borders reflected where the image is smaller; this keeps traces that
            resampling erases, those of a former compression among them.
        quality (`int`, *optional*, defaults to 80):
            Of the JPEG encoder, 1 to 100. UnbiasedGenImage's is 96, at which the byte count betrays images that were
            compressed more strongly before (table above).

    Raises:
        ValueError: a field is out of range; the message names it.

    Example:

    ```python
    >>> from PIL import Image
    >>> from mirage_hf.alignment import FormatAlignment

    >>> FormatAlignment()(Image.new("RGB", (500, 375))).size
    (256, 256)
    ```"""

    size: int = 256
    geometry: str = "resize"
    quality: int = 80

    def __post_init__(self):
        for name, value, highest in (("size", self.size, MAX_EDGE), ("quality", self.quality, 100)):
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= highest:
                raise ValueError(f"`{name}` must be a whole number from 1 to {highest}, got {value!r}")
        if self.geometry not in ALIGNMENT_GEOMETRIES:
            raise ValueError(f"`geometry` must be one of {ALIGNMENT_GEOMETRIES}, got {self.geometry!r}")

    def encode(self, image: Image.Image) -> bytes:
        """The aligned image as a JPEG file."""
        image = load_rgb(image)
        if self.geometry == "resize":
            image = resize_and_center_crop(image, self.size)
        else:
            image = native_center_crop(image, self.size)
        # A new image: Pillow's JPEG encoder writes the comment that it finds in `image.info`.
        plain = Image.frombytes("RGB", image.size, image.tobytes())
        data = io.BytesIO()
        plain.save(data, format="JPEG", quality=self.quality, subsampling="4:2:0")
        return data.getvalue()

    def __call__(self, image: Image.Image) -> Image.Image:
        """The aligned image as a detector reads it: encoded and decoded again, RGB."""
        return load_rgb(self.encode(image))
