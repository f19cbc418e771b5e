"""A stub of the Hugging Face Hub on the loopback interface, for tests that push and load without a network.

All is kept in memory: nothing is deleted, so an old revision stays readable. `hub_routes.py` answers the requests.
Clients need `HubStub.env` before their first import of huggingface_hub, which reads it then; run them in a process of
their own.
"""

import hashlib
import sys
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

from hub_routes import PRIVATE_TOKEN, TOKEN, HubHandler


class Server(ThreadingHTTPServer):
    """Clients may be killed; all else that goes wrong is printed."""

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class HubStub:
    """
    A running stub; also a context manager that stops it.

    Args:
        lfs_size (`int`, *optional*, defaults to 10 MB): Files from this size on go over LFS, whatever their name.
        upload_rate (`float`, *optional*): Bytes a second that each LFS upload is taken at; as fast as it comes if left
            out.

    Attributes:
        url (`str`): Where it listens.
        repos (`dict[str, list[tuple[str, dict[str, bytes]]]]`): For each repository the commits of its main branch,
            oldest first, as pairs of a hash and all its files.
        branches (`dict[tuple[str, str], list[...]]`): The same for other branches, by repository and name.
        requests (`list[tuple[str, str]]`): Method and path of every request so far.
        received (`dict[str, int]`): Bytes that came in of each LFS object, unfinished uploads included.
        private (`set[str]`): Repositories that only requests with `PRIVATE_TOKEN` see.
        gated (`set[str]`): Repositories that all see and only requests with `PRIVATE_TOKEN` download from.
        foreign (`set[str]`): Owners for whom no token here may write.
        cards (`list[str]`): Every card that was handed in for validation.
    """

    def __init__(self, lfs_size: int = 10_000_000, upload_rate: float | None = None):
        self.lfs_size, self.upload_rate = lfs_size, upload_rate
        self.repos: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.branches: dict[tuple[str, str], list[tuple[str, dict[str, bytes]]]] = {}
        self.requests: list[tuple[str, str]] = []
        self.received: dict[str, int] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.foreign: set[str] = set()
        self.cards: list[str] = []
        self.dropped = 0
        self.lfs_objects: dict[str, bytes] = {}
        self.lock = threading.Lock()
        handler = type("Handler", (HubHandler,), {"hub": self})
        self.server = Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.stop()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def drop_uploads(self) -> None:
        """Loses the LFS uploads under way, with what of them still lies in buffers of the system."""
        self.dropped += 1

    def env(self, home: str | Path) -> dict[str, str]:
        """Environment variables of a client that keeps its cache in `home`."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_MODULES_CACHE": str(Path(home) / "modules"),
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",  # else uploads would go past these routes
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
        }

    def files(self, repo_id: str, branch: str = "main") -> dict[str, bytes]:
        """The files of a repository at a branch's newest commit."""
        return self.commits(repo_id, branch)[-1][1]

    def commits(self, repo_id: str, branch: str) -> list[tuple[str, dict[str, bytes]]]:
        """The commits of a branch; empty, and to be filled, where there is none."""
        return self.repos.setdefault(repo_id, []) if branch == "main" else self.branches[repo_id, branch]

    def commit(self, repo_id: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Makes `files` the whole content of a branch, and returns the commit's hash."""
        commits = self.commits(repo_id, branch)
        digest = hashlib.sha1(f"{repo_id} {branch} {len(commits)}".encode())
        for path in sorted(files):
            digest.update(path.encode() + b"\0" + files[path])
        commits.append((digest.hexdigest(), dict(files)))
        return digest.hexdigest()


__all__ = ["PRIVATE_TOKEN", "TOKEN", "HubStub"]
