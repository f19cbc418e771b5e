"""Times `mirage-hf score` against transformers' pipelines, on as many cores, and watches its memory.

    python benchmarks/bulk_scoring.py --out benchmarks/results
    python benchmarks/bulk_scoring.py --out /tmp/out --images 400 --sample 64 --rounds 1    # to see that it works

The images are hard links of the carried mini-benchmark's (192 x 192 pixels) and of JPEGs of 500 x 375 made from them,
in equal numbers. All contenders score the same sample, in turns, and hold the detector in memory when their clock
starts. Rounds in which other programs took more than a twentieth of the machine are marked and left out. Then the
command scores all images, and the memory of its processes is read twice a second. Writes `bulk_scoring.json` and
`bulk_scoring.md`.
"""

import argparse
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measuring import MIB, OtherPrograms, environment
from PIL import Image
from transformers import pipeline
from transformers.utils import logging as transformers_logging

from mirage_hf.calibration import Calibration
from mirage_hf.detector import Detector
from mirage_hf.export import export_onnx
from mirage_hf.image_io import read_image
from mirage_hf.scoring import ScoringArguments, run_scoring
from mirage_hf.scoring_job import DetectorSettings, ShardJob, settle_process
from mirage_hf.scoring_launch import usable_cores
from mirage_hf.scoring_listing import StoredListing, write_listing
from mirage_hf.scoring_walk import InputLister
from mirage_hf.scoring_workers import run_decoders

MINIBENCH = Path(__file__).resolve().parent / "minibench"
MODEL = str(MINIBENCH / "mirage-tiny")
LARGE = 200  # different images of 500 x 375
BAR = 1.8
DISTURBED = 0.05  # share of the machine that other programs take
BATCH_SIZE = 8


