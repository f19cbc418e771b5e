"""Times the detector at the paper's size, ViT-L/14 with random weights, on one CPU thread; no data, no downloads.

Training steps of 2 images in float32 and under bfloat16 autocast, inference, saving and loading an adapter; needs 8 GB
of memory and some minutes, and writes `full_size_cpu.json`:

    OMP_NUM_THREADS=1 python benchmarks/full_size_cpu.py --out benchmarks/results
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from measuring import adapter, environment, inference, load_detector, peak_rss_mib, save_random_clip, train

BATCH_SIZE, STEPS = 2, 2


def run(dry: bool) -> dict:
    """All measurements, as the content of the JSON file."""
    seconds: dict[str, float] = {}
    begin = time.perf_counter()

    def timed(name, function, *args):
        start = time.perf_counter()
        result = function(*args)
        seconds[name] = round(time.perf_counter() - start, 2)
        return result

    with tempfile.TemporaryDirectory() as folder:
        clip_dir = Path(folder) / "clip"
        timed("make and save random CLIP", save_random_clip, clip_dir, dry)
        base_mib = round((clip_dir / "model.safetensors").stat().st_size / 2**20, 1)
        timed("from_clip in float32", load_detector, clip_dir, "cpu")
        training = [
            timed(f"training in {name}, loading included", train, clip_dir, name, "cpu", BATCH_SIZE, STEPS)
            for name in ("fp32", "bf16")
        ]
        speed = timed("inference, loading included", inference, clip_dir, "cpu", BATCH_SIZE, STEPS, ("fp32", "bf16"))
        saved = timed("adapter saved, reloaded and compared", adapter, clip_dir, "cpu")
    return {
        "command": "OMP_NUM_THREADS=1 python benchmarks/full_size_cpu.py" + (" --dry" if dry else ""),
        "model": "tiny CLIP" if dry else "CLIP ViT-L/14",
        "weights": "random, the base in bfloat16",
        "environment": environment("cpu"),
        "base_mib": base_mib,
        "seconds": seconds,
        # Well below 1 means that other programs competed for the CPU and all times are too long.
        "share_of_a_core": round(time.process_time() / (time.perf_counter() - begin), 2),
        "training": training,
        "inference": speed,
        "adapter": saved,
        "peak_rss_mib": peak_rss_mib(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where full_size_cpu.json is written")
    parser.add_argument("--dry", action="store_true", help="a tiny model, to see that the script works")
    args = parser.parse_args()
    report = run(args.dry)
    args.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2)
    (args.out / "full_size_cpu.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
