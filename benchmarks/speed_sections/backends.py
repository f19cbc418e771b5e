"""Ways to run a detector on the CPU: PyTorch, ONNX Runtime and OpenVINO, in float32, bfloat16 and int8.

Speed of the forward pass by turns, scores on the carried photographs, and what `backend="auto"` makes of it. The
trained demo detector shows what the types do to scores, random weights the speed at a common size.
"""

import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import constants
from sklearn.metrics import roc_auc_score

from mirage_hf.backend_choice import REFERENCE, choose_backend, describe_network, possible_ways
from mirage_hf.backend_choice_cache import cache_folder, key_of
from mirage_hf.backend_choice_measure import FLOAT32, INT8, Margins, Way, synthetic_pixels
from mirage_hf.backends import MODEL_FILE
from mirage_hf.calibration import sigmoid
from mirage_hf.data import load_detection_dataset
from mirage_hf.detector import stated_calibration, stated_threshold
from mirage_hf.detector_loading import LoadedDetector, load_detector
from mirage_hf.image_processing import build_image_processor
from mirage_hf.torch_margins import model_logits

from .kernels import profile_shares
from .networks import count_flops, make_detector
from .records import Section, compare
from .runtime_profiles import profile_onnx, profile_openvino
from .turns import Settings, matrix_peak, take_turns

MINIBENCH = Path(__file__).resolve().parents[1] / "minibench"
TRAINED, RANDOM = "mirage-tiny", "ViT-B/32, random weights"
IMAGES = {TRAINED: 200, RANDOM: 40}
LIMITS = (0.001, 0.05)
BATCH = 8


def run(settings: Settings) -> Section:
    """Both detectors; on the CPU, whatever the device."""
    section = Section("Ways to run a detector on the CPU", [], {}, {})
    peaks = {name: round(peak / 1e9, 1) for name, peak in matrix_peaks(256 if settings.dry else 2048).items()}
    section.details["matrix_peak_gflops"] = peaks
    kept = constants.HF_ASSETS_CACHE
    with tempfile.TemporaryDirectory() as folder:
        constants.HF_ASSETS_CACHE = str(Path(folder) / "cache")  # nothing is remembered from before, or for later
        try:
            for case in IMAGES:
                source = Path(folder) / "random"
                if settings.dry or case == RANDOM:
                    save_random(source, settings.dry)
                else:
                    source = MINIBENCH / "mirage-tiny"
                measure(case, load_detector(str(source)), settings, section, peaks)
        finally:
            constants.HF_ASSETS_CACHE = kept
    section.notes += [*score_tables(section.details), *auto_lines(section.details)]
    return section


