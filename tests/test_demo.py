"""The demo's server: its API, its limits, its silence towards other hosts, and what it leaves behind."""

import json
import os
import re
import socket
import threading
import time
from pathlib import Path

import httpx
import jsonschema
import pytest
from demos import FAKE, PHOTO, TINY, free_port, outside_requests, write_awkward_files
from gradio_client import Client, handle_file

import mirage_hf
import mirage_hf.demo
from mirage_hf import Detector
from mirage_hf.demo import DemoArguments, delete_older, running_demo

SCHEMA = json.loads((Path(mirage_hf.__file__).parent / "detection.schema.json").read_text())


@pytest.fixture(scope="module")
def demo():
    """Address of a running demo, which takes files of 1 MiB."""
    before = settings()
    arguments = DemoArguments(str(TINY), port=free_port(), max_file_mb=1, max_files=5)
    with outside_requests() as asked, running_demo(arguments) as address:
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        yield address.rstrip("/")
        assert asked == []  # from its start to its end, whatever the tests sent
    assert not folder.exists()
    assert settings() == before
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", arguments.port)) != 0
    assert not [thread for thread in threading.enumerate() if "sweep" in thread.name]


@pytest.fixture(scope="module")
def client(demo):
    return Client(demo, verbose=False)


@pytest.fixture(scope="module")
def detector():
    return Detector.from_pretrained(TINY, sha256=True)


def settings() -> dict[str, str | None]:
    """What the demo changes in the environment."""
    names = ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "no_proxy", "NO_PROXY")
    return {name: os.environ.get(name) for name in names}


def upload(demo: str, path: Path) -> httpx.Response:
    return httpx.post(f"{demo}/gradio_api/upload", files={"files": (path.name, path.read_bytes())})


def uploads() -> set[Path]:
    return {path for path in Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*") if path.is_file()}


class TestApi:
    def test_rows_are_the_detector_s_in_order(self, client, detector, tmp_path):
        awkward = write_awkward_files(tmp_path)
        for paths in ([FAKE, awkward["cut_off.jpg"], PHOTO, awkward["text.png"], awkward["bomb.png"]], [PHOTO], []):
            rows = client.predict([handle_file(path) for path in paths], api_name="/score")
            wanted = [found.to_dict() | {"path": None} for found in detector.score(paths)]
            assert [row.pop("p_fake") for row in rows] == pytest.approx(
                [row.pop("p_fake") for row in wanted], abs=1e-6
            )
            assert rows == wanted

    def test_rows_follow_the_schema(self, client, tmp_path):
        paths = [PHOTO, write_awkward_files(tmp_path)["tiny.png"]]
        rows = client.predict([handle_file(path) for path in paths], api_name="/score")
        assert [row["status"] for row in rows] == ["ok", "too_small"]
        for row in rows:
            jsonschema.validate(row, SCHEMA)

    def test_it_is_the_only_endpoint_that_is_offered(self, demo):
        offered = httpx.get(f"{demo}/gradio_api/info").json()
        assert list(offered["named_endpoints"]) == ["/score"] and offered["unnamed_endpoints"] == {}

    def test_the_shell_commands_of_the_page(self, demo, detector):
        (path,) = upload(demo, PHOTO).json()
        sent = {"data": [[{"path": path, "orig_name": "photo.jpg", "meta": {"_type": "gradio.FileData"}}]]}
        event = httpx.post(f"{demo}/gradio_api/call/score", json=sent).json()["event_id"]
        answer = httpx.get(f"{demo}/gradio_api/call/score/{event}").text
        ((row,),) = json.loads(answer.partition("data: ")[2])
        assert row["p_fake"] == pytest.approx(detector.score(PHOTO).p_fake, abs=1e-6)

    def test_too_many_files(self, client):
        with pytest.raises(Exception, match="6 files are more than 5 at once"):
            client.predict([handle_file(PHOTO)] * 6, api_name="/score")


class TestLimits:
    def test_a_file_too_large_is_refused_on_its_way_and_not_kept(self, demo, tmp_path):
        large = tmp_path / "large.jpg"
        large.write_bytes(PHOTO.read_bytes() + bytes(2 << 20))
        before = uploads()
        answer = upload(demo, large)
        assert answer.status_code == 413 and "maximum allowed size" in answer.text
        assert uploads() == before
        small = tmp_path / "small.jpg"
        small.write_bytes(PHOTO.read_bytes() + bytes(500_000))
        assert upload(demo, small).status_code == 200

    @pytest.mark.parametrize("path", ["/etc/passwd", str(PHOTO), "../../etc/passwd", "nowhere.jpg"])
    def test_files_that_were_not_uploaded_are_not_read(self, demo, path):
        answer = call(demo, [{"path": path, "meta": {"_type": "gradio.FileData"}}])
        assert "event: error" in answer and "p_fake" not in answer

    def test_requests_without_sense(self, demo):
        for sent in (None, [], "x", [1], [{"path": 3}], {"path": "a"}, [[]]):
            answer = call(demo, sent)
            assert answer.endswith("data: [[]]\n\n") if sent in (None, []) else "event: error" in answer

    def test_a_long_request(self, demo):
        answer = httpx.post(f"{demo}/gradio_api/call/score", json={"data": ["x" * (2 << 20)]})
        assert answer.status_code == 413

    def test_limits_below_1(self):
        with pytest.raises(ValueError, match="`max_files` must be at least 1, got 0"):
            DemoArguments("x", max_files=0)


def call(demo: str, files) -> str:
    """The stream that answers a call."""
    answer = httpx.post(f"{demo}/gradio_api/call/score", json={"data": [files]})
    if answer.status_code != 200:
        return f"event: error {answer.text}"
    return httpx.get(f"{demo}/gradio_api/call/score/{answer.json()['event_id']}").text


class TestSilence:
    ADDRESSES = ("http://name.invalid/a.jpg", "https://name.invalid/a.jpg", " HTTPS://name.invalid/a.jpg")

    @pytest.mark.parametrize("address", ADDRESSES)
    def test_addresses_are_not_fetched(self, demo, address):
        assert httpx.get(f"{demo}/gradio_api/file={address}").status_code == 403
        sent = [{"path": address, "meta": {"_type": "gradio.FileData"}}]
        assert "fetches nothing from the web" in call(demo, sent)

    def test_gradio_s_history_of_runs_which_it_keeps_on_the_hub_is_off(self, demo):
        assert httpx.get(f"{demo}/config").json()["run_history"] is False
        assert httpx.get(f"{demo}/gradio_api/run-history/buckets").status_code == 404
        assert httpx.get(f"{demo}/gradio_api/info").status_code == 200

    def test_every_answer_tells_the_browser_to_ask_nobody_else(self, demo):
        for path in ("", "/config", "/gradio_api/info", "/theme.css", "/nowhere", "/gradio_api/file=http://a.b"):
            policy = httpx.get(f"{demo}{path}").headers["content-security-policy"]
            assert policy.startswith("default-src 'self';")
            assert not re.search(r"https?:|\*", policy)

    def test_the_page_s_styles_name_no_other_host(self, demo):
        config = httpx.get(f"{demo}/config").json()
        assert not [sheet for sheet in config["stylesheets"] if "//" in sheet]
        assert not re.search(r"url\(['\"]?https?:|@import", httpx.get(f"{demo}/theme.css").text + config["css"])

    def test_it_listens_on_the_loopback_alone(self, demo):
        port = int(demo.rpartition(":")[2])
        listening = [
            line.split()[1]
            for table in ("tcp", "tcp6")
            for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]
            if line.split()[3] == "0A" and int(line.split()[1].rpartition(":")[2], 16) == port
        ]
        assert listening == [f"0100007F:{port:04X}"]


