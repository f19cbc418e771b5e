"""Making and loading a baseline: on a CLIP checkpoint, on an image classifier's, with random weights, or as saved."""

import os
from contextlib import nullcontext

import torch
from transformers import AutoConfig, AutoModelForImageClassification, CLIPModel
from transformers.modeling_utils import PreTrainedModel

from .baseline_config import BaselineConfig
from .baselines import BASELINES
from .class_prompts import load_tokenizer, tokenize_class_prompts


class BaselinePreTrainedModel(PreTrainedModel):
    """Base of [`BaselineForImageDetection`]: what transformers needs to know of it, and where weights come from."""

    config_class = BaselineConfig
    config: BaselineConfig
    clip: CLIPModel  # of the family "clip"
    classifier: PreTrainedModel  # of the family "classifier"
    base_model_prefix = "baseline"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    # The loss is a mean over the batch and knows nothing of gradient accumulation: the Trainer has to scale it.
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def freeze(self) -> None:
        """Leaves trainable what the method trains; for LoRA that is nothing before peft has added its matrices."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith(self.config.baseline.trainable))

    @classmethod
    def from_clip(
        cls,
        method: str,
        pretrained_model_name_or_path: str | os.PathLike,
        *,
        tokenizer=None,
        revision: str | None = None,
        attn_implementation: str | None = None,
        **config_kwargs,
    ) -> "BaselinePreTrainedModel":
        """
        Builds a baseline of the family `"clip"` on a CLIP checkpoint, in float32.

        Args:
            method (`str`):
                Its name in [`BASELINES`].
            pretrained_model_name_or_path (`str` or `os.PathLike`):
                A Hub id or directory of any `CLIPModel`.
            tokenizer (`PreTrainedTokenizerBase`, *optional*):
                Defaults to the checkpoint's own; read where class texts are the classifier.
            revision, attn_implementation (*optional*):
                As in `PreTrainedModel.from_pretrained`.
            config_kwargs:
                Fields of [`BaselineConfig`], such as `template`.

        Raises:
            `ValueError`: If a field is out of range, the checkpoint is no CLIP, or class texts need a tokenizer that
                it lacks.
        """
        name = str(pretrained_model_name_or_path)
        _check_type(name, revision, method)
        clip = CLIPModel.from_pretrained(name, revision=revision, dtype=torch.float32, use_safetensors=True)
        clip.config.name_or_path = ""  # a part's is written out, even if it is a folder of this machine
        if BASELINES[method].class_texts and "class_input_ids" not in config_kwargs:
            template = config_kwargs.get("template", BaselineConfig.template)
            names = config_kwargs.get("class_names", BaselineConfig.class_names)
            if tokenizer is None:
                tokenizer = load_tokenizer(name, clip.config, template, names, revision=revision)
            if tokenizer is not None:
                config_kwargs["class_input_ids"] = tokenize_class_prompts(tokenizer, template, names)
        config = cls.config_class(method=method, backbone_config=clip.config, **config_kwargs)
        model = cls._from_config(config, dtype=torch.float32, **_attention(attn_implementation))
        weights = clip.state_dict()
        model.clip.load_state_dict({key: weights[key] for key in model.clip.state_dict()})
        return model.eval()

    @classmethod
    def from_classifier(
        cls,
        method: str,
        pretrained_model_name_or_path: str | os.PathLike | None = None,
        *,
        overrides: dict | None = None,
        revision: str | None = None,
        attn_implementation: str | None = None,
        **config_kwargs,
    ) -> "BaselinePreTrainedModel":
        """
        Builds a baseline of the family `"classifier"` in float32: with random weights, or on an image classifier's
        checkpoint, all but its last layer.

        Args:
            method (`str`):
                Its name in [`BASELINES`].
            pretrained_model_name_or_path (`str` or `os.PathLike`, *optional*):
                A Hub id or directory of an image classifier of the method's `model_type`.
            overrides (`dict`, *optional*):
                Fields of the backbone's configuration in place of the method's, for random weights; `image_size` for
                any of them.
            revision, attn_implementation (*optional*):
                As in `PreTrainedModel.from_pretrained`.
            config_kwargs:
                Fields of [`BaselineConfig`].

        Raises:
            `ValueError`: If a field is unknown, the checkpoint is of another type, or NPR is given one.
        """
        attention = _attention(attn_implementation)
        if pretrained_model_name_or_path is None:
            fields = BASELINES[method].backbone | (overrides or {})
            known = AutoConfig.for_model(fields["model_type"]).to_dict().keys() | {"image_size"}
            if not fields.keys() <= known or fields["model_type"] != BASELINES[method].backbone["model_type"]:
                wrong = sorted(fields.keys() - known) or ["model_type"]
                raise ValueError(f"`backbone_overrides` holds {', '.join(wrong)}, which method {method} cannot set.")
            config_kwargs.setdefault("image_size", (overrides or {}).get("image_size"))
            config = cls.config_class(method=method, backbone_config=fields, **config_kwargs)
            return cls._from_config(config, dtype=torch.float32, **attention).eval()
        name = str(pretrained_model_name_or_path)
        if method == "npr":
            raise ValueError(
                f"method npr starts from random weights: leave out {name}, or name a baseline's checkpoint."
            )
        _check_type(name, revision, method)
        classifier = AutoModelForImageClassification.from_pretrained(
            name, revision=revision, dtype=torch.float32, use_safetensors=True
        )
        classifier.config.name_or_path = ""
        config = cls.config_class(method=method, backbone_config=classifier.config, **config_kwargs)
        model = cls._from_config(config, dtype=torch.float32, **attention)
        ours, weights = model.classifier.state_dict(), classifier.state_dict()
        # The last layer has other classes, or the same ones in an order that nobody knows.
        kept = {k: v for k, v in weights.items() if k in ours and not k.startswith("classifier.")}
        model.classifier.load_state_dict(ours | kept)
        return model.eval()

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """
        Loads a baseline; see `PreTrainedModel.from_pretrained`. What the method does not train is frozen afterwards.

        Raises:
            `ValueError`: If weights are missing.
        """
        with_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        random = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
        if random:
            raise ValueError(f"The checkpoint lacks {len(random)} weights, {random[0]} among them; it is incomplete.")
        model.freeze()  # loading makes every parameter trainable
        return (model, info) if with_info else model

    def portable(self):
        """As [`MiraGeForImageDetection.portable`]: checkpoints are whole and name no folder of this machine anyway."""
        return nullcontext()


def _attention(implementation: str | None) -> dict[str, str]:
    return {} if implementation is None else {"attn_implementation": implementation}


def _check_type(name: str, revision: str | None, method: str) -> None:
    found, wanted = AutoConfig.from_pretrained(name, revision=revision).model_type, BASELINES[method].backbone
    if found != wanted["model_type"]:
        raise ValueError(f"{name} is a {found} checkpoint; method {method} needs one of {wanted['model_type']}.")


__all__ = ["BaselinePreTrainedModel"]
