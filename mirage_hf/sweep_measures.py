"""What a run costs on which machine: seconds of processors, largest memory."""

import contextlib
import ctypes
import os
import platform
import resource
from pathlib import Path
from typing import Any

import torch

from .environment import device_name, processor_name


def cpu_seconds() -> float:
    """Processor time of this process and of its workers that have ended."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def reset_peak_memory() -> None:
    """From here on [`peak_memory_mib`] counts anew. What earlier runs have freed goes back to the system first."""
    with contextlib.suppress(OSError, AttributeError):  # glibc
        ctypes.CDLL(None).malloc_trim(0)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # Linux; elsewhere the peak is that of all runs so far
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mib() -> dict[str, float | None]:
    """Largest memory of the process, and of its GPU if it has one, since [`reset_peak_memory`]."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                peak = int(line.split()[1])
    device = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None
    return {"process": round(peak / 1024, 1), "device": None if device is None else round(device, 1)}


def describe_environment(device: torch.device) -> dict[str, Any]:
    """The machine that a run's seconds belong to."""
    return {
        "device": device_name(device),
        "machine": platform.machine(),
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
    }


__all__ = ["cpu_seconds", "describe_environment", "peak_memory_mib", "reset_peak_memory"]
