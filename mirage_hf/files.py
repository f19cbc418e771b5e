"""Files that are there whole or not at all."""

from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> None:
    """
    Writes a file, and the folders above it, under another name first: nobody ever finds half of it. What a kill leaves
    under that name is overwritten next time. Not for two processes that write the same file at once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.tmp")
    if isinstance(content, bytes):
        unfinished.write_bytes(content)
    else:
        unfinished.write_text(content, encoding="utf-8", errors="backslashreplace")
    unfinished.replace(path)


__all__ = ["write_atomically"]
