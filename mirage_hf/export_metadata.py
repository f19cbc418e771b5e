"""What lies beside an exported model, and what its file says of itself: preprocessing, classes, threshold and more."""

import json
import os
from pathlib import Path
from typing import Any

from PIL import Image

from .detector import stated_revision, stated_threshold
from .detector_loading import LoadedDetector
from .version import __version__


def write_configuration(loaded: LoadedDetector, folder: Path) -> dict[str, Any]:
    """
    Writes `config.json` and `preprocessor_config.json`, with the classes in the order of the exported logits.

    Returns:
        `dict`: See [`~mirage_hf.backends.parse_metadata`].

    Raises:
        ValueError: the image processor gives images of several sizes.
    """
    loaded.transform.processor.save_pretrained(folder)
    config = json.loads(loaded.config.to_json_string(use_diff=False))
    metadata = {
        "mirage_hf_version": __version__,
        "source": loaded.name,
        "revision": stated_revision(loaded.config) or "",
        "fingerprint": loaded.fingerprint,
        "precision": "float32",
        "id2label": {"0": "real", "1": "fake"},
        "source_id2label": config["id2label"],
        "threshold": stated_threshold(loaded.config),
        "calibration": config.get("calibration"),
        "preprocessor_config": json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8")),
        "input_size": _input_size(loaded),
        "tile_size": _tile_size(loaded),
    }
    config |= {"id2label": metadata["id2label"], "label2id": {"real": 0, "fake": 1}}
    for name in ("auto_map", "_name_or_path"):  # there is no code in the folder, and it has no use for another's name
        config.pop(name, None)
    base = config.get("base_model_name_or_path")
    if base is not None and os.path.isabs(base):  # a folder of this machine, which a baked model has no need of
        config["base_model_name_or_path"] = None
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return metadata


def _input_size(loaded: LoadedDetector) -> list[int]:
    """Height and width of `pixel_values`, found out with images of several shapes."""
    probes = [Image.new("RGB", size) for size in ((500, 375), (375, 500), (64, 64))]
    sizes = {tuple(loaded.transform(probe).shape[1:]) for probe in probes}
    if len(sizes) > 1:
        found = " and ".join(sorted(f"{height} x {width}" for height, width in sizes))
        raise ValueError(
            f"the image processor of {loaded.name} gives images of {found}, and an exported model takes one size: "
            "have it crop to a `crop_size`"
        )
    return list(sizes.pop())


def _tile_size(loaded: LoadedDetector) -> int | None:
    config = loaded.config
    if not (config.model_type.startswith("mirage") and config.tile_images):
        return None
    return config.clip_config.vision_config.image_size if config.model_type == "mirage" else config.image_size


__all__ = ["write_configuration"]
