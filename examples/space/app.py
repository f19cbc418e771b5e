"""A Space that shows a detector; its variable MIRAGE_MODEL names it, MIRAGE_REVISION a commit, if need be."""

import os
import sys

from mirage_hf.demo import DemoArguments, serve_demo


def arguments() -> DemoArguments:
    """What to show, from the environment; a Space sets the last two itself."""
    model = os.environ.get("MIRAGE_MODEL")
    if not model:
        sys.exit("app.py: set MIRAGE_MODEL to the detector's id on the Hub, or to a folder")
    return DemoArguments(
        model=model,
        revision=os.environ.get("MIRAGE_REVISION"),
        host=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),
        port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")),
    )


if __name__ == "__main__":
    serve_demo(arguments())
