"""The HTTP routes of the Hub that huggingface_hub 2.4 uses, answered from a [`HubStub`]'s memory.

Creating a model repository and branches of it, uploading to it (regular files in the commit itself, weights over LFS),
asking about it and downloading from it; errors are answered as the Hub does.
"""

import base64
import hashlib
import json
import re
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from hub_stub import HubStub

TOKEN = "hf_dummy_writer"  # may write, and read what is public
PRIVATE_TOKEN = "hf_dummy_owner"  # may do all
LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".onnx")


class Refused(Exception):
    """Another refusal; the arguments are the status and the Hub's error code."""


class NotFound(Exception):
    """A 404; the argument is the Hub's error code."""


class HubHandler(BaseHTTPRequestHandler):
    """One request. `ROUTES` maps a method and a pattern of the path to the method that answers it."""

    hub: "HubStub"
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
        except Refused as error:
            status, code = error.args
            self.send(status, {"error": code}, {"X-Error-Code": code, "X-Error-Message": code})
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
        length = int(self.headers.get("Content-Length", 0))
        if not self.path.startswith("/lfs/") or self.command != "PUT":
            return self.rfile.read(length)
        oid, content, dropped = self.path.rpartition("/")[2], b"", self.hub.dropped
        while len(content) < length:
            part = self.rfile.read(min(4096, length - len(content)))
            if not part or self.hub.dropped > dropped:
                raise ConnectionError("the client is gone")
            content += part
            self.hub.received[oid] = self.hub.received.get(oid, 0) + len(part)
            if self.hub.upload_rate is not None:
                time.sleep(len(part) / self.hub.upload_rate)
        return content

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
        """The commit of a revision: a hash or a branch."""
        commits = self.hub.repos.get(repo_id)
        if commits is None or (repo_id in self.hub.private and not self.has_token(PRIVATE_TOKEN)):
            raise NotFound("RepoNotFound")  # the Hub does not tell private from missing either
        if revision in (None, "main"):
            return commits[-1]
        if (repo_id, revision) in self.hub.branches:
            return self.hub.branches[repo_id, revision][-1]
        others = [commits for (name, _), commits in self.hub.branches.items() if name == repo_id]
        for commit in (commit for commits in (commits, *others) for commit in commits):
            if commit[0] == revision:
                return commit
        raise NotFound("RevisionNotFound")

    # ------------------------------------------------------------------------------------------------------ writing

    def create_repo(self):
        if not self.has_token(TOKEN, PRIVATE_TOKEN):
            return self.send(401, {"error": "Invalid username or password."})
        payload = json.loads(self.body)
        repo_id = f"{payload['organization'] or 'org'}/{payload['name']}"
        if payload["organization"] in self.hub.foreign:
            return self.send(403, {"error": "You don't have the rights to create a model under this namespace"})
        answer = {"url": f"{self.hub.url}/{repo_id}", "name": repo_id}
        if repo_id in self.hub.repos:
            return self.send(409, answer | {"error": "You already created this model repo"})
        if payload.get("visibility") == "private":
            self.hub.private.add(repo_id)
        self.hub.commit(repo_id, {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        self.send(200, answer)

    def create_branch(self, repo_id: str, branch: str):
        commit = self.find(repo_id, json.loads(self.body or b"{}").get("startingPoint"))
        if branch == "main" or (repo_id, branch) in self.hub.branches:
            return self.send(409, {"error": "Reference already exists"})
        self.hub.branches[repo_id, branch] = [commit]
        self.send(200, {})

    def validate_yaml(self):
        self.hub.cards.append(json.loads(self.body)["content"])
        self.send(200, {"errors": [], "warnings": []})

    def preupload(self, repo_id: str, revision: str):
        _, files = self.find(repo_id, revision)
        answers = []
        for file in json.loads(self.body)["files"]:
            is_lfs = self.is_lfs(file["path"], file["size"])
            known = files.get(file["path"])
            oid = None if known is None else hashlib.sha256(known).hexdigest() if is_lfs else git_blob_hash(known)
            mode = "lfs" if is_lfs else "regular"
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.send(200, {"files": answers})

    def is_lfs(self, path: str, size: int) -> bool:
        return path.endswith(LFS_SUFFIXES) or size >= self.hub.lfs_size

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
        commit_hash = self.hub.commit(repo_id, files, revision)
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
                if self.is_lfs(path, len(content)):
                    oid = hashlib.sha256(content).hexdigest()
                    entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 127}
                entries.append(entry)
        if folder and not entries:
            raise NotFound("EntryNotFound")
        self.send(200, entries)

    def resolve(self, repo_id: str, revision: str, path: str):
        commit_hash, files = self.find(repo_id, revision)
        if repo_id in self.hub.gated and not self.has_token(PRIVATE_TOKEN):
            raise Refused(403 if self.has_token(TOKEN) else 401, "GatedRepo")
        headers = {"X-Repo-Commit": commit_hash}
        if path not in files:
            headers |= {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            return self.send(404, {"error": "Entry not found"}, headers)
        content = files[path]
        is_lfs = self.is_lfs(path, len(content))
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
    ("POST", f"{MODEL}/branch/(?P<branch>[^/]+)", HubHandler.create_branch),
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
