"""Publish a trained detector on the Hub: `mirage-hf push`, for those who work from a checkout.

python training/push_to_hub.py outputs/mine OWNER/NAME --results outputs/mine/test --dry-run
"""

import sys
from pathlib import Path

# This folder must not come first on the path: its evaluate.py would hide the library of that name.
sys.path = [path for path in sys.path if path != str(Path(__file__).resolve().parent)]

import typer

from mirage_hf_cli.push import push

if __name__ == "__main__":
    typer.run(push)
