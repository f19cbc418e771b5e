"""From 1,000 to 100,000 images and from one process to two, against linear: time for each image, and memory.

The many images are links to a few of 48 x 48 pixels and the detector is tiny, so that Python and the memory that it
keeps show; processes are compared on mirage-tiny, with as many cores as processes and one thread each.
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bulk_ways import (
    LARGE,
    MODEL,
    NetworkWay,
    Scores,
    ScoreWay,
    largest_difference,
    link,
    make_jpegs,
    read_scores,
    watched_run,
)

from mirage_hf.image_processing import build_image_processor

from .networks import make_detector
from .records import Section, compare
from .turns import Settings, take_turns

FEW, MANY, DRY_FEW, DRY_MANY = 1_000, 100_000, 64, 640
ORIGINALS = 64
IMAGES, DRY_IMAGES = 256, 32  # of a round with one process and two
WATCHED_EVERY = 0.1  # seconds
MEMORY_BAR, BAR = 0.05, 1.8


@dataclass
class WatchedRun:
    """The command over so many links; tells the seconds of an image, without loading and listing."""

    links: Path
    out: Path
    model: str
    files: list[Path]
    found: dict = field(default_factory=dict)
    scores: Scores = field(default_factory=dict)

    def __call__(self) -> float:
        self.found = watched_run(self.links, self.out, self.model, WATCHED_EVERY)
        self.scores = read_scores(self.out)
        return 1 / self.found["images_per_second"]


@dataclass
class OnCores:
    """A way with some of the machine's cores."""

    cores: int
    way: Callable[[], float]

    def __call__(self) -> float:
        usable = os.sched_getaffinity(0)
        os.sched_setaffinity(0, sorted(usable)[: self.cores])
        try:
            return self.way()
        finally:
            os.sched_setaffinity(0, usable)


def spread_within_originals(run: WatchedRun) -> float:
    """
    Largest difference of p_fake between links to the same file.

    Raises:
        ValueError: a file has no score.
    """
    by_original: dict[int, list[float]] = {}
    for file in run.files:
        if str(file) not in run.scores:
            raise ValueError(f"{file.name} has no score")
        by_original.setdefault(file.stat().st_ino, []).append(run.scores[str(file)])
    return max(max(scores) - min(scores) for scores in by_original.values())


def measure_counts(folder: Path, settings: Settings, section: Section) -> None:
    """Few images and many."""
    model = make_detector("ViT-B/32", dry=True)
    model.save_pretrained(folder / "model")
    build_image_processor(image_size=model.config.clip_config.vision_config.image_size).save_pretrained(
        folder / "model"
    )
    originals = make_jpegs(folder / "originals", (48, 48), ORIGINALS)
    few, many = (DRY_FEW, DRY_MANY) if settings.dry else (FEW, MANY)
    runs = {}
    for count in (few, many):
        links = folder / f"links-{count}"
        files = link(links, count, originals)
        runs[count] = WatchedRun(links, folder / f"scores-{count}", str(folder / "model"), files)
    names = {count: f"{count:,} images" for count in runs}
    once = Settings(settings.device, settings.dry, 1)  # the long run has an end
    case = "tiny detector, 48 x 48 pixels"
    turns = take_turns({names[count]: run for count, run in runs.items()}, once, warm_up=0)
    more = runs[many].found["seconds_end_to_end"] - runs[few].found["seconds_end_to_end"]
    growth = runs[many].found["memory_growth"]
    section.rows.append(
        compare(
            turns,
            names[many],
            names[few],
            case=case,
            count="The same work for each image.",
            limit=1.0,
            held_by=f"End to end, {many - few:,} images more took {1000 * more / (many - few):.2f} ms each. "
            f"The memory of a process changed by {growth:+.1%} from the first quarter of the long run to the last.",
        )
    )
    section.turns[case], section.items[case] = turns, 1
    section.details["runs"] = {names[count]: run.found for count, run in runs.items()}
    section.details["memory_bar"] = MEMORY_BAR
    section.equality[f"p_fake of {names[many]}, links to the same file"] = spread_within_originals(runs[many])
    rss = runs[many].found["rss_mib_of_a_process"]
    section.notes.append(
        f"{names[many]}: {rss['first_quarter']} MiB a process in the first quarter, {rss['last_quarter']} in the last "
        f"({growth:+.1%}, bar {MEMORY_BAR:.0%}), {rss['largest']} at most; {rss['samples']} readings."
    )


def measure_processes(folder: Path, settings: Settings, section: Section) -> None:
    """One process and two."""
    count = DRY_IMAGES if settings.dry else IMAGES
    model = str(folder / "model") if settings.dry else MODEL
    files = link(folder / "links", count, make_jpegs(folder / "jpegs", (500, 375), min(count, LARGE)))
    score = ScoreWay(folder / "scores", model)
    network = NetworkWay(score.detector, files)
    scores: dict[int, Scores] = {}

    def scored(cores: int) -> Callable[[], float]:
        def way() -> float:
            seconds, scores[cores] = score(files)
            return seconds

        return OnCores(cores, way)

    ways: dict[str, Callable[[], float]] = {}
    for cores, name in ((1, "one process"), (2, "two processes")):
        ways[name] = scored(cores)
        ways[f"network alone, {name}"] = OnCores(cores, network)
    case = "tiny detector, 500 x 375 pixels" if settings.dry else "mirage-tiny, 500 x 375 pixels"
    turns = take_turns(ways, settings)
    alone = turns.ratio("network alone, one process", "network alone, two processes").median
    for what, bar, held_by in (
        ("two processes", BAR, f"The network alone, on tensors in memory, is {alone:.2f} times as fast."),
        ("network alone, two processes", None, "What the cores share: memory and its caches."),
    ):
        section.rows.append(
            compare(
                turns,
                what,
                what.replace("two processes", "one process"),
                case=case,
                items=count,
                goal="at least",
                bar=bar,
                count=f"The same {count} images, on two cores and on one.",
                limit=2.0,
                held_by=held_by,
            )
        )
    section.turns[case], section.items[case] = turns, count
    section.equality["p_fake, two processes against one"] = largest_difference(scores[2], scores[1])


def run(settings: Settings) -> Section:
    """
    The section.

    Raises:
        ValueError: it is asked for a GPU, or there is one core only.
    """
    if settings.device != "cpu":
        raise ValueError("the section `scaling` is about the CPU: --device cpu")
    if len(os.sched_getaffinity(0)) < 2:
        raise ValueError("two processes need two cores: allow this process more of them")
    section = Section("More images, more processes", [], {}, {})
    with tempfile.TemporaryDirectory(prefix="speed-scaling-") as folder:
        measure_counts(Path(folder), settings, section)
        measure_processes(Path(folder), settings, section)
    return section
