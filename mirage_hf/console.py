"""What the scripts share: messages and progress on stderr, the latter for a terminal only; shards."""

import argparse
import logging
import sys

from transformers.utils import logging as transformers_logging


def setup_console() -> None:
    """Messages as plain lines; none of transformers' progress bars where stderr is no terminal."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()


def parse_shard(text: str) -> tuple[int, int]:
    """
    `"1/4"` to `(1, 4)`: every fourth run from the second on.

    Raises:
        argparse.ArgumentTypeError: it is no such pair.
    """
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is not i/n with 0 <= i < n")
    return int(index), int(count)


__all__ = ["parse_shard", "setup_console"]
