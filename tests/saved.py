"""Saved detectors: copies and contents of their folders, and what loading must restore."""

import json
from pathlib import Path

from safetensors import safe_open


def copy_folder(folder: str, target: Path) -> Path:
    target.mkdir(parents=True, exist_ok=True)
    for file in Path(folder).iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def read_config(folder: str | Path) -> dict:
    """A saved configuration without the sub-configurations' dtypes, which transformers fills in at loading."""
    config = json.loads(Path(folder, "config.json").read_text())
    for sub_config in (config["clip_config"], *config["clip_config"].values()):
        if isinstance(sub_config, dict):
            sub_config.pop("dtype", None)
    return config


def saved_encoder_weights(folder) -> int:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return sum(name.startswith("clip.") for name in file.keys())


def assert_frozen(model) -> None:
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {f"prompt_learner.{name}" for name, _ in model.prompt_learner.named_parameters()} != set()
