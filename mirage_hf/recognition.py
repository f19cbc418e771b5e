"""Recognises which layout a tree has, and places its folders: split, generator, label."""

import re
from collections.abc import Iterable, Mapping, Sequence

from .layouts import GENIMAGE_INNER_FOLDERS, LAYOUTS, Layout, Placement, Rule, label_of, split_of


def wrapper_of(folders: Iterable[str]) -> str:
    """
    The folders above the ones that name the splits, where all images share them: `data/` in `data/test/<generator>/…`.

    A folder whose splits hold the classes (`<generator>/train/real`) is a generator's, so it is no wrapper.
    """
    paths = [folder.split("/") for folder in folders]
    depth = 0
    while all(len(path) > depth + 3 and path[: depth + 1] == paths[0][: depth + 1] for path in paths):
        if split_of(paths[0][depth]) or label_of(paths[0][depth]) is not None:
            break
        depth += 1
        if all(split_of(path[depth]) and label_of(path[depth + 1]) is None for path in paths):
            return "/".join(paths[0][:depth]) + "/"
    return ""


def place_folders(layout: Layout, folders: Iterable[str], root_name: str = "") -> dict[str, Placement]:
    """
    Place the folders that a layout understands.

    Args:
        layout ([`Layout`]):
            The layout.
        folders (`Iterable[str]`):
            Paths relative to the root, `/` after each part; the root itself is `""`.
        root_name (`str`, *optional*):
            Name of the root folder, which names the generator where the root is a single generator's folder.

    Raises:
        ValueError: some folders name a split, others do not, and the layout does not say which that is.
    """
    return _settle_splits(layout, _match(layout, folders, root_name))


def recognise(folders: Mapping[str, Sequence[str]], root_name: str = "") -> tuple[Layout, dict[str, Placement]]:
    """
    Find the one layout that explains a tree.

    Layouts with a signature come before general ones. Two layouts that read the same folders in the same way are not
    in conflict: the first gives its name.

    Args:
        folders (`Mapping[str, Sequence[str]]`):
            File names of images by folder, as in [`place_folders`].
        root_name (`str`, *optional*):
            As in [`place_folders`].

    Raises:
        ValueError: no layout fits, two fit with different results, or a folder's path names both classes.
    """
    for folder in folders:
        labels = {label for part in folder.split("/") if (label := label_of(part)) is not None}
        if len(labels) == 2:
            raise ValueError(f"folder '{folder}' names both classes: pass `layout=`, or write a manifest")
    fitting = []
    for layout in LAYOUTS:
        if _has_signature(layout, folders):
            matched = _match(layout, folders, root_name)
            if matched:
                fitting.append((layout, matched))
    if not fitting:
        raise ValueError(f"no known layout among the image folders {_examples(folders)}")
    winner, matched = fitting[0]
    for other, others_matched in fitting[1:]:
        same_rank = (winner.signature is None) == (other.signature is None)
        differing = sorted(
            folder
            for folder, (placement, _) in others_matched.items()
            if folder not in matched or (same_rank and matched[folder][0] != placement)
        )
        if differing:
            raise ValueError(
                f"ambiguous: layouts {winner.name} and {other.name} both fit and disagree about {_examples(differing)}"
                f": pass `layout='{winner.name}'` or `layout='{other.name}'`, or load a folder further down"
            )
    return winner, _settle_splits(winner, matched)


def _match(layout: Layout, folders: Iterable[str], root_name: str) -> dict[str, tuple[Placement, Rule]]:
    matched = {}
    for folder in sorted(folders):
        for rule in layout.rules:
            match = re.fullmatch(rule.pattern, folder, re.IGNORECASE)
            if match:
                matched[folder] = (_place(layout, rule, match, root_name), rule)
                break
    return matched


def _settle_splits(layout: Layout, matched: dict[str, tuple[Placement, Rule]]) -> dict[str, Placement]:
    placed = {folder: placement for folder, (placement, _) in matched.items()}
    if any(placement.split for placement in placed.values()):
        for folder, (placement, rule) in matched.items():
            if placement.split is None and rule.bare_split is None:
                raise ValueError(
                    f"folder '{folder}' names no split but others do (layout {layout.name}): "
                    "load the part you mean by its own path, or write a manifest"
                )
            placed[folder] = placement._replace(split=placement.split or rule.bare_split)
    return placed


def _place(layout: Layout, rule: Rule, match: re.Match, root_name: str) -> Placement:
    groups = match.groupdict()
    label = rule.label if rule.label is not None else label_of(groups["label"])
    if label is None:
        raise ValueError(f"folder '{match.string}' names no class")
    generator = groups.get("generator")
    if generator is None and rule.shared_by:
        named = [part for part in match.string.split("/") if part and not split_of(part) and label_of(part) is None]
        generator = named[-1] if named else None
    if generator is None and layout.name == "genimage":
        inner = (groups.get("inner") or root_name).rstrip("/")
        generator = GENIMAGE_INNER_FOLDERS.get(inner.lower(), inner)
    split = groups.get("split")
    # Shared images are those of the real class: a fake folder of the same parent is an ordinary one.
    shared_by = rule.shared_by if label == 0 else ()
    return Placement(split_of(split) if split else None, generator or layout.generator, label, shared_by)


def _has_signature(layout: Layout, folders: Mapping[str, Sequence[str]]) -> bool:
    if layout.file_names and not all(
        re.fullmatch(layout.file_names, name, re.IGNORECASE) for names in folders.values() for name in names
    ):
        return False
    listing = "\n".join(sorted(folders))
    return layout.signature is None or re.search(layout.signature, listing, re.IGNORECASE | re.MULTILINE) is not None


def _examples(folders: Iterable[str], count: int = 3) -> str:
    shown = [f"'{folder or '.'}'" for folder in sorted(folders)]
    return ", ".join(shown[:count]) + (f" and {len(shown) - count} more" if len(shown) > count else "")
