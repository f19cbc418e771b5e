"""What a result was made with: versions of libraries, and the device by its name."""

import platform
from pathlib import Path

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


def processor_name() -> str:
    """The processor's model name where Linux tells it; else what Python knows of it, at least its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


__all__ = ["device_name", "processor_name", "versions"]
