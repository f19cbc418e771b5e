"""Lists the images under a folder, inside its zip archives too, without unpacking or decoding any."""

import os
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from .image_io import UnreadableImage
from .reading import is_image_name, member_source, open_archive

# Left by operating systems; hidden files are passed over as well.
SYSTEM_NAMES = frozenset({"__macosx", "thumbs.db", "desktop.ini"})


class Found(NamedTuple):
    """One image: its file name, its path for people (`archive.zip!member` inside a zip) and its source for us."""

    name: str
    path: str
    source: str


@dataclass
class Tree:
    """
    What a folder holds.

    Args:
        root (`str`):
            Absolute path of the folder (or zip archive).
        folders (`dict[str, list[Found]]`):
            Images by folder, relative to the root with `/` after each part. A zip archive counts as a folder of its
            name without `.zip`.
        skipped (`list[tuple[str, str]]`):
            Path and reason of what has an image's name (or is an archive) and cannot be read.
        ignored (`int`):
            Number of files of other kinds.
        unpacked (`int`):
            Number of images in archives that lie beside their archive too and are listed once.
    """

    root: str
    folders: dict[str, list[Found]] = field(default_factory=lambda: defaultdict(list))
    skipped: list[tuple[str, str]] = field(default_factory=list)
    ignored: int = 0
    unpacked: int = 0


def scan_tree(root: str) -> Tree:
    """
    List the images of a folder or of a zip archive. Links are followed, loops are not.

    Args:
        root (`str`):
            A folder or a zip archive.
    """
    tree = Tree(os.path.abspath(root))
    if os.path.isfile(tree.root):
        _add_archive(tree, tree.root, "", "", set())
        return tree
    archives: list[tuple[str, str]] = []
    _add_folder(tree, tree.root, "", (), archives)
    files = {folder + found.name for folder, items in tree.folders.items() for found in items} if archives else set()
    for archive, relative in archives:
        stem = os.path.basename(archive)[: -len(".zip")]
        _add_archive(tree, archive, relative, f"{relative}{stem}/", files)
    return tree


def printable(path: str) -> str:
    """The path with bytes that are not UTF-8 written as escapes."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _is_passed_over(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def _add_folder(
    tree: Tree,
    folder: str,
    relative: str,
    ancestors: tuple[tuple[int, int], ...],
    archives: list[tuple[str, str]],
) -> None:
    try:
        status = os.stat(folder)
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        tree.skipped.append((printable(folder), error.strerror or "cannot be listed"))
        return
    identity = (status.st_dev, status.st_ino)
    if identity in ancestors:
        tree.skipped.append((printable(folder), "a link to a folder above it"))
        return
    for entry in entries:
        if _is_passed_over(entry.name):
            continue
        if is_image_name(entry.name):
            _add_file(tree, entry, relative)
        elif entry.is_dir():
            _add_folder(tree, entry.path, f"{relative}{entry.name}/", (*ancestors, identity), archives)
        elif entry.name.lower().endswith(".zip") and entry.is_file():
            archives.append((entry.path, relative))
        else:
            tree.ignored += 1


def _add_file(tree: Tree, entry: os.DirEntry, relative: str) -> None:
    shown = printable(entry.path)
    if shown != entry.path:
        tree.skipped.append((shown, "its name is not UTF-8: rename it"))
    elif entry.is_file():
        tree.folders[relative].append(Found(entry.name, entry.path, entry.path))
    elif entry.is_dir():
        tree.skipped.append((shown, "a folder with an image's name"))
    elif not os.path.exists(entry.path):
        tree.skipped.append((shown, "a link to nothing"))
    else:
        tree.skipped.append((shown, "not a regular file"))


def _add_archive(tree: Tree, archive: str, beside: str, inside: str, unpacked: set[str]) -> None:
    """List an archive's images under the folder `inside`, except those unpacked there or in the folder `beside` it."""
    if printable(archive) != archive:
        tree.skipped.append((printable(archive), "its name is not UTF-8: rename it"))
        return
    try:
        members = open_archive(archive).namelist()
    except UnreadableImage as error:
        tree.skipped.append((archive, str(error)))
        return
    for member in sorted(members):
        *parts, name = member.split("/")
        if not name or any(_is_passed_over(part) for part in (*parts, name)):
            continue
        if not is_image_name(name):
            tree.ignored += 1
        elif beside + member in unpacked or inside + member in unpacked:
            tree.unpacked += 1
        else:
            folder = inside + "".join(part + "/" for part in parts)
            tree.folders[folder].append(Found(name, f"{archive}!{member}", member_source(archive, member)))
