"""From the arguments of a scoring run to its folder and images: listed, cut into shards, pinned."""

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tqdm.auto import tqdm

from .detector import Detector
from .image_io import SCORING_LIMITS, ImageLimits
from .row_files import ENDINGS
from .scoring_files import remove_stale_temporaries
from .scoring_hub import PREFIX, StreamedDataset, open_stream
from .scoring_job import DetectorSettings, Source
from .scoring_listing import StoredListing, write_listing
from .scoring_manifest import ScoringFolder, read_manifest, remove_run
from .scoring_walk import InputLister
from .version import __version__

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class ScoringArguments:
    """
    What to score, with what, and where to.

    Args:
        inputs (`Sequence[str]`):
            Files, folders, globs, `@list.txt`, `-`, Parquet, tar, zip: see [`mirage_hf.scoring_walk`]; or alone,
            `hf:name:split`. Empty to go on with what `output_dir` was begun with.
        model (`str`):
            Folder or Hub id of a detector.
        output_dir (`str`):
            Where shards, listing, manifest and summary go.
        revision, device, dtype, backend, max_difference, fake_label, threshold, limits, sha256:
            See [`Detector.from_pretrained`].
        calibration_images (`Sequence[str]`, *optional*):
            As there; files, folders and globs.
        batch_size (`int`, *optional*):
            Images for each forward pass; by default 8 on a CPU, whose caches are small, and 64 elsewhere.
        shard_size (`int`, *optional*):
            Images in a file; what is lost of a process that is killed. By default a 32nd of the input, 16 to 1,000;
            more past 10 million images.
        workers (`int`, *optional*):
            Processes: with a detector each on the CPU, for decoding on a GPU. As many as there are cores by default.
        part (`tuple[int, int]`, *optional*):
            `(i, n)`: of `n` processes that share `output_dir`, this is number `i`, from 0. By default what `torchrun`
            says, or `(0, 1)`.
        all_files, null (`bool`, *optional*, defaults to `False`):
            See [`InputLister`].
        engine (`str`, *optional*, defaults to `"local"`):
            `"local"` or `"ray"`.
        ray_address (`str`, *optional*):
            A cluster that shares `output_dir` and the inputs with this machine; by default one is started here.
        merge (`str`, *optional*):
            One `.parquet`, `.csv` or `.jsonl` file to write when all shards are there.
        restart (`bool`, *optional*, defaults to `False`):
            Forget what `output_dir` holds of an earlier run.
        list_only (`bool`, *optional*, defaults to `False`):
            Only list the input and write the manifest, for others to go on with.
        quiet (`bool`, *optional*, defaults to `False`):
            No progress bar; there is none either where stderr is no terminal.
    """

    inputs: Sequence[str]
    model: str
    output_dir: str
    revision: str | None = None
    device: str | None = None
    dtype: str = "float32"
    backend: str = "torch"
    max_difference: float = 0.001
    calibration_images: Sequence[str] = ()
    fake_label: str | None = None
    threshold: float | None = None
    limits: ImageLimits = SCORING_LIMITS
    sha256: bool = False
    batch_size: int | None = None
    shard_size: int | None = None
    workers: int | None = None
    part: tuple[int, int] | None = None
    all_files: bool = False
    null: bool = False
    engine: str = "local"
    ray_address: str | None = None
    merge: str | None = None
    restart: bool = False
    list_only: bool = False
    quiet: bool = False

    def __post_init__(self):
        if self.engine not in ENGINES:
            raise ValueError(f"`engine` must be one of {', '.join(ENGINES)}, got {self.engine!r}")
        for name in ("shard_size", "workers", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}")
        if self.part is not None and not 0 <= self.part[0] < self.part[1]:
            raise ValueError(f"`part` must be (i, n) with 0 <= i < n, got {self.part}")
        if self.part is not None and self.part[1] > 1 and self.restart:
            raise ValueError("start over with --restart and --list-only once, then begin the parts without")
        if self.backend == "auto" and self.ray_address is not None:
            raise ValueError("`backend` auto measures this machine, not those of a cluster: name a backend")
        if self.merge is not None and Path(self.merge).suffix.lower() not in ENDINGS:
            raise ValueError(f"`merge` must end in {', '.join(ENDINGS)}, got '{self.merge}'")

    def settings(self, device: str | None) -> DetectorSettings:
        """Those of the arguments that make the detector."""
        names = ("model", "revision", "dtype", "backend", "fake_label", "threshold", "limits", "sha256")
        batch_size = self.batch_size or (8 if device in (None, "cpu") else 64)
        return DetectorSettings(
            device=device,
            batch_size=batch_size,
            max_difference=self.max_difference,
            calibration_images=tuple(self.calibration_images),
            **{name: getattr(self, name) for name in names},
        )


