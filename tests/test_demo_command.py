"""`mirage-hf demo` and the Space, as processes of their own."""

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from demos import PHOTO, ROOT, TINY, free_port
from gradio_client import Client, handle_file
from typer.testing import CliRunner

import mirage_hf.demo
from mirage_hf import Detector
from mirage_hf.demo import DemoArguments
from mirage_hf_cli.main import app

EXECUTABLE = Path(sys.executable).with_name("mirage-hf")
SPACE = ROOT / "examples" / "space"


@contextmanager
def started(command, port: int, **environment):
    """A process that serves a page, and a folder in which it puts what is temporary."""
    with tempfile.TemporaryDirectory() as folder:
        settings = os.environ | {"TMPDIR": folder, "GRADIO_SERVER_PORT": str(port)} | environment
        process = subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            until = time.monotonic() + 120
            while process.poll() is None and time.monotonic() < until:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            assert process.poll() is None, process.stderr.read()
            yield process, Path(folder)
        finally:
            process.kill()
            process.communicate()


def end(process: subprocess.Popen, how: signal.Signals) -> str:
    """What it printed."""
    process.send_signal(how)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return out


def test_it_serves_until_told_to_end_and_leaves_nothing():
    port = free_port()
    with started([EXECUTABLE, "demo", "--model", TINY, "--port", str(port)], port) as (process, folder):
        (row,) = Client(f"http://127.0.0.1:{port}", verbose=False).predict([handle_file(PHOTO)], api_name="/score")
        assert row["p_fake"] == pytest.approx(Detector.from_pretrained(TINY).score(PHOTO).p_fake, abs=1e-6)
        assert [path.name for path in folder.rglob("*.jpg")] == [PHOTO.name]
        assert end(process, signal.SIGTERM) == f"{TINY}: http://127.0.0.1:{port}/ (Ctrl-C ends it)\n"
        assert [path for path in folder.rglob("*") if path.is_file()] == []


class TestCommand:
    @pytest.fixture
    def invoke(self):
        """The command in this process, whose own reaction to signals is put back."""
        handler = signal.getsignal(signal.SIGTERM)
        offline = os.environ.get("HF_HUB_OFFLINE")
        yield lambda *arguments: CliRunner().invoke(app, ["demo", *map(str, arguments)])
        signal.signal(signal.SIGTERM, handler)
        assert os.environ.get("HF_HUB_OFFLINE") == offline

    def test_usage(self, invoke):
        answer = invoke()
        assert answer.exit_code == 2 and "Missing option '--model'" in answer.output
        for option, value in (("--port", "0"), ("--max-files", "0"), ("--max-file-mb", "0")):
            assert invoke("--model", "x", option, value).exit_code == 2

    def test_options_reach_the_server(self, invoke, monkeypatch):
        served = []
        monkeypatch.setattr(mirage_hf.demo, "serve_demo", served.append)
        assert invoke("--model", "x").stderr == ""
        assert served.pop() == DemoArguments("x")
        options = ("--revision", "main", "--device", "cpu", "--fake-label", "1", "--host", "0.0.0.0", "--port", 1)
        answer = invoke("--model", "x", *options, "--max-file-mb", 2, "--max-files", 3, "--max-megapixels", 4)
        assert served == [DemoArguments("x", "main", "cpu", "1", "0.0.0.0", 1, 2, 3, 4.0)]
        assert answer.stderr == "demo: whoever can reach 0.0.0.0:1 can use this page; it asks for no password\n"

    def test_a_model_that_is_not_there_is_a_line_and_exit_1(self, invoke, tmp_path):
        answer = invoke("--model", tmp_path)
        assert answer.exit_code == 1 and answer.stderr.startswith("demo: ") and len(answer.stderr.splitlines()) == 1

    def test_without_the_extra_a_line_names_it(self, invoke, monkeypatch):
        monkeypatch.setitem(sys.modules, "gradio", None)
        answer = invoke("--model", TINY)
        assert answer.exit_code == 1 and len(answer.stderr.splitlines()) == 1
        assert answer.stderr.endswith(": install the extra that it needs, `pip install mirage_hf[demo]`\n")


class TestSpace:
    def test_metadata(self):
        _, block, text = (SPACE / "README.md").read_text(encoding="utf-8").split("---\n", 2)
        stated = yaml.safe_load(block)
        assert stated["sdk"] == "gradio" and (SPACE / stated["app_file"]).is_file()
        assert stated["license"] == "apache-2.0" and stated["models"] and "MIRAGE_MODEL" in text
        setup = (ROOT / "setup.cfg").read_text(encoding="utf-8")
        least = re.search(r"gradio>=([\d.]+)", setup)[1]
        assert numbers(stated["sdk_version"]) >= numbers(least)
        assert f"Python :: {stated['python_version']}" in setup
        assert len(stated["short_description"]) <= 60  # the Hub's limit

    def test_requirements_are_extras_of_this_package(self):
        (line,) = (SPACE / "requirements.txt").read_text(encoding="utf-8").split()
        extras = re.fullmatch(r"mirage_hf\[(.*)\]", line)[1].split(",")
        setup = (ROOT / "setup.cfg").read_text(encoding="utf-8")
        assert "demo" in extras and all(f"\n{extra} =\n" in setup for extra in extras)

    def test_it_starts_with_the_model_that_its_variable_names(self):
        port = free_port()
        with started([sys.executable, SPACE / "app.py"], port, MIRAGE_MODEL=str(TINY)) as (process, folder):
            (row,) = Client(f"http://127.0.0.1:{port}", verbose=False).predict([handle_file(PHOTO)], api_name="/score")
            assert row["model"] == TINY.name and row["status"] == "ok"
            end(process, signal.SIGINT)
            assert [path for path in folder.rglob("*") if path.is_file()] == []

    def test_without_the_variable_a_line_says_so(self, monkeypatch):
        spec = importlib.util.spec_from_file_location("space_app", SPACE / "app.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.delenv("MIRAGE_MODEL", raising=False)
        with pytest.raises(SystemExit, match="app.py: set MIRAGE_MODEL to the detector's id on the Hub"):
            module.arguments()
        for name, value in (("MIRAGE_MODEL", "me/x"), ("MIRAGE_REVISION", "abc"), ("GRADIO_SERVER_NAME", "0.0.0.0")):
            monkeypatch.setenv(name, value)
        assert module.arguments() == DemoArguments("me/x", "abc", host="0.0.0.0")


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
