"""Runs a grid: trains each setting with each seed, scores its test sets, and keeps what the table needs.

    <runs_dir>/<setting>/seed<k>/
        recipe.yaml             arguments of the run, for training/train.py
        checkpoint/             training logs; the weights until they are scored, or for good with keep_checkpoints
        scores/<test set>.csv   path, generator, label, p_fake of every row
        run.json                identity, metrics, seconds, memory: written last, so its presence means finished
        error.txt               why the run failed, if it did

A run that is finished is not done again; one that was cut off starts anew.
"""

import contextlib
import gc
import io
import json
import logging
import os
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import torch
import yaml

from .detector_loading import load_detector
from .files import write_atomically
from .run_args import DataArguments, ModelArguments, parse_run_args
from .sweep_files import read_run, run_folder
from .sweep_grid import Grid, Setting
from .sweep_identity import differences, identify
from .sweep_measures import cpu_seconds, describe_environment, peak_memory_mib, reset_peak_memory
from .sweep_scoring import describe_scores, score_set, write_scores
from .training_args import MiraGeTrainingArguments
from .training_run import run_training

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.joblib")
RunArguments = tuple[ModelArguments, DataArguments, MiraGeTrainingArguments]


def run_sweep(grid: Grid, runs: list[tuple[Setting, int]], runs_dir: str | Path, redo: bool = False) -> dict[str, str]:
    """
    Trains and scores every run that isn't finished.

    Args:
        grid ([`Grid`]): Test sets, and what is kept.
        runs (`list[tuple[Setting, int]]`): From [`Grid.runs`].
        runs_dir (`str` or `Path`): Where they go. Grids may share it: equal runs of equal name are done once.
        redo (`bool`, *optional*): Do finished runs again where their identity has changed.

    Returns:
        `dict[str, str]`: Runs that failed, and why. The others are done.

    Raises:
        ValueError: the process is one of several, a setting's arguments are refused, or a finished run was made of
            something else than it would be now; nothing is trained then.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("a sweep runs in one process; start one for each GPU, with --shard 0/n to n-1/n")
    runs_dir = Path(runs_dir)
    todo, failures = _plan(grid, runs, runs_dir, redo)
    for number, (setting, seed, identity) in enumerate(todo, start=1):
        logger.warning("Run %d of %d: %s, seed %d", number, len(todo), setting.name, seed)
        folder = run_folder(runs_dir, setting.name, seed)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            facts = do_run(grid, setting, seed, folder)
            write_atomically(folder / "run.json", json.dumps(facts | {"identity": identity}, indent=1) + "\n")
        except Exception as error:  # whatever it is, the others go on
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
            logger.warning("%s, seed %d failed: %s", setting.name, seed, reason)
            failures[f"{setting.name} seed{seed}"] = reason
        finally:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    return failures


def _plan(
    grid: Grid, runs: list[tuple[Setting, int]], runs_dir: Path, redo: bool
) -> tuple[list[tuple[Setting, int, dict[str, Any]]], dict[str, str]]:
    """Runs to be done with their identities, and those that can't be."""
    todo, failures, changed = [], {}, []
    for setting, seed in runs:
        parsed = parse_setting(setting, seed, run_folder(runs_dir, setting.name, seed))
        try:
            identity = identify(*parsed, grid.test)
        except (OSError, ValueError) as error:
            failures[f"{setting.name} seed{seed}"] = " ".join(str(error).split())
            continue
        stored = read_run(run_folder(runs_dir, setting.name, seed))
        if stored is None:
            todo.append((setting, seed, identity))
        elif stored["identity"] != identity:
            todo.append((setting, seed, identity))
            changed.append(f"{setting.name} seed{seed} ({'; '.join(differences(stored['identity'], identity)[:3])})")
    if changed and not redo:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise ValueError(
            f"{changed[0]}{more} in {runs_dir} was made of something else: pass --redo to do it again, or another "
            "--runs_dir"
        )
    return todo, failures


def parse_setting(setting: Setting, seed: int, folder: Path) -> RunArguments:
    """
    The checked arguments of a run.

    Raises:
        ValueError: one of them is refused; the setting is named.
    """
    errors = io.StringIO()
    with tempfile.TemporaryDirectory() as place:
        recipe = Path(place) / "recipe.yaml"
        recipe.write_text(recipe_text(setting, seed, folder), encoding="utf-8")
        try:
            with contextlib.redirect_stderr(errors):  # argparse prints a page of usage
                return parse_run_args([str(recipe)])
        except SystemExit:
            reason = errors.getvalue().rpartition("error: ")[2].strip()
        except ValueError as error:
            reason = str(error)
    raise ValueError(f"setting {setting.name}: {reason}")


def recipe_text(setting: Setting, seed: int, folder: Path) -> str:
    """The arguments of a run as YAML."""
    arguments = setting.arguments | {"seed": seed, "output_dir": str(folder / "checkpoint")}
    return yaml.safe_dump(arguments, sort_keys=False, allow_unicode=True)


def do_run(grid: Grid, setting: Setting, seed: int, folder: Path) -> dict[str, Any]:
    """
    Trains and scores one run in its folder.

    Returns:
        `dict`: What `run.json` holds, but the identity.
    """
    (folder / "recipe.yaml").write_text(recipe_text(setting, seed, folder), encoding="utf-8")
    model_args, data_args, args = parse_run_args([str(folder / "recipe.yaml")])
    reset_peak_memory()
    wall, cpu = time.perf_counter(), cpu_seconds()
    with contextlib.redirect_stdout(sys.stderr):  # the Trainer's logs; stdout is the table's
        metrics = run_training(model_args, data_args, args)
    training = {
        "wall_seconds": round(time.perf_counter() - wall, 2),
        "cpu_seconds": round(cpu_seconds() - cpu, 2),
        "peak_memory_mib": peak_memory_mib(),
        "images_per_second": metrics.get("train_samples_per_second"),
        "metrics": metrics,
    }
    checkpoint = folder / "checkpoint"
    detector = load_detector(str(checkpoint))
    # Without `threshold_fpr` nothing was calibrated, whatever the checkpoint says.
    threshold = None if data_args.threshold_fpr is None else float(metrics["threshold"])
    sets, scoring = {}, {}
    for name, options in grid.test.items():
        predictions, scoring[name] = score_set(detector, options, args)
        write_scores(folder / "scores" / f"{name}.csv", predictions)
        sets[name] = describe_scores(predictions, threshold)
    if not grid.keep_checkpoints:
        for pattern in WEIGHTS:
            for file in checkpoint.rglob(pattern):
                file.unlink()
        for unfinished in checkpoint.glob("checkpoint-*"):
            shutil.rmtree(unfinished)
    return {
        "schema_version": SCHEMA_VERSION,
        "setting": setting.name,
        "seed": seed,
        "recipe": setting.arguments,
        "parameters": detector.parameters,
        "threshold": threshold,
        "sets": sets,
        "training": training,
        "scoring": scoring,
        "environment": describe_environment(args.device),
    }


__all__ = ["do_run", "parse_setting", "run_sweep"]
