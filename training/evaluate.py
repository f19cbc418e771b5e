"""Evaluate a detector with two classes, MiraGe or another: accuracy, AP, AUROC for each generator, and their means.

    python training/evaluate.py --model outputs/genimage --data GenImage --output_dir outputs/genimage/test

Prints the table as Markdown and writes it with the same content as JSON and every image's score as CSV.
"""

import sys
from pathlib import Path

# This folder must not come first on the path: its evaluate.py would hide the library of that name.
sys.path = [path for path in sys.path if path != str(Path(__file__).resolve().parent)]

from transformers import HfArgumentParser

from mirage_hf.console import setup_console
from mirage_hf.evaluation_run import EvaluationArguments, run_evaluation


def main() -> None:
    setup_console()
    (arguments,) = HfArgumentParser(EvaluationArguments).parse_args_into_dataclasses()
    try:
        print(run_evaluation(arguments)[0].to_markdown(), end="")
    except (OSError, ValueError) as error:
        sys.exit(f"evaluate.py: {error}")


if __name__ == "__main__":
    main()
