"""The stages that need images: training with validation, and the one look at the test split."""

import json
import logging
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from threadpoolctl import threadpool_limits
from transformers import set_seed

from benchmarks.measuring import environment
from mirage_hf.augmentations import AugmentationConfig
from mirage_hf.files import write_atomically

from . import storage
from .clip_detectors import BackboneDetector, ClipClassifier, LinearProbe, make_prompted, measure_representation
from .detectors import ConstantDetector, Detector, MetadataDetector, ResidualNetworkDetector, SpectraDetector
from .grid import Grid, Setting
from .images import FlipAndAugment, TrainingCrops, draw_schedule, read_split
from .thresholds import choose_threshold, equal_rate_threshold, validation_metrics

logger = logging.getLogger(__name__)


def make_detector(setting: Setting, seed: int, backbone: Path, size: int) -> Detector:
    """A detector before its training; the same for the same seed."""
    set_seed(seed)
    config = setting.config
    if setting.kind == "constant":
        return ConstantDetector(**config)
    if setting.kind == "metadata":
        return MetadataDetector()
    if setting.kind == "spectra":
        return SpectraDetector(size)
    if setting.kind == "npr_cnn":
        return ResidualNetworkDetector(size, seed)
    if setting.kind == "linear_probe":
        return LinearProbe(backbone)
    make = make_prompted if setting.kind == "prompts" else ClipClassifier
    return BackboneDetector(make(backbone, **config), backbone, setting.args, seed)


def image_size(backbone: Path) -> int:
    """Height and width in pixels of what the backbone takes."""
    return json.loads((backbone / "config.json").read_text(encoding="utf-8"))["vision_config"]["image_size"]


def identify(data: Path, backbone: Path) -> dict[str, str]:
    """Checksums of the data's manifest and the backbone's weights."""
    return {
        "manifest_sha256": storage.checksum(data / "manifest.csv"),
        "backbone_sha256": storage.checksum(backbone / "model.safetensors"),
    }


def run_folder(work: Path, setting: Setting, seed: int) -> Path:
    return work / setting.name / f"seed{seed}"


def is_finished(folder: Path, identity: dict[str, Any]) -> bool:
    """Whether a run of this very identity was completed there: `run.json` is written last."""
    path = folder / "run.json"
    return path.is_file() and json.loads(path.read_text(encoding="utf-8"))["identity"] == identity


def train(grid: Grid, runs: list[tuple[Setting, int]], data: Path, backbone: Path, work: Path) -> None:
    """
    Trains every run that isn't finished, and scores the validation split. The test split isn't opened.

    Each leaves in `work/<setting>/seed<seed>` its weights and `run.json`: identity, thresholds, validation metrics and
    scores, seconds, versions.
    """
    source, size = identify(data, backbone), image_size(backbone)
    todo = []
    for setting, seed in runs:
        identity = grid.fields(setting, seed) | source
        if not is_finished(run_folder(work, setting, seed), identity):
            todo.append((setting, seed, identity))
    logger.info("%d runs, %d of them finished", len(runs), len(runs) - len(todo))
    if not todo:
        return
    train_split, validation = (read_split(data, split, grid.apart) for split in ("train", "validation"))
    augmentation = FlipAndAugment(AugmentationConfig(**grid.augmentation), size)
    for setting, seed, identity in todo:
        detector = make_detector(setting, seed, backbone, size)
        schedule = draw_schedule(train_split, grid.batch, grid.steps, seed)
        crops = TrainingCrops(train_split, schedule, augmentation, seed)
        start, used = time.perf_counter(), time.process_time()
        detector.fit(crops, validation)
        seconds, used = time.perf_counter() - start, time.process_time() - used
        log_odds = storage.rounded(detector.log_odds(validation))
        labels, kinds = validation.labels, validation.kinds
        threshold, equal = choose_threshold(log_odds, labels, kinds), equal_rate_threshold(log_odds, kinds)
        if setting.kind == "constant":  # any other threshold would turn one constant into the other
            threshold = equal = 0.0
        record = {
            "setting": setting.name,
            "seed": seed,
            "identity": identity,
            "training_seconds": round(seconds, 1),
            "training_cpu_seconds": round(used, 1),
            "threshold": threshold,
            "equal_rate_threshold": equal,
            "validation": {key: round(value, 5) for key, value in validation_metrics(log_odds, labels, kinds).items()},
            "environment": environment("cpu"),
            "log_odds": log_odds.tolist(),
        }
        folder = run_folder(work, setting, seed)
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: value.contiguous() for name, value in detector.state().items()}
        save_file(state, folder / "weights.safetensors")
        write_atomically(folder / "run.json", json.dumps(record) + "\n")
        logger.info(
            "%s seed %d: %.0f s, validation AUC %.3f against photographs, %.3f against controls",
            *(setting.name, seed, seconds),
            *(record["validation"]["auc_photo"], record["validation"]["auc_control"]),
        )