class TestDeleting:
    def test_older_files_and_their_folders_go(self, tmp_path):
        for name in ("a/old.jpg", "b/deep/old.jpg", "old"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"x")
        (tmp_path / "link").symlink_to(PHOTO)
        delete_older(tmp_path, 60)
        assert (tmp_path / "a/old.jpg").exists() and (tmp_path / "old").exists()
        delete_older(tmp_path, -1)  # as if all were older
        delete_older(tmp_path, -1)  # a folder is younger than what was deleted from it
        assert list(tmp_path.iterdir()) == [] and PHOTO.exists()

    def test_uploads_go_while_the_server_runs(self, tmp_path, monkeypatch):
        monkeypatch.setattr(mirage_hf.demo, "SWEEP", 0.05)
        monkeypatch.setattr(mirage_hf.demo, "KEPT", 0.5)
        with mirage_hf.demo._swept(tmp_path):
            (tmp_path / "a").mkdir()
            (tmp_path / "a" / "picture.jpg").write_bytes(b"x")
            time.sleep(0.2)
            assert list(tmp_path.iterdir()) == [tmp_path / "a"]
            until = time.monotonic() + 20
            while list(tmp_path.iterdir()) and time.monotonic() < until:
                time.sleep(0.05)
            assert list(tmp_path.iterdir()) == []


class TestStart:
    def test_a_port_that_is_taken(self, demo):
        port = int(demo.rpartition(":")[2])
        with pytest.raises(OSError, match=str(port)), running_demo(DemoArguments(str(TINY), port=port)):
            pass

    def test_a_model_that_is_not_there(self, tmp_path):
        before = settings()
        with pytest.raises(OSError), running_demo(DemoArguments(str(tmp_path / "nothing"), port=free_port())):
            pass
        assert settings() == before
