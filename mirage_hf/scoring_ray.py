"""Scores shards as tasks of a Ray cluster: the same work and the same files as on one machine.

Needs the extra `ray`. A task is one shard; what is finished is known from the output folder, which all machines share,
as they do the inputs and this package.
"""

import os
from collections.abc import Generator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from .detector import Detector
from .reading import one_line
from .scoring_job import DetectorSettings, ShardJob, settle_process
from .scoring_shard import ShardStats
from .scoring_workers import Event, Report, ShardDone, ShardFailed

OBJECT_STORE_BYTES = 80 << 20  # shards are files: only their numbers and counts pass through it
AHEAD = 2  # tasks in the queue for each that runs


def import_ray() -> Any:
    """
    The module, set not to report its use.

    Raises:
        ImportError: it isn't installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ImportError("Ray is not installed: `pip install mirage_hf[ray]`") from error
    return ray


def run_ray(
    job: ShardJob, shards: Sequence[int], workers: int, report: Report, address: str | None = None
) -> Generator[Event]:
    """
    Score shards as Ray tasks.

    Args:
        job ([`ShardJob`]): What is done with a shard.
        shards (`Sequence[int]`): Their numbers.
        workers (`int`): Tasks at a time, of `job.threads` cores each; of one GPU each if that is the device.
        report (`Callable`): Told of progress.
        address (`str`, *optional*): `auto` or `ray://...`; by default a cluster is started on this machine, reachable
            from nowhere else, and ended afterwards.

    Yields:
        [`ShardDone`] or [`ShardFailed`], in any order.
    """
    ray = import_ray()
    if address is None:
        ray.init(
            num_cpus=workers * job.threads,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            log_to_driver=False,
            logging_level="ERROR",
        )
    else:
        ray.init(address, log_to_driver=False, logging_level="ERROR")
    try:
        yield from _run_tasks(ray, job, shards, workers, report)
    finally:
        ray.shutdown()


def _run_tasks(ray: Any, job: ShardJob, shards: Sequence[int], workers: int, report: Report) -> Generator[Event]:
    on_gpu = job.settings.device is not None and job.settings.device.startswith("cuda")
    task = ray.remote(_score).options(num_cpus=job.threads, num_gpus=1 if on_gpu else 0)
    shared, waiting = ray.put(job), list(reversed(shards))
    running: dict[Any, int] = {}
    while waiting or running:
        while waiting and len(running) < AHEAD * workers:
            shard = waiting.pop()
            running[task.remote(shared, shard)] = shard
        for reference in ray.wait(list(running))[0]:
            shard = running.pop(reference)
            try:
                stats = ray.get(reference)
            except Exception as error:  # Ray has tried again where a machine was lost, not where the task raised
                cause = getattr(error, "cause", None) or error
                yield ShardFailed(shard, f"{type(cause).__name__}: {one_line(cause)}", True)
                waiting.clear()
                continue
            report(stats.images)
            yield ShardDone(shard, stats)


def _score(job: ShardJob, shard: int) -> ShardStats:
    return replace(job, detector=_detector(job.settings, job.threads)).score(shard)


@lru_cache(maxsize=1)  # Ray gives a process one task after another
def _detector(settings: DetectorSettings, threads: int) -> Detector:
    settle_process(threads)
    return settings.load(threads)


__all__ = ["import_ray", "run_ray"]