def final(grid: Grid, settings: list[Setting], data: Path, backbone: Path, work: Path, results: Path) -> None:
    """
    Scores the test split with each setting whose runs are all finished, once: a setting that has results is passed
    over.

    Raises:
        ValueError: a setting was scored with other fields, weights or data than it has now.
    """
    source, size = identify(data, backbone), image_size(backbone)
    todo = []
    for setting in settings:
        identities = [grid.fields(setting, seed) | source for seed in setting.seeds]
        if storage.has_results(results, setting.name):
            if [run["identity"] for run in storage.read_facts(results, setting.name)["runs"]] != identities:
                raise ValueError(
                    f"{setting.name} was scored on test as it was before it was changed; a second look has to be "
                    f"wanted: remove its files in {results.name} first"
                )
        elif all(
            is_finished(run_folder(work, setting, seed), identity)
            for seed, identity in zip(setting.seeds, identities, strict=True)
        ):
            todo.append(setting)
        else:
            logger.warning("%s isn't scored: not all of its runs are finished", setting.name)
    if not todo:
        return
    validation, test = (read_split(data, split, grid.apart) for split in ("validation", "test"))
    index = storage.write_index(results, {"validation": validation, "test": test})
    for setting in todo:
        runs, columns = [], []
        for seed in setting.seeds:
            folder = run_folder(work, setting, seed)
            run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            detector = make_detector(setting, seed, backbone, size)
            detector.load_state(load_file(folder / "weights.safetensors"))
            used = time.process_time()
            if isinstance(detector, BackboneDetector):
                images, texts = detector.embed(test)
                log_odds = detector.log_odds_of(images, texts)
                run["representation"] = measure_representation(images, texts, test, grid.apart)
            else:
                log_odds = detector.log_odds(test)
            run["test_cpu_seconds"] = round(time.process_time() - used, 1)
            columns.append([*run.pop("log_odds"), *storage.rounded(log_odds).tolist()])
            runs.append(run)
        facts = {"setting": setting.name, "title": setting.title, "index_sha256": index, "runs": runs}
        storage.write_results(results, setting.name, facts, setting.seeds, columns)
        logger.info("%s scored on test", setting.name)


def limit_threads() -> None:
    """One thread from here on, whatever the machine offers: several processes share it."""
    threadpool_limits(1)  # numpy's and scikit-learn's
    torch.set_num_threads(1)


def gather_sweeps(grid: Grid, data: Path, backbone: Path, work: Path, results: Path) -> None:
    """Writes validation metrics of the finished sweep runs, and of what they vary with the same seeds, to a file."""
    source = identify(data, backbone)
    runs = dict.fromkeys((setting.base, seed) for setting in grid.sweeps.values() for seed in setting.seeds)
    chosen = [(grid.settings[str(base)], seed) for base, seed in runs]
    chosen += [(setting, seed) for setting in grid.sweeps.values() for seed in setting.seeds]
    found = []
    for setting, seed in chosen:
        folder = run_folder(work, setting, seed)
        if is_finished(folder, grid.fields(setting, seed) | source):
            run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            found.append(
                {key: run[key] for key in ("setting", "seed", "identity", "training_cpu_seconds", "validation")}
            )
    logger.info("%d of %d runs are finished", len(found), len(chosen))
    write_atomically(results / "sweeps.json", json.dumps(found, indent=1) + "\n")
