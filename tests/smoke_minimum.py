"""Installs the lowest versions that setup.cfg allows in a fresh environment, and runs the tests of the core on them.

    make dist && python tests/smoke_minimum.py dist --out benchmarks/results

The lower bounds of the runtime and of the extras in `EXTRAS` become exact; what they depend on is up to pip. Writes
minimum_versions.json.
"""

import argparse
import json
import platform
import re
import sys
import tempfile
import time
from pathlib import Path

from smoke_environment import ROOT, Environment, find_wheel
from smoke_extras import names_of, requirements

EXTRAS = ("train", "benchmark", "score", "onnx")
TOOLS = ("pytest", "pytest-timeout", "hypothesis", "pytorch-metric-learning", "pyyaml")
TESTS = """auto_classes baking calibration calibration_fit calibration_run cli configuration_mirage data detector
evaluation export fused_transform genimage hooks image_io image_processing losses lora manifests memory_bank metrics
model_card_training modeling_mirage pipeline pretrained_mirage remote_code scoring scoring_manifest trainer
training_run"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dist", type=Path, help="folder of the wheel")
    parser.add_argument("--out", type=Path, help="folder for minimum_versions.json")
    options = parser.parse_args()
    wheel, pins = find_wheel(options.dist), lowest()
    print("\n".join(pins), flush=True)
    with tempfile.TemporaryDirectory(prefix="smoke-minimum-") as scratch:
        environment = Environment(Path(scratch))
        environment.install(*pins, *TOOLS, f"{wheel}[{','.join(EXTRAS)}]")
        installed = environment.versions()
        files = [path for name in TESTS.split() if (path := ROOT / "tests" / f"test_{name}.py").is_file()]
        began = time.monotonic()
        # Importable from the wheel alone: pytest's own folder is the tests', not the checkout.
        done = environment.run(
            *("python", "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ROOT, "-c"),
            *(ROOT / "pyproject.toml", *files),
            timeout=3000,
        )
    print(done.stdout[-6000:], done.stderr[-3000:])
    counts = {what: int(number) for number, what in re.findall(r"(\d+) (passed|failed|error|skipped)", done.stdout)}
    if options.out is not None and done.returncode == 0:
        results = {
            "command": "python tests/smoke_minimum.py dist --out benchmarks/results",
            "python": platform.python_version(),
            "versions": {name: installed[name] for name in names_of(pins)},
            "tests": {"files": [path.name for path in files], **counts, "seconds": round(time.monotonic() - began)},
        }
        (options.out / "minimum_versions.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    sys.exit(done.returncode)


def lowest() -> list[str]:
    """`name==version` for each lower bound."""
    lists = requirements()
    lines = [line for name in ("install_requires", *EXTRAS) for line in lists[name]]
    bounds = [re.fullmatch(r"([\w-]+)>=([\d.]+)(,<\d+)?", line) for line in lines if "[" not in line]
    return [f"{bound[1]}=={bound[2]}" for bound in bounds if bound is not None]


if __name__ == "__main__":
    main()
