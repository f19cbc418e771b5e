"""A place in which documented commands mean something: the checkout as links, pictures, a Hub, small data sets.

What the pages take for granted is here: `GIVEN` files, the data sets below /data in the layouts that
docs/pages/reproduce.md shows, and the first photographs of the carried mini-benchmark in place of all of them.
Whatever a block writes lands in the sandbox.
"""

import csv
import io
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from code_blocks import find_blocks
from hub_stub import PRIVATE_TOKEN, HubStub
from PIL import Image

from mirage_hf.layouts import label_of

ROOT = Path(__file__).resolve().parent.parent
CARRIED = ROOT / "benchmarks" / "minibench" / "carried"
NOT_LINKED = {".git", ".venv", "outputs", "build", "dist", "benchmarks"}
PHOTOGRAPHS = 4  # of each split of the carried tier; full=True keeps all
PICTURES, PICTURES_OF_DATA_SETS = 8, 2  # for a `*` of a layout
CLIENTS = ("python", "mirage-hf", "torchrun", "accelerate", "check-pip")
GIVEN = (
    "photo.jpg",
    "picture.png",
    "folder/*.jpg",
    "my_images/{train,validation,test}/{real,fake}/*.jpg",
    "held_out/validation/{real,fake}/*.jpg",
    "my_validation_images/validation/{real,fake}/*.jpg",
    "/data/held_out/validation/{real,fake}/*.jpg",
    "/data/photos/*.jpg",
)
CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    request = {{"argv": [{name!r}, *sys.argv[1:]], "cwd": os.getcwd(), "env": dict(os.environ)}}
    socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
    answer = server.recv(16)
sys.exit(int(answer) if answer else 70)
"""
PRELUDE = """set -euo pipefail
ask() {
    exec 3<>/dev/tcp/127.0.0.1/$1 && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && head -1 <&3
}
once() {
    local port=$1 page=""; shift
    "$@" & local server=$!
    for _ in $(seq 240); do
        if page=$({ ask $port; } 2>/dev/null); then break; fi
        kill -0 $server || return 1
        sleep 0.5
    done
    kill $server
    [[ $page == *" 200 "* ]]
}
"""


class Sandbox:
    """
    A scratch copy of the checkout.

    Args:
        folder (`Path`): Where it is made.
        hub ([`HubStub`]): The Hub of its commands.
        address (`str`, *optional*): Socket of `code_block_server.py`; without one commands are the real executables.
        full (`bool`, *optional*, defaults to `False`): All of the carried mini-benchmark.
    """

    def __init__(self, folder: Path, hub: HubStub, address: str | None = None, full: bool = False):
        self.root, self.data, self.hub = folder / "checkout", folder / "data", hub
        self._link(full)
        clients = folder / "bin"
        clients.mkdir()
        for name in CLIENTS:
            text = CLIENT.format(python=sys.executable, address=address, name=name)
            if address is not None and (name == "check-pip" or not full):
                (clients / name).write_text(text)
                (clients / name).chmod(0o755)
        self.env = {
            "PATH": f"{clients}:{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "MPLBACKEND": "Agg",
            "PYTHONDONTWRITEBYTECODE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            **hub.env(folder / "hub"),
            "HF_TOKEN": PRIVATE_TOKEN,  # reads what the pages publish in private
        }

    def _link(self, full: bool) -> None:
        minibench = self.root / "benchmarks" / "minibench"
        (minibench / "carried").mkdir(parents=True)
        (self.root / "outputs").mkdir()
        pairs = [(ROOT, self.root, NOT_LINKED), (ROOT / "benchmarks", minibench.parent, {"minibench"})]
        pairs.append((ROOT / "benchmarks" / "minibench", minibench, {"carried", "mirage-tiny", "tiny-clip"}))
        pairs.append((CARRIED, minibench / "carried", {"manifest.csv"}))
        for source, target, left_out in pairs:
            for path in source.iterdir():
                if path.name not in left_out and path.suffix != ".egg-info":
                    (target / path.name).symlink_to(path)
        for name in ("mirage-tiny", "tiny-clip"):
            shutil.copytree(ROOT / "benchmarks" / "minibench" / name, minibench / name)
        copy_manifest(CARRIED / "manifest.csv", minibench / "carried" / "manifest.csv", None if full else PHOTOGRAPHS)
        layouts = (ROOT / "docs" / "pages" / "reproduce.md").read_text(encoding="utf-8")
        shown = [block.text for block in find_blocks(layouts, "reproduce.md") if block.language == "layout"]
        for pattern in (*GIVEN, *"".join(shown).split()):
            self.write_layout(pattern)
        (self.root / "GenImage").symlink_to(self.data / "GenImage")  # where model cards have it

    def write_layout(self, pattern: str) -> None:
        """Writes the pictures of a line such as `my_images/{train,test}/real/*.jpg`; `/data` is the sandbox's."""
        is_data = pattern.startswith("/data/")
        base, count = (self.data, PICTURES_OF_DATA_SETS) if is_data else (self.root, PICTURES)
        for name in alternatives(pattern.removeprefix("/data/")):
            for number in range(count if "*" in name else 1):
                path = base / name.replace("*", str(number))
                path.parent.mkdir(parents=True, exist_ok=True)
                is_fake = any(label_of(part) == 1 for part in path.parts)
                path.write_bytes(picture(is_fake, number, path.suffix.lower()))

    def shell(self, text: str, timeout: float) -> subprocess.CompletedProcess:
        """
        Runs a script with bash, which stops at the first command that fails.

        Raises:
            subprocess.TimeoutExpired: it was not done; it is ended with all that it started.
        """
        command = ["bash", "-c", PRELUDE + text.replace("$DATA", str(self.data))]
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(
            command, cwd=self.root, env=self.env, text=True, start_new_session=True, **streams
        ) as process:
            try:
                printed, _ = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        return subprocess.CompletedProcess(command, process.returncode, printed)


def alternatives(pattern: str) -> list[str]:
    """`a/{b,c}/d` to `a/b/d` and `a/c/d`."""
    parts = re.split(r"\{([^}]*)\}", pattern)
    choices = [part.split(",") if index % 2 else [part] for index, part in enumerate(parts)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


@cache
def picture(is_fake: bool, number: int, suffix: str) -> bytes:
    """A carried picture of a class in the format of a file extension."""
    files = sorted((CARRIED / "images" / "test").glob("*_realcugan.jpg" if is_fake else "*_photo.jpg"))
    content = files[number % len(files)].read_bytes()
    if suffix != ".png":
        return content
    file = io.BytesIO()
    Image.open(io.BytesIO(content)).save(file, "PNG")
    return file.getvalue()


def copy_manifest(source: Path, target: Path, photographs: int | None) -> None:
    """Copies a manifest, with so many photographs of each split."""
    with open(source, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows, columns = list(reader), reader.fieldnames or []
    kept: dict[str, list[str]] = {}
    for row in rows:
        names = kept.setdefault(row["split"], [])
        if row["photo"] not in names:
            names.append(row["photo"])
    with open(target, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(row for row in rows if row["photo"] in kept[row["split"]][:photographs])


def open_session(address: str, sandbox: Sandbox, output) -> socket.socket:
    """A fork of the server that runs Python blocks in the sandbox, printing to an open file."""
    session = socket.socket(socket.AF_UNIX)
    session.connect(address)
    request = {"argv": ["session"], "cwd": str(sandbox.root), "env": sandbox.env}
    with open("/dev/null") as nothing:
        streams = [nothing.fileno(), output.fileno(), output.fileno()]
        socket.send_fds(session, [json.dumps(request).encode()], streams)
    return session
