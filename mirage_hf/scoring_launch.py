"""Which part of a run this process does under `torchrun`, and waiting there until the first has listed the input."""

import os
from collections.abc import Callable
from datetime import timedelta

import torch

PATIENCE = timedelta(days=1)  # listing ten million files of a network drive takes a while
DONE = b"\0"


def part_of_launch() -> tuple[int, int] | None:
    """`(rank, number of processes)` under `torchrun`, else `None`."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def processes_on_this_machine() -> int:
    """`int`: Those of the launch; 1 without `torchrun`."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def usable_cores() -> int:
    """`int`: Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_of_launch(device: str | None) -> str:
    """The device named, or the GPU, under `torchrun` the one of this process's number; the CPU if there is none."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" and "LOCAL_RANK" in os.environ else device


def first_alone(work: Callable[[], str], launch: tuple[int, int] | None) -> str:
    """
    Let the first process of a launch do something while the others wait.

    Args:
        work (`Callable`): What it does.
        launch (`tuple[int, int]`, *optional*): From [`part_of_launch`]; `None` where there is but this process.

    Returns:
        `str`: What the first one's work returned.

    Raises:
        ValueError: in the others, with the first one's message, where that failed.
    """
    if launch is None:
        return work()
    store = next(iter(torch.distributed.rendezvous("env://", timeout=PATIENCE)))[0]
    key = f"mirage_hf/plan/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if launch[0] > 0:
        store.wait([key], PATIENCE)
        message = store.get(key)
        if not message.startswith(DONE):
            raise ValueError(f"the first process failed: {message.decode()}")
        return message.removeprefix(DONE).decode()
    try:
        result = work()
    except Exception as error:
        store.set(key, " ".join(str(error).split()) or type(error).__name__)
        raise
    store.set(key, DONE + result.encode())
    return result


__all__ = ["device_of_launch", "first_alone", "part_of_launch", "processes_on_this_machine", "usable_cores"]
