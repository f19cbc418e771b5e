"""MiraGe: a frozen CLIP with learnable deep prompts in both encoders, deciding between real and AI-generated images.

Paper: "MiraGe: Multimodal Discriminative Representation Learning for Generalizable AI-Generated Image Detection",
ACM MM 2025, https://arxiv.org/abs/2508.01525. The contrastive term and the memory bank are the trainer's.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .class_prompts import tokenize_class_prompts
from .configuration_mirage import MiraGeConfig
from .lean_layers import can_be_lean, encode_by_parts
from .pretrained_mirage import MiraGePreTrainedModel
from .prompt_learner import PROMPTS_KWARG, PromptLearner, attach_prompt_injectors, check_prompt_injectors


@dataclass
class MiraGeOutput(ModelOutput):
    """
    Output of [`MiraGeForImageDetection`].

    Args:
        loss (`torch.Tensor` of shape `()`, *optional*, returned when `labels` is given):
            Cross-entropy (Eq. 7).
        logits (`torch.Tensor` of shape `(B, 2)`):
            exp(logit_scale) · cos(image, anchor) for real and for fake, in float32; their softmax is the probability.
        image_embeds (`torch.Tensor` of shape `(B, D)`, *optional*, returned when `return_embeds=True`):
            Unit-norm image embeddings.
        text_embeds (`torch.Tensor` of shape `(2, D)`, *optional*, returned when `return_embeds=True`):
            Unit-norm text anchors of real and fake.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None


