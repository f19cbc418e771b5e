"""`mirage-hf train`: what `training/train.py` does, in one process."""

import typer

from .console import fail_in_one_line, importing


def train(context: typer.Context) -> None:
    """
    Train MiraGe, or what it is compared with: a YAML recipe, then flags that override it; `train --help` lists all.

    Needs the extra `train`. Several GPUs: `torchrun` or `accelerate launch` with training/train.py.
    """
    with fail_in_one_line("train", extra="train"):
        with importing():
            from mirage_hf.console import setup_console
            from mirage_hf.run_args import parse_run_args

        setup_console()
        arguments = parse_run_args(context.args, prog="mirage-hf train")
        from mirage_hf.training_run import run_training

        run_training(*arguments)
