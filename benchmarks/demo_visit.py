"""A running `mirage-hf demo`, a headless Chromium that visits it, and a record of whom both of them ask.

For `benchmarks/demo_browser.py`. Chromium is that of Debian (`apt-get install chromium`), or CHROMIUM names another.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, expect, sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # from a checkout, installed or not

from mirage_hf import Detector
from mirage_hf.detection import Detection

ROOT = Path(__file__).resolve().parents[1]
MODEL = "benchmarks/minibench/mirage-tiny"
IMAGES = ROOT / "benchmarks" / "minibench" / "carried" / "images" / "test"
PHOTO, FAKE = (IMAGES / f"gcompris-erase-calf_0_{kind}.jpg" for kind in ("photo", "realcugan"))
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
# Names of other hosts can't be resolved, so that whatever asks for one is seen to fail, and reaches nobody.
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split() + ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
NEAR = ("127.0.0.1", "localhost", "::1")
WAIT = 30_000  # milliseconds

# Put into the server's process: notes every host that it connects to or looks up.
WATCHER = """
import os, sys
def note(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        asked = arguments[1] if event in ("socket.connect", "socket.sendto") else arguments[0]
        host = asked[0] if isinstance(asked, tuple) else asked
        if not (event == "socket.connect" and not isinstance(asked, tuple)):
            with open(os.environ["DEMO_HOSTS"], "a") as file:
                file.write(f"{host.decode() if isinstance(host, bytes) else host or ''}\\n")
sys.addaudithook(note)
"""
# Puts a picture on the clipboard, and presses the keys that paste.
PASTE = """async (data) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    await navigator.clipboard.write([new ClipboardItem({"image/png": new Blob([bytes], {type: "image/png"})})]);
}"""
FOCUS = """() => {
    const one = document.activeElement, style = getComputedStyle(one);
    return {name: one.getAttribute("aria-label") || one.innerText || one.closest("label")?.innerText || "",
            tag: one.tagName.toLowerCase() + (one.type ? ":" + one.type : ""),
            outline: style.outlineStyle === "none" ? 0 : parseFloat(style.outlineWidth)};
}"""
CONTRAST = """() => {
    const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = (colour) => {
        const [r, g, b] = colour.map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const faint = [];
    for (const one of document.querySelectorAll(".gradio-container *")) {
        const said = [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
        if (!said || !one.offsetParent) continue;
        let below = [255, 255, 255];
        for (let at = one; at; at = at.parentElement) {
            const colour = numbers(getComputedStyle(at).backgroundColor);
            if (colour.length < 4 || colour[3] > 0.5) { below = colour; break; }
        }
        const pair = [light(numbers(getComputedStyle(one).color)), light(below)].sort((a, b) => b - a);
        const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
        if (ratio < 4.5) faint.push(`${ratio.toFixed(2)} ${one.textContent.trim().slice(0, 60)}`);
    }
    return faint;
}"""
DROP = """(data) => {
    const carrier = new DataTransfer();
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    carrier.items.add(new File([bytes], "dropped.jpg", {type: "image/jpeg"}));
    const options = {dataTransfer: carrier, bubbles: true, cancelable: true};
    document.getElementById("limits").dispatchEvent(new DragEvent("drop", options));
}"""


@dataclass
class Server:
    """A running demo, whom it asked, and what it wrote to stderr."""

    address: str
    log: Path
    errors: Path

    def hosts(self) -> set[str]:
        """Hosts that the process connected to or looked up."""
        return set(self.log.read_text().split()) if self.log.exists() else set()


@dataclass
class Visit:
    """A browser at the demo, and whom it asked."""

    browser: Browser
    server: Server
    folder: Path
    requests: set[str] = field(default_factory=set)

    @contextmanager
    def page(self, size: dict[str, int] = DESKTOP, **options: Any) -> Iterator[Page]:
        """A fresh visitor's page."""
        context = self.browser.new_context(viewport=size, locale="en", **options)  # type: ignore[arg-type]
        context.on("request", lambda request: self.requests.add(request.url))
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on("filechooser", lambda chooser: None)  # Chromium is told to pass choosers on, which takes it a while
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(self.server.address)
        page.locator("#upload button").first.wait_for()
        page.wait_for_function("document.getElementById('results')?.getAttribute('aria-live') === 'polite'")
        try:
            yield page
            assert problems == [], problems
        finally:
            context.close()

    def outside(self) -> list[str]:
        """Requests of the browser to other hosts."""
        hosts = {urlsplit(url).hostname for url in self.requests if not url.startswith(("data:", "blob:"))}
        return sorted(str(host) for host in hosts if host not in NEAR)


@contextmanager
def running(model: str = MODEL) -> Iterator[Server]:
    """`mirage-hf demo` as a process, watched."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sitecustomize.py").write_text(WATCHER)
        log, errors = Path(folder) / "hosts", Path(folder) / "errors"
        settings = os.environ | {"PYTHONPATH": folder, "DEMO_HOSTS": str(log), "TMPDIR": folder}
        command = [Path(sys.executable).with_name("mirage-hf"), "demo", "--model", model, "--port", str(port)]
        with errors.open("w") as file:
            process = subprocess.Popen(command, cwd=ROOT, env=settings, stdout=subprocess.PIPE, stderr=file, text=True)
        try:
            assert process.stdout is not None and "127.0.0.1" in process.stdout.readline()
            yield Server(f"http://127.0.0.1:{port}/", log, errors)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            finally:
                process.kill()


@contextmanager
def visiting() -> Iterator[Visit]:
    """A demo and a browser."""
    expect.set_options(timeout=WAIT)
    with tempfile.TemporaryDirectory() as folder, running() as server, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield Visit(browser, server, Path(folder))
        finally:
            browser.close()


def give(page: Page, *paths: Path) -> None:
    """Hand files over, and wait for the cards."""
    page.set_input_files("#upload input[type=file]", list(paths))
    expect(page.locator("#results .card .name")).to_have_text([path.name for path in paths])


def walk(page: Page, name: str) -> None:
    """Tab on to what has that name."""
    for _ in range(30):
        page.keyboard.press("Tab")
        focused = page.evaluate(FOCUS)
        assert focused["tag"] == "body" or focused["outline"] >= 2, focused
        if focused["name"].startswith(name):
            return
    raise AssertionError(f"no {name!r} among 30 stops")


def overflow(page: Page) -> int:
    """Pixels by which a page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def detections(*paths: Path) -> list[Detection]:
    """What the detector itself says."""
    return Detector.from_pretrained(ROOT / MODEL, sha256=True).score(list(paths))
