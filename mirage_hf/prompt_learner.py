"""The learnable part of MiraGe: deep prompts for both encoders and the maps between them (Eq. 9, 10; Appendix E).

[`PromptLearner`] holds the parameters and returns one prompt for each layer; [`PromptInjector`] is the forward hook
that puts a layer's prompt into the sequence of a frozen CLIP encoder.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

from .configuration_mirage import MiraGeConfig

PROMPTS_KWARG = "mirage_prompts"


class CrossModalAttention(nn.Module):
    """
    Attention from a layer's visual prompts to its text prompts (Table 12, candidate 3), added to the visual prompts.

    The paper names the block without its sizes; here one head of a quarter of the text encoder's width.
    """

    def __init__(self, text_dim: int, vision_dim: int):
        super().__init__()
        attention_dim = max(text_dim // 4, 1)
        self.query = nn.Linear(vision_dim, attention_dim)
        self.key = nn.Linear(text_dim, attention_dim, bias=False)  # a bias would move all scores alike, to no effect
        self.value = nn.Linear(text_dim, attention_dim)
        self.output = nn.Linear(attention_dim, vision_dim)

    def forward(self, text_prompts: torch.Tensor, vision_prompts: torch.Tensor) -> torch.Tensor:
        attended = F.scaled_dot_product_attention(  # (1, m, attention_dim)
            self.query(vision_prompts)[None], self.key(text_prompts)[None], self.value(text_prompts)[None]
        )
        return vision_prompts + self.output(attended[0])  # (m, d_vision)


class PromptLearner(nn.Module):
    """
    Learnable prompts P_j and mappings F_j of the first K layers: all that MiraGe trains.

    Args:
        config ([`MiraGeConfig`]):
            Sizes, the prompted encoders (`prompt_modality`) and the kind of map between them (`mapping`).

    Attributes:
        text_prompts (`torch.nn.Parameter` of shape `(K, m, d_text)`, *optional*):
            Word embeddings; absent when they are mapped from the vision prompts or not used at all.
        vision_prompts (`torch.nn.Parameter` of shape `(K, m, d_vision)`, *optional*):
            Patch embeddings; absent when they are mapped from the text prompts alone or not used at all.
        mappings (`torch.nn.ModuleList`):
            K maps, or one when they are shared; empty unless both encoders are prompted.
    """

    def __init__(self, config: MiraGeConfig):
        super().__init__()
        multimodal = config.has_text_prompts and config.has_vision_prompts
        self.mapping = config.mapping if multimodal else None
        self.num_layers = config.prompt_depth
        text_dim = config.clip_config.text_config.hidden_size
        vision_dim = config.clip_config.vision_config.hidden_size
        shape = (config.prompt_depth, config.num_prompt_tokens)

        learns_text = config.has_text_prompts and self.mapping != "reverse"
        learns_vision = config.has_vision_prompts and self.mapping in (None, "reverse", "cross_attention")
        self.text_prompts = nn.Parameter(torch.empty(*shape, text_dim)) if learns_text else None
        self.vision_prompts = nn.Parameter(torch.empty(*shape, vision_dim)) if learns_vision else None

        count = 0 if self.mapping is None else 1 if config.shared_mapping else config.prompt_depth
        self.mappings = nn.ModuleList(self._make_mapping(text_dim, vision_dim) for _ in range(count))

    def _make_mapping(self, text_dim: int, vision_dim: int) -> nn.Module:
        if self.mapping == "linear":
            return nn.Linear(text_dim, vision_dim)
        if self.mapping == "mlp":  # the hidden width is not stated in the paper
            return nn.Sequential(nn.Linear(text_dim, text_dim), nn.ReLU(), nn.Linear(text_dim, vision_dim))
        if self.mapping == "cross_attention":
            return CrossModalAttention(text_dim, vision_dim)
        return nn.Linear(vision_dim, text_dim)  # reverse

    @torch.no_grad()
    def reset_parameters(self, std: float) -> None:
        """Draws prompts and mapping weights from a normal distribution of deviation `std`; biases become zero."""
        for name, parameter in self.named_parameters():
            # transformers' functions leave a parameter alone that was loaded from a checkpoint
            if name.endswith("bias"):
                init.zeros_(parameter)
            else:
                init.normal_(parameter, std=std)

    def forward(self) -> tuple[list[torch.Tensor] | None, list[torch.Tensor] | None]:
        """
        Returns:
            `tuple`: The text encoder's K prompts of shape `(m, d_text)` and the vision encoder's K prompts of shape
            `(m, d_vision)`; `None` for an encoder that gets none.
        """
        text = [] if self.text_prompts is None else list(self.text_prompts.unbind(0))  # K x (m, d_text)
        vision = [] if self.vision_prompts is None else list(self.vision_prompts.unbind(0))  # K x (m, d_vision)
        if self.mapping is not None:
            mappings = [self.mappings[j if len(self.mappings) > 1 else 0] for j in range(self.num_layers)]
            if self.mapping == "reverse":
                text = [mapping(prompt) for mapping, prompt in zip(mappings, vision, strict=True)]
            elif self.mapping == "cross_attention":
                vision = [mapping(t, v) for mapping, t, v in zip(mappings, text, vision, strict=True)]
            else:
                vision = [mapping(prompt) for mapping, prompt in zip(mappings, text, strict=True)]
        return text or None, vision or None


class PromptInjector:
    """
    Forward pre-hook of one CLIP encoder layer: takes the prompts out of the keyword arguments and places this layer's.

    It keeps no reference to any tensor: the prompts travel with each call, as the keyword argument `mirage_prompts`
    that `CLIPEncoder` hands to every layer. So it survives copying, saving, compilation and export, where a closure
    would go on using the parameters of the model it was made for.

    Args:
        layer_index (`int`):
            Which layer it sits on, counted from 0.
        modality (`str`):
            `"text"`: the prompts replace places 1…m, behind the start token. `"vision"`: they are appended behind the
            patches by the first layer and replaced in the same places by the others.
    """

    def __init__(self, layer_index: int, modality: str):
        self.layer_index = layer_index
        self.modality = modality

    def __call__(self, layer: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        prompts = kwargs.get(PROMPTS_KWARG)
        kwargs = {key: value for key, value in kwargs.items() if key != PROMPTS_KWARG}
        if prompts is None or self.layer_index >= len(prompts):  # past layer K the prompt tokens simply flow on
            return args, kwargs
        hidden_states = args[0]  # (B, sequence, d)
        prompt = prompts[self.layer_index].to(hidden_states.dtype)
        length = prompt.shape[0]
        prompt = prompt.expand(hidden_states.shape[0], -1, -1)  # (B, m, d)
        if self.modality == "text":
            parts = [hidden_states[:, :1], prompt, hidden_states[:, 1 + length :]]  # (B, T, d)
        elif self.layer_index == 0:
            parts = [hidden_states, prompt]  # (B, 1 + N + m, d)
        else:
            parts = [hidden_states[:, :-length], prompt]  # (B, 1 + N + m, d)
        return (torch.cat(parts, dim=1), *args[1:]), kwargs


def attach_prompt_injectors(encoder: nn.Module, modality: str) -> None:
    """Registers a [`PromptInjector`] on every layer of a CLIP `encoder`; `modality` is `"text"` or `"vision"`."""
    for index, layer in enumerate(encoder.layers):  # type: ignore[arg-type]
        layer.register_forward_pre_hook(PromptInjector(index, modality), with_kwargs=True)


def check_prompt_injectors(encoder: nn.Module, modality: str) -> None:
    """
    Raises:
        `RuntimeError`: If a layer of `encoder` has lost its [`PromptInjector`], as replaced layers do silently.
    """
    for index, layer in enumerate(encoder.layers):  # type: ignore[arg-type]
        hooks = [hook for hook in layer._forward_pre_hooks.values() if isinstance(hook, PromptInjector)]
        if [(hook.layer_index, hook.modality) for hook in hooks] != [(index, modality)]:
            raise RuntimeError(
                f"Layer {index} of the {modality} encoder does not hold exactly one prompt hook, so its prompts would "
                "be ignored. CLIP or its layers were replaced after construction; build the detector with "
                "`MiraGeForImageDetection.from_clip` or load it with `from_pretrained` instead."
            )


__all__ = ["PromptInjector", "PromptLearner", "attach_prompt_injectors", "check_prompt_injectors"]
