"""A folder of JPEGs to a probability for each, end to end, against transformers' pipelines and the network alone.

All ways use all cores, float32, and have their model in memory when their clock starts. The network alone is the same
one, in as many processes, on images that are tensors already.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from bulk_ways import (
    BATCH_SIZE,
    LARGE,
    MODEL,
    NetworkWay,
    PipelineWay,
    Scores,
    ScoreWay,
    largest_difference,
    link,
    make_jpegs,
)

from mirage_hf.detector import Detector
from mirage_hf.image_io import read_image
from mirage_hf.image_processing import build_image_processor
from mirage_hf.scoring_job import settle_process
from mirage_hf.scoring_launch import usable_cores
from mirage_hf.torch_margins import model_logits

from .networks import count_flops, make_detector
from .records import Section, compare
from .turns import Settings, matrix_peak, take_turns

IMAGES, DRY_IMAGES = 1024, 16
PIPELINE_SHARE = 4  # a pipeline starts and ends nothing: a quarter of the images tells its speed
STAGED = 32
SIZE = (500, 375)
BAR, NETWORK_BAR = 1.8, 1.05
SINGLE, BATCHED, BAKED = "pipeline()", "pipeline(batch_size=16)", "pipeline(), model baked"
BETTER, SCORE, NETWORK = "better of the two pipelines", "mirage_hf.scoring", "network alone"


class Kept:
    """A way as a function of nothing that keeps its scores; of some of the images, its seconds are those of all."""

    def __init__(self, way: Callable[[list[Path]], tuple[float, Scores]], files: list[Path], share: int = 1):
        self.way, self.files, self.share = way, files[: len(files) // share], share
        self.scores: Scores = {}

    def __call__(self) -> float:
        seconds, self.scores = self.way(self.files)
        return self.share * seconds


def save_vit_b_32(folder: Path, dry: bool) -> str:
    """A detector on CLIP ViT-B/32 with random weights; a tiny one for a dry run."""
    model = make_detector("ViT-B/32", dry)
    model.save_pretrained(folder)
    side = model.config.clip_config.vision_config.image_size
    build_image_processor(image_size=side).save_pretrained(folder)
    return str(folder)


def stages(detector: Detector, files: list[Path]) -> dict[str, float]:
    """CPU milliseconds of each stage for an image, on one thread, best of three."""
    settle_process(1)
    names = [str(file) for file in files]
    images = [read_image(name).image for name in names]
    prepared = [detector.preparer(name) for name in names]
    batches = torch.stack([item.pixel_values for item in prepared]).split(BATCH_SIZE)

    def cpu_ms(work: Callable[[], object]) -> float:
        times = []
        for _ in range(3):
            begin = time.process_time()
            work()
            times.append(time.process_time() - begin)
        return round(1000 * min(times) / len(files), 3)

    network = cpu_ms(lambda: [detector.margins(batch) for batch in batches])
    judged = cpu_ms(lambda: [detector.judge(prepared[i : i + BATCH_SIZE]) for i in range(0, len(files), BATCH_SIZE)])
    return {
        "reading": cpu_ms(lambda: [read_image(name) for name in names]),
        "transform": cpu_ms(lambda: [detector.preparer.transform(image) for image in images]),
        "network": network,
        "verdict": round(max(0.0, judged - network), 3),
    }


def speed_of_network(detector: Detector, files: list[Path], network_ms: float) -> dict[str, float]:
    """Its arithmetic for an image, the speed at which one core does that, and that of a large matrix product."""
    pixel_values = detector.preparer(str(files[0])).pixel_values[None]
    network = model_logits(detector.margins.model)  # the layers that are timed are packed, and not counted
    with torch.inference_mode():
        gflop = count_flops(lambda: network(pixel_values)) / 1e9
    peak = matrix_peak("cpu", torch.float32) / 1e9
    return {"gflop": round(gflop, 4), "gflop_per_second": round(1000 * gflop / network_ms, 1), "peak": round(peak, 1)}


def measure(name: str, model: str, folder: Path, settings: Settings, section: Section) -> None:
    """Adds one model to the section."""
    count = DRY_IMAGES if settings.dry else IMAGES
    files = link(folder / "links", count, make_jpegs(folder / "jpegs", SIZE, min(count, LARGE)))
    score = ScoreWay(folder / "scores", model)
    ways = {
        SINGLE: Kept(PipelineWay(model), files, PIPELINE_SHARE),
        BATCHED: Kept(PipelineWay(model, 16), files, PIPELINE_SHARE),
        BAKED: Kept(PipelineWay(model, baked=True), files, PIPELINE_SHARE),
        SCORE: Kept(score, files),
    }
    turns = take_turns(ways | {NETWORK: NetworkWay(score.detector, files)}, settings)
    turns.seconds[BETTER] = [min(pair) for pair in zip(turns.seconds[SINGLE], turns.seconds[BATCHED], strict=True)]
    table = stages(score.detector, files[:STAGED])
    speed = speed_of_network(score.detector, files, table["network"])

    whole = sum(table.values())
    spent = ", ".join(f"{stage} {ms:.2f}" for stage, ms in table.items())
    core_ms = {way: 1000 * usable_cores() * turns.each(way, count).median for way in (SCORE, NETWORK)}
    rest = core_ms[SCORE] - core_ms[NETWORK] - (whole - table["network"])
    of_peak = speed["gflop_per_second"] / speed["peak"]
    arithmetic = (
        f"{count} JPEGs of {SIZE[0]} x {SIZE[1]}, of which pipelines score the first {count // PIPELINE_SHARE} "
    )
    arithmetic += f"and are taken times {PIPELINE_SHARE}; the network alone is {speed['gflop']:.3g} GFLOP an image."
    for alternative, goal, bar, limit, held_by in (
        (
            BETTER,
            "at least",
            BAR,
            turns.ratio(BETTER, NETWORK).median,
            f"The network is the limit, at {speed['gflop_per_second']:.0f} GFLOP/s on a core: {of_peak:.0%} of what a "
            "large matrix product reaches.",
        ),
        (BAKED, "at least", None, turns.ratio(BAKED, NETWORK).median, "The pipeline's text encoder is gone here."),
        (
            NETWORK,
            "at most",
            NETWORK_BAR,
            whole / table["network"],
            f"Milliseconds of a core for an image: {spent}. Listing, starting processes and waiting for the last of "
            f"them are {rest:.2f} more.",
        ),
    ):
        options = {"case": name, "items": count, "goal": goal, "bar": bar, "count": arithmetic}
        section.rows.append(compare(turns, SCORE, alternative, limit=limit, held_by=held_by, **options))

    section.turns[name], section.items[name] = turns, count
    section.profiles[f"one image, {name}"] = {stage: round(ms / whole, 3) for stage, ms in table.items()}
    section.details[name] = {"cpu_ms_of_an_image": table, "network": speed}
    reference = ways[SINGLE].scores
    for way in (SCORE, BAKED):
        difference = largest_difference({path: ways[way].scores[path] for path in reference}, reference)
        section.equality[f"p_fake, {name}, {way} against {SINGLE}"] = difference


def run(settings: Settings) -> Section:
    """
    The section.

    Raises:
        ValueError: it is asked for a GPU.
    """
    if settings.device != "cpu":
        raise ValueError("the section `folder` is about the CPU: --device cpu")
    section = Section("A folder of images to probabilities", [], {}, {})
    with tempfile.TemporaryDirectory(prefix="speed-folder-") as scratch:
        folder = Path(scratch)
        if not settings.dry:
            measure("mirage-tiny", MODEL, folder / "tiny", settings, section)
        model = save_vit_b_32(folder / "model", settings.dry)
        measure("ViT-B/32, random weights", model, folder / "large", settings, section)
    return section