def cut_tiles(pixel_values: torch.Tensor, side: int) -> torch.Tensor:
    """
    As few evenly spaced square tiles as cover the images, row by row; neighbours overlap if they have to.

    Args:
        pixel_values (`torch.Tensor` of shape `(B, C, H, W)`):
            Images with H and W of at least `side`.
        side (`int`):
            Height and width of a tile in pixels.

    Returns:
        `torch.Tensor` of shape `(B, N, C, side, side)`.

    Raises:
        `ValueError`: If the images are smaller than a tile.
    """
    height, width = pixel_values.shape[-2:]
    if min(height, width) < side:
        raise ValueError(f"`pixel_values` of {height} x {width} are smaller than the encoder's {side} x {side}.")
    starts = []
    for length in (height, width):
        count = math.ceil(length / side)
        starts.append([index * (length - side) // max(count - 1, 1) for index in range(count)])
    return torch.stack(
        [pixel_values[..., top : top + side, left : left + side] for top in starts[0] for left in starts[1]], dim=1
    )


def embed_by_tiles(
    pixel_values: torch.Tensor, side: int, embed: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """
    Embeddings of images of any size, each the normalised mean of its tiles'.

    Args:
        pixel_values (`torch.Tensor` of shape `(B, C, H, W)`):
            Images with H and W of at least `side`.
        side (`int`):
            Height and width of a tile in pixels.
        embed (`Callable`):
            Tiles of shape `(N, C, side, side)` to unit-norm embeddings `(N, D)`.

    Returns:
        `torch.Tensor` of shape `(B, D)`, unit-norm.

    Raises:
        `ValueError`: If the images are smaller than a tile.
    """
    if tuple(pixel_values.shape[-2:]) == (side, side):
        return embed(pixel_values)
    tiles = cut_tiles(pixel_values, side)  # (B, N, C, side, side)
    embeds = embed(tiles.flatten(0, 1)).unflatten(0, tiles.shape[:2])  # (B, N, D)
    return F.normalize(embeds.mean(dim=1), dim=-1)


class MiraGeForImageDetection(MiraGePreTrainedModel):
    """
    CLIP with MiraGe's prompts, as a two-class image classifier: 0 = real, 1 = fake.

    CLIP stays frozen however the model was made; only `prompt_learner` has trainable parameters.

    Args:
        config ([`MiraGeConfig`]):
            The backbone's configuration and the prompts' sizes. The weights are random: see [`from_clip`] and
            `from_pretrained` for real ones.

    Attributes:
        lean_vision (`bool`):
            Whether in training the vision encoder leaves out what nobody reads (see `lean_layers`), with the same
            results but for rounding, where it [`can_be_lean`]. Else CLIP's own layers run, with hooks, as they always
            do in evaluation.
    """

    lean_vision = False

    def __init__(self, config: MiraGeConfig):
        super().__init__(config)
        for part in (config.clip_config.text_config, config.clip_config.vision_config):
            part.dtype = torch.get_default_dtype()  # CLIP builds an encoder in the type its own configuration names
        self.clip = CLIPModel(config.clip_config)
        self.prompt_learner: PromptLearner | None = None
        if config.baked:
            self.clip.text_model, self.clip.text_projection = None, None
            shape = (config.prompt_depth, config.num_prompt_tokens, config.clip_config.vision_config.hidden_size)
            self.register_buffer("baked_text_embeds", torch.zeros(2, config.clip_config.projection_dim))
            self.register_buffer("baked_vision_prompts", torch.zeros(shape) if config.has_vision_prompts else None)
        else:
            self.prompt_learner = PromptLearner(config)
            self.class_input_ids = nn.Buffer(torch.tensor(config.text_input_ids), persistent=False)  # (2, T)
            attach_prompt_injectors(self.clip.text_model.encoder, "text")
        attach_prompt_injectors(self.clip.vision_model.encoder, "vision")
        self.post_init()
        self.clip.requires_grad_(False)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, PromptLearner):
            module.reset_parameters(self.config.initializer_range)
        elif isinstance(module, MiraGeForImageDetection) and not self.config.baked:
            # Built on the meta device, a non-persistent buffer holds whatever was in memory.
            init.copy_(module.class_input_ids, torch.tensor(self.config.text_input_ids))

    def get_input_embeddings(self) -> nn.Module:
        """The patch embedding of the vision encoder."""
        return self.clip.vision_model.embeddings.patch_embedding

    # ------------------------------------------------------------------------------------------------- forward pass

    def _prompts(self) -> tuple[list[torch.Tensor] | None, list[torch.Tensor] | None]:
        """The prompts as the encoders' first layers expect them: positioned (text), normalised (vision)."""
        check_prompt_injectors(self.clip.vision_model.encoder, "vision")
        if not self.config.baked:
            check_prompt_injectors(self.clip.text_model.encoder, "text")
        if self.prompt_learner is None:
            text, vision = None, None if self.baked_vision_prompts is None else list(self.baked_vision_prompts)
        else:
            text, vision = self.prompt_learner()
        if text is not None:  # the prompts sit at places 1..m and get those places' position embeddings
            positions = self.clip.text_model.embeddings.position_embedding.weight[1 : 1 + text[0].shape[0]]
            text = [text[0] + positions, *text[1:]]
        if vision is not None:  # no position, but the normalisation that precedes the first layer
            vision = [self.clip.vision_model.pre_layrnorm(vision[0]), *vision[1:]]
        return text, vision

    def _encode_images(self, pixel_values: torch.Tensor, prompts: list[torch.Tensor] | None) -> torch.Tensor:
        if not self.config.tile_images:
            return self._encode_tiles(pixel_values, prompts)
        side = self.clip.vision_model.embeddings.image_size
        return embed_by_tiles(pixel_values, side, lambda tiles: self._encode_tiles(tiles, prompts))

    def _encode_tiles(self, pixel_values: torch.Tensor, prompts: list[torch.Tensor] | None) -> torch.Tensor:
        if self.lean_vision and self.training and can_be_lean(self.clip.vision_model.encoder):
            pooled = encode_by_parts(self.clip.vision_model, pixel_values, prompts)  # (B, d)
        else:
            pooled = self._encode_with_hooks(pixel_values, prompts)
        return F.normalize(self.clip.visual_projection(pooled).float(), dim=-1)  # (B, D)

    def _encode_with_hooks(self, pixel_values: torch.Tensor, prompts: list[torch.Tensor] | None) -> torch.Tensor:
        outputs = self.clip.vision_model(pixel_values=pixel_values, **{PROMPTS_KWARG: prompts})
        length = self.clip.vision_model.embeddings.num_positions
        length += 0 if prompts is None else self.config.num_prompt_tokens
        if outputs.last_hidden_state.shape[1] != length:
            raise RuntimeError(
                f"The vision encoder saw {outputs.last_hidden_state.shape[1]} tokens instead of {length}: the prompts "
                "did not reach its layers. This version of transformers may pass keyword arguments differently; "
                "mirage_hf needs transformers>=5.23,<6."
            )
        return outputs.pooler_output  # (B, d)

    def _project_texts(self, prompts: list[torch.Tensor] | None) -> torch.Tensor:
        if self.prompt_learner is None:
            return self.baked_text_embeds
        outputs = self.clip.text_model(input_ids=self.class_input_ids, **{PROMPTS_KWARG: prompts})
        return self.clip.text_projection(outputs.pooler_output)  # (2, D)

    def _encode_texts(self, prompts: list[torch.Tensor] | None) -> torch.Tensor:
        return F.normalize(self._project_texts(prompts).float(), dim=-1)

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """
        Args:
            pixel_values (`torch.Tensor` of shape `(B, 3, H, W)`):
                Normalised images at the backbone's `image_size`, or larger with `config.tile_images`.

        Returns:
            `torch.Tensor` of shape `(B, D)`: Unit-norm image embeddings v_i, in float32.
        """
        return self._encode_images(pixel_values, self._prompts()[1])

    def get_text_features(self) -> torch.Tensor:
        """
        Returns:
            `torch.Tensor` of shape `(2, D)`: Unit-norm text anchors of real and of fake, in float32.
        """
        return self._encode_texts(self._prompts()[0])

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
                Normalised images at the backbone's `image_size`, or larger with `config.tile_images`.
            labels (`torch.Tensor` of shape `(B,)`, *optional*):
                0 = real, 1 = fake. With them the output holds the cross-entropy.
            return_embeds (`bool`, *optional*, defaults to `False`):
                Whether to return the image embeddings and text anchors. Off by default, since the anchors' first
                dimension is not the batch, which batching pipelines take for granted.
            return_dict (`bool`, *optional*, defaults to `config.return_dict`):
                Whether to return a [`MiraGeOutput`] instead of a tuple.

        Example:

        ```python
        >>> import torch
        >>> from mirage_hf import MiraGeConfig, MiraGeForImageDetection

        >>> model = MiraGeForImageDetection(MiraGeConfig()).eval()  # CLIP ViT-B/32 with random weights
        >>> with torch.inference_mode():
        ...     logits = model(pixel_values=torch.rand(1, 3, 224, 224)).logits
        >>> logits.softmax(dim=-1).shape
        torch.Size([1, 2])

        ```"""
        text_prompts, vision_prompts = self._prompts()
        image_embeds = self._encode_images(pixel_values, vision_prompts)  # (B, D)
        text_embeds = self._encode_texts(text_prompts)  # (2, D)
        # A product of elements, not a matrix product: autocast would compute the latter in half precision.
        cosine = (image_embeds[:, None] * text_embeds[None]).sum(dim=-1)  # (B, 2)
        logits = self.clip.logit_scale.float().exp() * cosine
        loss = None if labels is None else F.cross_entropy(logits, labels)
        output = MiraGeOutput(
            loss=loss,
            logits=logits,
            image_embeds=image_embeds if return_embeds else None,
            text_embeds=text_embeds if return_embeds else None,
        )
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    # ------------------------------------------------------------------------------------------------ class prompts

    def set_class_prompts(self, tokenizer, template: str, class_names: list[str]) -> None:
        """
        Changes the words of the text anchors (Table 14).

        Args:
            tokenizer (`PreTrainedTokenizerBase`):
                The backbone's tokenizer.
            template (`str`):
                Text with `{}` in place of the class name.
            class_names (`list[str]`):
                The word for real, then the word for fake.

        Raises:
            `ValueError`: If the texts do not fit the text encoder or do not differ.
            `RuntimeError`: If the model is baked and has no text encoder any more.
        """
        if self.config.baked:
            raise RuntimeError("A baked model has no text encoder; load the checkpoint it was baked from.")
        config = copy.deepcopy(self.config)
        config.template, config.class_names = template, list(class_names)
        config.class_input_ids = tokenize_class_prompts(tokenizer, template, class_names)
        config.check()
        self.config.template, self.config.class_names = config.template, config.class_names
        self.config.class_input_ids = config.class_input_ids
        self.class_input_ids = nn.Buffer(
            torch.tensor(config.text_input_ids, device=self.class_input_ids.device), persistent=False
        )

    @torch.no_grad()
    def bake(self) -> "MiraGeForImageDetection":
        """
        Turns the model into one for inference only, in place: the text anchors and the vision prompts are computed
        once and kept as buffers, the text encoder and the prompt learner are dropped. The logits stay the same to
        1e-6. Nothing is left that training could change behind the kept values, and a cast moves them with the rest;
        to train again, load the checkpoint anew.

        Returns:
            [`MiraGeForImageDetection`]: The model itself.
        """
        if self.prompt_learner is None:
            return self
        text_embeds = self._project_texts(self._prompts()[0])  # not normalised, which would round it in half precision
        vision_prompts = self.prompt_learner()[1]
        self.register_buffer("baked_text_embeds", text_embeds)
        self.register_buffer("baked_vision_prompts", None if vision_prompts is None else torch.stack(vision_prompts))
        self.clip.text_model, self.clip.text_projection, self.prompt_learner = None, None, None
        del self.class_input_ids
        self.config.baked = True
        return self.eval()


MiraGeForImageDetection.register_for_auto_class("AutoModelForImageClassification")

__all__ = ["MiraGeForImageDetection", "MiraGeOutput", "cut_tiles", "embed_by_tiles"]
