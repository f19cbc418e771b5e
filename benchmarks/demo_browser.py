"""Drives `mirage-hf demo` in real Chromium, headless: verdicts, maps, sliders, refusals, keyboard, phone, clipboard.

    python benchmarks/demo_browser.py

Each of `CHECKS` is a function that fails with an AssertionError; `pytest -m browser` runs them one by one. As a script
this runs all of them and stores screenshots and what was found under `benchmarks/results/demo`. Needs the extra `dev`
and Chromium (see `demo_visit.py`).
"""

import base64
import hashlib
import json
import platform
import time
from importlib.metadata import version

from demo_visit import (
    CONTRAST,
    DESKTOP,
    DROP,
    FAKE,
    FOCUS,
    MODEL,
    NEAR,
    PASTE,
    PHONE,
    PHOTO,
    ROOT,
    Visit,
    detections,
    give,
    overflow,
    visiting,
    walk,
)
from PIL import Image
from playwright.sync_api import expect

from mirage_hf import Detector
from mirage_hf.demo_answers import Change
from mirage_hf.detection import Detection

OUT = ROOT / "benchmarks" / "results" / "demo"
PAGE = ("demo.css", "demo.js", "demo_guard.py", "demo_html.py", "demo_page.py")


def verdicts(visit: Visit) -> None:
    """A real and a generated picture: the detector's verdicts and scores, and a map of each."""
    with visit.page() as page:
        give(page, PHOTO, FAKE)
        for number, found in enumerate(detections(PHOTO, FAKE)):
            card = page.locator("#results .card").nth(number)
            expect(card.locator(".verdict")).to_contain_text(str(found.verdict))
            expect(card.locator(".score")).to_contain_text(f"{found.p_fake:.3f}")
            page.locator("#picture input").nth(number).check()
            expect(page.locator("#metadata")).to_contain_text(str(found.sha256))
            picture = page.locator("#map img")
            expect(picture).to_be_visible()
            assert picture.evaluate("(image) => image.naturalWidth") >= 384
            expect(page.locator("#map figcaption")).to_contain_text("Where the model looked, not proof")
        page.get_by_role("button", name="About the model").click()
        expect(page.locator("#about")).to_contain_text(found.revision)
        expect(page.locator("#limits")).to_contain_text("must not be used to accuse anyone")


def broken(visit: Visit) -> None:
    """A file that was cut off gets its sentence, and the picture beside it its verdict."""
    path = visit.folder / "cut_off.jpg"
    path.write_bytes(PHOTO.read_bytes()[:3000])
    with visit.page() as page:
        give(page, path, PHOTO)
        expect(page.locator("#results .card").first).to_contain_text("The file is damaged.")
        expect(page.locator("#results .card").first).to_contain_text("not scored")
        (found,) = detections(PHOTO)
        expect(page.locator("#results .card").last.locator(".verdict")).to_contain_text(str(found.verdict))
        expect(page.locator("#map")).to_contain_text("No map")


def refused(visit: Visit) -> None:
    """50 MB are refused on their way, 17 files at once too, and a bomb by its header."""
    large, bomb = visit.folder / "large.jpg", visit.folder / "bomb.png"
    large.write_bytes(PHOTO.read_bytes() + bytes(50_000_000))
    Image.new("L", (12000, 12000)).save(bomb)
    with visit.page() as page:
        page.set_input_files("#upload input[type=file]", large)
        expect(page.get_by_test_id("toast-body")).to_contain_text("exceed the maximum allowed size of 20")
        expect(page.locator("#results .card")).to_have_count(0)
        page.set_input_files("#upload input[type=file]", [PHOTO] * 17)
        expect(page.locator("#results")).to_have_text("17 files are more than 16 at once: choose again.")
        give(page, PHOTO)
    with visit.page() as page:
        started = time.monotonic()
        give(page, bomb)
        assert time.monotonic() - started < 10
        expect(page.locator("#results .card")).to_contain_text("The picture is too large.")
        expect(page.locator("#results .card")).to_contain_text("12000x12000 is more than")