def matrix_peaks(size: int) -> dict[str, float]:
    """Most operations a second of a large matrix product, by type; of int8 into 32 bits."""
    left, right = (torch.randint(-127, 128, (size, size), dtype=torch.int8) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        begin = time.perf_counter()
        torch._int_mm(left, right)
        best = min(best, time.perf_counter() - begin)
    peaks = {name: matrix_peak("cpu", getattr(torch, name), size) for name in (FLOAT32, "bfloat16")}
    return peaks | {INT8: 2 * size**3 / best}


def save_random(folder: Path, dry: bool) -> None:
    """A detector of ViT-B/32 with random weights, or a tiny one."""
    model = make_detector("ViT-B/32", dry)
    model.save_pretrained(folder)
    build_image_processor(image_size=model.config.clip_config.vision_config.image_size).save_pretrained(folder)


@dataclass
class Photographs:
    """Preprocessed photographs `(N, 3, H, W)`, their labels, and what turns log-odds into `p_fake` and verdicts."""

    pixel_values: torch.Tensor
    labels: list[int]
    loaded: LoadedDetector

    @classmethod
    def carried(cls, loaded: LoadedDetector, count: int) -> "Photographs":
        """As many real as fake, of the mini-benchmark's test split, mixed."""
        rows = load_detection_dataset(str(MINIBENCH / "carried"), split="test", max_per_class=count // 2)
        # Batches of both classes and all generators.
        rows = [rows[index] for index in np.random.default_rng(0).permutation(len(rows)).tolist()]
        pixels = torch.stack([loaded.transform(row["image"]) for row in rows])
        return cls(pixels, [row["label"] for row in rows], loaded)

    def p_fake(self, margins: np.ndarray) -> np.ndarray:
        calibration = stated_calibration(self.loaded.config)
        return sigmoid(margins) if calibration is None else calibration.probability(margins)

    @property
    def threshold(self) -> float:
        calibration = stated_calibration(self.loaded.config)
        return stated_threshold(self.loaded.config) if calibration is None else calibration.threshold


def measure(case: str, loaded: LoadedDetector, settings: Settings, section: Section, peaks: dict[str, float]) -> None:
    """One detector in all ways."""
    threads = torch.get_num_threads()
    photographs = Photographs.carried(loaded, 8 if settings.dry else IMAGES[case])
    details: dict[str, Any] = section.details.setdefault(case, {})
    details["auto"] = auto = {}
    for limit in LIMITS:  # all is measured for the first of them, which makes the exports, too
        begin = time.perf_counter()
        way = choose_backend(loaded, "cpu", threads, limit)
        auto[f"{limit:g}"] = {"way": name_of(way), "seconds": round(time.perf_counter() - begin, 2)}
    exports = cache_folder("exports") / key_of(describe_network(loaded))
    ways = possible_ways(exports)
    details["bytes"] = {
        kind: sum(path.stat().st_size for path in (exports / kind).glob(f"{MODEL_FILE}*"))
        for kind in (FLOAT32, INT8)
        if (exports / kind).is_dir()
    }
    details |= {"n_real": photographs.labels.count(0), "n_fake": photographs.labels.count(1)}
    margins = {name: way.load(loaded, threads) for name, way in ways.items()}
    details["scores"] = scores = compare_scores(margins, photographs, synthetic_pixels(loaded))
    batch = photographs.pixel_values[:BATCH]
    turns = section.turns[case] = take_turns({name: partial(way, batch) for name, way in margins.items()}, settings)
    section.items[case] = len(batch)
    with torch.inference_mode():
        flops = count_flops(partial(model_logits(loaded.model), batch)) / len(batch)
    for name, way in ways.items():
        section.equality[f"{case}, p_fake, {name}"] = scores[name]["max_difference_p_fake"]
        kind = INT8 if name.endswith(INT8) else way.dtype
        speed = flops / turns.each(name, len(batch)).median / 1e9
        shares = section.profiles[f"{name}, {case}"] = profile(way, margins[name], batch, threads)
        largest = ", ".join(f"{part} {share:.0%}" for part, share in list(shares.items())[:3])
        if name != REFERENCE:
            section.rows.append(
                compare(
                    turns,
                    name,
                    REFERENCE,
                    case=case,
                    items=len(batch),
                    goal="at least",
                    count=f"{flops / 1e9:.4g} GFLOP an image on both sides; a large product reaches {peaks[kind]:g} "
                    f"GFLOP/s in {kind} against {peaks[FLOAT32]:g} in float32.",
                    limit=peaks[kind] * 1e9 * turns.each(REFERENCE, len(batch)).median / flops,
                    held_by=f"{speed:.3g} GFLOP/s in all, {speed / peaks[kind]:.0%} of the peak of its type; most of "
                    f"its time goes to {largest}.",
                )
            )


def name_of(way: Way) -> str:
    """The way's name in [`possible_ways`]."""
    exports = None if way.export is None else Path(way.export).parent
    return next(name for name, other in possible_ways(exports).items() if other == way)


def profile(way: Way, margins: Margins, batch: torch.Tensor, threads: int) -> dict[str, float]:
    """Shares of a way's time, by operator."""
    if way.export is None:
        return profile_shares(partial(margins, batch), "cpu")
    folder = Path(way.export)
    if way.backend == "openvino":
        return profile_openvino(folder, batch.numpy(), threads, way.dtype)
    return profile_onnx(folder, (batch[:1] if folder.name == INT8 else batch).numpy(), threads)


def compare_scores(
    margins: dict[str, Margins], photographs: Photographs, synthetic: list[torch.Tensor]
) -> dict[str, dict[str, float]]:
    """How each way's scores differ from the first one's, and its own in a batch from those of single images."""
    found = {}
    pixels, alone = photographs.pixel_values, photographs.pixel_values[: 4 * BATCH]
    reference, made = margins[REFERENCE], {}
    made = {name: np.concatenate([way(part) for part in pixels.split(BATCH)]) for name, way in margins.items()}
    exact = photographs.p_fake(made[REFERENCE])
    for name, way in margins.items():
        p_fake = photographs.p_fake(made[name])
        singly = photographs.p_fake(np.concatenate([way(part) for part in alone.split(1)]))
        on_synthetic = max(np.abs(way(part) - reference(part)).max() for part in synthetic)
        found[name] = {
            "max_difference_p_fake": float(np.abs(p_fake - exact).max()),
            "mean_difference_p_fake": float(np.abs(p_fake - exact).mean()),
            "max_difference_log_odds": float(np.abs(made[name] - made[REFERENCE]).max()),
            "max_difference_log_odds_synthetic": float(on_synthetic),
            "max_difference_p_fake_alone": float(np.abs(singly - p_fake[: len(alone)]).max()),
            "auroc": float(roc_auc_score(photographs.labels, made[name])),
            "flipped": int(((p_fake > photographs.threshold) != (exact > photographs.threshold)).sum()),
        }
    return found


def score_tables(details: dict[str, Any]) -> list[str]:
    """Markdown of the scores, a table for each detector."""
    lines: list[str] = []
    for case in IMAGES:
        part = details[case]
        sizes = ", ".join(f"{size / 1e6:.1f} MB in {kind}" for kind, size in part["bytes"].items())
        lines += [
            f"Scores of {case} on {part['n_real']} real and {part['n_fake']} fake photographs"
            + (f"; model.onnx has {sizes}:" if sizes else ":"),
            "",
            "| way | largest Δ p_fake | mean Δ | Δ log-odds | on synthetic images | alone or in a batch | AUROC "
            "| across the threshold |",
            "|---|--:|--:|--:|--:|--:|--:|--:|",
        ]
        for name, row in part["scores"].items():
            numbers = [f"{row[key]:.1e}" for key in list(row)[:5]]
            lines.append(f"| {name} | {' | '.join(numbers)} | {row['auroc']:.4f} | {row['flipped']} |")
        lines.append("")
    return lines


def auto_lines(details: dict[str, Any]) -> list[str]:
    """What was chosen."""
    return [
        f'`backend="auto"`, {case}: '
        + "; ".join(
            f"{found['way']} for {limit}, found in {found['seconds']:g} s, on these photographs within "
            f"{details[case]['scores'][found['way']]['max_difference_p_fake']:.1e} of {REFERENCE}"
            for limit, found in details[case]["auto"].items()
        )
        + "; all but the first from what was remembered."
        for case in IMAGES
    ]


__all__ = ["run"]
