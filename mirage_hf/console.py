"""What the scripts share: messages and progress on stderr, the latter for a terminal only."""

import logging
import sys

from transformers.utils import logging as transformers_logging


def setup_console() -> None:
    """Messages as plain lines; none of transformers' progress bars where stderr is no terminal."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()


__all__ = ["setup_console"]
