"""Compares the ways to run a detector on the CPU: PyTorch, ONNX Runtime and OpenVINO, in float32, bfloat16 and int8.

Probabilities of fake and AUROC on 200 images of the carried mini-benchmark's test split, and images per second of the
forward pass alone: all ways in turns on the same images, so that what disturbs one disturbs the others.

    OMP_NUM_THREADS=1 python benchmarks/backends.py --out benchmarks/results
    OMP_NUM_THREADS=1 python benchmarks/backends.py --out benchmarks/results --random vit-b-32 --timed-images 32

`backends.json` keeps one entry for each model, replaced by a later run; `backends.md` is made of it. Random weights
are for the speed at a common size, since their scores mean nothing.
"""

import argparse
import importlib.metadata
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measuring import environment
from sklearn.metrics import roc_auc_score

from mirage_hf import MiraGeConfig, MiraGeForImageDetection
from mirage_hf.backends import OpenVINOBackend, load_backend
from mirage_hf.data import load_detection_dataset
from mirage_hf.detector_loading import load_detector
from mirage_hf.export import export_onnx
from mirage_hf.image_processing import build_image_processor
from mirage_hf.quantization import quantize_onnx

MINIBENCH = Path(__file__).resolve().parent / "minibench"
RANDOM = {"vit-b-32": MiraGeConfig}  # CLIP ViT-B/32 is the configuration's default
Margins = Callable[[torch.Tensor], np.ndarray]


class TorchWay:
    """Log-odds by a model in PyTorch, under autocast to a half-precision type or without."""

    def __init__(self, model: torch.nn.Module, dtype: torch.dtype | None = None):
        self.model, self.dtype = model.eval(), dtype

    def __call__(self, pixel_values: torch.Tensor) -> np.ndarray:
        with torch.inference_mode(), torch.autocast("cpu", self.dtype, enabled=self.dtype is not None):
            logits = self.model(pixel_values=pixel_values).logits.double()
        return (logits[:, 1] - logits[:, 0]).numpy()


def prepare_ways(model: str, folder: Path, rows, threads: int) -> tuple[dict[str, Margins], dict]:
    """The ways to run the model by name, PyTorch's float32 first, and the sizes of the exported files in bytes."""
    loaded = load_detector(model)
    ways: dict[str, Margins] = {"torch float32": TorchWay(loaded.model)}
    if isinstance(loaded.model, MiraGeForImageDetection):
        ways["torch float32, not baked"] = TorchWay(MiraGeForImageDetection.from_pretrained(model))
    ways["torch, autocast to bfloat16"] = TorchWay(loaded.model, torch.bfloat16)
    report = export_onnx(model, folder / "float32")
    int8 = quantize_onnx(folder / "float32", folder / "int8", rows, max_auroc_drop=1.0)  # measured, not refused
    ways["ONNX Runtime float32"] = load_backend(folder / "float32", "onnx", threads)
    ways["ONNX Runtime int8"] = load_backend(folder / "int8", "onnx", threads)
    ways["OpenVINO f32"] = load_backend(folder / "float32", "openvino", threads)
    default = OpenVINOBackend(folder / "float32" / "model.onnx", threads, precision=None)
    chosen = default.compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    ways[f"OpenVINO by default ({chosen})"] = default
    return ways, {"float32": report.bytes, "int8": int8.bytes}


def batches(pixel_values: torch.Tensor, way: Margins, batch_size: int) -> np.ndarray:
    """Log-odds of all images, `(N,)`."""
    return np.concatenate([way(part) for part in pixel_values.split(batch_size)])


def sigmoid(margins: np.ndarray) -> np.ndarray:
    return torch.from_numpy(margins).sigmoid().numpy()


