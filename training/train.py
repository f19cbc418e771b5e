"""Train MiraGe, or what it is compared with, on a folder, archive, manifest or Hub data set.

    python training/train.py training/recipes/genimage_sdv14.yaml --data GenImage --output_dir outputs/genimage
    accelerate launch --config_file training/accelerate/one_gpu_fp16.yaml training/train.py RECIPE --data ROOT
    torchrun --nproc_per_node 4 training/train.py RECIPE --data ROOT --per_device_train_batch_size 32
    python training/train.py --method linear_probe --model_name_or_path openai/clip-vit-large-patch14 --data ROOT \
--output_dir outputs/univfd

A recipe is a YAML file of arguments; flags behind it override it, and `--help` lists all. A run that was cut off goes
on with `--resume_from_checkpoint last`.
"""

import sys
from pathlib import Path

# This folder must not come first on the path: its evaluate.py would hide the library of that name.
sys.path = [path for path in sys.path if path != str(Path(__file__).resolve().parent)]

from mirage_hf.console import setup_console
from mirage_hf.run_args import parse_run_args


def main() -> None:
    setup_console()
    try:
        arguments = parse_run_args()
        from mirage_hf.training_run import run_training

        run_training(*arguments)
    except (OSError, ValueError) as error:
        sys.exit(f"train.py: {error}")


if __name__ == "__main__":
    main()
