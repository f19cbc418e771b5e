"""A detector's network in PyTorch as a function of preprocessed images to log-odds: whole, or with autocast.

>>> from mirage_hf.detector_loading import load_detector
>>> margins = TorchMargins(load_detector("benchmarks/minibench/mirage-tiny"), "cpu")
>>> margins(pixel_values)
array([-4.81])
"""

from contextlib import nullcontext

import numpy as np
import torch
from torch import nn

from .detector_loading import LoadedDetector
from .modeling_mirage import MiraGeForImageDetection
from .packed_linear import can_pack, pack_linears
from .vision_inference import VisionInference

DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


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


__all__ = ["DTYPES", "ModelLogits", "TorchMargins", "model_logits"]
