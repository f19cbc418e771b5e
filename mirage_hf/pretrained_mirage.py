"""Making, loading and saving a detector: fresh on a CLIP checkpoint, adapter-sized or full."""

import logging
import os
from contextlib import contextmanager
from typing import Any

import torch
from transformers import CLIPModel
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_NAME, cached_file

from .adapter_checkpoint import fingerprint, is_adapter, matches_sample, merge_adapter, sample_weights
from .class_prompts import load_tokenizer, tokenize_class_prompts
from .configuration_mirage import MiraGeConfig
from .prompt_learner import PromptLearner

logger = logging.getLogger(__name__)

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
        clip.config.name_or_path = ""  # a part's is written out, even if it is a folder of this machine
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
            base_model_name_or_path=os.path.abspath(name) if os.path.isdir(name) else name,
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
        where = {key: kwargs[key] for key in (*HUB_KWARGS, "revision", "subfolder") if key in kwargs}
        weights_file = None
        if pretrained_model_name_or_path is not None:
            variant = kwargs.get("variant")
            weights_name = SAFE_WEIGHTS_NAME if variant is None else f"model.{variant}.safetensors"
            weights_file = cached_file(
                pretrained_model_name_or_path, weights_name, _raise_exceptions_for_missing_entries=False, **where
            )
        if weights_file is None or not is_adapter(weights_file):
            model, info = super().from_pretrained(
                pretrained_model_name_or_path, *model_args, config=config, output_loading_info=True, **kwargs
            )
            model._finish_loading(info)
            return (model, info) if with_info else model
        for key in (*where, "use_safetensors", "variant", "trust_remote_code"):
            kwargs.pop(key, None)
        if config is None or isinstance(config, (str, os.PathLike)):
            # The configuration would swallow the dtype, "auto" included, which is the loader's to resolve.
            dtype: dict[str, Any] = {key: kwargs.pop(key) for key in ("dtype", "torch_dtype") if key in kwargs}
            source = pretrained_model_name_or_path if config is None else config
            config, kwargs = cls.config_class.from_pretrained(source, return_unused_kwargs=True, **where, **kwargs)
            kwargs |= dtype
        hub_kwargs = {key: where[key] for key in HUB_KWARGS if key in where}
        state_dict, sample = merge_adapter(weights_file, config, **hub_kwargs)
        model, info = cls._from_state_dict(config, state_dict, sample, with_info=True, **kwargs)
        model.name_or_path = model.config.name_or_path = str(pretrained_model_name_or_path)
        return (model, info) if with_info else model

    @classmethod
    def _from_state_dict(cls, config, state_dict, sample, with_info=False, **kwargs):
        """Builds the model from tensors in memory, through the loader of transformers."""
        model, info = super().from_pretrained(
            None, config=config, state_dict=state_dict, output_loading_info=True, **kwargs
        )
        model._base_sample = {key: value for key, value in sample.items() if f"clip.{key}" in state_dict}
        model._finish_loading(info)
        return (model, info) if with_info else model

    def _finish_loading(self, info: dict) -> None:
        random = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
        if random:
            raise ValueError(
                f"The checkpoint lacks {len(random)} weights, {random[0]} among them, which would be random. It is "
                "incomplete or was saved with another configuration."
            )
        self.clip.requires_grad_(False)  # loading makes every parameter trainable

    def save_pretrained(self, save_directory, *args, state_dict=None, **kwargs) -> None:
        """
        Saves the model; see `PreTrainedModel.save_pretrained` for the arguments. The encoders are left out where
        `config.base_model_name_or_path` names them, unless `config.save_base_model` asks for them or their weights
        are no longer the base's; those of a float32 model are stored as `config.base_model_dtype`.
        """
        leave_out = self._base_sample and not self.config.save_base_model and self.config.base_model_name_or_path
        if leave_out and matches_sample(self.clip, self._base_sample):
            state_dict = self.state_dict() if state_dict is None else state_dict
            state_dict = {key: value for key, value in state_dict.items() if not key.startswith("clip.")}
        elif self.config.base_model_dtype != "float32" and self.dtype == torch.float32:
            dtype = getattr(torch, self.config.base_model_dtype)
            state_dict = self.state_dict() if state_dict is None else state_dict
            state_dict = {k: value.to(dtype) if k.startswith("clip.") else value for k, value in state_dict.items()}
        super().save_pretrained(save_directory, *args, state_dict=state_dict, **kwargs)

    def push_to_hub(self, *args, **kwargs):
        """
        Uploads the model; see `PreTrainedModel.push_to_hub`. On a base model that is a folder here, and could not be
        found from there, the full model goes up.
        """
        with self.portable():
            return super().push_to_hub(*args, **kwargs)

    @contextmanager
    def portable(self):
        """Within it, `save_pretrained` writes what loads on other machines and names no folder of this one."""
        names = ("save_base_model", "base_model_name_or_path", "base_model_fingerprint")
        before = {name: getattr(self.config, name) for name in names}
        base = self.config.base_model_name_or_path
        if base is not None and os.path.isdir(base):
            if not self.config.save_base_model:
                logger.warning(
                    "The base model %s is a folder of this machine, so the encoders are saved as well.", base
                )
            self.config.save_base_model = True
            self.config.base_model_name_or_path = self.config.base_model_fingerprint = None
        try:
            yield
        finally:
            for name, value in before.items():
                setattr(self.config, name, value)


__all__ = ["MiraGePreTrainedModel"]
