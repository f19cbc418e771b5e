"""Ways to score a folder of images, for the benchmarks that compare or watch them.

Every way takes a list of files and gives the seconds it took and the probability of fake of each; its detector is in
memory when its clock starts.
"""

import json
import math
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from measuring import MIB
from PIL import Image
from transformers import pipeline

from mirage_hf.calibration import Calibration
from mirage_hf.detector import Detector
from mirage_hf.scoring import ScoringArguments, run_scoring
from mirage_hf.scoring_job import DetectorSettings, settle_process
from mirage_hf.scoring_launch import usable_cores

MINIBENCH = Path(__file__).resolve().parent / "minibench"
MODEL = str(MINIBENCH / "mirage-tiny")
LARGE = 200  # different images of 500 x 375
BATCH_SIZE = 8
Scores = dict[str, float]


# -------------------------------------------------------------------------------------------------------------- images


def carried_images() -> list[Path]:
    """Those of the carried mini-benchmark, 192 x 192 pixels."""
    return sorted((MINIBENCH / "carried" / "images").rglob("*.jpg"))


def make_jpegs(folder: Path, size: tuple[int, int], most: int = LARGE) -> list[Path]:
    """JPEGs of another size made of them."""
    folder.mkdir(parents=True)
    carried = carried_images()
    files = []
    for number, path in enumerate(carried[:: len(carried) // most][:most]):
        files.append(folder / f"{number:03}.jpg")
        Image.open(path).convert("RGB").resize(size, Image.Resampling.BICUBIC).save(files[-1], quality=92)
    return files


def copy_carried(folder: Path) -> list[Path]:
    """The carried images themselves, where hard links can be made of them."""
    folder.mkdir(parents=True)
    return [Path(shutil.copy(path, folder / f"{number:04}.jpg")) for number, path in enumerate(carried_images())]


def link(folder: Path, count: int, *groups: Sequence[Path]) -> list[Path]:
    """Hard links of groups of files by turns, as many as asked for, a thousand in a folder."""
    files = []
    for number in range(count):
        group = groups[number % len(groups)]
        files.append(folder / f"{number // 1000:03}" / f"{number:06}.jpg")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        os.link(group[number // len(groups) % len(group)], files[-1])
    return files


# ---------------------------------------------------------------------------------------------------------------- ways


class PipelineWay:
    """
    transformers' pipeline over the paths, as its documentation has it, on all cores.

    Args:
        model (`str`): The checkpoint.
        batch_size (`int`, *optional*): Without it the pipeline is called for each image.
        baked (`bool`, *optional*, defaults to `False`): Bake the model, which the pipeline doesn't by itself.
    """

    def __init__(self, model: str, batch_size: int | None = None, baked: bool = False):
        self.pipe, self.batch_size = pipeline("image-classification", model=model, device="cpu"), batch_size
        if baked:
            self.pipe.model.bake()
        stated = self.pipe.model.config.calibration
        self.calibration = None if stated is None else Calibration.from_dict(stated)

    def __call__(self, files: list[Path]) -> tuple[float, Scores]:
        torch.set_num_threads(usable_cores())
        names, begin = [str(file) for file in files], time.perf_counter()
        if self.batch_size is None:
            answers = [self.pipe(name) for name in names]
        else:
            answers = list(self.pipe(names, batch_size=self.batch_size))
        seconds = time.perf_counter() - begin
        scores = [{item["label"]: item["score"] for item in answer} for answer in answers]
        if self.calibration is None:
            return seconds, dict(zip(names, (score["fake"] for score in scores), strict=True))
        margins = np.array([math.log(score["fake"] / score["real"]) for score in scores])
        return seconds, dict(zip(names, self.calibration.probability(margins).tolist(), strict=True))


class ScoreWay:
    """
    `mirage_hf.scoring`, from listing the files to the last row of the last shard's file.

    A backend whose processes start anew loads the detector there: `seconds_of_shards` are without that.

    Args:
        out (`Path`): For what it writes.
        model (`str`): The checkpoint.
        options: As of [`ScoringArguments`].
    """

    seconds_of_shards: float

    def __init__(self, out: Path, model: str, **options):
        self.out, self.options = out, {"model": model, "device": "cpu"} | options
        arguments = self.arguments([])
        self.detector = arguments.settings(arguments.device).load(1)

    def arguments(self, inputs: Sequence[str]) -> ScoringArguments:
        return ScoringArguments(inputs, output_dir=str(self.out), restart=True, quiet=True, **self.options)

    def __call__(self, files: list[Path]) -> tuple[float, Scores]:
        listed = self.out.with_suffix(".txt")
        listed.write_text("".join(f"{file}\n" for file in files))
        with mock.patch.object(DetectorSettings, "load", lambda settings, threads=None: self.detector):
            begin = time.perf_counter()
            summary = run_scoring(self.arguments([f"@{listed}"]))
            seconds = time.perf_counter() - begin
        assert summary.complete and summary.unreadable == 0, summary
        stated = json.loads((self.out / "summary.json").read_text())
        self.seconds_of_shards = stated["shard_seconds"] / usable_cores()
        return seconds, read_scores(self.out)


class NetworkWay:
    """The network alone, on images that are tensors already, in as many processes as there are cores."""

    def __init__(self, detector: Detector, files: Sequence[Path]):
        self.margins = detector.margins
        pixel_values = [detector.preparer(str(file)).pixel_values for file in files]
        self.batches = torch.stack(pixel_values).split(BATCH_SIZE)  # type: ignore[arg-type]

    def __call__(self) -> float:
        processes = usable_cores()
        context = multiprocessing.get_context("fork")
        barrier, times = context.Barrier(processes), context.SimpleQueue()

        def work(batches: Sequence[torch.Tensor]) -> None:
            settle_process(1)
            self.margins(batches[0])
            barrier.wait()
            begin = time.perf_counter()
            for batch in batches:
                self.margins(batch)
            times.put((begin, time.perf_counter()))

        running = [context.Process(target=work, args=(self.batches[n::processes],)) for n in range(processes)]
        for process in running:
            process.start()
        for process in running:
            process.join()
        begins, ends = zip(*(times.get() for _ in running), strict=True)
        return max(ends) - min(begins)


def read_scores(out: Path) -> Scores:
    """Probability of fake of each path."""
    import pyarrow.parquet as pq

    found = {}
    for file in out.glob("shard-*.parquet"):
        columns = pq.read_table(file, columns=["path", "p_fake"]).to_pydict()
        found |= dict(zip(columns["path"], columns["p_fake"], strict=True))
    return found


def largest_difference(one: Scores, other: Scores) -> float:
    """
    Of the probabilities of the same files.

    Raises:
        ValueError: they are not of the same files.
    """
    if one.keys() != other.keys():
        raise ValueError(f"{len(one.keys() ^ other.keys())} files have one score only")
    return max(abs(p - other[path]) for path, p in one.items())


# -------------------------------------------------------------------------------------------------------------- memory


def watched_run(folder: Path, out: Path, model: str = MODEL, every: float = 0.5) -> dict:
    """The command over a folder, end to end, with the memory of its processes read every so many seconds."""
    program = "from mirage_hf_cli.main import app; app()"
    command = [sys.executable, "-c", program, "score", str(folder), "--model", model]
    command += ["--output-dir", str(out), "--device", "cpu", "--json"]
    samples: list[dict[int, int]] = []
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            time.sleep(every)
            samples.append(rss_of_children(process.pid))
        assert process.stdout is not None
        summary = json.loads(process.stdout.read())
    seconds = time.perf_counter() - begin
    return {
        "images": summary["images"],
        "seconds_end_to_end": round(seconds, 1),
        "images_per_second": summary["images_per_second"],
        "processes": usable_cores(),
    } | memory_of(samples, usable_cores())


def memory_of(samples: list[dict[int, int]], processes: int) -> dict:
    """
    Mean memory of a process in the first and the last quarter of the time in which all of them were there.

    Raises:
        ValueError: they never were.
    """
    busy = [rss for rss in samples if len(rss) == processes]
    if not busy:
        raise ValueError(f"{processes} processes were never seen at once: watch a longer run")
    quarter = max(1, len(busy) // 4)
    first, last = (
        statistics.mean(sum(rss.values()) / len(rss) for rss in part) / MIB
        for part in (busy[:quarter], busy[-quarter:])
    )
    return {
        "rss_mib_of_a_process": {
            "first_quarter": round(first, 1),
            "last_quarter": round(last, 1),
            "largest": round(max(max(rss.values()) for rss in busy) / MIB, 1),
            "samples": len(busy),
        },
        "memory_growth": round(last / first - 1, 4),
    }


def rss_of_children(pid: int) -> dict[int, int]:
    """Resident bytes of each child process."""
    found = {}
    try:
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            pages = Path(f"/proc/{child}/statm").read_text().split()[1]
            found[int(child)] = int(pages) * os.sysconf("SC_PAGESIZE")
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        pass
    return found