def make_images(folder: Path, count: int) -> list[Path]:
    """Hard links of images of both sizes by turns, as many as asked for."""
    carried = sorted((MINIBENCH / "carried" / "images").rglob("*.jpg"))
    originals = folder / "originals"
    originals.mkdir(parents=True)
    large = []
    for number, path in enumerate(carried[:: len(carried) // LARGE][:LARGE]):
        large.append(originals / f"{number:03}.jpg")
        Image.open(path).convert("RGB").resize((500, 375), Image.Resampling.BICUBIC).save(large[-1], quality=92)
    small = [Path(shutil.copy(path, originals / f"c{number:04}.jpg")) for number, path in enumerate(carried)]
    files = []
    for number in range(count):
        original = (small, large)[number % 2][number // 2 % len((small, large)[number % 2])]
        files.append(folder / "links" / f"{number // 1000:03}" / f"{number:06}.jpg")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        os.link(original, files[-1])
    return files


def where_time_goes(files: list[Path]) -> dict:
    """CPU milliseconds of each stage for an image, on one thread, and what the network gains by its settings."""
    torch.set_num_threads(1)
    detector = Detector.from_pretrained(MODEL, device="cpu")

    def cpu_ms(work: Callable[[], object]) -> float:
        work()
        begin = time.process_time()
        work()
        return round(1000 * (time.process_time() - begin) / len(files), 2)

    readings = [read_image(str(file)) for file in files]
    pixel_values = torch.stack([detector.preparer(str(file)).pixel_values for file in files])

    def network(batch_size: int) -> float:
        return cpu_ms(lambda: [detector.margins(batch) for batch in pixel_values.split(batch_size)])

    plain = {size: network(size) for size in (1, BATCH_SIZE, 16)}
    settle_process(1)
    return {
        "decode_ms": cpu_ms(lambda: [read_image(str(file)) for file in files]),
        "transform_ms": cpu_ms(lambda: [detector.preparer.transform(reading.image) for reading in readings]),
        "network_ms_by_batch_size": plain,
        "network_ms_by_batch_size_freed_memory_kept": {size: network(size) for size in (1, BATCH_SIZE, 16)},
    }


class PipelineWay:
    """transformers' pipeline over the paths, as its documentation has it, on all cores."""

    def __init__(self, batch_size: int | None):
        self.pipe, self.batch_size = pipeline("image-classification", model=MODEL, device="cpu"), batch_size
        self.calibration = Calibration.from_dict(self.pipe.model.config.calibration)

    def __call__(self, files: list[Path]) -> tuple[float, dict[str, float]]:
        torch.set_num_threads(usable_cores())
        options = {} if self.batch_size is None else {"batch_size": self.batch_size}
        names, begin = [str(file) for file in files], time.perf_counter()
        if self.batch_size is None:
            answers = [self.pipe(name) for name in names]
        else:
            answers = list(self.pipe(names, **options))
        seconds = time.perf_counter() - begin
        scores = [{item["label"]: item["score"] for item in answer} for answer in answers]
        margins = np.array(
            [math.log(score["fake"] / score["real"]) for score in scores]
        )  # a pipeline doesn't calibrate
        return len(files) / seconds, dict(zip(names, self.calibration.probability(margins).tolist(), strict=True))


class ScoreWay:
    """`mirage_hf.scoring` with a detector in each of as many processes as there are cores."""

    def __init__(self, folder: Path, name: str, **options):
        self.folder, self.name, self.options = folder, name, {"model": MODEL, "device": "cpu"} | options

    def __call__(self, files: list[Path]) -> tuple[float, dict[str, float]]:
        out, workers = self.folder / self.name.replace(" ", "-"), usable_cores()
        listed = self.folder / "sample.txt"
        listed.write_text("".join(f"{file}\n" for file in files))
        size = -(-len(files) // (4 * workers))
        arguments = ScoringArguments(
            [f"@{listed}"], output_dir=str(out), shard_size=size, restart=True, quiet=True, **self.options
        )
        summary = run_scoring(arguments)
        assert summary.complete and summary.unreadable == 0, summary
        stated = json.loads((out / "summary.json").read_text())
        return len(files) * workers / stated["shard_seconds"], read_scores(out)


class DecodersWay:
    """One network on all cores with as many decoding processes: what a GPU gets, here on the CPU."""

    def __init__(self, folder: Path):
        self.folder, self.detector = folder, Detector.from_pretrained(MODEL, device="cpu", batch_size=BATCH_SIZE)

    def __call__(self, files: list[Path]) -> tuple[float, dict[str, float]]:
        out = self.folder / "decoders"
        out.mkdir(exist_ok=True)
        listing = StoredListing(write_listing(InputLister(map(str, files)), out), "/", len(files))
        settings = DetectorSettings(MODEL, device="cpu", batch_size=BATCH_SIZE)
        job = ShardJob(settings, listing, {0: (out / "shard-0-of-1.parquet", {})}, detector=self.detector)
        torch.set_num_threads(usable_cores())
        begin = time.perf_counter()
        list(run_decoders(job, [0], usable_cores(), lambda images: None))
        seconds = time.perf_counter() - begin
        # PyTorch's loader leaves a handler behind, OpenVINO a signal stack that it has freed: the next child to end
        # would end this process.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return len(files) / seconds, read_scores(out)


def read_scores(out: Path) -> dict[str, float]:
    """Probability of fake of each path."""
    import pyarrow.parquet as pq

    found = {}
    for file in out.glob("shard-*.parquet"):
        columns = pq.read_table(file, columns=["path", "p_fake"]).to_pydict()
        found |= dict(zip(columns["path"], columns["p_fake"], strict=True))
    return found


def long_run(folder: Path, out: Path) -> dict:
    """The command over all images, end to end, with the memory of its processes."""
    command = [
        sys.executable,
        "-c",
        "from mirage_hf_cli.main import app; app()",
        "score",
        str(folder),
        "--model",
        MODEL,
    ]
    command += ["--output-dir", str(out), "--device", "cpu", "--json"]
    samples: list[tuple[float, dict[int, int]]] = []
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            time.sleep(0.5)
            samples.append((time.perf_counter() - begin, rss_of_children(process.pid)))
        assert process.stdout is not None
        summary = json.loads(process.stdout.read())
    seconds = time.perf_counter() - begin
    # From the first shard's end on, when buffers have their size, to the last of all processes being there.
    busy = [(when, rss) for when, rss in samples if len(rss) == usable_cores()]
    quarter = max(1, len(busy) // 4)
    first, last = (
        statistics.mean(sum(rss.values()) / len(rss) for _, rss in part) / MIB
        for part in (busy[:quarter], busy[-quarter:])
    )
    return {
        "images": summary["images"],
        "seconds_end_to_end": round(seconds, 1),
        "images_per_second": summary["images_per_second"],
        "processes": usable_cores(),
        "rss_mib_of_a_process": {
            "first_quarter": round(first, 1),
            "last_quarter": round(last, 1),
            "largest": round(max(max(rss.values()) for _, rss in busy) / MIB, 1),
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


def run(arguments: argparse.Namespace, folder: Path) -> dict:
    """All measurements, as the content of the JSON file."""
    files = make_images(folder, arguments.images)
    stride = max(1, len(files) // arguments.sample) | 1  # odd, for both sizes
    sample = [files[number * stride % len(files)] for number in range(arguments.sample)]
    report = export_onnx(MODEL, folder / "exported")
    ways: dict[str, Callable] = {
        "pipeline, one by one": PipelineWay(None),
        "pipeline(batch_size=16)": PipelineWay(16),
        "score": ScoreWay(folder, "float32"),
        "score --dtype bfloat16": ScoreWay(folder, "bfloat16", dtype="bfloat16"),
        "score --backend openvino": ScoreWay(
            folder, "openvino", model=str(folder / "exported"), backend="openvino", device=None
        ),
        "one network, decoding processes": DecodersWay(folder),
    }
    for way in ways.values():
        way(sample[:BATCH_SIZE])  # not timed
    rates: dict[str, list[float]] = {name: [] for name in ways}
    others: list[float] = []
    scores: dict[str, dict[str, float]] = {}
    for _ in range(arguments.rounds):
        shares = []
        for name, way in ways.items():
            with OtherPrograms() as programs:
                rate, scores[name] = way(sample)
            rates[name].append(rate)
            shares.append(programs.share)
        others.append(round(max(shares), 3))
    quiet = [number for number, share in enumerate(others) if share <= DISTURBED]
    taken = quiet or range(len(others))
    better = [max(pair) for pair in zip(*(rates[name] for name in list(ways)[:2]), strict=True)]
    reference = scores["pipeline, one by one"]
    rows = {
        name: {
            "images_per_second": round(statistics.median(rates[name][number] for number in taken), 2),
            "of_the_better_pipeline": round(
                statistics.median(rates[name][number] / better[number] for number in taken), 3
            ),
            "rounds": [round(rate, 2) for rate in rates[name]],
            "largest_difference_of_p_fake": max(abs(reference[path] - p) for path, p in scores[name].items()),
        }
        for name in ways
    }
    return {
        "command": f"python benchmarks/bulk_scoring.py --images {arguments.images} --sample {arguments.sample} "
        f"--rounds {arguments.rounds}",
        "model": "mirage-tiny",
        "environment": environment("cpu") | {"cores": usable_cores()},
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "exported_difference_of_p_fake": report.to_dict()["comparison"]["max_difference_p_fake"],
        "where_time_goes": where_time_goes(sample[: min(64, len(sample))]),
        "sample": arguments.sample,
        "largest_share_of_other_programs_by_round": others,
        "quiet_rounds": len(quiet),
        "ways": rows,
        "bar": BAR,
        "long_run": long_run(folder / "links", folder / "long"),
    }


def to_markdown(found: dict) -> str:
    """The page."""
    stages, memory, machine = found["where_time_goes"], found["long_run"], found["environment"]
    network = stages["network_ms_by_batch_size_freed_memory_kept"][str(BATCH_SIZE)]
    whole = stages["decode_ms"] + stages["transform_ms"] + network
    rounds, quiet = len(found["ways"]["score"]["rounds"]), found["quiet_rounds"]
    lines = [
        "# Bulk scoring against pipelines",
        "",
        f"`{found['command']}` on {machine['cores']} cores ({machine['cpu']}); torch {machine['torch']}, transformers "
        f"{machine['transformers']}. All ways by turns on the same {found['sample']} images, loading not counted. "
        + (f"Medians of the {quiet} of {rounds} rounds" if quiet else f"Medians of {rounds} rounds, none of them one")
        + f" in which other programs took less than {DISTURBED:.0%} of the machine.",
        "",
        "| way | images/s | of the better pipeline | largest difference of p_fake |",
        "|---|---|---|---|",
    ]
    for name, row in found["ways"].items():
        lines.append(
            f"| {name} | {row['images_per_second']:.1f} | {row['of_the_better_pipeline']:.2f} | "
            f"{row['largest_difference_of_p_fake']:.1g} |"
        )
    factor = found["ways"]["score"]["of_the_better_pipeline"]
    verdict = f"is {'reached' if factor >= found['bar'] else 'not reached'}"
    lines += [
        "",
        f"The bar of {found['bar']} times the better pipeline {verdict if quiet else 'cannot be judged by this run'} "
        f"{'by `score` in float32 with PyTorch' if quiet else ''}".rstrip()
        + ".",
        "",
        "## Where the time goes",
        "",
        f"One image on one thread: decoding {stages['decode_ms']} ms, transform {stages['transform_ms']} ms, network "
        f"{network} ms of CPU. The network is {network / whole:.0%} of the work, so {machine['cores']} cores can't do "
        f"more than {machine['cores'] * 1000 / whole:.0f} images/s in this way, however well decoding is hidden. "
        "Keeping freed memory took the network from "
        f"{stages['network_ms_by_batch_size'][str(BATCH_SIZE)]} ms to that.",
        "",
        "## Memory",
        "",
        f"{memory['images']:,} images in {memory['seconds_end_to_end']} s end to end ({memory['images_per_second']} "
        f"images/s without loading), {memory['processes']} processes: "
        f"{memory['rss_mib_of_a_process']['first_quarter']} MiB each in the first quarter of the run, "
        f"{memory['rss_mib_of_a_process']['last_quarter']} MiB in the last ({memory['memory_growth']:+.1%}), "
        f"{memory['rss_mib_of_a_process']['largest']} MiB at most; forked processes count the weights they share.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where bulk_scoring.json and .md go")
    parser.add_argument("--images", type=int, default=20_000, help="of the long run")
    parser.add_argument("--sample", type=int, default=256, help="images of a round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    transformers_logging.set_verbosity_error()
    with tempfile.TemporaryDirectory(prefix="bulk-scoring-") as folder:
        found = json.loads(json.dumps(run(arguments, Path(folder))))
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "bulk_scoring.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (arguments.out / "bulk_scoring.md").write_text(to_markdown(found), encoding="utf-8")
    print(to_markdown(found))


if __name__ == "__main__":
    main()
