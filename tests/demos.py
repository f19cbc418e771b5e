"""What the tests of the demo share: pictures, a free port, and a record of whom a process asks."""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nasty_bytes import uniform_png

ROOT = Path(__file__).parent.parent
TINY = ROOT / "benchmarks" / "minibench" / "mirage-tiny"
IMAGES = ROOT / "benchmarks" / "minibench" / "carried" / "images" / "test"
PHOTO, FAKE = (IMAGES / f"gcompris-erase-calf_0_{kind}.jpg" for kind in ("photo", "realcugan"))

NEAR = {"127.0.0.1", "::1", "localhost", "", None}
LOOKED_UP = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
_records: list[list[str]] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if _records and event in LOOKED_UP:
        asked = arguments[0] if event in LOOKED_UP[1:3] else arguments[1]
        host = asked[0] if isinstance(asked, tuple) else asked
        host = host.decode() if isinstance(host, bytes) else host
        local_socket = event == "socket.connect" and not isinstance(asked, tuple)
        if not local_socket and host not in NEAR:
            for record in _records:
                record.append(f"{event} {host}")


sys.addaudithook(_note)  # can't be taken off again; it notes nothing while nobody listens


@contextmanager
def outside_requests() -> Iterator[list[str]]:
    """What this process asks of other hosts in the meantime, from any thread or library; names looked up count."""
    record: list[str] = []
    _records.append(record)
    try:
        yield record
    finally:
        _records.remove(record)


def free_port() -> int:
    """A port of the loopback on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def write_awkward_files(folder: Path) -> dict[str, Path]:
    """Files that get no score: one that was cut off, one of text, a bomb of 90 megapixels in a few hundred kB."""
    contents = {
        "cut_off.jpg": PHOTO.read_bytes()[:3000],
        "text.png": b"no picture at all",
        "bomb.png": uniform_png(9500, 9500, 8, 0, b"\x80"),
        "tiny.png": uniform_png(8, 8, 8, 0, b"\x80"),
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return {name: folder / name for name in contents}
