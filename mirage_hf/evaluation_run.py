"""One evaluation from arguments to files: a checkpoint on a data set, what `training/evaluate.py` calls."""

import csv
import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from .data import load_detection_dataset
from .detector_loading import load_detector
from .environment import device_name, versions
from .evaluation import EvaluationReport, evaluate_by_generator
from .prediction import predict_scores

logger = logging.getLogger(__name__)

DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class EvaluationArguments:
    """
    What to evaluate on what.

    Args:
        model (`str`):
            Folder or Hub id of a detector, see [`load_detector`].
        data (`str`):
            Folder, archive, manifest or Hub id of the test images.
        output_dir (`str`):
            Where `evaluation.json`, `evaluation.md` and `scores.csv` go.
        layout, split, generators, max_per_class, seed, fake_id, label_column, real_root (*optional*):
            See [`load_detection_dataset`].
        threshold (`float`, *optional*):
            Probability above which an image is called fake; the checkpoint's own if left out.
        batch_size (`int`, *optional*, defaults to 64):
            Images for each forward pass.
        num_workers (`int`, *optional*, defaults to 0):
            Processes that decode.
        device (`str`, *optional*):
            Defaults to the GPU if there is one.
        dtype (`str`, *optional*, defaults to `"float32"`):
            `"float32"`, or autocast to `"bfloat16"` or `"float16"`.
    """

    model: str = field(metadata={"help": "MiraGe checkpoint: folder or Hub id."})
    data: str = field(metadata={"help": "Folder, zip, manifest or Hub id of the test images."})
    output_dir: str = field(metadata={"help": "Folder for evaluation.json, evaluation.md and scores.csv."})
    layout: str = field(default="auto", metadata={"help": "Layout of the data; recognised if left at auto."})
    split: str = field(default="test", metadata={"help": "Split to evaluate."})
    generators: list[str] | None = field(default=None, metadata={"help": "Evaluate on these generators only."})
    max_per_class: int | None = field(default=None, metadata={"help": "Real, and fake, images to draw."})
    seed: int = field(default=0, metadata={"help": "Seed of the draw."})
    fake_id: int | None = field(default=None, metadata={"help": "Number that means fake, where labels are numbers."})
    label_column: str | None = field(default=None, metadata={"help": "Label column of a manifest or Hub data set."})
    real_root: str | None = field(default=None, metadata={"help": "Folder of real images for sets of fakes only."})
    threshold: float | None = field(default=None, metadata={"help": "Fake above it; by default the checkpoint's."})
    batch_size: int = field(default=64, metadata={"help": "Images for each forward pass."})
    num_workers: int = field(default=0, metadata={"help": "Processes that decode."})
    device: str | None = field(default=None, metadata={"help": "cuda, cpu, ...; the GPU if there is one."})
    dtype: str = field(default="float32", metadata={"help": "Autocast type.", "choices": list(DTYPES)})


def run_evaluation(args: EvaluationArguments) -> tuple[EvaluationReport, int]:
    """
    Scores every image once and writes the tables; nothing is written if nothing could be scored.

    Returns:
        `tuple[EvaluationReport, int]`: The tables, and how many images could not be read.

    Raises:
        `OSError`, `ValueError`: If the checkpoint or the data cannot be used.
    """
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    detector = load_detector(args.model)
    options = {name: getattr(args, name) for name in ("layout", "split", "generators", "max_per_class", "seed")}
    options |= {name: getattr(args, name) for name in ("fake_id", "label_column", "real_root")}
    dataset, data_report = load_detection_dataset(args.data, return_report=True, **options)
    logger.warning("Evaluating on\n%s", data_report)
    predictions = predict_scores(
        detector.model,
        dataset,
        detector.transform,
        batch_size=args.batch_size,
        device=device,
        num_workers=args.num_workers,
        dtype=DTYPES[args.dtype],
    )
    own = 0.5 if detector.threshold is None else detector.threshold
    threshold = own if args.threshold is None else args.threshold
    report = evaluate_by_generator(predictions.scores, predictions.labels, predictions.generators, threshold=threshold)
    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    facts = report.to_dict() | {
        "model": {"name": detector.name, "fingerprint": detector.fingerprint, "threshold": own},
        "arguments": asdict(args),
        "device": device_name(device),
        "versions": versions(),
        "layout": data_report.layout,
        "skipped": [{"path": path, "error": error} for path, error in data_report.skipped]
        + [{"path": item["path"], "error": item["error"]} for item in predictions.skipped],
    }
    (output_dir / "evaluation.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    (output_dir / "evaluation.md").write_text(report.to_markdown(), encoding="utf-8")
    columns = zip(
        predictions.paths, predictions.generators, predictions.labels, predictions.scores.round(6), strict=True
    )
    with open(output_dir / "scores.csv", "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "generator", "label", "p_fake"])
        writer.writerows(columns)
    return report, len(facts["skipped"])


__all__ = ["EvaluationArguments", "run_evaluation"]
