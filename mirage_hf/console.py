"""What the scripts share: messages and progress on stderr, the latter for a terminal only."""

import logging
import sys

import datasets
import transformers


def setup_console() -> None:
    """Messages as plain lines; no progress bars of the libraries where stderr is no terminal."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
        datasets.disable_progress_bars()


__all__ = ["setup_console"]
