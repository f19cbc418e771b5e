"""A detector's network in PyTorch: preprocessed images to log-odds, in float32, half precision or int8.

>>> from mirage_hf.detector_loading import load_detector
>>> margins = TorchMargins(load_detector("benchmarks/minibench/mirage-tiny"), "cpu")
>>> margins(pixel_values)
array([-4.81])
"""

import warnings
from contextlib import nullcontext

import numpy as np
import torch
from torch import nn

from .detector_loading import LoadedDetector
from .modeling_mirage import MiraGeForImageDetection
from .packed_linear import can_pack, pack_linears
from .reading import one_line
from .vision_inference import VisionInference

DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
INT8 = "int8"


class TorchMargins:
    """
    Log-odds of fake by a model in PyTorch.

    Args:
        loaded ([`LoadedDetector`]): The model, which is moved to the device.
        device (`str` or `torch.device`, *optional*): The GPU if there is one.
        dtype (`str`, *optional*, defaults to `"float32"`): `"float32"`, or autocast to `"bfloat16"` or `"float16"`.
    """

    def __init__(self, loaded: LoadedDetector, device: str | torch.device | None = None, dtype: str = "float32"):
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model, self.dtype = loaded.model.to(self.device).eval(), DTYPES[dtype]
        self.logits = model_logits(self.model)
        # Of the model itself nothing may be replaced: it is explained, too.
        if (
            isinstance(self.logits, VisionInference)
            and self.device.type == "cpu"
            and self.dtype is None
            and can_pack()
        ):
            pack_linears(self.logits.layers)

    def __call__(self, pixel_values: torch.Tensor) -> np.ndarray:
        """`pixel_values` of shape `(B, 3, H, W)` to float64 of shape `(B,)`."""
        autocast = nullcontext() if self.dtype is None else torch.autocast(self.device.type, dtype=self.dtype)
        with torch.inference_mode(), autocast:
            logits = self.logits(pixel_values.to(self.device))  # (B, 2)
        real, fake = logits.double().unbind(dim=-1)
        return (fake - real).cpu().numpy()


class Int8Margins:
    """
    Log-odds of fake by a model in PyTorch on the CPU whose linear layers multiply 8-bit integers.

    Weights are rounded once, activations as they come. Those of a batch would share a scale, and an image's score
    depend on the images beside it: images go through one by one.

    Args:
        loaded ([`LoadedDetector`]): The model, of which a copy is quantised.

    Raises:
        ValueError: this build of PyTorch or the model can't be quantised so.
    """

    def __init__(self, loaded: LoadedDetector):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it is to move to another package, which does not install everywhere
                from torch.ao.quantization import quantize_dynamic

                network = model_logits(loaded.model.cpu().eval())
                self.logits = quantize_dynamic(network, {nn.Linear}, dtype=torch.qint8)
        except Exception as error:  # without its kernels, a RuntimeError; in a version to come, an ImportError
            raise ValueError(f"PyTorch can't turn {loaded.name} into int8: {one_line(error)[:200]}") from error

    def __call__(self, pixel_values: torch.Tensor) -> np.ndarray:
        """`pixel_values` of shape `(B, 3, H, W)` to float64 of shape `(B,)`."""
        with torch.inference_mode():
            logits = torch.cat([self.logits(image[None]) for image in pixel_values.cpu()])  # (B, 2)
        real, fake = logits.double().unbind(dim=-1)
        return (fake - real).numpy()


def torch_margins(
    loaded: LoadedDetector, device: str | torch.device | None = None, dtype: str = "float32"
) -> TorchMargins | Int8Margins:
    """
    The model in PyTorch.

    Args:
        loaded, device: As in [`TorchMargins`].
        dtype (`str`, *optional*, defaults to `"float32"`): As there, or `"int8"`.

    Raises:
        ValueError: int8 isn't to be had here.
    """
    if dtype != INT8:
        return TorchMargins(loaded, device, dtype)
    if device is not None and torch.device(device).type != "cpu":
        raise ValueError(f"`dtype` int8 runs on the CPU, not on {device}")
    return Int8Margins(loaded)


class ModelLogits(nn.Module):
    """Any classifier as a function of one tensor to one tensor."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """`(B, 3, H, W)` to `(B, 2)`: real, fake."""
        return self.model(pixel_values=pixel_values).logits


def model_logits(model: nn.Module) -> nn.Module:
    """`pixel_values` of shape `(B, 3, H, W)` to logits `(B, 2)`: without needless work where the model is MiraGe."""
    return VisionInference(model) if isinstance(model, MiraGeForImageDetection) else ModelLogits(model)


__all__ = ["DTYPES", "INT8", "Int8Margins", "ModelLogits", "TorchMargins", "model_logits", "torch_margins"]
