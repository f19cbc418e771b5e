"""Noisy pictures that a detector of the tests tells apart, mostly; and a checkpoint of it to write to."""

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from mirage_hf.detector_loading import load_detector
from mirage_hf.prediction import predict_scores


def write_noise(root: Path, folder: str, order: np.ndarray) -> Path:
    """48 noisy pictures; those late in the `order` are called fake, with a few exceptions."""
    random = np.random.default_rng(4)
    pictures = [
        Image.fromarray(np.uint8(random.uniform(0, random.uniform(40, 256, 3), (40, 40, 3)))) for _ in range(48)
    ]
    for rank, number in enumerate(order):
        fake = (rank >= 30) != (rank in (5, 12, 20, 33, 40))
        path = root / folder / ("fake" if fake else "real") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pictures[number].save(path)
    return root


def make_noise(folder: str, root: Path) -> Path:
    """Images of which the detector in `folder` tells real from fake, mostly: 29 real and 19 fake."""
    loose = write_noise(root / "loose", "a", np.arange(48))
    detector = load_detector(folder)
    files = sorted(loose.rglob("*.png"), key=lambda path: int(path.stem))
    rows = [{"image": Image.open(path), "label": 0} for path in files]
    found = predict_scores(detector.model, rows, detector.transform)
    return write_noise(root / "noise", "a", np.argsort(found.margins))


def copy_with_more_fields(folder: str, target: Path) -> Path:
    """A detector of one's own to write to, with fields that nobody may touch."""
    shutil.copytree(folder, target)
    (target / "config.json").write_text(json.dumps(config_of(target) | {"zebra": [1, 0.1 + 0.2, "é", None]}))
    return target


def config_of(folder) -> dict:
    return json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
