"""Keeps a thread's alternate signal stack as it was, across libraries that set one of their own.

OpenVINO (2026.4) leaves the thread that compiles a model with an alternate stack of 11 KB. Python's signal handlers
run there, and after some models had come and gone the next signal, that of a child which ended while PyTorch's
DataLoader watched for it, killed the process.
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    _fields_ = [("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


def signal_stack() -> tuple[int, int, int]:
    """Address, flags and size of this thread's alternate signal stack on Linux."""
    found = _Stack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found))
    return found.pointer or 0, found.flags, found.size


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Puts the alternate signal stack back when the block ends; does nothing on other systems than Linux."""
    if sys.platform != "linux":
        yield
        return
    before = _Stack(*signal_stack())
    try:
        yield
    finally:
        ctypes.CDLL(None).sigaltstack(ctypes.byref(before), None)


__all__ = ["kept_signal_stack", "signal_stack"]
