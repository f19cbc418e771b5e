"""Detectors ready to be published, and the fresh environments that load them."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from hub_stub import HubStub

from mirage_hf.calibration_run import CalibrationArguments, run_calibration
from mirage_hf.evaluation_run import EvaluationArguments, run_evaluation

ROOT = Path(__file__).resolve().parent.parent
EXECUTABLE = Path(sys.executable).with_name("mirage-hf")


def make_measured(folder: str, data: Path, target: Path) -> Path:
    """A copy of a detector, calibrated on `data` and tested on it; the results lie in its `test/`."""
    shutil.copytree(folder, target)
    run_calibration(CalibrationArguments(str(target), str(data), max_fpr=0.2, alpha=0.12, quiet=True))
    measure(target, data)
    return target


def measure(folder: Path, data: Path) -> dict:
    """Tests a detector; returns the content of the results file in its `test/`."""
    run_evaluation(EvaluationArguments(str(folder), str(data), str(folder / "test")))
    return json.loads((folder / "test" / "evaluation.json").read_text(encoding="utf-8"))


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def write(folder: Path, name: str, content: dict) -> None:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def environment(hub: HubStub, home: Path, **more: str) -> dict[str, str]:
    """The environment of a client of the stub."""
    given = {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"} | more
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | hub.env(home) | given


def run_push(hub: HubStub, home: Path, *arguments, expect: int = 0, **more: str) -> subprocess.CompletedProcess:
    """`mirage-hf push` as people call it."""
    command = [str(EXECUTABLE), "push", *map(str, arguments)]
    process = subprocess.run(
        command, env=environment(hub, home, **more), cwd=home, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == expect, process.stderr[-4000:]
    return process


def make_environment(folder: Path) -> Path:
    """
    The Python of a virtual environment that has what is installed here, this package left out: the path of the present
    one's libraries is a plain line, and the files in there that would add more, such as a checkout, are not read.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (place,) = folder.glob("lib/python3*/site-packages")
    (place / "present.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    return folder / "bin" / "python"


def run_client(python: Path, env: dict[str, str], folder: Path, name: str, *arguments) -> dict:
    """What a client of `remote_clients.py` saw."""
    output = folder / f"{name}.json"
    process = subprocess.run(
        [
            str(python),
            "-I",
            str(Path(__file__).with_name("remote_clients.py")),
            name,
            str(output),
            *map(str, arguments),
        ],
        env=env,
        cwd=folder,
        stdin=subprocess.DEVNULL,  # nobody to answer the question whether to trust the code
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    return json.loads(output.read_text(encoding="utf-8"))
