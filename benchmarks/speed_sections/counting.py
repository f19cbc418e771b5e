"""What is counted and not timed: arithmetic of a batch from one and two images, memory while something runs."""

from collections.abc import Callable

import torch
from measuring import synchronize
from torch.nn.attention import SDPBackend, sdpa_kernel

from .networks import count_flops


def flops_of_batch(work: Callable[[int], object], batch: int) -> int:
    """
    Floating-point operations for a batch, in proportion from those for one image and for two.

    Attention is computed as plain matrix products meanwhile: the counter doesn't know all of its kernels.

    Args:
        work (`Callable[[int], object]`): Works on so many images.
        batch (`int`): How many the result is for.
    """
    with sdpa_kernel(SDPBackend.MATH):
        one, two = (count_flops(lambda count=count: work(count)) for count in (1, 2))
    return one + (batch - 1) * (two - one)


def extra_memory(work: Callable[[], object], device: str) -> int:
    """The most bytes that were allocated at once beyond what was there before."""
    work()
    if device == "cuda":
        synchronize(device)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        synchronize(device)
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    # Averages by operator say how much each allocated, but not what was there at the same time.
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


__all__ = ["extra_memory", "flops_of_batch"]
