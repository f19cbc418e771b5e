"""Making, loading and saving a detector: fresh on a CLIP checkpoint, adapter-sized or full."""

import os

import torch
from transformers import CLIPModel
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_NAME, cached_file

from .adapter_checkpoint import fingerprint, is_adapter, matches_sample, merge_adapter, sample_weights
from .class_prompts import load_tokenizer, tokenize_class_prompts
from .configuration_mirage import MiraGeConfig
from .prompt_learner import PromptLearner

HUB_KWARGS = ("cache_dir", "force_download", "local_files_only", "proxies", "token")


class MiraGePreTrainedModel(PreTrainedModel):
    """Base of [`MiraGeForImageDetection`]: what transformers needs to know of it, and how checkpoints are handled."""

    config_class = MiraGeConfig
    config: MiraGeConfig
    clip: CLIPModel
    base_model_prefix = "mirage"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    # The loss is a mean over the batch and knows nothing of gradient accumulation: the Trainer has to scale it.
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = True
    _no_split_modules = ["CLIPTextEmbeddings", "CLIPEncoderLayer", "CLIPVisionEmbeddings"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    # Values of the encoders' weights as they were loaded from a named base, to see at saving whether they still are.
    _base_sample: dict[str, torch.Tensor] = {}

    @classmethod
    def from_clip(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *,
        tokenizer=None,
        dtype: torch.dtype = torch.float32,
        revision: str | None = None,
        attn_implementation: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        **config_kwargs,
    ) -> "MiraGePreTrainedModel":
        """
        Builds a fresh detector, with new prompts, on a CLIP checkpoint.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`):
                A Hub id or directory of any `CLIPModel`, such as `openai/clip-vit-large-patch14`.
            tokenizer (`PreTrainedTokenizerBase`, *optional*):
                Defaults to the checkpoint's own.
            dtype (`torch.dtype`, *optional*, defaults to `torch.float32`):
                Type of all weights. Train in float32 with mixed precision.
            revision, attn_implementation, cache_dir, local_files_only, token (*optional*):
                As in `PreTrainedModel.from_pretrained`.
            config_kwargs:
                Fields of [`MiraGeConfig`], such as `num_prompt_tokens` or `prompt_depth`.

        Raises:
            `ValueError`: If a field is out of range, or the class prompts need a tokenizer that the checkpoint lacks.
        """
        hub_kwargs = {"cache_dir": cache_dir, "local_files_only": local_files_only, "token": token}
        name = str(pretrained_model_name_or_path)
        clip = CLIPModel.from_pretrained(name, revision=revision, dtype="auto", use_safetensors=True, **hub_kwargs)
        sample = sample_weights(clip)
        template = config_kwargs.get("template", MiraGeConfig.template)
        class_names = config_kwargs.get("class_names", MiraGeConfig.class_names)
        if "class_input_ids" not in config_kwargs:
            if tokenizer is None:
                tokenizer = load_tokenizer(name, clip.config, template, class_names, revision=revision, **hub_kwargs)
            if tokenizer is not None:
                config_kwargs["class_input_ids"] = tokenize_class_prompts(tokenizer, template, class_names)
        config = cls.config_class(
            clip_config=clip.config,
            base_model_name_or_path=name,
            base_model_revision=revision,
            base_model_fingerprint=fingerprint(sample),
            **config_kwargs,
        )
        learner = PromptLearner(config)
        learner.reset_parameters(config.initializer_range)
        state_dict = {f"clip.{key}": value for key, value in clip.state_dict().items()}
        state_dict |= {f"prompt_learner.{key}": value for key, value in learner.state_dict().items()}
        attention = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
        return cls._from_state_dict(config, state_dict, sample, dtype=dtype, **attention)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, config=None, **kwargs):
        """
        Loads a detector, full or adapter-sized; see `PreTrainedModel.from_pretrained` for the arguments. CLIP is
        frozen afterwards.

        Raises:
            `OSError`: If the checkpoint, or the base model that an adapter needs, cannot be found.
            `ValueError`: If weights are missing, or the base model is not the one the adapter was trained on.
        """
        kwargs.setdefault("use_safetensors", True)
        with_info = kwargs.pop("output_loading_info", False)
        weights_file = None
        if pretrained_model_name_or_path is not None:
            where = {key: kwargs[key] for key in (*HUB_KWARGS, "revision", "subfolder") if key in kwargs}
            weights_file = cached_file(
                pretrained_model_name_or_path, SAFE_WEIGHTS_NAME, _raise_exceptions_for_missing_entries=False, **where
            )
        if weights_file is not None and is_adapter(weights_file):
            if config is None:
                config, kwargs = cls.config_class.from_pretrained(
                    pretrained_model_name_or_path, return_unused_kwargs=True, **where, **kwargs
                )
            hub_kwargs = {key: where[key] for key in HUB_KWARGS if key in where}
            state_dict, sample = merge_adapter(weights_file, config, **hub_kwargs)
            for key in (*where, "use_safetensors", "variant", "trust_remote_code"):
                kwargs.pop(key, None)
            model, info = cls._from_state_dict(config, state_dict, sample, with_info=True, **kwargs)
            model.config.name_or_path = str(pretrained_model_name_or_path)
        else:
            model, info = super().from_pretrained(
                pretrained_model_name_or_path, *model_args, config=config, output_loading_info=True, **kwargs
            )
            model._finish_loading(info["missing_keys"])
        return (model, info) if with_info else model

    @classmethod
    def _from_state_dict(cls, config, state_dict, sample, with_info=False, **kwargs):
        """Builds the model from tensors in memory, through the loader of transformers."""
        model, info = super().from_pretrained(
            None, config=config, state_dict=state_dict, output_loading_info=True, **kwargs
        )
        model._base_sample = {key: value for key, value in sample.items() if f"clip.{key}" in state_dict}
        model._finish_loading(info["missing_keys"])
        return (model, info) if with_info else model

    def _finish_loading(self, missing_keys) -> None:
        if missing_keys:
            raise ValueError(
                f"The checkpoint lacks {len(missing_keys)} weights, {sorted(missing_keys)[0]} among them, which would "
                "be random. It is incomplete or was saved with another configuration."
            )
        self.clip.requires_grad_(False)  # loading makes every parameter trainable

    def save_pretrained(self, save_directory, *args, state_dict=None, **kwargs) -> None:
        """
        Saves the model; see `PreTrainedModel.save_pretrained` for the arguments. The encoders are left out where
        `config.base_model_name_or_path` names them, unless `config.save_base_model` asks for them or their weights
        are no longer the base's.
        """
        leave_out = self._base_sample and not self.config.save_base_model and self.config.base_model_name_or_path
        if leave_out and matches_sample(self.clip, self._base_sample):
            state_dict = self.state_dict() if state_dict is None else state_dict
            state_dict = {key: value for key, value in state_dict.items() if not key.startswith("clip.")}
        super().save_pretrained(save_directory, *args, state_dict=state_dict, **kwargs)


__all__ = ["MiraGePreTrainedModel"]
