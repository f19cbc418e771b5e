"""One calibration from arguments to files: a checkpoint on held-out images, what `mirage-hf calibrate` calls."""

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from .calibration import Calibration, sigmoid
from .calibration_fit import fit_calibration
from .data import load_detection_dataset
from .detector_loading import load_detector
from .evaluation_run import DTYPES
from .files import write_atomically
from .prediction import predict_scores
from .weighted_metrics import weighted_metrics

logger = logging.getLogger(__name__)


@dataclass
class CalibrationArguments:
    """
    What to calibrate on what.

    Args:
        model (`str`):
            Folder or Hub id of a detector, see [`load_detector`].
        data (`str`):
            Folder, archive, manifest or Hub id of images that the detector wasn't trained on.
        output_dir (`str`, *optional*):
            A new folder for the calibrated checkpoint. Without it, a local one is calibrated in place.
        revision, fake_label (*optional*):
            See [`load_detector`].
        layout, split, generators, max_per_class, fake_id, label_column, real_root (*optional*):
            See [`load_detection_dataset`].
        max_fpr, alpha, prior (*optional*):
            See [`~calibration_fit.fit_calibration`].
        batch_size, num_workers, device, dtype, quiet (*optional*):
            See [`~prediction.predict_scores`].
    """

    model: str
    data: str
    output_dir: str | None = None
    revision: str | None = None
    fake_label: str | None = None
    layout: str = "auto"
    split: str = "validation"
    generators: Sequence[str] | None = None
    max_per_class: int | None = None
    fake_id: int | None = None
    label_column: str | None = None
    real_root: str | None = None
    max_fpr: float = 0.05
    alpha: float = 0.1
    prior: float = 0.5
    batch_size: int = 64
    num_workers: int = 0
    device: str | None = None
    dtype: str = "float32"
    quiet: bool = False


