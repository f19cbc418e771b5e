"""What a checkpoint is, in facts: for `mirage-hf info`, and for people who have to decide whether to trust a score."""

from typing import Any

from .detector import stated_calibration, stated_revision, stated_threshold
from .detector_loading import load_detector
from .environment import versions


def describe_detector(name: str, revision: str | None = None, fake_label: str | None = None) -> dict[str, Any]:
    """
    Load a detector and describe it.

    Args:
        name, revision, fake_label:
            As in [`load_detector`].

    Returns:
        `dict`, as JSON can hold it: `model`, `revision`, `type`, `method`, `parameters` (of the network that scores,
        the text encoder being dropped), `base_model`, `prompts`, `texts`, `classes`, `preprocessing`, `threshold` (not
        calibrated), `calibration`, `versions`. `None` where the checkpoint has no such thing.

    Raises:
        OSError, ValueError: as [`load_detector`]; or the calibration can't be used.
    """
    loaded = load_detector(name, revision, fake_label)
    config = loaded.config
    calibration = stated_calibration(config)
    prompts = None
    if config.model_type == "mirage":
        fields = ("num_prompt_tokens", "prompt_depth", "prompt_position", "prompt_modality", "mapping")
        prompts = {field: getattr(config, field) for field in fields}
    texts = None
    if loaded.takes_return_embeds:
        texts = {"template": config.template, "class_names": list(config.class_names)}
    return {
        "model": loaded.name,
        "revision": stated_revision(config) or loaded.fingerprint,
        "type": config.model_type,
        "method": config.method if config.model_type == "mirage-baseline" else config.model_type,
        "parameters": loaded.parameters,
        "base_model": config.base_model_name_or_path if config.model_type == "mirage" else None,
        "prompts": prompts,
        "texts": texts,
        "classes": {str(index): label for index, label in config.id2label.items()},
        "preprocessing": loaded.transform.processor.to_dict(),
        "threshold": stated_threshold(config),
        "calibration": None if calibration is None else calibration.to_dict(),
        "versions": versions(),
    }


__all__ = ["describe_detector"]
