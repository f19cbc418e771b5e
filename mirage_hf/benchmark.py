"""Runs a protocol of this field on a detector: each set scored once in each view, with the doubts each number needs.

    mirage-hf benchmark genimage --data GenImage --model outputs/genimage_sdv14 --align --degrade all

A view is what is done to every image first: nothing (`raw`), one pipeline of size and JPEG (`aligned`), or a
degradation. Finished sets are kept, so that a run that was cut off goes on with the next.
"""

import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from .alignment import FormatAlignment
from .benchmark_data import listing_hash, relative_paths, split_into_sets
from .benchmark_files import BenchmarkFolder
from .benchmark_results import assemble_results
from .benchmark_scoring import BenchmarkScorer
from .benchmark_views import list_views
from .data import load_detection_dataset
from .detector_loading import LoadedDetector, load_detector
from .environment import device_name, versions
from .evaluation_run import DTYPES
from .prediction import predict_scores
from .protocols import find_protocol
from .thresholds import threshold_at_fpr


@dataclass
class BenchmarkArguments:
    """
    What to run on what.

    Args:
        protocol (`str`):
            Name of a [`Protocol`].
        model (`str`):
            Folder or Hub id of a detector, see [`load_detector`].
        data (`str`):
            Folder, archive, manifest or Hub id of the test images.
        output_dir (`str`):
            Where scores and tables go.
        layout, split, config_name, real_root, fake_id, label_column (*optional*):
            See [`load_detection_dataset`]; the protocol's layout and split by default.
        revision, fake_label (*optional*):
            See [`load_detector`].
        align (`bool`, *optional*, defaults to `False`):
            Score all images in one format as well.
        align_size, align_geometry, align_quality (*optional*):
            See [`FormatAlignment`].
        degrade (`tuple[str, ...]`, *optional*):
            Names of degradations to score as well, or `"all"`.
        calibrate_on (`str`, *optional*):
            Validation images of the training generator; fixes the calibrated threshold in place of the checkpoint's.
        calibrate_split (`str`, *optional*, defaults to `"validation"`):
            Split of `calibrate_on`.
        calibrate_fpr (`float`, *optional*, defaults to 0.05):
            Share of its real images that may be called fake, for each generator there.
        limit_per_class (`int`, *optional*):
            Only so many images of each class and set, for a quick look.
        batch_size (`int`, *optional*, defaults to 64):
            Images for each forward pass.
        num_workers (`int`, *optional*, defaults to 0):
            Processes that decode.
        device (`str`, *optional*):
            Defaults to the GPU if there is one.
        dtype (`str`, *optional*, defaults to `"float32"`):
            `"float32"`, or autocast to `"bfloat16"` or `"float16"`.
        replicates (`int`, *optional*, defaults to 1000):
            Bootstrap draws for the intervals.
        quiet (`bool`, *optional*, defaults to `False`):
            No progress bars.
    """

    protocol: str
    model: str
    data: str
    output_dir: str
    layout: str | None = None
    split: str | None = None
    config_name: str | None = None
    real_root: str | None = None
    fake_id: int | None = None
    label_column: str | None = None
    revision: str | None = None
    fake_label: str | None = None
    align: bool = False
    align_size: int | None = None
    align_geometry: str | None = None
    align_quality: int | None = None
    degrade: tuple[str, ...] = ()
    calibrate_on: str | None = None
    calibrate_split: str = "validation"
    calibrate_fpr: float = 0.05
    limit_per_class: int | None = None
    batch_size: int = 64
    num_workers: int = 0
    device: str | None = None
    dtype: str = "float32"
    replicates: int = 1000
    quiet: bool = False


def run_benchmark(args: BenchmarkArguments) -> dict[str, Any]:
    """
    Scores every set that isn't finished, in every view, and puts the results together.

    Returns:
        `dict`: as `benchmark.schema.json` says. Nothing but scores is written yet.

    Raises:
        OSError, ValueError: the detector, the data or the arguments can't be used; finished sets are kept.
    """
    protocol = find_protocol(args.protocol)
    alignment = make_alignment(args)
    views = list_views(alignment, args.degrade)
    if args.dtype not in DTYPES:
        raise ValueError(f"`dtype` is {args.dtype!r}: choose one of {', '.join(DTYPES)}")
    if protocol.needs_reals and args.real_root is None:
        raise ValueError(f"{protocol.title} holds fakes only: give a folder of real images as `real_root`")
    dataset, report = load_detection_dataset(
        args.data,
        layout=args.layout or protocol.layout,
        split=args.split or protocol.split,
        fake_id=protocol.fake_id if args.fake_id is None else args.fake_id,
        label_column=args.label_column,
        config_name=args.config_name,
        real_root=args.real_root,
        check_images=False,  # each file is read once, when it is scored
        allow_one_class=True,
        return_report=True,
    )
    labels, generators = list(dataset["label"]), list(dataset["generator"])
    paths = relative_paths(list(dataset["path"]), args.data)
    sets = split_into_sets(protocol, labels, generators, paths, args.limit_per_class)
    sets.notes += report.notes
    sets.notes += [f"not read: {path}: {reason}" for path, reason in report.skipped]
    detector = load_detector(args.model, args.revision, args.fake_label)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    detector.model.to(device)
    identity = {
        "protocol": protocol.name,
        "detector": detector.fingerprint,
        "data": listing_hash(paths, labels, generators),
        "limit_per_class": args.limit_per_class,
        "alignment": None if alignment is None else asdict(alignment),
        "dtype": args.dtype,
        "versions": versions(),
    }
    folder = BenchmarkFolder(Path(args.output_dir), identity)
    options = {name: getattr(args, name) for name in ("batch_size", "num_workers", "quiet")}
    options["dtype"] = DTYPES[args.dtype]
    threshold = detector.threshold if args.calibrate_on is None else calibrate(args, detector, options)
    scorer = BenchmarkScorer(detector, dataset, paths, options)
    scored = {view.name: scorer.score_sets(view, sets, folder) for view in views}
    environment = {
        "python": platform.python_version(),
        **versions(),
        "device": device_name(device),
        "machine": platform.machine(),
    }
    return assemble_results(
        protocol,
        {
            "name": detector.name,
            "type": detector.model_type,
            "threshold": threshold,
            "parameters": detector.parameters,
        },
        environment,
        {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(args).items()},
        report.layout,
        sets,
        {view.name: (view.description, scored[view.name]) for view in views},
        args.replicates,
    )


def make_alignment(args: BenchmarkArguments) -> FormatAlignment | None:
    """
    The alignment that is asked for.

    Raises:
        ValueError: one is described and not asked for, or a field is out of range.
    """
    fields: dict[str, Any] = {
        "size": args.align_size,
        "geometry": args.align_geometry,
        "quality": args.align_quality,
    }
    given = {name: value for name, value in fields.items() if value is not None}
    if args.align:
        return FormatAlignment(**given)
    if given:
        raise ValueError(f"`align_{next(iter(given))}` is given without `align`")
    return None


def calibrate(args: BenchmarkArguments, detector: LoadedDetector, options: dict[str, Any]) -> float:
    """The threshold at which at most a share `calibrate_fpr` of the real validation images is called fake."""
    dataset = load_detection_dataset(str(args.calibrate_on), split=args.calibrate_split)
    found = predict_scores(detector.model, dataset, detector.transform, **options)
    return threshold_at_fpr(found.scores, found.labels, found.generators, args.calibrate_fpr)


__all__ = ["BenchmarkArguments", "run_benchmark"]
