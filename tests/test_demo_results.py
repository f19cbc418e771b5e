"""The stored evidence of the demo is that of this demo and this detector."""

import hashlib
import json
from importlib import resources
from pathlib import Path

import pytest
from demos import IMAGES, ROOT, TINY
from PIL import Image

from mirage_hf import Detector

FOLDER = ROOT / "benchmarks" / "results" / "demo"
RESULT = json.loads((FOLDER / "checks.json").read_text(encoding="utf-8"))


def test_every_check_was_run():
    script = (ROOT / "benchmarks" / "demo_browser.py").read_text(encoding="utf-8")
    names = script.partition("CHECKS = (")[2].partition(")")[0].split(", ")
    assert list(RESULT["checks"]) == [name.strip(",\n ") for name in names] and len(names) == 10
    for name, check in RESULT["checks"].items():
        assert f'def {name}(visit: Visit) -> None:\n    """{check["says"]}"""' in script
        assert 0 < check["seconds"] < 60
    assert Path(RESULT["command"].split()[1]).name == "demo_browser.py"


def test_the_page_is_the_one_that_was_checked():
    for name, digest in RESULT["page"].items():
        assert hashlib.sha256(resources.files("mirage_hf").joinpath(name).read_bytes()).hexdigest() == digest, (
            f"{name} changed: run `python benchmarks/demo_browser.py` again"
        )
    assert set(RESULT["page"]) == {"demo.css", "demo.js", "demo_guard.py", "demo_html.py", "demo_page.py"}


def test_verdicts_are_the_detector_s():
    detector = Detector.from_pretrained(TINY)
    assert len(RESULT["verdicts"]) == 2
    for stored in RESULT["verdicts"]:
        found = detector.score(IMAGES / stored["file"])
        assert (found.verdict, found.p_fake) == (stored["verdict"], pytest.approx(stored["p_fake"], abs=1e-3))


def test_only_the_loopback_was_asked():
    assert RESULT["hosts"]["browser"] == ["127.0.0.1"]
    assert set(RESULT["hosts"]["server"]) == {"127.0.0.1"}


def test_screenshots():
    assert {name: shot["width"] for name, shot in RESULT["screenshots"].items()} == {
        "desktop.png": 1280,
        "phone.png": 390,
    }
    for name, shot in RESULT["screenshots"].items():
        data = (FOLDER / name).read_bytes()
        assert len(data) < 300_000 and hashlib.sha256(data).hexdigest() == shot["sha256"]
        image = Image.open(FOLDER / name)
        assert image.size == (shot["width"], shot["height"]) and image.height > 1000
        assert len(image.convert("RGB").getcolors(1 << 24)) > 50
