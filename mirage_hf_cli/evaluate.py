"""`mirage-hf evaluate`: what `training/evaluate.py` does."""

import typer

from .console import FINISHED_EXCEPT_SOME, fail_in_one_line, importing


def evaluate(context: typer.Context) -> None:
    """
    Accuracy, AP and AUROC of a detector for each generator of a data set; `evaluate --help` lists the flags.

    Needs the extra `train`. `benchmark` does more: intervals, published rows, a null, degraded images.
    """
    with fail_in_one_line("evaluate", extra="train"):
        with importing():
            from transformers import HfArgumentParser

            from mirage_hf.console import setup_console
            from mirage_hf.evaluation_run import EvaluationArguments, run_evaluation

        setup_console()
        parser = HfArgumentParser(EvaluationArguments, prog="mirage-hf evaluate")
        (arguments,) = parser.parse_args_into_dataclasses(args=context.args)
        report, unreadable = run_evaluation(arguments)
        typer.echo(report.to_markdown(), nl=False)
    if unreadable:
        typer.echo(
            f"evaluate: {unreadable} images could not be read; {arguments.output_dir}/evaluation.json lists them",
            err=True,
        )
        raise typer.Exit(FINISHED_EXCEPT_SOME)
