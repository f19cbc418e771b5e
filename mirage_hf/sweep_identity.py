"""What a run of a sweep is made of: the same identity need not be run twice, and others are not mixed up with it."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy
from transformers.utils import cached_file
from transformers.utils.hub import extract_commit_hash

from .collect import collect, read_reals
from .environment import versions
from .records import select_split
from .run_args import DataArguments, ModelArguments
from .training_args import MiraGeTrainingArguments

# Where things lie and how they are shown: checksums stand for what lies there.
PLACES = frozenset(
    "model_name_or_path data real_root output_dir run_name project report_to disable_tqdm hub_token".split()
)
CHECKPOINT_FILES = (".safetensors", ".json", ".txt", ".bin")


def identify(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: MiraGeTrainingArguments,
    test: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """
    Everything that decides how a run comes out, as JSON can hold it.

    Args:
        model_args, data_args, args:
            From [`parse_run_args`].
        test (`Mapping[str, Mapping]`):
            Arguments of [`load_detection_dataset`] for each test set.

    Returns:
        `dict`: `arguments` (all, defaults included, but not places), `model` and `data` (checksums), `test` (options
        and checksum of each set) and `versions`.

    Raises:
        OSError, ValueError: checkpoint or data are not there.
    """
    arguments = asdict(model_args) | asdict(data_args) | args.to_dict()
    splits = tuple(dict.fromkeys(s for s in (data_args.train_split, data_args.eval_split) if s is not None))
    reading = (data_args.layout, data_args.fake_id, data_args.label_column, data_args.real_root)
    identity = {
        "arguments": {name: value for name, value in sorted(arguments.items()) if name not in PLACES},
        "model": checkpoint_checksum(model_args.model_name_or_path, model_args.model_revision),
        "data": listing_checksum(data_args.data, splits, *reading),
        "test": {
            name: {key: value for key, value in options.items() if key not in PLACES}
            | {
                "checksum": listing_checksum(
                    options["data"],
                    (options["split"],),
                    options.get("layout", "auto"),
                    *(options.get(key) for key in ("fake_id", "label_column", "real_root")),
                )
            }
            for name, options in test.items()
        },
        "versions": {**versions(), "numpy": numpy.__version__},
    }
    return json.loads(json.dumps(identity, default=str))


def differences(stored: Any, current: Any, name: str = "") -> list[str]:
    """Where two identities differ, for people: `["learning_rate 0.1, now 0.2"]`."""
    if isinstance(stored, dict) and isinstance(current, dict):
        keys = dict.fromkeys([*stored, *current])
        return [line for key in keys for line in differences(stored.get(key), current.get(key), _join(name, key))]
    return [] if stored == current else [f"{name.removeprefix('arguments.')} {_short(stored)}, now {_short(current)}"]


def _join(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"


@lru_cache(maxsize=64)
def listing_checksum(
    data: str,
    splits: tuple[str, ...],
    layout: str = "auto",
    fake_id: int | None = None,
    label_column: str | None = None,
    real_root: str | None = None,
) -> str:
    """
    Hash over some splits of a data set: names, labels, generators and file sizes. No image is opened, so an image that
    was exchanged for one of exactly its size goes unseen.

    Raises:
        ValueError: the data set is not there or not understood, or has no such split.
    """
    digest = hashlib.sha256()
    sizes: dict[str, int] = {}
    for split in splits:
        collection = collect(data, os.fspath(data), layout, split, fake_id, label_column, None)
        records = select_split(collection, split)
        if real_root is not None:
            records = records + read_reals(collection, real_root, split)
        lines = []
        for record in records:
            size = _size(record.source, sizes) if isinstance(record.source, str) else -1
            lines.append(f"{split}\0{record.key}\0{record.label}\0{record.generator}\0{size}\n")
        digest.update("".join(sorted(lines)).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def _size(source: str, sizes: dict[str, int]) -> int:
    file = source.rpartition("::")[2] if source.startswith("zip://") else source
    if file not in sizes:
        sizes[file] = os.path.getsize(file) if os.path.isfile(file) else -1
    return sizes[file]


@lru_cache(maxsize=64)
def checkpoint_checksum(name: str | None, revision: str | None = None) -> str | None:
    """
    Hash over the weights, configuration and tokenizer of a folder; name and Git commit of a Hub repository.

    Raises:
        OSError: there is no such checkpoint.
    """
    if name is None:
        return None
    if os.path.isdir(name):
        digest = hashlib.sha256()
        for file in sorted(Path(name).iterdir()):
            if file.suffix in CHECKPOINT_FILES and file.is_file():
                with file.open("rb") as content:
                    digest.update(f"{file.name}\0{hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
        return digest.hexdigest()
    return f"{name}@{extract_commit_hash(cached_file(name, 'config.json', revision=revision), None)}"


__all__ = ["checkpoint_checksum", "differences", "identify", "listing_checksum"]