def plan_run(arguments: ScoringArguments, detector: Detector) -> ScoringFolder:
    """
    List the input, and begin or take up the run in the output folder.

    Raises:
        ValueError: there is nothing to score, or the folder holds another run; the field that differs is named.
    """
    path = Path(arguments.output_dir)
    path.mkdir(parents=True, exist_ok=True)
    if arguments.restart:
        remove_run(path)
    stored = read_manifest(path)
    notes: dict[str, Any]
    if not arguments.inputs:
        if stored is None:
            raise ValueError(f"name what to score: '{path}' holds no run to go on with")
        pins: dict[str, Any] = {name: stored[name] for name in ("inputs", "images", "shard_size", "num_shards")}
        if arguments.shard_size is not None:
            pins["shard_size"] = arguments.shard_size
        notes = {}
    elif any(text.startswith(PREFIX) for text in arguments.inputs):
        if len(arguments.inputs) > 1:
            raise ValueError("a data set from `datasets` is scored alone: name no other input beside hf:...")
        stream = open_stream(arguments.inputs[0])
        # Rows of a stream are counted when they are there.
        pins = {"inputs": stream.digest, "images": None, "shard_size": None, "num_shards": stream.num_shards}
        notes = {"stream": asdict(stream)}
    else:
        pins, notes = _list_inputs(arguments, path, stored)
    manifest = pins | {
        "model": detector.name,
        "revision": detector.revision,
        "calibration_id": None if detector.calibration is None else detector.calibration.id,
        "threshold": detector.threshold,
        "dtype": arguments.dtype,
        "backend": arguments.backend,
        "fake_label": arguments.fake_label,
        "limits": asdict(arguments.limits),
        "sha256": arguments.sha256,
        "mirage_hf": __version__,
    }
    return ScoringFolder.claim(path, manifest | {"arguments": list(arguments.inputs)} | notes)


def _list_inputs(
    arguments: ScoringArguments, path: Path, stored: dict[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    remove_stale_temporaries(path, ["listing.parquet", "manifest.json"], shared=True)
    lister = InputLister(arguments.inputs, arguments.all_files, arguments.null)
    with tqdm(desc="listing", unit=" images", disable=True if arguments.quiet else None) as bar:
        file = write_listing(lister, path, bar.update)
    digest, images = file.stem.removeprefix("listing-"), pq.read_metadata(file).num_rows
    if images == 0 or (stored is not None and stored["inputs"] != digest):
        file.unlink()
    if images == 0:
        skipped = ", ".join(f"{count} {reason}" for reason, count in lister.skipped.items())
        raise ValueError(f"no image in {' '.join(arguments.inputs)}{f' (left out: {skipped})' if skipped else ''}")
    shard_size = arguments.shard_size or (default_shard_size(images) if stored is None else stored["shard_size"])
    pins = {
        "inputs": digest,
        "images": images,
        "shard_size": shard_size,
        "num_shards": math.ceil(images / shard_size),
    }
    return pins, {"working_dir": os.getcwd(), "skipped": dict(lister.skipped)}


def default_shard_size(images: int) -> int:
    """Small enough to keep several processes busy to the end, large enough for no more than some 10,000 files."""
    return max(16, min(1000, math.ceil(images / 32)), math.ceil(images / 10_000))


def open_source(folder: ScoringFolder, root: str | None = None) -> Source:
    """
    The images of a run.

    Args:
        folder ([`ScoringFolder`]): The run.
        root (`str`, *optional*): Where relative paths begin; by default where they did when the run began.
    """
    manifest = folder.manifest
    if "stream" in manifest:
        return StreamedDataset(**manifest["stream"])
    file = folder.path.resolve() / f"listing-{manifest['inputs']}.parquet"
    if not file.is_file():
        raise ValueError(f"'{file}' is missing: start over with --restart")
    return StoredListing(file, root or manifest["working_dir"], manifest["shard_size"])


__all__ = ["ENGINES", "ScoringArguments", "default_shard_size", "open_source", "plan_run"]
