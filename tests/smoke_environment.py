"""Fresh virtual environments for the checks of what is released: only what is named gets in."""

import json
import os
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CARRIED = ROOT / "benchmarks" / "minibench" / "carried"
MODEL = ROOT / "benchmarks" / "minibench" / "mirage-tiny"
TINY_CLIP = ROOT / "benchmarks" / "minibench" / "tiny-clip"
PHOTO = CARRIED / "images" / "test" / "gcompris-erase-calf_0_photo.jpg"
FAKE = CARRIED / "images" / "test" / "gcompris-erase-calf_0_realcugan.jpg"


class Environment:
    """
    A virtual environment in a new folder.

    Args:
        folder (`Path`): Where.
        parent ([`Environment`], *optional*): One whose packages it has as well, as if installed in it.
    """

    def __init__(self, folder: Path, parent: "Environment | None" = None):
        venv.create(folder / "venv", with_pip=True)
        self.folder, self.bin = folder, folder / "venv" / "bin"
        self.work = folder / "work"  # not the checkout, which would be imported
        self.work.mkdir()
        (self.site_packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
        if parent is not None:
            (self.site_packages / "parent.pth").write_text(f"{parent.site_packages}\n")

    def install(self, *requirements: str) -> float:
        """
        Installs with pip.

        Returns:
            `float`: Seconds that it took.

        Raises:
            RuntimeError: pip failed; its last lines say why.
        """
        began = time.monotonic()
        done = self.run("python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements)
        if done.returncode:
            raise RuntimeError(f"pip install {' '.join(requirements)}:\n{done.stderr[-2000:]}")
        return time.monotonic() - began

    def run(self, program: str, *arguments: object, timeout: float = 900, **variables: str):
        """A program of the environment, in its own folder, without the network where Hugging Face is concerned."""
        inherited = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
        defaults = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
        return subprocess.run(
            [self.bin / program, *map(str, arguments)],
            cwd=self.work,
            env=inherited | defaults | {"PATH": f"{self.bin}:/usr/bin:/bin"} | variables,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def versions(self) -> dict[str, str]:
        """Installed packages, those of the parent included."""
        code = (
            "import importlib.metadata as m, json;"
            "print(json.dumps({d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()}))"
        )
        return json.loads(self.run("python", "-c", code).stdout)


class Checks:
    """Counts what passed and what failed, and prints a line for each."""

    def __init__(self):
        self.passed = self.failed = 0

    def __call__(self, title: str, is_right: bool, shown: object = "") -> None:
        """Notes a check; what is shown explains a failure."""
        self.passed += is_right
        self.failed += not is_right
        print(f"{'ok  ' if is_right else 'FAIL'} {title}{'' if is_right else f': {shown}'}", flush=True)

    def finish(self) -> None:
        """Prints the counts and exits, with 1 if a check failed."""
        print(f"{self.passed} passed, {self.failed} failed")
        sys.exit(1 if self.failed else 0)


def find_wheel(folder: Path) -> Path:
    """The wheel in a folder; exits with a line if there isn't just one."""
    wheels = sorted(folder.glob("mirage_hf-*.whl"))
    if len(wheels) != 1:
        sys.exit(f"{folder} holds {len(wheels)} wheels of mirage_hf: run `make dist`")
    return wheels[0].resolve()
