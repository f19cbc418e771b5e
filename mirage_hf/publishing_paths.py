"""Paths of this machine in texts: cut down where it is known what they lead to, found where it isn't."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# An absolute path of two parts or more, or one from the home folder; no URL, no division, no date.
_ABSOLUTE = re.compile(r"(?:^|(?<=[\s\"'`(=,;|]))((?:/[\w.@+-]+){2,}/?|~/[\w./-]+|[A-Za-z]:\\[\w.\\-]+)", re.MULTILINE)


def without_local_paths(text: str, roots: Iterable[Any]) -> str:
    """
    The text with what lies below `roots` named from there, and the roots by their last part.

    Args:
        text (`str`):
            Any text.
        roots (`Iterable`):
            Paths as they were given, `None` among them; absolute or from the working folder.
    """
    given = {str(root).rstrip("/") for root in roots if root is not None}
    names = {path for root in given for path in (root, os.path.abspath(root), os.path.realpath(root))}
    for name in sorted((name for name in names if os.path.isabs(name) and len(name) > 1), key=len, reverse=True):
        text = re.sub(rf"{re.escape(name)}/", "", text)
        text = re.sub(rf"{re.escape(name)}(?![\w.-])", os.path.basename(name), text)
    return text


def find_local_path(text: str, secrets: Iterable[str | Path] = (), is_code: bool = False) -> str | None:
    """
    The first path of this machine in a text.

    Args:
        text (`str`):
            Any text.
        secrets (`Iterable`, *optional*):
            Folders that must not be named; the home folder and the working folder never may.
        is_code (`bool`, *optional*, defaults to `False`):
            Look for these folders only: code may name others.
    """
    for folder in map(str, (Path.home(), Path.cwd(), *secrets)):
        if len(folder) > 1 and (found := re.search(rf"{re.escape(folder)}(?![\w-])[\w./-]*", text)):
            return found.group()
    found = None if is_code else _ABSOLUTE.search(text)
    return None if found is None else found.group(1)


__all__ = ["find_local_path", "without_local_paths"]
