"""Files that several processes write into one folder: whole or not at all, leftovers told from work under way."""

import json
import os
import platform
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# Hidden, and of another ending than results: neither `*.parquet` nor this package reads them.
TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<host>[^.]+)\.(?P<pid>\d+)\.tmp")


def temporary_name(file: Path) -> Path:
    """`Path`: Where this process writes a file before it is renamed."""
    return file.with_name(f".{file.name}.{_host()}.{os.getpid()}.tmp")


def remove_stale_temporaries(folder: Path, names: Iterable[str], shared: bool = False) -> int:
    """
    Remove what processes left behind that were killed.

    Args:
        folder (`Path`):
            The output folder.
        names (`Iterable[str]`):
            Only temporaries of these files.
        shared (`bool`, *optional*, defaults to `False`):
            Whether other machines may be writing these files, too, so that theirs are kept. Those of processes that
            run on this machine are kept in any case.

    Returns:
        `int`: how many there were.
    """
    wanted, removed = set(names), 0
    for file in folder.glob(".*.tmp"):
        found = TEMPORARY.fullmatch(file.name)
        if found is None or found["name"] not in wanted:
            continue
        # A process that has just begun has written nothing yet, so what bears its number was left by another.
        pid = int(found["pid"])
        here = found["host"] == _host()
        if (not here and not shared) or (here and (pid == os.getpid() or not _runs(pid))):
            file.unlink(missing_ok=True)
            removed += 1
    return removed


def create_json(file: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file unless there is one: of several processes that try at once, one succeeds."""
    temporary = temporary_name(file)
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    try:
        os.link(temporary, file)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        if not file.exists():
            os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def _host() -> str:
    return re.sub(r"[^\w-]", "-", platform.node()) or "host"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:  # a killed process that nobody has waited for still has its number
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return True


__all__ = ["create_json", "remove_stale_temporaries", "temporary_name"]
