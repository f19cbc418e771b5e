"""Scores any number of images into an output folder, so that the work can be split, killed and gone on with.

    mirage-hf score photos/ --model benchmarks/minibench/mirage-tiny --output-dir scores

    >>> from mirage_hf.scoring import ScoringArguments, run_scoring
    >>> arguments = ScoringArguments(["photos"], "benchmarks/minibench/mirage-tiny", "scores")
    >>> run_scoring(arguments).verdict
    {'fake': 3, 'real': 9}

The input becomes a stored listing and numbered shards of it; each shard is one Parquet file, made by [`score_shard`],
that appears whole or not at all. `manifest.json` pins all that the scores depend on. Whoever runs the same again does
the shards that are not there yet: the same process after a crash, another one with `part=(1, 4)` on another machine,
`torchrun`, a SLURM array, Ray.
"""

import json
import os
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from .scoring_job import ShardJob
from .scoring_launch import (
    device_of_launch,
    first_alone,
    part_of_launch,
    processes_on_this_machine,
    usable_cores,
)
from .scoring_manifest import ScoringFolder, read_manifest
from .scoring_merge import merge_shards
from .scoring_plan import ScoringArguments, open_source, plan_run
from .scoring_ray import import_ray, run_ray
from .scoring_shard import ShardStats, score_shard
from .scoring_workers import Event, Report, ShardFailed, run_decoders, run_processes


@dataclass
class ScoringSummary:
    """
    What became of a run, or of this process's part of it.

    Args:
        images (`int`): Rows in the part's finished shards.
        verdict, status (`dict[str, int]`): How many of them have which.
        shards (`int`): The part's shards.
        shards_finished (`int`): Those that are there.
        complete (`bool`): Whether all shards of the whole run are there; then `summary.json` is, too.
        images_scored (`int`): By this call; the others were there before.
        seconds (`float`): This call, without loading and listing.
        images_per_second (`float`): The quotient of the two.
        failures (`dict[int, str]`): Shards that were begun and not finished, and why.
        merged (`str`, *optional*): The single file, where it was asked for and written.
    """

    images: int = 0
    verdict: dict[str, int] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)
    shards: int = 0
    shards_finished: int = 0
    complete: bool = False
    images_scored: int = 0
    seconds: float = 0.0
    images_per_second: float = 0.0
    failures: dict[int, str] = field(default_factory=dict)
    merged: str | None = None

    @property
    def unreadable(self) -> int:
        """`int`: Images without a score."""
        return self.images - self.status.get("ok", 0)

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def run_scoring(arguments: ScoringArguments) -> ScoringSummary:
    """
    Score all images of the input, or go on with it.

    Processes are started: call it under `if __name__ == "__main__":` where Python starts them anew.

    Args:
        arguments ([`ScoringArguments`]): What, with what, and where to.

    Returns:
        [`ScoringSummary`]: an image that can't be read is counted in `status`, a process that died in `failures`.

    Raises:
        ImportError: the engine's or the backend's package is missing.
        OSError: no such checkpoint, or the folder can't be written.
        ValueError: an input can't be used, or the folder holds another run.
    """
    if arguments.engine == "ray":
        import_ray()  # before anything is begun without it
    launch = None if arguments.part is not None else part_of_launch()
    index, count = arguments.part or launch or (0, 1)
    device = device_of_launch(arguments.device)
    workers = arguments.workers or max(1, usable_cores() // processes_on_this_machine())
    threads = max(1, usable_cores() // processes_on_this_machine() // workers)
    settings = arguments.settings(device if arguments.backend in ("torch", "auto") else arguments.device)
    if arguments.backend == "auto" and launch is not None and launch[1] > processes_on_this_machine():
        raise ValueError("`backend` auto measures one machine, and there are several: name a backend")
    detector = None if arguments.backend == "auto" else settings.load(threads)

    def begin() -> str:
        nonlocal settings, detector
        settings = settings.settled(threads)
        detector = detector or settings.load(threads)
        plan_run(replace(arguments, backend=settings.backend, dtype=settings.dtype), detector)
        return json.dumps({name: getattr(settings, name) for name in ("backend", "dtype", "export")})

    settings = replace(settings, **json.loads(first_alone(begin, launch)))
    detector = detector or settings.load(threads)
    manifest = read_manifest(Path(arguments.output_dir))
    assert manifest is not None
    folder = ScoringFolder(Path(arguments.output_dir), manifest)
    part = folder.part(index, count)
    if arguments.list_only:
        return ScoringSummary(shards=len(part), shards_finished=len(folder.finished(part)))
    folder.clean(part)
    finished = folder.finished(part)
    todo = [shard for shard in part if shard not in finished]
    source = open_source(folder, os.getcwd() if arguments.inputs else None)
    files = {shard: (folder.shard_file(shard).resolve(), folder.metadata(shard)) for shard in todo}
    job = ShardJob(settings, source, files, threads, detector)
    on_gpu = settings.device != "cpu" and settings.backend == "torch"

    def start(report: Report) -> Generator[Event]:
        if arguments.engine == "ray" and todo:
            return run_ray(job, todo, workers, report, arguments.ray_address)
        return (run_decoders if on_gpu else run_processes)(job, todo, workers, report)

    done, failures, seconds = _follow(start, todo, folder, arguments.quiet)
    return _summarise(arguments, folder, finished | done, len(part), done, failures, seconds)


def _follow(
    start: Callable[[Report], Generator[Event]], todo: list[int], folder: ScoringFolder, quiet: bool
) -> tuple[dict[int, ShardStats], dict[int, str], float]:
    """Runs the engine under a progress bar; leaves no temporary behind, however it ends."""
    done: dict[int, ShardStats] = {}
    failures: dict[int, str] = {}
    begin = time.perf_counter()
    images = _images_of(folder, todo)
    try:
        with tqdm(total=images, unit=" images", disable=True if quiet else None, dynamic_ncols=True) as bar:
            # Closed at once when this is interrupted: it ends its processes, whose temporaries then go.
            with closing(start(bar.update)) as events:
                for event in events:
                    if isinstance(event, ShardFailed):
                        failures[event.shard] = event.reason
                    else:
                        done[event.shard] = event.stats
    finally:
        folder.clean(todo)
    return done, failures, time.perf_counter() - begin


def _images_of(folder: ScoringFolder, shards: list[int]) -> int | None:
    """How many images are in these shards; `None` where only the stream will tell."""
    total, size = folder.manifest["images"], folder.manifest["shard_size"]
    return None if total is None else sum(min(size, total - shard * size) for shard in shards)


def _summarise(
    arguments: ScoringArguments,
    folder: ScoringFolder,
    finished: dict[int, ShardStats],
    shards: int,
    done: dict[int, ShardStats],
    failures: dict[int, str],
    seconds: float,
) -> ScoringSummary:
    total = ShardStats()
    for stats in finished.values():
        total += stats
    scored = sum(stats.images for stats in done.values())
    complete = len(finished) == shards and folder.write_summary()
    if complete and arguments.merge is not None:
        merge_shards(folder, Path(arguments.merge))
    return ScoringSummary(
        images=total.images,
        verdict=dict(sorted(total.verdict.items())),
        status=dict(sorted(total.status.items())),
        shards=shards,
        shards_finished=len(finished),
        complete=complete,
        images_scored=scored,
        seconds=round(seconds, 3),
        images_per_second=round(scored / seconds, 2) if scored else 0.0,
        failures=failures,
        merged=arguments.merge if complete else None,
    )


__all__ = ["ScoringArguments", "ScoringSummary", "run_scoring", "score_shard"]
