"""Where a sweep keeps its runs. `run.json` is written last: its presence means that the run is finished."""

import json
from pathlib import Path
from typing import Any


def run_folder(runs_dir: str | Path, setting: str, seed: int) -> Path:
    return Path(runs_dir) / setting / f"seed{seed}"


def read_run(folder: Path) -> dict[str, Any] | None:
    """What a finished run wrote last; `None` if it isn't finished."""
    try:
        return json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


__all__ = ["read_run", "run_folder"]
