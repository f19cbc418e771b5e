"""Adapter-sized checkpoints: prompts and mappings alone, with the frozen CLIP fetched from its own checkpoint.

At ViT-L/14 this is 36 MiB in place of 1.7 GB. What makes it safe: which kind a file is gets read from its header,
every encoder weight must come from the base checkpoint, and the base must be the one the prompts were learned on.
"""

import hashlib
from pathlib import Path

import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import CLIPModel

from .configuration_mirage import MiraGeConfig

SAMPLE_SIZE = 64  # values kept of each weight tensor


def sample_weights(clip: CLIPModel) -> dict[str, torch.Tensor]:
    """
    Returns:
        `dict[str, torch.Tensor]`: Up to 64 evenly spaced values of each parameter, on the CPU, in the stored dtype.
    """
    sample = {}
    for name, parameter in clip.named_parameters():
        values = parameter.detach().reshape(-1)
        sample[name] = values[:: max(1, values.numel() // SAMPLE_SIZE)][:SAMPLE_SIZE].cpu().clone()
    return sample


def fingerprint(sample: dict[str, torch.Tensor]) -> str:
    """Hash of a weight sample as stored; it tells two checkpoints of the same shape apart, and is no signature."""
    digest = hashlib.sha256()
    for name in sorted(sample):
        digest.update(name.encode())
        digest.update(sample[name].float().numpy().tobytes())
    return digest.hexdigest()[:32]


def matches_sample(clip: CLIPModel, sample: dict[str, torch.Tensor]) -> bool:
    """Whether the weights of `clip` are still those of the `sample`, up to one change of dtype since it was taken."""
    current = sample_weights(clip)
    return current.keys() <= sample.keys() and all(
        torch.equal(sample[name].to(values.dtype), values) for name, values in current.items()
    )


def is_adapter(weights_file: str | Path) -> bool:
    """
    Whether a safetensors file of a detector lacks the encoders, told from its header alone.

    Raises:
        `ValueError`: If the file holds no detector.
    """
    with safe_open(weights_file, framework="pt") as file:
        names = list(file.keys())
    if not any(name.startswith(("prompt_learner.", "baked_")) for name in names):
        raise ValueError(
            f"{weights_file} holds no prompts, so it is no MiraGe checkpoint. To build a fresh detector on a CLIP "
            "checkpoint, use `MiraGeForImageDetection.from_clip`."
        )
    return not any(name.startswith("clip.") for name in names)


def merge_adapter(
    weights_file: str | Path, config: MiraGeConfig, **hub_kwargs
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """
    Joins an adapter with the weights of its base model.

    Args:
        weights_file (`str` or `Path`):
            The adapter's `model.safetensors`.
        config ([`MiraGeConfig`]):
            Names the base model. A relative path is looked for from the adapter's folder first, and made absolute.
        hub_kwargs:
            `token`, `cache_dir`, `local_files_only`, … for fetching the base model.

    Returns:
        `tuple`: The full state dict, and the sample of the base's weights.

    Raises:
        `OSError`: If the base model cannot be loaded.
        `ValueError`: If no base model is named, or it is not the one that the adapter was trained on.
    """
    name = config.base_model_name_or_path
    if name is None:
        raise ValueError(
            f"{weights_file} holds prompts only and its configuration names no `base_model_name_or_path`; "
            "pass base_model_name_or_path=<CLIP checkpoint> to `from_pretrained`."
        )
    beside = Path(weights_file).parent / name
    revision = config.base_model_revision
    if beside.is_dir():
        name, revision = str(beside.resolve()), None
        config.base_model_name_or_path = name  # which holds wherever the model is saved next
    try:
        clip = CLIPModel.from_pretrained(name, revision=revision, dtype="auto", use_safetensors=True, **hub_kwargs)
    except OSError as error:
        raise OSError(
            f"The base model {name!r} of this adapter {why_not_loaded(error)}. "
            "Pass base_model_name_or_path=<CLIP checkpoint> to `from_pretrained` to take it from elsewhere."
        ) from error
    sample = sample_weights(clip)
    if config.base_model_fingerprint not in (None, fingerprint(sample)):
        raise ValueError(
            f"The weights of base model {name!r} are not those that this adapter was trained on "
            f"(`base_model_fingerprint` {fingerprint(sample)} instead of {config.base_model_fingerprint}). "
            "Pass base_model_fingerprint=None to `from_pretrained` to use them all the same."
        )
    state_dict = {f"clip.{key}": value for key, value in clip.state_dict().items()}
    if config.baked:
        state_dict = {key: value for key, value in state_dict.items() if not key.startswith("clip.text_")}
    return state_dict | load_file(weights_file), sample


def why_not_loaded(error: BaseException) -> str:
    """Why a base model could not be loaded, in a line: what the Hub answered is behind the error of transformers."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    if any(isinstance(cause, GatedRepoError) for cause in causes):  # a kind of the next one
        return (
            "is gated: ask for access on its page on the Hub, then log in with `hf auth login` or pass `token`, one "
            "that has access"
        )
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return (
            "is not on the Hub, or is private: log in with `hf auth login` or pass `token`, one that may see it, and "
            "mind the spelling"
        )
    return f"could not be loaded: {' '.join(str(error).split()).rstrip('.')}"


__all__ = ["fingerprint", "is_adapter", "matches_sample", "merge_adapter", "sample_weights"]