@dataclass
class CalibrationReport:
    """
    What a calibration did to the images that it was learned from; others fare a little worse.

    Args:
        calibration ([`Calibration`]):
            As it was stored.
        folder (`str`):
            The calibrated checkpoint.
        ece (`tuple[float, float]`):
            Expected calibration error before and after, the classes weighted as `calibration.prior` says. It is never
            0 by chance, and of a few hundred images a few percent are nothing to worry about.
        log_loss (`tuple[float, float]`):
            Mean of -log of the probability of the true class, weighted alike; 0.69 is a coin's with equal classes.
        unsure (`tuple[float, float]`):
            Share of the real and of the fake images with the verdict "unsure".
        relabelled (`int`):
            Images for which float32 probabilities without calibration give the other label, so far out do they lie.
        unreadable (`list[dict]`):
            `path` and `error` of images that could not be read.
    """

    calibration: Calibration
    folder: str
    ece: tuple[float, float]
    log_loss: tuple[float, float]
    unsure: tuple[float, float]
    relabelled: int
    unreadable: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable content."""
        return {
            "folder": self.folder,
            "calibration": self.calibration.to_dict(),
            "raw_threshold": self.calibration.raw_threshold,
            "expected_calibration_error": {"before": self.ece[0], "after": self.ece[1]},
            "log_loss": {"before": self.log_loss[0], "after": self.log_loss[1]},
            "unsure": {"real": self.unsure[0], "fake": self.unsure[1]},
            "relabelled": self.relabelled,
            "unreadable": self.unreadable,
        }

    def to_text(self) -> str:
        """A few lines for people."""
        found = self.calibration
        lines = [
            f"{found.n_real} real and {found.n_fake} fake images: {found.data}",
            f"temperature {found.temperature:.4g}, bias {found.bias:.4g}, for {found.prior:.0%} fakes",
            f"log loss {self.log_loss[0]:.3f} before, {self.log_loss[1]:.3f} after; "
            f"expected calibration error {100 * self.ece[0]:.1f}% before, {100 * self.ece[1]:.1f}% after",
            f"fake above {found.threshold:.4f} ({found.raw_threshold:.4f} without calibration)",
            f"unsure from {found.unsure_low:.4f} to {found.unsure_high:.4f}: "
            f"{self.unsure[0]:.1%} of the real images, {self.unsure[1]:.1%} of the fakes",
            "at most  threshold  reals labelled fake  fakes labelled fake",
        ]
        for point in found.operating_points:
            cells = [_with_interval(point[name], point[f"{name}_interval"]) for name in ("fpr", "tpr")]
            note = "" if point["supported"] else "  too few real images to tell"
            lines.append(f"{point['max_fpr']:7.1%}  {point['threshold']:9.4f}  {cells[0]:19}  {cells[1]:19}{note}")
        lines.append(f"saved as calibration {found.id} in {self.folder}")
        return "\n".join(line.rstrip() for line in lines) + "\n"


def run_calibration(args: CalibrationArguments) -> CalibrationReport:
    """
    Scores every image once, fits, and stores the calibration in `config.json`. Nothing is written if anything fails.

    `threshold` of a detector of this package is set as well: on the scale without calibration, which `pipeline`,
    `evaluate` and `benchmark` read, it gives the labels that the calibrated threshold gives.

    Raises:
        OSError, ValueError: the checkpoint or the data can't be used, or there is no place to write to.
    """
    if args.dtype not in DTYPES:
        raise ValueError(f"`dtype` is {args.dtype!r}: choose one of {', '.join(DTYPES)}")
    target = find_target(args.model, args.output_dir)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    names = ("layout", "split", "generators", "max_per_class", "fake_id", "label_column", "real_root")
    options = {name: getattr(args, name) for name in names}
    # Nothing is checked beforehand: each file is read once, when it is scored.
    dataset, listing = load_detection_dataset(args.data, check_images=False, return_report=True, **options)
    logger.warning("Calibrating on\n%s", listing)
    detector = load_detector(args.model, args.revision, args.fake_label)
    paths, labels, generators = (list(dataset[name]) for name in ("path", "label", "generator"))
    images = dict(zip(reversed(paths), reversed(range(len(paths))), strict=True))  # a shared real image: its first row
    found = predict_scores(
        detector.model,
        dataset.select(sorted(images.values())),
        detector.transform,
        batch_size=args.batch_size,
        device=device,
        num_workers=args.num_workers,
        dtype=DTYPES[args.dtype],
        quiet=args.quiet,
    )
    assert found.margins is not None
    margins = dict(zip(found.paths, found.margins, strict=True))
    rows = [row for row, path in enumerate(paths) if path in margins]
    fakes = sorted({generators[row] for row in rows if labels[row] == 1})
    calibration = fit_calibration(
        [margins[paths[row]] for row in rows],
        [labels[row] for row in rows],
        [generators[row] for row in rows],
        args.max_fpr,
        args.alpha,
        f"{Path(args.data).name}, split {args.split}, fakes of {', '.join(fakes)}",
        prior=args.prior,
        keys=[paths[row] for row in rows],
    )
    p_fake, fake = calibration.probability(found.margins), found.labels == 1
    unsure = np.array(calibration.verdicts(p_fake)) == "unsure"
    relabelled = int(((found.scores > calibration.raw_threshold) != (p_fake > calibration.threshold)).sum())
    if relabelled:
        logger.warning(
            "%d images lie where float32 probabilities are 0 or 1: without calibration they get the other label",
            relabelled,
        )
    folder = target if target == Path(args.model) else copy_checkpoint(args.model, args.revision, target)
    write_calibration(folder, calibration)
    return CalibrationReport(
        calibration=calibration,
        folder=str(folder),
        ece=(weighted_error(sigmoid(found.margins), fake, args.prior), weighted_error(p_fake, fake, args.prior)),
        log_loss=(
            weighted_log_loss(found.margins, fake, args.prior),
            weighted_log_loss(found.margins / calibration.temperature + calibration.bias, fake, args.prior),
        ),
        unsure=(float(unsure[~fake].mean()), float(unsure[fake].mean())),
        relabelled=relabelled,
        unreadable=[{"path": path, "error": error} for path, error in listing.skipped]
        + [{"path": item["path"], "error": item["error"]} for item in found.skipped],
    )


def find_target(model: str, output_dir: str | None) -> Path:
    """
    The folder of the calibrated checkpoint: `model` itself, or one that has no files yet.

    Raises:
        ValueError: there is none, or it is in use.
    """
    if output_dir is None or Path(output_dir).resolve() == Path(model).resolve():
        if not Path(model).is_dir():
            raise ValueError(f"{model} is no folder here, so it can't be calibrated in place: give an `output_dir`")
        return Path(model)
    target = Path(output_dir)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} is in use: give an `output_dir` that is new or empty")
    return target


def copy_checkpoint(model: str, revision: str | None, target: Path) -> Path:
    """
    Copies the files of a local checkpoint, without folders such as those of older training steps; of the Hub, the
    model and its image processor are saved.
    """
    target.mkdir(parents=True, exist_ok=True)
    source = Path(model)
    if not source.is_dir():
        AutoModelForImageClassification.from_pretrained(model, revision=revision, dtype="auto").save_pretrained(target)
        AutoImageProcessor.from_pretrained(model, revision=revision).save_pretrained(target)
        return target
    files = sorted(path for path in source.iterdir() if path.is_file())
    for path in sorted(files, key=lambda path: path.name == "config.json"):  # last: half a copy is no checkpoint
        shutil.copyfile(path, target / path.name)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    base = config.get("base_model_name_or_path")
    if isinstance(base, str) and (source / base).is_dir():  # an adapter's base is looked for from its own folder
        _write_config(target, config | {"base_model_name_or_path": str((source / base).resolve())})
    return target


def write_calibration(folder: Path, calibration: Calibration) -> None:
    """Sets `calibration`, and a MiraGe checkpoint's or baseline's `threshold`, in `config.json`; all else stays."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["calibration"] = calibration.to_dict()
    if str(config.get("model_type")).startswith("mirage"):
        config["threshold"] = calibration.raw_threshold
    _write_config(folder, config)


def weighted_error(p_fake: np.ndarray, fake: np.ndarray, prior: float) -> float:
    """Expected calibration error of `(N,)` probabilities, the classes weighted to shares `prior` and 1 - `prior`."""
    weights = _weights(fake, prior)[None]  # (1, N)
    return float(weighted_metrics(p_fake, fake.astype(int), weights)["expected_calibration_error"][0])


def weighted_log_loss(log_odds: np.ndarray, fake: np.ndarray, prior: float) -> float:
    """Mean of -log of the true class's probability, `(N,)` log-odds of fake, weighted alike; in nats."""
    return float(_weights(fake, prior) @ np.logaddexp(0, np.where(fake, -log_odds, log_odds)) / len(fake))


def _weights(fake: np.ndarray, prior: float) -> np.ndarray:
    return np.where(fake, prior / fake.mean(), (1 - prior) / (~fake).mean())


def _write_config(folder: Path, config: dict[str, Any]) -> None:
    write_atomically(folder / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")


def _with_interval(share: float, interval: Sequence[float]) -> str:
    return f"{share:.1%} ({100 * interval[0]:.1f}–{100 * interval[1]:.1f})"


__all__ = ["CalibrationArguments", "CalibrationReport", "run_calibration", "write_calibration"]
