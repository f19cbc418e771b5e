"""What `backend="auto"` remembers: measurements and exported networks, in a folder of the user.

It is huggingface_hub's folder for what a library makes by itself, `assets/mirage_hf` below `HF_HOME`, which lies in
`XDG_CACHE_HOME` unless it is set. People who move or clean that cache move and clean this, and it may be deleted at
any time. Nothing found there is trusted: a record must state what it was measured with, value by value, and an export
the hashes of its files.
"""

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import cached_assets_path, constants

HASHES = "files.json"


@dataclass(frozen=True)
class Measured:
    """
    What was found of a way to run a detector.

    Args:
        difference (`float`): Largest difference of the log-odds of fake from PyTorch's in float32.
        seconds, torch_seconds (`list[float]`): For an image, round by round: this way, and PyTorch in float32 in turn.
        failure (`str`, *optional*): Why the way doesn't work here.
    """

    difference: float = 0.0
    seconds: list[float] | None = None
    torch_seconds: list[float] | None = None
    failure: str | None = None

    def __post_init__(self):
        if isinstance(self.failure, str):
            return
        mine, theirs = self.seconds, self.torch_seconds
        timed = isinstance(mine, list) and isinstance(theirs, list) and 0 < len(mine) == len(theirs)
        if not (timed and all(map(_positive, [*(mine or ()), *(theirs or ())]))):
            raise ValueError(f"seconds must be as many positive numbers of each, got {mine!r} and {theirs!r}")
        if not (self.difference == 0 or _positive(self.difference)):
            raise ValueError(f"`difference` must be a number of at least 0, got {self.difference!r}")


def _positive(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value) and value > 0


def cache_folder(part: str) -> Path:
    """
    A folder of the cache, made if it isn't there.

    Raises:
        OSError: it can't be made.
    """
    try:
        return cached_assets_path("mirage_hf", "backends", part, assets_dir=constants.HF_ASSETS_CACHE)
    except ValueError as error:  # a file lies in the way
        raise OSError(str(error)) from error


def check_writable(folder: Path) -> None:
    """
    Raises:
        OSError: nothing can be written there.
    """
    with tempfile.TemporaryFile(dir=folder):
        pass


def key_of(facts: dict[str, Any]) -> str:
    """`str`: A file name for what these facts hold of."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def read_record(file: Path, facts: dict[str, Any], names: list[str]) -> dict[str, Measured] | None:
    """The measurements in a file; `None` if it isn't there, is damaged, or was made of anything but these facts."""
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        measured = {name: Measured(**entry) for name, entry in stored["ways"].items()}
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return None
    return measured if stored.get("facts") == facts and sorted(measured) == sorted(names) else None


def write_record(file: Path, facts: dict[str, Any], measured: dict[str, Measured]) -> None:
    """Writes measurements, at once; other processes may do so, too, and one of them wins."""
    content = {"facts": facts, "ways": {name: asdict(entry) for name, entry in measured.items()}}
    with tempfile.TemporaryDirectory(prefix=".", dir=file.parent) as temporary:
        unfinished = Path(temporary) / file.name
        unfinished.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        unfinished.replace(file)


def is_whole(folder: Path) -> bool:
    """Whether a folder holds exactly the files that were written there."""
    try:
        return json.loads((folder / HASHES).read_text(encoding="utf-8")) == _hashes(folder)
    except (OSError, ValueError):
        return False


def keep(folder: Path, make: Callable[[Path], object]) -> None:
    """
    Makes a folder that appears whole, unless it is there and whole.

    Args:
        folder (`Path`): Where.
        make (`Callable[[Path], object]`): Makes and fills a folder by another name.
    """
    if is_whole(folder):
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder.parent) as temporary:
        unfinished = Path(temporary) / folder.name
        make(unfinished)
        (unfinished / HASHES).write_text(json.dumps(_hashes(unfinished), indent=1) + "\n", encoding="utf-8")
        try:
            unfinished.rename(folder)
        except OSError:
            if not is_whole(folder):  # else another process was faster
                raise


def _hashes(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name != HASHES:
            with path.open("rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


__all__ = ["Measured", "cache_folder", "check_writable", "is_whole", "keep", "key_of", "read_record", "write_record"]
