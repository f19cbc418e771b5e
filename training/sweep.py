"""
Trains a grid of settings over several seeds, scores each run, and makes the table: ablations, sweeps, baselines.

    python training/sweep.py training/grids/ablation.yaml               # train and score what isn't done; table
    python training/sweep.py training/grids/ablation.yaml --shard 0/2   # in one of two processes
    python training/sweep.py training/grids/ablation.yaml table --bootstrap 1000    # from stored scores
    python training/sweep.py training/grids/ablation.yaml list
    python training/sweep.py training/grids/ablation.yaml --base training/recipes/genimage_sdv14.yaml --data GenImage \
--test_data GenImage

Other flags are arguments of training/train.py (--max_steps 2), behind the recipe and before what a setting says. A
sweep that was cut off goes on when started again. With one --runs_dir for several grids, what they share is trained
once. The exit code is 1 if a run failed; the others are done all the same.
"""

import argparse
import sys
from pathlib import Path

# This folder must not come first on the path: its evaluate.py would hide the library of that name.
sys.path = [path for path in sys.path if path != str(Path(__file__).resolve().parent)]

from mirage_hf.console import parse_shard, setup_console


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("grid", help="YAML file, such as training/grids/ablation.yaml")
    parser.add_argument("stage", nargs="?", choices=["train", "table", "list"], default="train")
    parser.add_argument("--base", help="base recipe instead of the grid's")
    parser.add_argument("--data", help="training data instead of the recipe's")
    parser.add_argument("--test_data", help="test data instead of the grid's")
    parser.add_argument("--output_dir", type=Path, help="outputs/sweeps/<grid> by default")
    parser.add_argument("--runs_dir", type=Path, help="<output_dir>/runs by default; grids may share one")
    parser.add_argument("--only", nargs="+", default=[], help="names of settings")
    parser.add_argument("--seeds", type=int, help="only the first so many seeds")
    parser.add_argument("--shard", type=parse_shard, default=(0, 1), help="i/n: every n-th run, from the i-th on")
    parser.add_argument("--redo", action="store_true", help="do finished runs again that were made of something else")
    parser.add_argument("--bootstrap", type=int, default=0, help="draws of intervals over images and seeds together")
    options, flags = parser.parse_known_args(arguments)
    output_dir = options.output_dir or Path("outputs") / "sweeps" / Path(options.grid).stem
    runs_dir = options.runs_dir or output_dir / "runs"
    try:
        from mirage_hf.sweep_files import read_run, run_folder
        from mirage_hf.sweep_grid import parse_flags, read_grid

        setup_console()
        grid = read_grid(
            options.grid,
            base=options.base,
            data=options.data,
            test_data=options.test_data,
            flags=parse_flags(flags),
            seeds=options.seeds,
        )
        index, count = options.shard
        runs = grid.runs(options.only)[index::count]
        if options.stage == "list":
            for setting, seed in runs:
                done = read_run(run_folder(runs_dir, setting.name, seed)) is not None
                print(f"{setting.name}\t{seed}\t{'done' if done else 'to do'}")
            return 0
        failures: dict[str, str] = {}
        if options.stage == "train":
            from mirage_hf.sweep import run_sweep

            failures = run_sweep(grid, runs, runs_dir, options.redo)
        if options.stage == "table" or (count == 1 and len(failures) < len(runs)):
            from mirage_hf.sweep_tables import write_tables

            print(write_tables(grid, runs_dir, output_dir, options.bootstrap).read_text(encoding="utf-8"), end="")
    except (OSError, ValueError) as error:
        sys.exit(f"sweep.py: {error}")
    for name, reason in failures.items():
        print(f"sweep.py: {name} failed: {reason}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
