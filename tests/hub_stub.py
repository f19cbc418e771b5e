"""A stub of the Hugging Face Hub on the loopback interface, for tests that push and load without a network.

It speaks the HTTP routes that huggingface_hub 2.4 uses to create a model repository, upload to it (regular files in
the commit itself, weights over LFS), ask about it and download from it, and answers errors as the Hub does. All is
kept in memory: nothing is deleted, so an old revision stays readable. Clients need `HubStub.env` before their first
import of huggingface_hub, which reads it then; run them in a process of their own.
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

TOKEN = "hf_dummy_writer"  # may write, and read what is public
PRIVATE_TOKEN = "hf_dummy_owner"  # may do all
LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".onnx")


class HubStub:
    """
    A running stub; also a context manager that stops it.

    Attributes:
        url (`str`): Where it listens.
        repos (`dict[str, list[tuple[str, dict[str, bytes]]]]`): For each repository its commits, oldest first, as
            pairs of a hash and all its files.
        requests (`list[tuple[str, str]]`): Method and path of every request so far.
        private (`set[str]`): Repositories that only requests with `PRIVATE_TOKEN` see.
    """

    def __init__(self):
        self.repos: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.requests: list[tuple[str, str]] = []
        self.private: set[str] = set()
        self.lfs_objects: dict[str, bytes] = {}
        self.lock = threading.Lock()
        handler = type("Handler", (HubHandler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
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

    def files(self, repo_id: str) -> dict[str, bytes]:
        """The files of a repository at its newest commit."""
        return self.repos[repo_id][-1][1]

    def commit(self, repo_id: str, files: dict[str, bytes]) -> str:
        """Makes `files` the whole content of a repository, and returns the commit's hash."""
        commits = self.repos.setdefault(repo_id, [])
        digest = hashlib.sha1(f"{repo_id} {len(commits)}".encode())
        for path in sorted(files):
            digest.update(path.encode() + b"\0" + files[path])
        commits.append((digest.hexdigest(), dict(files)))
        return digest.hexdigest()


class NotFound(Exception):
    """A 404; the argument is the Hub's error code."""


