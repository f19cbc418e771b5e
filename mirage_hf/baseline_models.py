"""The baselines that are no setting of MiraGe itself, as one model class; [`BASELINES`] says what each of them is."""

import math
import os
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForImageClassification, CLIPModel
from transformers import initialization as init

from .baseline_config import BaselineConfig
from .baseline_loading import BaselinePreTrainedModel
from .modeling_mirage import MiraGeOutput, cut_tiles

NPR_SCALE = 2 / 3  # of the residual, in NPR's code


def upsampling_residual(pixel_values: torch.Tensor) -> torch.Tensor:
    """
    x − up(down(x)) of nearest neighbours at a factor of 2: each pixel less the upper left one of its 2 x 2 block, the
    trace of upsampling layers that NPR looks at (https://arxiv.org/abs/2312.10461).

    Args:
        pixel_values (`torch.Tensor` of shape `(B, C, H, W)`):
            Images; the result has their shape.
    """
    height, width = pixel_values.shape[-2:]
    repeated = F.interpolate(pixel_values[..., ::2, ::2], scale_factor=2, mode="nearest")
    return pixel_values - repeated[..., :height, :width]


class FeatureAdapter(nn.Module):
    """
    CLIP-Adapter's bottleneck (https://arxiv.org/abs/2110.04544): (1 − ratio) · x + ratio · relu(relu(x A) B).

    Args:
        width (`int`):
            D, the width of the image features x, of shape `(N, D)`.
        reduction (`int`):
            D over the width of the bottleneck.
        ratio (`float`):
            Share of the bottleneck's output.
    """

    def __init__(self, width: int, reduction: int, ratio: float):
        super().__init__()
        self.ratio = ratio
        self.down = nn.Linear(width, width // reduction, bias=False)
        self.up = nn.Linear(width // reduction, width, bias=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        adapted = self.up(self.down(features).relu()).relu()
        return self.ratio * adapted + (1 - self.ratio) * features


class BaselineForImageDetection(BaselinePreTrainedModel):
    """
    A baseline as a two-class image classifier: 0 = real, 1 = fake. Takes and returns what [`MiraGeForImageDetection`]
    does, so that trainer, evaluation and `pipeline` serve both.

    Only what the method trains is trainable, however the model was made. Checkpoints hold the whole model.

    Args:
        config ([`BaselineConfig`]):
            The method and its backbone. The weights are random: see [`from_clip`], [`from_classifier`] and
            `from_pretrained` for real ones.
    """

    def __init__(self, config: BaselineConfig):
        super().__init__(config)
        backbone: Any = config.backbone_config
        if config.baseline.family == "classifier":
            backbone.num_labels = 2
            self.classifier = AutoModelForImageClassification.from_config(backbone)
            if config.method == "npr":  # its stem; that of transformers has 7 x 7
                stem = self.classifier.resnet.embedder.embedder
                stem.convolution = nn.Conv2d(3, backbone.embedding_size, 3, stride=2, padding=1, bias=False)
        else:
            for part in (backbone.text_config, backbone.vision_config):
                part.dtype = torch.get_default_dtype()  # CLIP builds an encoder in the type its configuration names
            self.clip = CLIPModel(backbone)
            if config.baseline.class_texts:
                self.class_input_ids = nn.Buffer(torch.tensor(config.class_input_ids), persistent=False)  # (2, T)
            else:
                self.clip.text_model, self.clip.text_projection = None, None
            if config.method == "linear_probe":
                self.head = nn.Linear(backbone.projection_dim, 1)
            if config.method == "adapter":
                self.adapter = FeatureAdapter(backbone.projection_dim, config.adapter_reduction, config.adapter_ratio)
        self.post_init()
        self.freeze()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Linear) and self.config.method == "adapter":  # those of CLIP are its own class's
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))  # torch's default, as in CLIP-Adapter's code
        elif isinstance(module, BaselineForImageDetection) and self.config.baseline.class_texts:
            # Built on the meta device, a non-persistent buffer holds whatever was in memory.
            init.copy_(module.class_input_ids, torch.tensor(self.config.class_input_ids))

    # ------------------------------------------------------------------------------------------------- forward pass

    def _features(self, tiles: torch.Tensor) -> torch.Tensor:
        """Image features in float32, (B, T, 3, S, S) to (B, T, D)."""
        features = self.clip.get_image_features(tiles.flatten(0, 1)).pooler_output.float()
        return features.unflatten(0, tiles.shape[:2])

    def _class_texts(self, tiles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        features = self._features(tiles)
        if self.config.method == "adapter":
            features = self.adapter(features)
        image_embeds = F.normalize(F.normalize(features.float(), dim=-1).mean(dim=1), dim=-1)  # (B, D)
        text_embeds = self.clip.get_text_features(self.class_input_ids).pooler_output  # (2, D)
        text_embeds = F.normalize(text_embeds.float(), dim=-1)
        # A product of elements, not a matrix product: autocast would compute the latter in half precision.
        cosine = (image_embeds[:, None] * text_embeds[None]).sum(dim=-1)  # (B, 2)
        return self.clip.logit_scale.float().exp() * cosine, image_embeds, text_embeds

    def _linear_probe(self, tiles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self._features(tiles).mean(dim=1)  # (B, D); the head is linear: the mean of the tiles' log-odds
        log_odds = self.head(features).float()  # (B, 1)
        return torch.cat([torch.zeros_like(log_odds), log_odds], dim=1), F.normalize(features, dim=-1)

    def _classify(self, tiles: torch.Tensor) -> torch.Tensor:
        pixel_values = tiles.flatten(0, 1)
        if self.config.method == "npr":
            pixel_values = NPR_SCALE * upsampling_residual(pixel_values)
        logits = self.classifier(pixel_values).logits.float()  # (B * T, 2)
        return logits.unflatten(0, tiles.shape[:2]).mean(dim=1)

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        return_embeds: bool = False,
        return_dict: bool | None = None,
    ) -> MiraGeOutput | tuple:
        """
        Args:
            pixel_values (`torch.Tensor` of shape `(B, 3, H, W)`):
                Normalised images at `config.image_size`, or larger with `config.tile_images`.
            labels (`torch.Tensor` of shape `(B,)`, *optional*):
                0 = real, 1 = fake. With them the output holds the cross-entropy.
            return_embeds (`bool`, *optional*, defaults to `False`):
                Whether to return unit-norm image embeddings, which methods on CLIP have, and text anchors, which
                those with class texts have.
            return_dict (`bool`, *optional*, defaults to `config.return_dict`):
                Whether to return a [`MiraGeOutput`] instead of a tuple.
        """
        side = self.config.image_size
        tiled = self.config.tile_images and tuple(pixel_values.shape[-2:]) != (side, side)
        tiles = cut_tiles(pixel_values, side) if tiled else pixel_values[:, None]  # (B, T, 3, S, S)
        image_embeds, text_embeds = None, None
        if self.config.baseline.class_texts:
            logits, image_embeds, text_embeds = self._class_texts(tiles)
        elif self.config.baseline.family == "clip":
            logits, image_embeds = self._linear_probe(tiles)
        else:
            logits = self._classify(tiles)
        output = MiraGeOutput(
            loss=None if labels is None else F.cross_entropy(logits, labels),
            logits=logits,
            image_embeds=image_embeds if return_embeds else None,
            text_embeds=text_embeds if return_embeds else None,
        )
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()


def load_univfd_head(model: BaselineForImageDetection, path: str | os.PathLike) -> None:
    """
    Gives a linear probe UnivFD's published last layer, which belongs to CLIP ViT-L/14.

    Args:
        model ([`BaselineForImageDetection`]):
            A `"linear_probe"`.
        path (`str` or `os.PathLike`):
            A safetensors file with `weight` of shape `(1, D)` and `bias` of shape `(1,)`. UnivFD publishes a pickle,
            fc_weights.pth, which can run code when it is loaded.

    Raises:
        `ValueError`: If the file is no safetensors file, holds something else, or the model is no linear probe.
    """
    if model.config.method != "linear_probe":
        raise ValueError(f"a linear probe takes UnivFD's layer, this model is a {model.config.method}")
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is no safetensors file; convert it with "
            '`safetensors.torch.save_file(torch.load(path, weights_only=True), "head.safetensors")`'
        ) from error
    expected = {name: tuple(value.shape) for name, value in model.head.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    if found != expected:
        raise ValueError(f"{path} holds {found}, the linear probe needs {expected}")
    model.head.load_state_dict(weights)


__all__ = ["BaselineForImageDetection", "load_univfd_head", "upsampling_residual"]
