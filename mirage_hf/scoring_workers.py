"""Scores shards in processes of this machine: each with the whole detector on a CPU, decoders for one on a GPU.

A process that is killed costs its shard, not the run: the loss is reported, the others go on.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from .detection import NamedImage, Prepared, Preparer
from .reading import one_line
from .scoring_inputs import Entry
from .scoring_job import ShardJob, settle_process
from .scoring_shard import ShardStats

PROGRESS_EVERY = 0.3  # seconds
PARENT_CHECKED_EVERY = 0.5


class ShardDone(NamedTuple):
    """A shard's file is there."""

    shard: int
    stats: ShardStats


class ShardFailed(NamedTuple):
    """A shard was not finished; `fatal` if the others wouldn't fare better."""

    shard: int
    reason: str
    fatal: bool


Event = ShardDone | ShardFailed
# Is told of so many more images, from time to time.
Report = Callable[[int], object]


def run_processes(job: ShardJob, shards: Sequence[int], workers: int, report: Report) -> Generator[Event]:
    """
    Score shards in processes, each with the detector on the CPU.

    Processes are forked where that is safe (PyTorch with one thread each), and share the weights; otherwise each is
    started anew and loads them.

    Args:
        job ([`ShardJob`]): Loaded, for forked processes to share.
        shards (`Sequence[int]`): Their numbers.
        workers (`int`): Processes at most.
        report (`Callable`): Told of progress.

    Yields:
        [`ShardDone`] or [`ShardFailed`], in any order. After a fatal one no further shard is begun.
    """
    forked = (
        job.detector is not None
        and job.settings.backend == "torch"
        and job.threads == 1
        and "fork" in multiprocessing.get_all_start_methods()
    )
    context = multiprocessing.get_context("fork" if forked else "spawn")
    waiting = deque(shards)
    running: dict[Connection, tuple[BaseProcess, int]] = {}

    def give(connection: Connection, process: BaseProcess) -> None:
        running[connection] = process, waiting.popleft()
        with suppress(ConnectionError):  # it has just died, and its pipe will say so
            connection.send(running[connection][1])

    try:
        for _ in range(min(workers, len(shards))):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(job, theirs, os.getpid()), daemon=True)  # type: ignore[attr-defined]
            process.start()
            theirs.close()  # or its end would not be noticed
            give(ours, process)
        while running:
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                process, shard = running[ready]
                try:
                    event: Event | int = ready.recv()
                except (EOFError, ConnectionError):
                    process.join()
                    del running[ready]
                    yield ShardFailed(shard, _end_of(process), False)
                    continue
                if isinstance(event, int):
                    report(event)
                    continue
                if isinstance(event, ShardFailed) and event.fatal:
                    waiting.clear()
                if waiting:
                    give(ready, process)
                else:
                    del running[ready]
                    with suppress(ConnectionError):
                        ready.send(None)  # a forked sibling holds our end, too: closing it would not be noticed
                    process.join()
                yield event
        for shard in waiting:
            yield ShardFailed(shard, "no process was left for it", False)
    finally:
        for process, _ in running.values():
            process.terminate()
            process.join()


def _end_of(process: BaseProcess) -> str:
    code = process.exitcode or 0
    if code == -signal.SIGKILL:
        return "its process was killed, as happens when memory runs out"
    return f"its process ended with {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"


def _work(job: ShardJob, connection: Connection, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends the others
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # in that way, whatever it does itself on this signal
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    settle_process(job.threads)
    try:
        while (shard := connection.recv()) is not None:
            job, event = _scored(job, shard, connection)
            connection.send(event)
    except (EOFError, ConnectionError):  # there is nothing more to do, or nobody to tell
        return


def _scored(job: ShardJob, shard: int, connection: Connection) -> tuple[ShardJob, Event]:
    """The job, now loaded, and what became of the shard."""
    last, unsent = time.monotonic(), 0

    def progress(images: int) -> None:
        nonlocal last, unsent
        unsent += images
        if time.monotonic() - last > PROGRESS_EVERY:
            connection.send(unsent)
            last, unsent = time.monotonic(), 0

    try:
        job = job.loaded()
        stats = job.score(shard, progress)
    except MemoryError:
        return job, ShardFailed(shard, "out of memory", False)
    except ConnectionError:
        raise
    except Exception as error:
        return job, ShardFailed(shard, f"{type(error).__name__}: {one_line(error)}", True)
    connection.send(unsent)
    return job, ShardDone(shard, stats)


def _end_with(parent: int) -> None:
    """Ends this process when its parent was killed: nobody would collect what it does."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECKED_EVERY)
    os._exit(1)


def run_decoders(job: ShardJob, shards: Sequence[int], workers: int, report: Report) -> Generator[Event]:
    """
    Score shards in this process, on its device, with images prepared in others, ahead of the network.

    Args:
        job ([`ShardJob`]): Loaded.
        shards (`Sequence[int]`): Their numbers.
        workers (`int`): Processes that read and preprocess.
        report (`Callable`): Told of progress.

    Yields:
        As [`run_processes`].
    """
    assert job.detector is not None
    loader: DataLoader = DataLoader(
        _PreparedBatches(job.detector.preparer),
        batch_size=None,
        sampler=_batches(job, shards),  # type: ignore[arg-type]
        num_workers=workers,
        generator=torch.Generator(),
    )
    batches = iter(loader)
    ahead = None

    def entries_of(shard: int) -> Iterator[Entry]:
        nonlocal ahead
        ahead = ahead or next(batches, None)
        while ahead is not None and ahead[0] == shard:
            yield from _apart(*ahead[1:])
            ahead = next(batches, None)

    for shard in shards:
        try:
            stats = job.score(shard, report, entries_of(shard))
        except Exception as error:  # a killed decoder is a RuntimeError, and so is a full GPU
            yield ShardFailed(shard, f"{type(error).__name__}: {one_line(error)}", True)
            return
        yield ShardDone(shard, stats)


def _batches(job: ShardJob, shards: Sequence[int]) -> Iterator[tuple[int, list[Entry]]]:
    assert job.detector is not None
    for shard in shards:
        entries = job.source.entries(shard)
        while batch := list(islice(entries, job.detector.batch_size)):
            yield shard, batch


class _PreparedBatches(Dataset):
    """Prepares the batches that the sampler hands out; pixels of one shape travel as one tensor."""

    def __init__(self, preparer: Preparer):
        self.preparer = preparer

    def __getitem__(self, batch: tuple[int, list[Entry]]) -> tuple[int, list[Entry], torch.Tensor | None]:
        shard, entries = batch
        prepared = [self.preparer(NamedImage(entry.path, entry.source)) for entry in entries]
        pixels = [item.pixel_values for item in prepared if item.pixel_values is not None]
        if len({item.shape for item in pixels}) != 1:
            return shard, [e._replace(source=item) for e, item in zip(entries, prepared, strict=True)], None
        small = [
            entry._replace(source=(item.path, item.reading, item.pixel_values is not None))
            for entry, item in zip(entries, prepared, strict=True)
        ]
        return shard, small, torch.stack(pixels)  # (B, 3, H, W)


def _apart(entries: list[Entry], pixel_values: torch.Tensor | None) -> Iterator[Entry]:
    rows = iter(() if pixel_values is None else pixel_values)
    for entry in entries:
        if pixel_values is None:
            yield entry
        else:
            path, reading, has_pixels = entry.source
            yield entry._replace(source=Prepared(path, reading, next(rows) if has_pixels else None))


__all__ = ["Event", "Report", "ShardDone", "ShardFailed", "run_decoders", "run_processes"]
