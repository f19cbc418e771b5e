"""Configuration of the baselines that are no setting of MiraGe itself; see [`BASELINES`]."""

from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .baselines import BASELINES, Baseline
from .calibration import Calibration
from .configuration_mirage import MiraGeConfig

OWN_MODELS = tuple(name for name, baseline in BASELINES.items() if baseline.family != "prompts")


class BaselineConfig(PreTrainedConfig):
    r"""
    Configuration of [`BaselineForImageDetection`].

    Args:
        method (`str`, *optional*, defaults to `"zero_shot"`):
            Name of a [`Baseline`] of the families `"clip"` and `"classifier"`.
        backbone_config (`PreTrainedConfig` or `dict` with `model_type`, *optional*):
            The backbone's own configuration. Defaults to CLIP ViT-B/32's.
        image_size (`int`, *optional*):
            Height and width of `pixel_values`. Defaults to what the backbone's configuration says, to 224 for a
            ResNet, which takes any size.
        template, class_names, class_input_ids (*optional*):
            Texts of the classes, as in [`MiraGeConfig`]; read by methods whose classifier they are.
        adapter_ratio (`float`, *optional*, defaults to 0.2):
            Share of the adapter's output in the image features (`"adapter"`).
        adapter_reduction (`int`, *optional*, defaults to 4):
            Width of the image features over that of the adapter's bottleneck (`"adapter"`).
        threshold (`float`, *optional*, defaults to 0.5):
            Probability above which an image is to be called fake; training can set it on validation images.
        calibration (`dict`, *optional*):
            What `mirage-hf calibrate` learned, see [`Calibration`].
        tile_images (`bool`, *optional*, defaults to `False`):
            Accept `pixel_values` larger than `image_size`: they are cut into tiles of that size, as by
            [`MiraGeConfig`]. With class texts the image's embedding is the unit-norm mean of its tiles'; the other
            methods average the tiles' log-odds.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the initial weights of the linear probe, as in UnivFD's code.

    Raises:
        `ValueError`: If a field is out of range or contradicts the method; the message names the field.
    """

    model_type = "mirage-baseline"
    sub_configs_defaults = {"backbone_config": SubConfigSpec(config_class=AutoConfig, model_type="clip")}
    keys_to_ignore_at_inference = ["image_embeds", "text_embeds"]

    # The fields typed without their default `None` hold a value once `__post_init__` has run.
    id2label: dict[int, str] = None  # type: ignore[assignment]
    method: str = "zero_shot"
    backbone_config: dict | PreTrainedConfig | None = None
    image_size: int = None  # type: ignore[assignment]
    template: str = MiraGeConfig.template
    class_names: list[str] | tuple[str, ...] = MiraGeConfig.class_names
    class_input_ids: list[list[int]] | None = None
    adapter_ratio: float = 0.2
    adapter_reduction: int = 4
    threshold: float = 0.5
    calibration: dict | None = None
    tile_images: bool = False
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        self.id2label = {0: "real", 1: "fake"} if self.id2label is None else self.id2label
        self.label2id = {name: int(index) for index, name in self.id2label.items()}
        self.class_names = list(self.class_names)
        super().__post_init__(**kwargs)
        if self.method not in OWN_MODELS:
            raise ValueError(f"`method` must be one of {', '.join(OWN_MODELS)}, got {self.method!r}.")
        backbone: Any = self.backbone_config
        if backbone.model_type != self.baseline.backbone["model_type"]:
            raise ValueError(
                f"`backbone_config` of method {self.method} must be that of a "
                f"{self.baseline.backbone['model_type']} model, got {backbone.model_type}."
            )
        if self.image_size is None:
            sized = backbone.vision_config if backbone.model_type == "clip" else backbone
            self.image_size = 224 if backbone.model_type == "resnet" else sized.image_size
        self._check()

    @property
    def baseline(self) -> Baseline:
        """[`Baseline`]: The entry of the method."""
        return BASELINES[self.method]

    def _check(self):
        if set(self.id2label) != {0, 1}:
            raise ValueError(f"`id2label` must name the classes 0 (real) and 1 (fake), got {self.id2label}.")
        if isinstance(self.threshold, bool) or not 0 <= self.threshold <= 1:
            raise ValueError(f"`threshold` must lie in [0, 1], got {self.threshold}.")
        if self.calibration is not None:
            Calibration.from_dict(self.calibration)
        if not isinstance(self.tile_images, bool):
            raise ValueError(f"`tile_images` must be true or false, got {self.tile_images!r}.")
        if not 0 <= self.adapter_ratio <= 1:
            raise ValueError(f"`adapter_ratio` must lie in [0, 1], got {self.adapter_ratio}.")
        if self.adapter_reduction < 1:
            raise ValueError(f"`adapter_reduction` must be at least 1, got {self.adapter_reduction}.")
        if self.baseline.class_texts:  # texts are checked as MiraGe's are
            self.class_input_ids = MiraGeConfig(
                clip_config=self.backbone_config,
                prompt_modality="vision",
                template=self.template,
                class_names=self.class_names,
                class_input_ids=self.class_input_ids,
            ).class_input_ids


__all__ = ["OWN_MODELS", "BaselineConfig"]
