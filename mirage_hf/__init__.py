"""MiraGe for Hugging Face: detect AI-generated images with deep prompts in a frozen CLIP.

Importing the package registers the model and the baselines with transformers, so `AutoModel.from_pretrained` and
`pipeline("image-classification")` load their checkpoints.
"""

from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from .baseline_config import BaselineConfig
from .baseline_models import BaselineForImageDetection
from .configuration_mirage import MiraGeConfig
from .detection import Detection
from .detector import Detector
from .modeling_mirage import MiraGeForImageDetection
from .version import __version__

AutoConfig.register("mirage", MiraGeConfig)
AutoModel.register(MiraGeConfig, MiraGeForImageDetection)
AutoModelForImageClassification.register(MiraGeConfig, MiraGeForImageDetection)

AutoConfig.register("mirage-baseline", BaselineConfig)
AutoModel.register(BaselineConfig, BaselineForImageDetection)
AutoModelForImageClassification.register(BaselineConfig, BaselineForImageDetection)

__all__ = [
    "BaselineConfig",
    "BaselineForImageDetection",
    "Detection",
    "Detector",
    "MiraGeConfig",
    "MiraGeForImageDetection",
    "__version__",
]
