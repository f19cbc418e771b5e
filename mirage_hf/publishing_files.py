"""Puts together, in a folder of its own, what of a checkpoint may be published: a list of files, and nothing else.

Weights are linked, not copied, where they go up as they are. Texts are freed of this machine's paths on the way.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPModel
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, SAFE_WEIGHTS_NAME

from . import configuration_mirage, modeling_mirage
from .adapter_checkpoint import fingerprint, is_adapter, sample_weights
from .configuration_mirage import MiraGeConfig
from .model_card import is_hub_id
from .model_card_facts import NOTES_FILE, file_hash, read_json, training_files
from .modeling_mirage import MiraGeForImageDetection
from .publishing_paths import without_local_paths

RESULTS_FOLDER, EXPORT_FOLDER = "results", "onnx"
RESULTS = "results"  # what a results file is, in a list of files
EXPORT_FILES = ("model.onnx", "model.onnx.data", CONFIG_NAME, IMAGE_PROCESSOR_NAME)
# What goes up beside a results file, where it is there. Scores of benchmarks are pickled arrays in part and stay.
BESIDE_RESULTS = {
    "evaluation.json": ("evaluation.md", "scores.csv"),
    "results.json": ("identity.json", "results.md", "results.csv"),
}
# Arguments of a results file that may be paths.
PATH_ARGUMENTS = ("model", "data", "output_dir", "real_root", "calibrate_on")


@dataclass(frozen=True)
class PushFile:
    """
    A file that goes up.

    Args:
        path (`str`):
            In the repository.
        source (`Path`):
            On this machine.
        what (`str`):
            What it is, in a few words.
    """

    path: str
    source: Path
    what: str

    @property
    def size(self) -> int:
        """`int`: Bytes."""
        return self.source.stat().st_size


def stage_model(
    folder: Path, staging: Path, kind: str | None = None, base: str | None = None
) -> tuple[str, list[PushFile], list[str]]:
    """
    Weights, configuration, image processor and code.

    Args:
        folder (`Path`):
            A MiraGe checkpoint.
        staging (`Path`):
            An empty folder.
        kind (`str`, *optional*):
            `"adapter"` for prompts and mappings only, `"full"` for the encoders as well. By default what the folder
            holds; full where the base model is a folder here.
        base (`str`, *optional*):
            Hub id of an adapter's base model, where the checkpoint names a folder or none.

    Returns:
        `tuple`: The kind, the files, and what there is to say to people.

    Raises:
        OSError, ValueError: it is no checkpoint that can be published so; the message says how it can.
    """
    for name in (CONFIG_NAME, SAFE_WEIGHTS_NAME, IMAGE_PROCESSOR_NAME):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}, so it is no detector that can be published")
    config = read_json(folder / CONFIG_NAME)
    if config.get("model_type") != "mirage":
        raise ValueError(
            f"{folder} holds a model of type {config.get('model_type')!r}: only MiraGe checkpoints have code that "
            "travels with the weights"
        )
    weights, notes = folder / SAFE_WEIGHTS_NAME, []
    stored = "adapter" if is_adapter(weights) else "full"
    named = config.get("base_model_name_or_path")
    is_local = named is not None and (os.path.isdir(named) or (folder / named).is_dir() or not is_hub_id(named))
    if kind is None:
        kind = "full" if stored == "adapter" and is_local and base is None else "adapter" if base else stored
        if kind != stored:
            notes.append(
                f"the base model {Path(str(named)).name} is a folder here, so the encoders go up as well; "
                "`--adapter --base OWNER/NAME` publishes the prompts alone"
                if kind == "full"
                else f"the encoders stay here: they are those of {base}"
            )
    if kind == "full" and base is not None:
        raise ValueError("a base model is an adapter's: leave out --base, or publish with --adapter")
    target = staging / SAFE_WEIGHTS_NAME
    if kind == stored:
        target.symlink_to(weights.resolve())
    elif kind == "full":
        _save_full(folder, staging)
    else:
        _save_prompts(weights, target)
    if kind == "adapter":
        config |= _adapter_base(folder, config, base, is_local, made_anew=stored == "full")
    elif is_local:
        config |= {name: None for name in ("base_model_name_or_path", "base_model_revision", "base_model_fingerprint")}
    config |= {"save_base_model": kind == "full", "auto_map": MiraGeConfig().auto_map}
    config.pop("_name_or_path", None)
    write_json(staging / CONFIG_NAME, config)
    shutil.copyfile(folder / IMAGE_PROCESSOR_NAME, staging / IMAGE_PROCESSOR_NAME)
    if (folder / NOTES_FILE).is_file():  # read for the card, and not published
        shutil.copyfile(folder / NOTES_FILE, staging / NOTES_FILE)
    words = {"adapter": "weights: prompts and mappings", "full": "weights: the whole model"}
    calibrated = "" if config.get("calibration") is None else f", calibration {config['calibration']['id']}"
    files = [
        PushFile(SAFE_WEIGHTS_NAME, target, words[kind]),
        PushFile(CONFIG_NAME, staging / CONFIG_NAME, f"configuration{calibrated}"),
        PushFile(IMAGE_PROCESSOR_NAME, staging / IMAGE_PROCESSOR_NAME, "image processor"),
    ]
    return kind, files + stage_code(staging), notes


def stage_code(staging: Path) -> list[PushFile]:
    """The modules that load the model without the package, as they are installed here."""
    modules = {str(configuration_mirage.__file__), str(modeling_mirage.__file__)}
    modules |= {name for module in modules for name in get_relative_import_files(module)}
    files = []
    for module in sorted(map(Path, modules)):
        shutil.copyfile(module, staging / module.name)
        files.append(PushFile(module.name, staging / module.name, "code of the model"))
    return files


def stage_results(folder: Path, results: Sequence[Path], staging: Path, notes: list[str]) -> list[PushFile]:
    """
    The results files, what lies beside them, and what training wrote, below `results/` and without local paths.

    Raises:
        ValueError: the record of a training is of other weights.
    """
    files: list[PushFile] = []
    used: set[str] = set()
    for source in results:
        name = "test" if source.parent.resolve() == folder.resolve() else source.parent.resolve().name
        while name in used:
            name += "-again"
        used.add(name)
        content = read_json(source)
        roots = [content.get("arguments", {}).get(key) for key in PATH_ARGUMENTS]
        roots += [source.parent, folder]
        for beside in (source.name, *BESIDE_RESULTS.get(source.name, ())):
            if (source.parent / beside).is_file():
                path = f"{RESULTS_FOLDER}/{name}/{beside}"
                stage_text(source.parent / beside, staging / path, roots, notes)
                what = RESULTS if beside == source.name else "beside the results"
                files.append(PushFile(path, staging / path, what))
    for key, source in training_files([folder, *(source.parent for source in results)]).items():
        if key == "run" and read_json(source).get("weights_sha256") != file_hash(folder / SAFE_WEIGHTS_NAME):
            raise ValueError(
                f"{source} is of other weights than {folder / SAFE_WEIGHTS_NAME}: remove it, or train again"
            )
        path = f"{RESULTS_FOLDER}/training/{source.name}"
        stage_text(source, staging / path, [folder], notes)
        files.append(PushFile(path, staging / path, "training"))
    return files


def stage_export(export: Path, staging: Path) -> list[PushFile]:
    """
    An exported model, below `onnx/`.

    Raises:
        FileNotFoundError: the folder holds none.
    """
    if not (export / EXPORT_FILES[0]).is_file():
        raise FileNotFoundError(f"{export} has no {EXPORT_FILES[0]}: `mirage-hf export` writes one")
    (staging / EXPORT_FOLDER).mkdir()
    files = []
    for name in EXPORT_FILES:
        if (export / name).is_file():
            target = staging / EXPORT_FOLDER / name
            target.symlink_to((export / name).resolve())
            files.append(PushFile(f"{EXPORT_FOLDER}/{name}", target, "exported model"))
    return files


def stage_text(source: Path, target: Path, roots: Sequence[Any], notes: list[str]) -> None:
    """Copies a text and takes the paths of this machine out of it; `notes` tells where there were some."""
    target.parent.mkdir(parents=True, exist_ok=True)
    text = source.read_text(encoding="utf-8")
    if source.suffix == ".json":
        content = json.loads(text)
        arguments = content.get("arguments")
        if isinstance(arguments, dict):
            for key in PATH_ARGUMENTS:
                if isinstance(arguments.get(key), str) and not is_hub_id(arguments[key]):
                    arguments[key] = Path(arguments[key]).name
        freed = json.dumps(_freed(content, roots), indent=2) + "\n"
        changed = json.loads(freed) != json.loads(text)
    else:
        freed = without_local_paths(text, roots)
        changed = freed != text
    if changed:
        notes.append(f"{source}: paths of this machine are cut to what lies below them")
    target.write_text(freed, encoding="utf-8")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes JSON as transformers does."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _save_full(folder: Path, staging: Path) -> None:
    model = MiraGeForImageDetection.from_pretrained(folder)
    model.config.save_base_model = True
    with model.portable():
        model.save_pretrained(staging)


def _save_prompts(weights: Path, target: Path) -> None:
    with safe_open(weights, framework="pt") as file:
        metadata = file.metadata()
    prompts = {name: value for name, value in load_file(weights).items() if not name.startswith("clip.")}
    save_file(prompts, target, metadata=metadata)


def _adapter_base(
    folder: Path, config: dict[str, Any], base: str | None, is_local: bool, made_anew: bool
) -> dict[str, Any]:
    named = config.get("base_model_name_or_path")
    if base is not None and not is_hub_id(base):
        raise ValueError(f"--base must be a Hub id of the form owner/name, got {base!r}")
    if base is None and (named is None or is_local):
        where = (
            "no base model" if named is None else f"a folder of this machine, {Path(named).name}, as its base model"
        )
        raise ValueError(
            f"{folder} names {where}, which nobody else could find: name the CLIP that it was trained on with "
            "--base OWNER/NAME (publish that first, if it is your own), or publish the whole model with --full"
        )
    changes: dict[str, Any] = {} if base is None else {"base_model_name_or_path": base, "base_model_revision": None}
    if made_anew:
        name, revision = base or str(named), None if base else config.get("base_model_revision")
        clip = CLIPModel.from_pretrained(name, revision=revision, dtype="auto", use_safetensors=True)
        changes["base_model_fingerprint"] = fingerprint(sample_weights(clip))
    return changes


def _freed(content: Any, roots: Sequence[Any]) -> Any:
    if isinstance(content, dict):
        return {key: _freed(value, roots) for key, value in content.items()}
    if isinstance(content, list):
        return [_freed(value, roots) for value in content]
    return without_local_paths(content, roots) if isinstance(content, str) else content


__all__ = ["PushFile", "stage_code", "stage_export", "stage_model", "stage_results", "stage_text", "write_json"]
