"""Pillow's process-wide switches, set while pictures are decoded here and put back afterwards."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, ImageFile


class _Switches:
    """The switches are one for the process: they stay as wanted here as long as any thread decodes."""

    def __init__(self):
        self.lock = threading.Lock()
        self.depth = 0
        self.truncated = False
        self.one_block = 0

    def enter(self) -> None:
        with self.lock:
            if self.depth == 0:
                self.one_block = Image.core.get_use_block_allocator()
                Image.core.set_use_block_allocator(1)
            self.depth += 1
            if ImageFile.LOAD_TRUNCATED_IMAGES:
                self.truncated, ImageFile.LOAD_TRUNCATED_IMAGES = True, False

    def leave(self) -> None:
        with self.lock:
            self.depth -= 1
            if self.depth == 0:
                self._restore()

    def after_fork(self) -> None:
        # A forked process has none of the threads that were decoding; one of them may have held the lock.
        if self.depth:
            self._restore()
        self.lock, self.depth = threading.Lock(), 0

    def _restore(self) -> None:
        Image.core.set_use_block_allocator(self.one_block)
        if self.truncated:
            self.truncated, ImageFile.LOAD_TRUNCATED_IMAGES = False, True


_switches = _Switches()
os.register_at_fork(after_in_child=_switches.after_fork)


@contextmanager
def pillow_switches() -> Iterator[None]:
    """
    Decoding inside is strict and sparing: truncated files are errors, even where the process has set
    `ImageFile.LOAD_TRUNCATED_IMAGES`, and pixels are allocated in one block, so that RGBA can become RGB in place.
    """
    _switches.enter()
    try:
        yield
    finally:
        _switches.leave()


__all__ = ["pillow_switches"]