def sliders(visit: Visit) -> None:
    """Each slider, and all three, give the detector's score of the degraded picture; undone, it is as it was."""
    image, detector = Image.open(FAKE).convert("RGB"), Detector.from_pretrained(ROOT / MODEL)
    with visit.page() as page:
        give(page, FAKE)
        expect(page.locator("#changes tbody tr")).to_have_count(1)
        for slider, value, change in (
            ("quality", "40", Change(40)),
            ("factor", "0.5", Change(40, 0.5)),
            ("sigma", "1.5", Change(40, 0.5, 1.5)),
        ):
            page.locator(f"#{slider} input[type=range]").fill(value)
            expect(page.locator("#changes tbody tr").last).to_contain_text(change.words)
            wanted = detector.score(change(image)).p_fake
            expect(page.locator("#changes tbody tr").last.locator("td").first).to_have_text(f"{wanted:.3f}")
        page.locator("#reset").click()
        expect(page.locator("#changes tbody tr")).to_have_count(1)
        assert page.locator("#quality input[type=range]").input_value() == "100"


def keyboard(visit: Visit) -> None:
    """All of it by keys alone, with a visible focus at every stop."""
    with visit.page() as page:
        walk(page, "Click to upload or drop files")
        with page.expect_file_chooser() as chooser:
            page.keyboard.press("Enter")
        chooser.value.set_files([PHOTO, FAKE])
        expect(page.locator("#map img")).to_be_visible()
        walk(page, f"2: {FAKE.name}")
        page.keyboard.press("Space")
        (fake,) = detections(FAKE)
        expect(page.locator("#metadata")).to_contain_text(str(fake.sha256))
        walk(page, "range slider for JPEG quality")
        for _ in range(3):
            page.keyboard.press("ArrowLeft")
        expect(page.locator("#changes tbody tr").last).to_contain_text("JPEG 97")
        walk(page, "range slider for Blur")
        page.keyboard.press("ArrowRight")
        expect(page.locator("#changes tbody tr").last).to_contain_text("blur σ = 0.1, JPEG 97")
        walk(page, "Undo all three")
        page.keyboard.press("Enter")
        expect(page.locator("#changes tbody tr")).to_have_count(1)
        walk(page, "About the model")
        page.keyboard.press("Enter")
        expect(page.locator("#about")).to_be_visible()
        page.keyboard.press("Shift+Tab")
        assert page.evaluate(FOCUS)["name"] == "Undo all three"


def clipboard(visit: Visit) -> None:
    """A picture pasted by its keys, another one afterwards, and one dropped beside the field."""
    with visit.page(permissions=["clipboard-read", "clipboard-write"]) as page:
        scores = []
        for path in (PHOTO, FAKE):
            pixels = visit.folder / "pasted.png"
            Image.open(path).save(pixels)
            page.evaluate(PASTE, base64.b64encode(pixels.read_bytes()).decode())
            page.keyboard.press("Control+V")
            (found,) = detections(pixels)
            expect(page.locator("#results .score")).to_have_text(f"{found.p_fake:.3f} {kind(found)}")
            scores.append(found.p_fake)
        assert abs(scores[0] - scores[1]) > 0.1
        page.evaluate(DROP, base64.b64encode(PHOTO.read_bytes()).decode())
        expect(page.locator("#results .name")).to_have_text("dropped.jpg")


def kind(found: Detection) -> str:
    """What the page calls a score."""
    return "score of fake, not calibrated" if found.calibration_id is None else "calibrated probability of fake"


def phone(visit: Visit) -> None:
    """No scrolling sideways, on 390 and 320 pixels; texts stand out from what is behind them, light and dark."""
    for width, scheme in ((390, "light"), (390, "dark"), (320, "light")):
        with visit.page(PHONE | {"width": width}, color_scheme=scheme) as page:
            assert overflow(page) <= 0
            give(page, PHOTO, FAKE)
            expect(page.locator("#map img")).to_be_visible()
            page.locator("#sigma input[type=range]").fill("2")
            expect(page.locator("#changes tbody tr")).to_have_count(2)
            for name in ("About the model", "For programs"):
                page.get_by_role("button", name=name).click()
            expect(page.locator("#api")).to_contain_text(f'Client("{visit.server.address.rstrip("/")}")')
            assert overflow(page) <= 0, f"{width}: {overflow(page)} pixels too wide"
            assert page.evaluate(CONTRAST) == []


