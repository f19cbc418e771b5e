"""The output folder of a scoring run: what it was made of, which shards are finished, and when to refuse to go on.

`manifest.json` pins all that scores depend on. A shard is finished when its file is there, whole, and bears the
manifest's mark.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .files import write_atomically
from .scoring_files import create_json, remove_stale_temporaries
from .scoring_shard import ShardStats, read_stats

PINNED = (
    "inputs",
    "images",
    "shard_size",
    "num_shards",
    "model",
    "revision",
    "calibration_id",
    "threshold",
    "dtype",
    "backend",
    "fake_label",
    "limits",
    "sha256",
    "mirage_hf",
)


class ScoringFolder:
    """
    An output folder with its manifest.

    Args:
        path (`Path`):
            The folder.
        manifest (`dict`):
            Content of `manifest.json`: the fields of `PINNED` and notes.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]):
        self.path, self.manifest = path, manifest
        pinned = json.dumps({name: manifest.get(name) for name in PINNED}, sort_keys=True)
        self.mark = hashlib.sha256(pinned.encode()).hexdigest()[:16]

    @classmethod
    def claim(cls, path: Path, manifest: dict[str, Any]) -> "ScoringFolder":
        """
        Begin a run in a folder, or go on with the one that is there.

        Raises:
            ValueError: the folder holds another run; the fields that differ are named.
        """
        create_json(path / "manifest.json", manifest)
        stored, manifest = read_manifest(path), json.loads(json.dumps(manifest))
        assert stored is not None
        differing = [
            f"{name} {_shown(stored.get(name))} there, {_shown(manifest[name])} now"
            for name in PINNED
            if stored.get(name) != manifest[name]
        ]
        if differing:
            raise ValueError(
                f"'{path}' holds scores of another run ({'; '.join(differing)}): choose another --output-dir, or "
                "start over with --restart"
            )
        return cls(path, stored)

    @property
    def num_shards(self) -> int:
        """`int`: Shards of the whole run."""
        return self.manifest["num_shards"]

    def part(self, index: int, count: int) -> range:
        """The shards of one of several processes that share the folder: every `count`-th from the `index`-th on."""
        return range(index, self.num_shards, count)

    def shard_file(self, shard: int) -> Path:
        """Where the scores of a shard go."""
        return self.path / f"shard-{shard:05}-of-{self.num_shards:05}.parquet"

    def metadata(self, shard: int) -> dict[str, str]:
        """The metadata that tells a shard's file from that of any other shard and run."""
        return {"mirage_hf.run": self.mark, "mirage_hf.shard": str(shard)}

    def finished(self, shards: Iterable[int]) -> dict[int, ShardStats]:
        """Those of the shards that are finished."""
        found = {shard: read_stats(self.shard_file(shard), self.metadata(shard)) for shard in shards}
        return {shard: stats for shard, stats in found.items() if stats is not None}

    def clean(self, shards: Iterable[int]) -> int:
        """Removes what was left behind by killed processes that wrote these shards; how much that was."""
        return remove_stale_temporaries(self.path, [self.shard_file(shard).name for shard in shards])

    def write_summary(self) -> bool:
        """Writes `summary.json` if all shards of the run are finished, of all parts; whether they are."""
        finished = self.finished(range(self.num_shards))
        if len(finished) < self.num_shards:
            return False
        total = ShardStats()
        for stats in finished.values():
            total += stats
        summary = {
            "images": total.images,
            "verdict": dict(sorted(total.verdict.items())),
            "status": dict(sorted(total.status.items())),
            "num_shards": self.num_shards,
            "shard_seconds": round(total.seconds, 3),
        }
        kept = ("model", "revision", "calibration_id", "threshold", "dtype", "backend", "mirage_hf")
        summary |= {name: self.manifest[name] for name in kept}
        write_atomically(self.path / "summary.json", json.dumps(summary, indent=1) + "\n")
        return True


def read_manifest(path: Path) -> dict[str, Any] | None:
    """
    The manifest in a folder, if there is one.

    Raises:
        ValueError: the file is something else.
    """
    file = path / "manifest.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        found = None
    if not isinstance(found, dict) or not {"mirage_hf", "num_shards"} <= found.keys():
        raise ValueError(f"'{file}' is no manifest of scores: choose another --output-dir, or remove it")
    return found


def remove_run(path: Path) -> None:
    """
    Removes what a run wrote into its folder, the manifest last, and nothing else.

    Raises:
        ValueError: the folder has a manifest of something else.
    """
    manifest = read_manifest(path)
    if manifest is None:
        return
    folder = ScoringFolder(path, manifest)
    folder.clean(range(folder.num_shards))
    for shard in range(folder.num_shards):
        folder.shard_file(shard).unlink(missing_ok=True)
    for name in (f"listing-{manifest['inputs']}.parquet", "summary.json", "manifest.json"):
        (path / name).unlink(missing_ok=True)


def _shown(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict) else str(value)


__all__ = ["PINNED", "ScoringFolder", "read_manifest", "remove_run"]
