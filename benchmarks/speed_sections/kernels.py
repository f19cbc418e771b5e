"""What a piece of work consists of, by torch's profiler: operators or kernels and their kinds. Exact float32."""

from collections.abc import Callable

import torch
from measuring import synchronize

# Looked for in this order: names of attention's kernels hold "gemm", too.
KINDS = {
    "attention": ("flash", "fmha", "attention", "sdp"),
    "matrix products": ("gemm", "nvjet", "cutlass", "mm", "conv", "wgrad", "dgrad", "fprop"),
}
OTHERS = "all others"


def set_exact_float32() -> None:
    """A reference in float32 must be that: TF32, which convolutions use by default, keeps 10 bits of the mantissa."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def kind_of(kernel: str) -> str:
    """Of a kernel of a GPU or an operator of a CPU, by its name."""
    name = kernel.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), OTHERS)


def operator_seconds(work: Callable[[], object], device: str) -> dict[str, float]:
    """Seconds by operator of a CPU, or by kernel of a GPU, that the device computes for a piece of work."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    work()
    synchronize(device)
    with torch.profiler.profile(activities=activities) as profiler:
        work()
        synchronize(device)
    field = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    wanted = torch.autograd.DeviceType.CUDA if device == "cuda" else torch.autograd.DeviceType.CPU
    # On a GPU the operators are listed beside their kernels, with the same times.
    events = [
        event for event in profiler.key_averages() if event.device_type == wanted and not event.is_user_annotation
    ]
    return {event.key: getattr(event, field) / 1e6 for event in events}


def kernel_seconds(work: Callable[[], object], device: str) -> dict[str, float]:
    """Seconds by kind that the device computes for a piece of work; of a CPU, that its operators do."""
    seconds = dict.fromkeys((*KINDS, OTHERS), 0.0)
    for name, part in operator_seconds(work, device).items():
        seconds[kind_of(name)] += part
    return seconds


def profile_shares(work: Callable[[], object], device: str, most: int = 8) -> dict[str, float]:
    """The operators that take the largest shares of the time on the device; the rest as one."""
    times = operator_seconds(work, device)
    whole = sum(times.values())
    largest = sorted(times, key=lambda name: -times[name])[:most]
    shares = {name: round(times[name] / whole, 3) for name in largest}
    return shares | {OTHERS: round(1 - sum(times[name] for name in largest) / whole, 3)}


def shares_of(seconds: dict[str, float]) -> dict[str, float]:
    """Each as a share of their sum."""
    whole = sum(seconds.values())
    return {kind: round(part / whole, 3) for kind, part in seconds.items()}


def holds(seconds: dict[str, float], whole: float, device: str) -> str:
    """A sentence on what holds the time of a piece of work where it is, from its kernels' seconds and its own."""
    shares = shares_of(seconds)
    busy = f"Kernels run for {min(sum(seconds.values()) / whole, 1):.0%} of the time: m" if device == "cuda" else "M"
    parts = f"attention {shares['attention']:.0%}, all others {shares[OTHERS]:.0%}."
    return f"{busy}atrix products take {shares['matrix products']:.0%} of what is computed, {parts}"


__all__ = [
    "holds",
    "kernel_seconds",
    "kind_of",
    "operator_seconds",
    "profile_shares",
    "set_exact_float32",
    "shares_of",
]
