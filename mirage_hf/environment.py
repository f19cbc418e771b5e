"""What a result was made with: versions of libraries, and the device by its name."""

import PIL
import torch
import transformers

from .version import __version__


def versions() -> dict[str, str]:
    """Versions of the package and of what decodes and computes for it."""
    found = {"torch": torch, "transformers": transformers, "pillow": PIL}
    return {"mirage_hf": __version__, **{name: str(module.__version__) for name, module in found.items()}}


def device_name(device: str | torch.device) -> str:
    """The GPU's own name, or `cpu` and the like."""
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


__all__ = ["device_name", "versions"]
