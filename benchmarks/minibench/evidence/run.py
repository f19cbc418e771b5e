"""
The evidence of the mini-benchmark: detectors times seeds, trained on one generator, tested on generators never seen.

    python benchmarks/minibench/evidence/run.py list
    python benchmarks/minibench/evidence/run.py train --shard 0/2     # validation only; goes on where it stopped
    python benchmarks/minibench/evidence/run.py sweeps
    python benchmarks/minibench/evidence/run.py final                 # test scores, once
    python benchmarks/minibench/evidence/run.py table                 # from the stored scores, no image needed
"""

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))  # from a checkout

from mirage_hf.console import parse_shard

MINIBENCH = ROOT / "benchmarks" / "minibench"
RESULTS = ROOT / "benchmarks" / "results" / "minibench"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["list", "train", "sweeps", "final", "table"])
    parser.add_argument("--data", type=Path, default=MINIBENCH / "work" / "full", help="folder with manifest.csv")
    parser.add_argument("--backbone", type=Path, default=MINIBENCH / "tiny-clip", help="CLIP checkpoint")
    parser.add_argument("--work", type=Path, default=MINIBENCH / "work" / "evidence", help="weights and runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="what is kept")
    parser.add_argument("--only", nargs="+", default=[], help="names of settings")
    parser.add_argument("--seeds", type=int, help="only the first so many seeds of each setting")
    parser.add_argument("--steps", type=int, help="another number of training steps, to try things out")
    parser.add_argument("--shard", type=parse_shard, default=(0, 1), help="i/n: every n-th run, from the i-th on")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for noisy in ("httpx", "transformers", "accelerate"):
        logging.getLogger(noisy).setLevel(logging.ERROR)

    from benchmarks.minibench.evidence.grid import read_grid

    grid = read_grid()
    if options.steps is not None:
        grid = replace(grid, steps=options.steps)
    if options.seeds is not None:
        grid.limit_seeds(options.seeds)
    runs = grid.runs(options.only)
    index, count = options.shard
    if options.stage == "list":
        for setting, seed in runs[index::count]:
            sys.stdout.write(f"{setting.name} {seed}\n")
    elif options.stage == "table":
        from benchmarks.minibench.evidence.tables import write_tables

        write_tables(grid, options.results)
    else:
        from benchmarks.minibench.evidence import stages

        stages.limit_threads()
        if options.stage == "train":
            stages.train(grid, runs[index::count], options.data, options.backbone, options.work)
        elif options.stage == "sweeps":
            stages.gather_sweeps(grid, options.data, options.backbone, options.work, options.results)
        else:
            settings = [grid.settings[name] for name in options.only] if options.only else list(grid.settings.values())
            shard = settings[index::count]
            stages.final(grid, shard, options.data, options.backbone, options.work, options.results)


if __name__ == "__main__":
    main()
