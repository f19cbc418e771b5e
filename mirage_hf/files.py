"""Files that are there whole or not at all."""

import os
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file, and the folders above it, under another name first: nobody ever finds half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    if isinstance(content, bytes):
        unfinished.write_bytes(content)
    else:
        unfinished.write_text(content, encoding="utf-8", errors="backslashreplace")
    unfinished.replace(path)


__all__ = ["write_atomically"]