class HubHandler(BaseHTTPRequestHandler):
    """One request. `ROUTES` maps a method and a pattern of the path to the method that answers it."""

    hub: HubStub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.body = self.read_body()
        self.hub.requests.append((self.command, path))
        try:
            for method, pattern, answer in ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in method.split():
                    with self.hub.lock:
                        return answer(self, **match.groupdict())
            self.send(404, {"error": f"the stub has no route {self.command} {path}"})
        except NotFound as error:
            self.send(404, {"error": str(error)}, {"X-Error-Code": str(error), "X-Error-Message": str(error)})

    do_HEAD = do_POST = do_PUT = do_GET

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def send(self, status: int, content: bytes | dict | list, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def has_token(self, *tokens: str) -> bool:
        return self.headers.get("Authorization") in [f"Bearer {token}" for token in tokens]

    def find(self, repo_id: str, revision: str | None) -> tuple[str, dict[str, bytes]]:
        """The commit of a revision: a hash or the main branch."""
        commits = self.hub.repos.get(repo_id)
        if commits is None or (repo_id in self.hub.private and not self.has_token(PRIVATE_TOKEN)):
            raise NotFound("RepoNotFound")  # the Hub does not tell private from missing either
        if revision in (None, "main"):
            return commits[-1]
        for commit in commits:
            if commit[0] == revision:
                return commit
        raise NotFound("RevisionNotFound")

    # ------------------------------------------------------------------------------------------------------ writing

    def create_repo(self):
        if not self.has_token(TOKEN, PRIVATE_TOKEN):
            return self.send(401, {"error": "Invalid username or password."})
        payload = json.loads(self.body)
        repo_id = f"{payload['organization'] or 'org'}/{payload['name']}"
        answer = {"url": f"{self.hub.url}/{repo_id}", "name": repo_id}
        if repo_id in self.hub.repos:
            return self.send(409, answer | {"error": "You already created this model repo"})
        if payload.get("visibility") == "private":
            self.hub.private.add(repo_id)
        self.hub.commit(repo_id, {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        self.send(200, answer)

    def validate_yaml(self):
        self.send(200, {"errors": [], "warnings": []})

    def preupload(self, repo_id: str, revision: str):
        _, files = self.find(repo_id, revision)
        answers = []
        for file in json.loads(self.body)["files"]:
            is_lfs = file["path"].endswith(LFS_SUFFIXES)
            known = files.get(file["path"])
            oid = None if known is None else hashlib.sha256(known).hexdigest() if is_lfs else git_blob_hash(known)
            mode = "lfs" if is_lfs else "regular"
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.send(200, {"files": answers})

    def lfs_batch(self, repo_id: str):
        self.find(repo_id, None)
        objects = []
        for item in json.loads(self.body)["objects"]:
            if item["oid"] not in self.hub.lfs_objects:  # without actions: there already
                item["actions"] = {
                    "upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"},
                    "verify": {"href": f"{self.hub.url}/lfs/{item['oid']}/verify"},
                }
            objects.append(item)
        self.send(200, {"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid: str):
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.send(400, {"error": "the content does not have the announced hash"})
        self.hub.lfs_objects[oid] = self.body
        self.send(200, b"", {"ETag": f'"{oid}"'})

    def lfs_verify(self, oid: str):
        size = len(self.hub.lfs_objects.get(oid, b""))
        self.send(200 if json.loads(self.body) == {"oid": oid, "size": size} else 400, {})

    def create_commit(self, repo_id: str, revision: str):
        if not self.has_token(TOKEN, PRIVATE_TOKEN):
            return self.send(401, {"error": "Invalid username or password."})
        files = dict(self.find(repo_id, revision)[1])
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.hub.lfs_objects[value["oid"]]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
            elif operation["key"] != "header":
                return self.send(400, {"error": f"the stub does not know {operation['key']}"})
        commit_hash = self.hub.commit(repo_id, files)
        self.send(200, {"commitUrl": f"{self.hub.url}/{repo_id}/commit/{commit_hash}", "commitOid": commit_hash})

    # ------------------------------------------------------------------------------------------------------ reading

    def whoami(self):
        if not self.has_token(TOKEN, PRIVATE_TOKEN):
            return self.send(401, {"error": "Invalid username or password."})
        self.send(200, {"type": "user", "name": "org", "auth": {"accessToken": {"role": "write"}}})

    def model_info(self, repo_id: str, revision: str | None = None):
        commit_hash, files = self.find(repo_id, revision)
        siblings = [{"rfilename": path} for path in sorted(files)]
        answer = {"_id": repo_id, "id": repo_id, "modelId": repo_id, "sha": commit_hash, "siblings": siblings}
        self.send(200, answer | {"private": repo_id in self.hub.private, "disabled": False, "tags": []})

    def tree(self, repo_id: str, revision: str, folder: str = ""):
        _, files = self.find(repo_id, revision)
        entries = []
        for path, content in sorted(files.items()):
            if path.startswith(folder):
                entry = {"type": "file", "path": path, "size": len(content), "oid": git_blob_hash(content)}
                if path.endswith(LFS_SUFFIXES):
                    oid = hashlib.sha256(content).hexdigest()
                    entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 127}
                entries.append(entry)
        if folder and not entries:
            raise NotFound("EntryNotFound")
        self.send(200, entries)

    def resolve(self, repo_id: str, revision: str, path: str):
        commit_hash, files = self.find(repo_id, revision)
        headers = {"X-Repo-Commit": commit_hash}
        if path not in files:
            headers |= {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            return self.send(404, {"error": "Entry not found"}, headers)
        content = files[path]
        is_lfs = path.endswith(LFS_SUFFIXES)
        etag = hashlib.sha256(content).hexdigest() if is_lfs else git_blob_hash(content)
        self.send(200, content, headers | {"ETag": f'"{etag}"'})  # the Hub sends LFS files from another host


def git_blob_hash(content: bytes) -> str:
    """Git's name for a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


REPO = r"(?P<repo_id>[\w.-]+/[\w.-]+?)"
MODEL = f"/api/models/{REPO}"
ROUTES = (
    ("POST", "/api/repos/create", HubHandler.create_repo),
    ("POST", "/api/validate-yaml", HubHandler.validate_yaml),
    ("GET", "/api/whoami-v2", HubHandler.whoami),
    ("POST", f"{MODEL}/preupload/(?P<revision>[^/]+)", HubHandler.preupload),
    ("POST", f"{MODEL}/commit/(?P<revision>[^/]+)", HubHandler.create_commit),
    ("GET", f"{MODEL}(/revision/(?P<revision>[^/]+))?", HubHandler.model_info),
    ("GET", f"{MODEL}/tree/(?P<revision>[^/]+)", HubHandler.tree),
    ("GET", f"{MODEL}/tree/(?P<revision>[^/]+)/(?P<folder>.+)", HubHandler.tree),
    ("POST", f"/{REPO}.git/info/lfs/objects/batch", HubHandler.lfs_batch),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]{64})", HubHandler.lfs_upload),
    ("POST", "/lfs/(?P<oid>[0-9a-f]{64})/verify", HubHandler.lfs_verify),
    ("GET HEAD", f"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", HubHandler.resolve),
)
