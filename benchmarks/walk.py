"""
Walks as a new user would, from a fresh clone in a fresh environment to the demo, and stores how long each step took.

    python benchmarks/walk.py --out benchmarks/results

It runs the commands of README and docs/pages in this order: clone, `make setup`, train, calibrate and test (`make
quickstart`), score, explain, export, a dry run of publishing, and the demo, which is asked for its page and for one
score. Nothing of this checkout is used but its commits. Only `make setup` needs a network: packages from PyPI. Writes
walk.json; the exit code is 1 if a step failed.
"""

import argparse
import json
import os
import platform
import resource
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parent.parent
CARRIED, MODEL = "benchmarks/minibench/carried", "outputs/mirage-tiny"
FAKE = f"{CARRIED}/images/test/gcompris-erase-calf_0_realcugan.jpg"
PACKAGES = ("torch", "transformers", "datasets", "gradio")
# What a person types, in the clone with its environment active; and what has to be in the answer.
STEPS = (
    ("make setup", ""),
    ("make quickstart", "realcugan.jpg"),
    (f"mirage-hf info {MODEL}", "calibration"),
    (f"mirage-hf predict {FAKE} --model {MODEL} --json", '"status": "ok"'),
    (
        f"mirage-hf score {CARRIED}/images/validation --model {MODEL} --output-dir scores --merge scores.csv",
        "scores.csv",
    ),
    (f"mirage-hf calibrate --model {MODEL} --data {CARRIED} --max-fpr 0.05 --output-dir outputs/stricter", "saved as"),
    (f"mirage-hf explain {FAKE} --model {MODEL} --deletion", "overlay:"),
    (f"mirage-hf export --model {MODEL} --output-dir exported", "model.onnx"),
    (f"mirage-hf push {MODEL} your-name/my-detector --dry-run", "model.safetensors"),
)
REQUEST = """
import json, sys
from gradio_client import Client, handle_file
(row,) = Client(sys.argv[1], verbose=False).predict([handle_file(sys.argv[2])], api_name="/score")
print(json.dumps(row))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for walk.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="walk-") as scratch:
        walk = Walk(Path(scratch))
        walk.take(f"git clone --quiet {ROOT} mirage_hf", "", folder=walk.scratch)
        for command, answer in STEPS:
            walk.take(command, answer)
        walk.visit_demo()
        facts = {"packages": walk.packages(), "commit": walk.commit()}
    passed = all(step["passed"] for step in walk.steps)
    results = {
        "command": "python benchmarks/walk.py --out benchmarks/results",
        "machine": {"cores": len(os.sched_getaffinity(0)), "cpu": cpu_name(), "python": platform.python_version()},
        **facts,
        "passed": passed,
        "seconds": round(sum(step["seconds"] for step in walk.steps), 1),
        "steps": walk.steps,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "walk.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"{sum(step['passed'] for step in walk.steps)} of {len(walk.steps)} steps in {results['seconds']:.0f} s")
    sys.exit(0 if passed else 1)


class Walk:
    """
    A fresh clone, and what was done in it.

    Args:
        scratch (`Path`): Folder for the clone and for the user's home.

    Attributes:
        steps (`list[dict]`): For each its command, exit code, wall-clock and processor seconds, the load when
            it ended, and whether it passed.
    """

    def __init__(self, scratch: Path):
        self.scratch, self.clone = scratch, scratch / "mirage_hf"
        self.steps: list[dict] = []
        home = scratch / "home"
        home.mkdir()
        kept = {name: os.environ[name] for name in ("LANG", "TMPDIR", "PIP_CONFIG_FILE") if name in os.environ}
        tools = f"{Path(sys.executable).resolve().parent}:/usr/local/bin:/usr/bin:/bin"
        self.env = kept | {"HOME": str(home), "PATH": f"{self.clone}/.venv/bin:{tools}", "HF_HUB_OFFLINE": "1"}

    def take(self, command: str, answer: str, folder: Path | None = None) -> None:
        """Runs a command; it passes with exit code 0 and this text in what it prints."""
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        done = subprocess.run(
            ["bash", "-c", command], cwd=folder or self.clone, env=self.env, capture_output=True, text=True
        )
        passed = done.returncode == 0 and answer in done.stdout
        self.note(command, done.returncode, began, before, passed)
        if not passed:
            print(f"{done.stdout[-1500:]}\n{done.stderr[-1500:]}", flush=True)

    def note(self, command: str, code: int, began: float, before, passed: bool) -> None:
        """Adds a step that has just ended."""
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        step = {
            "command": command.replace(str(ROOT), "ADDRESS"),
            "exit_code": code,
            "seconds": round(time.monotonic() - began, 1),
            "processor_seconds": round(used, 1),
            "load": round(os.getloadavg()[0], 1),
            "passed": passed,
        }
        self.steps.append(step)
        print(f"{'ok  ' if passed else 'FAIL'} {step['seconds']:7.1f} s  {step['command']}", flush=True)

    def visit_demo(self) -> None:
        """Starts the demo, asks for its page and for the score of one picture, and ends it as by Ctrl-C."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = f"mirage-hf demo --model {MODEL} --port {port}"
        address, row, page = f"http://127.0.0.1:{port}", {}, ""
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        server = subprocess.Popen(
            command.split(), cwd=self.clone, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            page = self.wait_for(address, server)
            asked = subprocess.run(
                [self.clone / ".venv/bin/python", "-c", REQUEST, address, FAKE],
                cwd=self.clone,
                env=self.env,
                capture_output=True,
                text=True,
            )
            row = (
                json.loads(asked.stdout.splitlines()[-1]) if asked.returncode == 0 else {"error": asked.stderr[-800:]}
            )
        finally:
            server.terminate()
            printed, _ = server.communicate(timeout=60)
        passed = "gradio" in page and row.get("status") == "ok"
        if not passed:
            print(f"{printed[-1500:]}\n{row}", flush=True)
        self.note(f"{command.replace(str(port), 'PORT')}; GET /; /score", server.returncode, began, before, passed)

    def wait_for(self, address: str, server: subprocess.Popen) -> str:
        """The page, once it is there; nothing if the server ends first."""
        while server.poll() is None:
            try:
                with urlopen(address, timeout=10) as answer:
                    return answer.read().decode()
            except OSError:
                time.sleep(0.3)
        return ""

    def packages(self) -> dict[str, str]:
        """Versions in the fresh environment."""
        code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {PACKAGES!r}}}))"
        done = subprocess.run([self.clone / ".venv/bin/python", "-c", code], capture_output=True, text=True)
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def commit(self) -> str:
        """What was cloned."""
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=self.clone, capture_output=True, text=True)
        return done.stdout.strip()


def cpu_name() -> str:
    """As the kernel states it, without the model's number."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].split() for line in lines if line.startswith("model name")]
    return " ".join(names[0][:2]) if names else platform.processor()


if __name__ == "__main__":
    main()