def hostile_names(visit: Visit) -> None:
    """A file's name is a text, whatever it says, and nothing of it is run."""
    path = visit.folder / "<img src=x onerror=document.title='run'>${document.title='run'}{{document.title}}.jpg"
    path.write_bytes(PHOTO.read_bytes())
    with visit.page() as page:
        give(page, path, FAKE)
        expect(page.locator("#map img")).to_be_visible()
        expect(page.locator("#picture")).to_contain_text(path.name)
        assert page.locator("#results img, #picture img").count() == 0 and "run" not in page.title()


def read_out(visit: Visit) -> None:
    """Verdicts appear inside one region that screen readers watch, and all controls have names."""
    with visit.page() as page:
        region = page.get_by_role("region", name="Verdicts").element_handle()
        give(page, PHOTO)
        assert region.get_attribute("aria-live") == "polite" and PHOTO.name in region.inner_text()
        expect(page.get_by_role("img", name="on a scale from 0, real, to 1, fake").first).to_be_visible()
        expect(page.get_by_role("img", name="The picture in gray")).to_be_visible()
        assert page.evaluate("document.documentElement.lang") != ""
        unnamed = page.locator("input:visible:not([aria-label])")
        assert unnamed.evaluate_all("(all) => all.filter((one) => !one.closest('label')).length") == 0


def silence(visit: Visit) -> None:
    """Neither the browser nor the server asks another host, nor could the page; and no check brought up an error."""
    with visit.page() as page:
        give(page, FAKE)
        expect(page.locator("#map img")).to_be_visible()
        blocked = page.evaluate(
            """() => new Promise((done) => {
                document.addEventListener("securitypolicyviolation", (event) => done(event.blockedURI));
                fetch("http://name.invalid/").catch(() => {});
            })"""
        )
        assert "name.invalid" in blocked
    assert visit.outside() == [] and visit.requests
    assert "Traceback" not in visit.server.errors.read_text()
    assert visit.server.hosts() and visit.server.hosts() <= {*NEAR, "0.0.0.0", ""}, visit.server.hosts()


CHECKS = (verdicts, broken, refused, sliders, keyboard, clipboard, phone, hostile_names, read_out, silence)


def screenshots(visit: Visit) -> dict[str, dict[str, object]]:
    """The page with two pictures, on a desk and on a phone."""
    stored: dict[str, dict[str, object]] = {}
    for name, size in (("desktop", DESKTOP), ("phone", PHONE)):
        with visit.page(size) as page:
            give(page, FAKE, PHOTO)
            expect(page.locator("#map img")).to_be_visible()
            page.locator("#quality input[type=range]").fill("60")
            expect(page.locator("#changes tbody tr")).to_have_count(2)
            page.mouse.move(0, 0)
            path = OUT / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=path, full_page=True)
            Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
            image = Image.open(path)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            stored[path.name] = {"width": image.width, "height": image.height, "sha256": digest}
    return stored


def main() -> None:
    seconds: dict[str, float] = {}
    with visiting() as visit:
        for check in CHECKS:
            started = time.monotonic()
            check(visit)
            seconds[check.__name__] = round(time.monotonic() - started, 1)
            print(f"{check.__name__}: {seconds[check.__name__]} s", flush=True)
        pictures = screenshots(visit)
        browser = visit.browser.version
        asked = {"browser": sorted({url.split("/")[2].split(":")[0] for url in visit.requests if "://" in url})}
        asked["server"] = sorted(visit.server.hosts())
    found = [
        {"file": path.name, "p_fake": round(found.p_fake or 0.0, 6), "verdict": found.verdict}
        for path, found in zip((PHOTO, FAKE), detections(PHOTO, FAKE), strict=True)
    ]
    packages = ("mirage_hf", "gradio", "playwright", "torch", "transformers", "pillow")
    result = {
        "command": "python benchmarks/demo_browser.py",
        "versions": {"chromium": browser, "python": platform.python_version()} | {p: version(p) for p in packages},
        "checks": {check.__name__: {"says": check.__doc__, "seconds": seconds[check.__name__]} for check in CHECKS},
        "verdicts": found,
        "hosts": asked,
        "page": {name: hashlib.sha256((ROOT / "mirage_hf" / name).read_bytes()).hexdigest() for name in PAGE},
        "screenshots": pictures,
    }
    (OUT / "checks.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