def compare_scores(
    ways: dict[str, Margins],
    pixel_values: torch.Tensor,
    labels: list[int],
    threshold: float,
    batch_size: int,
    scored_alone: int,
) -> dict[str, dict]:
    """How the scores of each way differ from the first one's, and from its own on so many images by themselves."""
    found: dict[str, dict] = {}
    reference = batches(pixel_values, next(iter(ways.values())), batch_size)
    for name, way in ways.items():
        margins = batches(pixel_values, way, batch_size)
        alone = batches(pixel_values[:scored_alone], way, 1)
        difference = np.abs(sigmoid(margins) - sigmoid(reference))
        found[name] = {
            "max_difference_p_fake": float(difference.max()),
            "mean_difference_p_fake": float(difference.mean()),
            "max_difference_margin": float(np.abs(margins - reference).max()),
            "max_difference_p_fake_alone": float(np.abs(sigmoid(alone) - sigmoid(margins[:scored_alone])).max()),
            "auroc": float(roc_auc_score(labels, margins)),
            "flipped": int(((sigmoid(margins) > threshold) != (sigmoid(reference) > threshold)).sum()),
        }
    return found


def spread(values: list[float], digits: int) -> dict[str, float]:
    ordered = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, digits) for name, value in ordered.items()}


def time_ways(ways: dict[str, Margins], pixel_values: torch.Tensor, batch_size: int, repeats: int) -> dict[str, dict]:
    """Images per second, all ways once in each repeat, another one first each time; and how many times the first's."""
    names = list(ways)
    for way in ways.values():
        way(pixel_values[:batch_size])
    speeds: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(repeats):
        turn = repeat % len(names)
        for name in names[turn:] + names[:turn]:
            start = time.perf_counter()
            batches(pixel_values, ways[name], batch_size)
            speeds[name].append(len(pixel_values) / (time.perf_counter() - start))
    return {
        name: {
            "images_per_second": spread(speeds[name], 2),
            "times_torch": spread([a / b for a, b in zip(speeds[name], speeds[names[0]], strict=True)], 3),
        }
        for name in names
    }


