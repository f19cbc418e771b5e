"""Measures where the time goes, against named alternatives and against the limit that the arithmetic sets.

    OMP_NUM_THREADS=1 python benchmarks/speed.py vision training --out benchmarks/results/speed
    python benchmarks/speed.py gpu_inference gpu_training --device cuda --out benchmarks/results/speed
    python benchmarks/speed.py page --out benchmarks/results/speed      # tables of what is stored, and README's part

Each section writes `<section>-<device>.json`. `--device cpu --dry` runs any of them on tiny models, to see that it
works. Rounds in which other programs took more than a twentieth of the machine don't count.
"""

import argparse
import importlib
import json
import os
import sys
from pathlib import Path

import torch
from measuring import environment
from speed_sections.page import README_MARKS, make_page, put_between, readme_part
from speed_sections.records import section_to_dict, table
from speed_sections.turns import Settings
from transformers.utils import logging as transformers_logging

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = (
    "vision",
    "logits",
    "training",
    "contrastive",
    "decoding",
    "folder",
    "backends",
    "startup",
    "scaling",
    "augmentation",
    "gpu_inference",
    "gpu_training",
)


def measure(name: str, settings: Settings, out: Path) -> None:
    """Runs a section and stores it."""
    section = importlib.import_module(f"speed_sections.{name}").run(settings)
    threads = f"OMP_NUM_THREADS={torch.get_num_threads()} " if settings.device == "cpu" else ""
    command = f"{threads}python benchmarks/speed.py {name} --device {settings.device} --repeats {settings.repeats}"
    facts = {
        "name": name,
        "command": command + (" --dry" if settings.dry else ""),
        "dry": settings.dry,
        "environment": environment(settings.device) | {"cores": os.cpu_count()},
    }
    out.mkdir(parents=True, exist_ok=True)
    stored = json.dumps(section_to_dict(section, **facts), indent=1, allow_nan=False)
    (out / f"{name}-{settings.device}.json").write_text(stored + "\n", encoding="utf-8")
    print(f"{section.title}\n\n{table(section)}\n")
    for note in section.notes:
        print(note)


def write_pages(out: Path) -> None:
    """`README.md` beside the results, and the part of the project's README."""
    (out / "README.md").write_text(make_page(out), encoding="utf-8")
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    readme.write_text(put_between(text, README_MARKS, readme_part(out)), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "sections", nargs="+", choices=(*SECTIONS, "page"), metavar="SECTION", help=", ".join(SECTIONS)
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the results are")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: %(default)s)")
    parser.add_argument("--dry", action="store_true", help="tiny models; for `page` of no use")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("speed.py: no GPU here; --device cpu --dry runs the same code on a tiny model")
    os.environ["HF_HUB_OFFLINE"] = "1"
    transformers_logging.set_verbosity_error()
    for name in arguments.sections:
        if name == "page":
            write_pages(arguments.out)
        else:
            measure(name, Settings(arguments.device, arguments.dry, arguments.repeats), arguments.out)


if __name__ == "__main__":
    main()
