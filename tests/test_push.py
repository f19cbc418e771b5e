"""`mirage-hf push` and the stub of the Hub: what arrives, what is refused, and an upload that was killed."""

import json
import os
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest
from hub_stub import PRIVATE_TOKEN, TOKEN, HubStub
from huggingface_hub import HfApi, constants
from noise_images import make_noise
from pushing import EXECUTABLE, ROOT, environment, make_measured, run_push
from typer.testing import CliRunner

from mirage_hf import publishing_upload
from mirage_hf_cli.main import app


@pytest.fixture(scope="module")
def measured(folders, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("measured")
    return make_measured(folders["full"], make_noise(folders["full"], root), root / "mine")


@pytest.fixture
def hub():
    with HubStub() as hub:
        yield hub


@pytest.fixture
def push(hub, monkeypatch):
    """The command in this process, as somebody who is logged in with a token."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)

    def call(*arguments, token: str | None = TOKEN, endpoint: str = hub.url):
        monkeypatch.setattr(publishing_upload, "get_token", lambda: token)
        monkeypatch.setattr(publishing_upload, "HfApi", partial(HfApi, endpoint=endpoint, token=token))
        return CliRunner().invoke(app, ["push", *map(str, arguments)])

    return call


def requests_of(hub: HubStub, method: str, part: str) -> int:
    return sum(found == method and part in path for found, path in hub.requests)


def failed(answer, words: str) -> bool:
    assert answer.exit_code == 1, answer.output
    lines = [line for line in answer.stderr.splitlines() if line.startswith("push: ")]
    return len(lines) == 1 and words in lines[0] and answer.stderr.splitlines()[-1] == lines[0]


def test_a_dry_run_lists_all_and_sends_nothing(hub, push, measured):
    answer = push(measured, "org/mine", "--dry-run", token=None)
    assert answer.exit_code == 0 and hub.requests == [] and hub.repos == {}
    assert "README.md" in answer.stdout and "weights: the whole model" in answer.stdout
    size = (measured / "model.safetensors").stat().st_size
    assert f"{size:,}  model.safetensors" in answer.stdout
    assert answer.stdout.splitlines()[-1].endswith("it goes to org/mine, main")
    assert "\n# mine\n" in answer.stdout and "## What it can't do" in answer.stdout  # the card
    listed = {line.split()[1] for line in answer.stdout.partition("bytes in")[0].splitlines()[:-1]}
    sent = push(measured, "org/mine")
    assert hub.files("org/mine")["README.md"].decode() in answer.stdout
    assert sent.exit_code == 0 and set(hub.files("org/mine")) == listed | {".gitattributes"}


def test_a_second_push_sends_what_changed_and_takes_back_what_is_gone(hub, push, measured, tmp_path):
    folder = Path(shutil.copytree(measured, tmp_path / "mine"))
    assert push(folder, "org/mine").exit_code == 0
    first, puts = dict(hub.files("org/mine")), requests_of(hub, "PUT", "/lfs/")
    assert puts == 1 and "results/test/scores.csv" in first
    assert push(folder, "org/mine").exit_code == 0
    assert len(hub.repos["org/mine"]) == 2 and requests_of(hub, "PUT", "/lfs/") == puts  # nothing changed
    hub.commit("org/mine", hub.files("org/mine") | {"own.md": b"words", "old_code.py": b"", "onnx/model.onnx": b""})
    shutil.rmtree(folder / "test")
    assert push(folder, "org/mine").exit_code == 0
    files = hub.files("org/mine")
    assert not [path for path in files if path.startswith(("results/test", "onnx/")) or path == "old_code.py"]
    assert files["own.md"] == b"words" and files["model.safetensors"] == first["model.safetensors"]
    assert requests_of(hub, "PUT", "/lfs/") == puts


def test_branches_and_private_repositories(hub, push, measured):
    assert push(measured, "org/mine", "--private", "--quiet", token=PRIVATE_TOKEN).exit_code == 0
    assert hub.private == {"org/mine"}
    answer = push(measured, "org/mine", "--revision", "v2", token=PRIVATE_TOKEN)
    assert answer.exit_code == 0 and "model.safetensors" in hub.files("org/mine", "v2")
    assert requests_of(hub, "POST", "/commit/v2") == 0  # the branch began with the same files
    shorter = push(measured, "org/mine", "--revision", "v2", "--results", measured / "test", token=PRIVATE_TOKEN)
    assert shorter.exit_code == 0 and len(hub.repos["org/mine"]) == 2
    assert push(measured, "org/other", "--revision", "trial").exit_code == 0
    assert set(hub.files("org/other")) == {".gitattributes"} and len(hub.files("org/other", "trial")) > 10


def test_what_the_hub_refuses_is_said_in_a_line(hub, push, measured):
    assert failed(push(measured, "org/mine", token=None), "nobody is logged in at the Hub")
    assert failed(push(measured, "org/mine", token="hf_of_nobody"), "the Hub doesn't know the token")
    hub.foreign.add("strangers")
    assert failed(push(measured, "strangers/mine"), "the token may not write to strangers/mine")
    hub.commit("org/bert", {"config.json": b"{}", "pytorch_model.bin": b""})
    assert failed(push(measured, "org/bert"), "holds something else (config.json)")
    hub.commit("org/public", {"README.md": b""})
    assert failed(push(measured, "org/public", "--private"), "org/public is there and public")
    assert failed(push(measured, "org/mine", endpoint="http://127.0.0.1:9"), "the Hub can't be reached")
    assert failed(push(measured, "mine"), "owner/name")
    assert push(measured, "org/mine", "--adapter", "--full").exit_code == 2
    assert {name for name, commits in hub.repos.items() if "model.safetensors" in commits[-1][1]} == set()


def test_a_refused_card_sends_nothing(hub, push, measured, tmp_path):
    folder = Path(shutil.copytree(measured, tmp_path / "mine"))
    stored = json.loads((folder / "test" / "evaluation.json").read_text())
    (folder / "test" / "evaluation.json").write_text(json.dumps(stored | {"model": {"fingerprint": "another"}}))
    assert failed(push(folder, "org/mine"), "is of other weights")
    assert hub.requests == []


def test_a_killed_upload_goes_on_where_it_stopped(measured, tmp_path):
    """Two large files at once, taken slowly; the process is killed when one has arrived and the other half."""
    with HubStub(lfs_size=3_000, upload_rate=60_000) as hub:
        env, folder = environment(hub, tmp_path), str(measured)
        process = subprocess.Popen(
            [str(EXECUTABLE), "push", folder, "org/mine", "--quiet"],
            env=env,
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        weights = (measured / "model.safetensors").stat().st_size
        deadline = time.monotonic() + 120
        while not (len(hub.lfs_objects) >= 2 and max(hub.received.values(), default=0) > weights / 3):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1][-2000:]
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        hub.drop_uploads()
        time.sleep(0.3)
        arrived, first = dict(hub.lfs_objects), dict(hub.received)
        assert weights not in map(len, arrived.values()) and set(hub.files("org/mine")) == {".gitattributes"}
        hub.received.clear()
        hub.requests.clear()
        hub.upload_rate = None
        answer = run_push(hub, tmp_path, folder, "org/mine", "--quiet")
        assert answer.stdout.strip().endswith(hub.repos["org/mine"][-1][0])
        assert set(hub.received) == set(first) - set(arrived) and arrived  # what was there is not sent again
        assert weights <= sum(hub.received.values()) < weights + sum(map(len, arrived.values()))
        assert requests_of(hub, "PUT", "/lfs/") == len(first) - len(arrived)
        assert hub.files("org/mine")["model.safetensors"] == (measured / "model.safetensors").read_bytes()


def test_the_script_is_the_command(tmp_path):
    script = ROOT / "training" / "push_to_hub.py"
    process = subprocess.run(
        [str(EXECUTABLE.with_name("python")), str(script), str(tmp_path), "org/mine", "--dry-run"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 1 and process.stderr.startswith("push: ") and "has no config.json" in process.stderr