def run(
    model: str, data: str, split: str, images: int, timed_images: int, repeats: int, batch_size: int, threads: int,
    random: bool = False,
) -> dict:  # fmt: skip
    """All measurements of one model, as its entry in the JSON file."""
    torch.set_num_threads(threads)
    rows = load_detection_dataset(data, split=split, max_per_class=images // 2)
    mixed = np.random.default_rng(0).permutation(len(rows)).tolist()  # batches of both classes and all generators
    rows = [{"image": rows[index]["image"], "label": rows[index]["label"]} for index in mixed]
    labels = [row["label"] for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        ways, sizes = prepare_ways(model, Path(folder), rows, threads)
        loaded = load_detector(model)
        pixel_values = torch.stack([loaded.transform(row["image"]) for row in rows])  # (N, 3, H, W)
        threshold = 0.5 if loaded.threshold is None else loaded.threshold
        scores = compare_scores(ways, pixel_values, labels, threshold, batch_size, timed_images)
        begin, busy = time.perf_counter(), time.process_time()
        timed = pixel_values[:: max(1, len(rows) // timed_images)][:timed_images]
        speeds = time_ways(ways, timed, batch_size, repeats)
        share = (time.process_time() - busy) / (time.perf_counter() - begin) / threads
    packages = {name: importlib.metadata.version(name) for name in ("onnx", "onnxruntime", "openvino")}
    return {
        "weights": "random" if random else "trained",
        "pixel_values": list(pixel_values.shape[1:]),
        "parameters": loaded.parameters,
        "n_real": labels.count(0),
        "n_fake": labels.count(1),
        "threshold": threshold,
        "batch_size": batch_size,
        "timed_images": len(timed),
        "repeats": repeats,
        "threads": threads,
        # Below 1, other programs competed for the CPU and the speeds are too low; their ratios suffer less.
        "share_of_the_threads": round(share, 2),
        "bytes": sizes,
        "environment": environment("cpu") | packages,
        "ways": {name: scores[name] | speeds[name] for name in ways},
    }


def to_markdown(results: dict) -> str:
    """The tables of `backends.md`."""
    lines = ["# Ways to run a detector on the CPU", ""]
    for name, entry in results["models"].items():
        machine = entry["environment"]
        height, width = entry["pixel_values"][1:]
        lines += [
            f"## {name}, {entry['weights']} weights",
            "",
            f"`{entry['command']}`",
            "",
            f"{entry['n_real']} real and {entry['n_fake']} fake images of {height} x {width}; "
            f"{entry['parameters'] / 1e6:.1f} million weights; model.onnx of {entry['bytes']['float32'] / 1e6:.1f} MB "
            f"in float32, {entry['bytes']['int8'] / 1e6:.1f} MB in int8. {machine['cpu']}, threads: "
            f"{entry['threads']}; torch {machine['torch']}, onnxruntime {machine['onnxruntime']}, openvino "
            f"{machine['openvino']}. Speed: the forward pass in batches of {entry['batch_size']}, median (least to "
            f"most) of {entry['repeats']} turns over {entry['timed_images']} images, which had "
            f"{entry['share_of_the_threads']:.0%} of the threads' time.",
            "",
            "| way | largest Δ p(fake) | mean Δ | alone or in a batch | AUROC | across the threshold | images/s | "
            "× torch |",
            "|---|--:|--:|--:|--:|--:|--:|--:|",
        ]
        for way, row in entry["ways"].items():
            speed, times = row["images_per_second"], row["times_torch"]
            lines.append(
                f"| {way} | {row['max_difference_p_fake']:.1e} | {row['mean_difference_p_fake']:.1e} | "
                f"{row['max_difference_p_fake_alone']:.1e} | {row['auroc']:.4f} | {row['flipped']} | "
                f"{speed['median']:.1f} ({speed['min']:.1f}–{speed['max']:.1f}) | "
                f"{times['median']:.2f} ({times['min']:.2f}–{times['max']:.2f}) |"
            )
        lines.append("")
    lines.append(
        "Δ is the absolute difference from float32 in PyTorch, the model baked. *Alone or in a batch*: largest "
        "difference between an image scored by itself and among others."
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="where backends.json and .md are written"
    )
    parser.add_argument("--model", default=str(MINIBENCH / "mirage-tiny"), help="folder or Hub id of a detector")
    parser.add_argument("--random", choices=RANDOM, help="a detector with random weights instead, for its speed")
    parser.add_argument("--data", default=str(MINIBENCH / "carried"), help="labelled images")
    parser.add_argument("--split", default="test", help="of the images")
    parser.add_argument("--images", type=int, default=200, help="images to compare the scores on, half of each class")
    parser.add_argument("--timed-images", type=int, default=64, help="images in a turn of the timing")
    parser.add_argument("--repeats", type=int, default=7, help="turns of the timing")
    parser.add_argument("--batch-size", type=int, default=16, help="images for each forward pass")
    parser.add_argument("--threads", type=int, default=1, help="threads of a forward pass")
    args = parser.parse_args()
    measured = (args.data, args.split, args.images, args.timed_images, args.repeats, args.batch_size, args.threads)
    command = f"OMP_NUM_THREADS={args.threads} python benchmarks/backends.py --out benchmarks/results"
    if args.random:
        with tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(0)
            MiraGeForImageDetection(RANDOM[args.random]()).save_pretrained(folder)
            build_image_processor().save_pretrained(folder)
            name, entry = args.random, run(folder, *measured, random=True)
        command += f" --random {args.random}"
    else:
        name, entry = Path(args.model).name, run(args.model, *measured)
        command += "" if args.model == parser.get_default("model") else f" --model {args.model}"
    for option in ("images", "timed_images", "repeats", "batch_size", "threads"):
        if getattr(args, option) != parser.get_default(option):
            command += f" --{option.replace('_', '-')} {getattr(args, option)}"
    file = args.out / "backends.json"
    results = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"schema_version": 1, "models": {}}
    results["models"][name] = {"command": command} | entry
    args.out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    markdown = to_markdown(results)
    (args.out / "backends.md").write_text(markdown, encoding="utf-8")
    print(markdown)


if __name__ == "__main__":
    main()
