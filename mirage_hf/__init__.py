"""MiraGe for Hugging Face: detect AI-generated images with deep prompts in a frozen CLIP.

Importing the package registers the model with transformers, so `AutoModel.from_pretrained` and
`pipeline("image-classification")` load its checkpoints.
"""

from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from .configuration_mirage import MiraGeConfig
from .modeling_mirage import MiraGeForImageDetection
from .version import __version__

AutoConfig.register("mirage", MiraGeConfig)
AutoModel.register(MiraGeConfig, MiraGeForImageDetection)
AutoModelForImageClassification.register(MiraGeConfig, MiraGeForImageDetection)

__all__ = ["MiraGeConfig", "MiraGeForImageDetection", "__version__"]
