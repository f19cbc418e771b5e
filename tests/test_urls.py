"""Images from the web, here a server on this machine: capped, and a status for whatever goes wrong."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mirage_hf.image_io import UnreadableImage
from mirage_hf.urls import fetch, is_url

DATA = bytes(range(256)) * 40


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/go/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/go/"))
            self.end_headers()
            return
        if self.path == "/loop":
            self.send_response(302)
            self.send_header("Location", "/loop")
            self.end_headers()
            return
        if self.path != "/image" and self.path != "/slow":
            self.send_error(404)
            return
        self.send_response(200)
        self.end_headers()
        if self.path == "/image":
            self.wfile.write(DATA)
        for _ in range(20 if self.path == "/slow" else 0):
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.1)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_bytes(server):
    assert fetch(f"{server}/image") == DATA
    assert fetch(f"{server}/go//image") == DATA
    assert fetch(f"{server}/image", max_bytes=len(DATA)) == DATA


@pytest.mark.parametrize(
    "path, options, status, match",
    [
        ("/image", {"max_bytes": len(DATA) - 1}, "too_large", "more than 10239 bytes"),
        ("/nothing", {}, "not_found", "the server answers 404"),
        ("/slow", {"timeout": 0.5}, "not_found", "not there after 0.5 s"),
        ("/go/ftp://127.0.0.1/x", {}, "unsupported", "redirected to ftp"),
        ("/go/file:///etc/hosts", {}, "not_found", "302.*file.* is not allowed"),
        ("/loop", {}, "not_found", "the server answers 302.* infinite loop"),
    ],
)
def test_what_goes_wrong_has_a_status(server, path, options, status, match):
    with pytest.raises(UnreadableImage, match=match) as error:
        fetch(server + path, **options)
    assert error.value.status == status and "\n" not in str(error.value)


def test_no_server_and_no_address(server):
    with pytest.raises(UnreadableImage, match="not fetched") as error:
        fetch("http://127.0.0.1:9/x", timeout=2)
    assert error.value.status == "not_found"
    for address in ("file:///etc/hosts", "ftp://127.0.0.1/a", "image.png"):
        assert not is_url(address)
        with pytest.raises(UnreadableImage, match="not an http") as error:
            fetch(address)
        assert error.value.status == "unsupported"
    assert is_url("HTTPS://example.org/a.png")
