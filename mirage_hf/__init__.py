"""MiraGe for Hugging Face: detect AI-generated images with deep prompts in a frozen CLIP.

Importing the package registers the model and the baselines with transformers, so `AutoModel.from_pretrained` and
`pipeline("image-classification")` load their checkpoints. It imports neither transformers nor PyTorch: the classes are
imported when they are used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .registration import register
from .version import __version__

if TYPE_CHECKING:
    from .baseline_config import BaselineConfig
    from .baseline_models import BaselineForImageDetection
    from .configuration_mirage import MiraGeConfig
    from .detection import Detection
    from .detector import Detector
    from .modeling_mirage import MiraGeForImageDetection

_MODULES = {
    "BaselineConfig": "baseline_config",
    "BaselineForImageDetection": "baseline_models",
    "Detection": "detection",
    "Detector": "detector",
    "MiraGeConfig": "configuration_mirage",
    "MiraGeForImageDetection": "modeling_mirage",
}

__all__ = [
    "BaselineConfig",
    "BaselineForImageDetection",
    "Detection",
    "Detector",
    "MiraGeConfig",
    "MiraGeForImageDetection",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value  # found at once from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register()
