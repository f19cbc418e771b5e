"""Finds out what lies at a place (a tree, a manifest, a data set with columns) and lists its images and labels."""

import logging
import os
import re
from pathlib import Path

import datasets

from .layouts import find_layout, split_of
from .manifests import find_manifest, has_column, open_hub, read_columns, read_manifest
from .recognition import place_folders, recognise, wrapper_of
from .records import Collection, Record
from .scan import Tree, scan_tree

logger = logging.getLogger(__name__)

# Columns describe these sets; on disk they are whatever `load_dataset` reads.
HUB_LAYOUTS = ("hub", "openfake", "communityforensics", "tinygenimage")


def collect(
    root: str | Path | datasets.Dataset,
    name: str,
    layout: str,
    split: str,
    fake_id: int | None,
    label_column: str | None,
    config_name: str | None,
) -> Collection:
    if isinstance(root, datasets.Dataset):
        return read_columns(root, name, fake_id, label_column)
    kind = re.sub(r"[\W_]", "", layout.lower())
    if kind in HUB_LAYOUTS or (kind == "auto" and _is_hub_like(name)):
        return read_columns(open_hub(name, split, config_name), name, fake_id, label_column)
    if not os.path.exists(name):
        raise ValueError(f"'{name}' does not exist (and is no Hub id `owner/name`): correct the path")
    if kind in ("auto", "manifest"):
        manifest = find_manifest(name) if os.path.isdir(name) else name
        if manifest is not None and manifest.lower().endswith((".csv", ".parquet")):
            return read_manifest(manifest, fake_id, label_column)
        if kind == "manifest":
            raise ValueError(f"'{name}' is and holds no manifest: pass a .csv or .parquet file")
    if not os.path.isdir(name) and not name.lower().endswith(".zip"):
        raise ValueError(f"'{name}' is neither a folder nor a .zip archive nor a .csv or .parquet manifest")
    tree = scan_tree(name)
    if not tree.folders and kind == "auto" and _holds_data_files(name):
        return read_columns(open_hub(name, split, config_name), name, fake_id, label_column)
    return _read_tree(tree, name, layout)


def _is_hub_like(name: str) -> bool:
    if os.path.isdir(name):
        return any(os.path.isfile(os.path.join(name, mark)) for mark in ("state.json", "dataset_dict.json"))
    if os.path.isfile(name):
        return name.lower().endswith(".parquet") and not has_column(name, "path")
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None


def _holds_data_files(folder: str) -> bool:
    return any(
        file.lower().endswith((".parquet", ".arrow", ".jsonl"))
        for _, _, files in os.walk(folder)
        for file in files
        if not file.startswith(".")
    )


def _read_tree(tree: Tree, name: str, layout_name: str) -> Collection:
    if not tree.folders:
        skipped = f", {len(tree.skipped)} unreadable: {': '.join(tree.skipped[0])}" if tree.skipped else ""
        raise ValueError(f"no images under '{name}' ({tree.ignored} other files{skipped})")
    wrapper = wrapper_of(tree.folders)
    folders = {folder.removeprefix(wrapper): found for folder, found in tree.folders.items()}
    root_name = os.path.basename(tree.root).removesuffix(".zip")
    if layout_name == "auto":
        try:
            layout, placed = recognise(
                {key: [item.name for item in found] for key, found in folders.items()}, root_name
            )
        except ValueError as error:
            raise ValueError(f"'{name}': {error}") from None
    else:
        layout = find_layout(layout_name)
        placed = place_folders(layout, folders, root_name)
        if not placed:
            raise ValueError(f"no folder under '{name}' fits layout {layout.name}: pass another, or 'auto'")
    collection = Collection(
        layout.name,
        [
            Record(
                folder + item.name, item.path, item.source, place.split, place.generator, place.label, place.shared_by
            )
            for folder, place in placed.items()
            for item in folders[folder]
        ],
        tree.skipped,
        tree.ignored,
        validation_is_test=layout.validation_is_test,
    )
    left = sorted(set(folders) - set(placed))
    if left:
        images = sum(len(folders[folder]) for folder in left)
        collection.notes.append(f"{images} images in {len(left)} folders fit no rule, such as '{left[0] or '.'}'")
        logger.warning("%s: %s", name, collection.notes[-1])
    if tree.unpacked:
        collection.notes.append(f"{tree.unpacked} images of archives are there unpacked too and were taken once")
    return collection


def read_reals(collection: Collection, real_root: str, split: str) -> list[Record]:
    if not os.path.exists(real_root):
        raise ValueError(f"`real_root` '{real_root}' does not exist: correct the path")
    tree = scan_tree(real_root)
    collection.skipped += tree.skipped
    collection.ignored += tree.ignored
    named = {folder: {split_of(part) for part in folder.split("/")} - {None} for folder in tree.folders}
    if any(named.values()):
        wanted = split_of(split) or split
        if collection.validation_is_test and wanted == "test" and not any("test" in names for names in named.values()):
            wanted = "validation"
        kept = [folder for folder, names in named.items() if wanted in names]
    else:
        kept = list(named)
    if not any(tree.folders[folder] for folder in kept):
        raise ValueError(f"no images of split '{split}' under `real_root` '{real_root}'")
    return [
        Record(f"real_root/{folder}{item.name}", item.path, item.source, None, "real", 0, ("*",))
        for folder in kept
        for item in tree.folders[folder]
    ]
