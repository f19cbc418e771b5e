"""What the demo's page shows: verdicts in words, every text escaped, detectors of all kinds."""

import base64
import html
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import torch
from demos import FAKE, PHOTO, TINY, write_awkward_files
from PIL import Image, PngImagePlugin
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessorPil

from mirage_hf import Detector
from mirage_hf.calibration import Calibration
from mirage_hf.demo_answers import Answers, Change
from mirage_hf.demo_html import (
    CREDENTIALS,
    STATUSES,
    about_html,
    api_template,
    credentials_html,
    intro_html,
    safe,
    scale_html,
)
from mirage_hf.demo_page import DemoEvents, build_page
from mirage_hf.description import describe_detector
from mirage_hf.image_io import ImageStatus

CALIBRATION = Calibration(2.0, 0.3, 0.5, 0.6, 0.05, 0.1, 0.55, 0.9, [], 30, 40, "images")
HOSTILE = "<img src=x onerror=alert(1)>${alert(2)}{{alert 3}}`\\\"'&\u202e\n.jpg"


class Reader(HTMLParser):
    """The elements of a piece of HTML, with their attributes, and its texts."""

    def __init__(self, markup: str):
        super().__init__()
        self.elements, self.texts = [], []
        self.feed(markup)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


def words(markup: str) -> str:
    return " ".join(" ".join(Reader(markup).texts).split())


def uncalibrated() -> Detector:
    detector = Detector.from_pretrained(TINY, sha256=True)
    detector.calibration, detector.threshold = None, 0.67
    return detector


@pytest.fixture(scope="module")
def plain():
    return DemoEvents(Answers(uncalibrated()), Path("/"), 16)


@pytest.fixture(scope="module")
def calibrated():
    detector = uncalibrated()
    detector.calibration, detector.threshold = CALIBRATION, CALIBRATION.threshold
    return DemoEvents(Answers(detector), Path("/"), 16)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign")
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    config.id2label = {0: "AI-generated", 1: "Nature"}
    ResNetForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


def sent(*paths, name=None):
    return [{"path": str(path), "orig_name": name or Path(path).name} for path in paths]


class TestVerdicts:
    def test_in_words_in_order_with_the_detector_s_numbers(self, plain, tmp_path):
        awkward = write_awkward_files(tmp_path)
        paths = [FAKE, awkward["bomb.png"], PHOTO]
        _, scored, shown, radio, details, *sliders = plain.score_on_page(sent(*paths))
        assert [one.detection for one in scored] == [
            found.__class__(**found.to_dict() | {"path": Path(found.path).name})
            for found in plain.answers.detector.score(paths)
        ]
        cards = shown.split('<li class="card">')[1:]
        assert [re.search('class="verdict ([a-z]+)"', card)[1] for card in cards] == ["fake", "none", "real"]
        fake, bomb, real = map(words, cards)
        assert f"{scored[0].detection.p_fake:.3f} score of fake, not calibrated" in fake
        assert "takes this picture for AI-generated" in fake and "for a real photograph" in real
        assert "The picture is too large." in bomb and "9500x9500 is more than" in bomb
        assert radio.choices == [
            (f"1: {FAKE.name} (fake)", 0),
            ("2: bomb.png (not scored)", 1),
            (f"3: {PHOTO.name} (real)", 2),
        ]
        assert (radio.value, radio.visible, details.visible, sliders) == (0, True, True, [100, 1.0, 0.0])

    def test_one_picture_needs_no_choice_and_none_no_details(self, plain):
        assert plain.score_on_page(sent(PHOTO))[3].visible is False
        _, scored, _, _, details, *_ = plain.score_on_page(None)
        assert scored == [] and details.visible is False and plain.show(scored, None, 100, 1.0, 0.0) == ("",) * 4
        assert plain.change([], None, 50, 1.0, 0.0) == ""

    def test_too_many_pictures_get_a_sentence_and_the_field_is_free_again(self, plain):
        field, scored, shown, radio, details, *_ = plain.score_on_page(sent(PHOTO) * 17)
        assert words(shown) == "17 files are more than 16 at once: choose again."
        assert (field, scored, radio.value, radio.visible, details.visible) == (None, [], None, False, False)
        assert plain.score_on_page(sent(PHOTO) * 16)[4].visible

    def test_a_calibrated_detector_may_be_unsure_and_shows_its_band(self, calibrated):
        _, scored, shown, *_ = calibrated.score_on_page(sent(FAKE, PHOTO))
        assert [one.detection.verdict for one in scored] == ["unsure", "real"]
        assert "Too close to call" in shown and "calibrated probability of fake" in shown
        (band, *_), elements = re.findall(r'class="band" style="(.*?)"', shown), Reader(shown).elements
        assert band == "left:55.00%;width:35.00%"
        spoken = [attributes["aria-label"] for _, attributes in elements if attributes.get("role") == "img"]
        assert spoken[0].startswith(f"{scored[0].detection.p_fake:.3f} on a scale from 0, real, to 1, fake")
        assert spoken[0].endswith("threshold 0.600, unsure from 0.550 to 0.900")
        mark = re.findall(r'class="mark" style="left:([\d.]+)%"', shown)
        assert [float(left) for left in mark] == [round(100 * one.detection.p_fake, 2) for one in scored]

    def test_the_band_holds_a_threshold_that_was_put_elsewhere(self, calibrated):
        (found,) = calibrated.answers.detector.score([FAKE])
        for threshold, style in ((0.4, "left:40.00%;width:50.00%"), (0.95, "left:55.00%;width:40.00%")):
            assert f'class="band" style="{style}"' in scale_html(replace(found, threshold=threshold), CALIBRATION)

    def test_every_status_has_its_sentence(self):
        assert STATUSES.keys() <= {status.value for status in ImageStatus}
        assert len({*STATUSES.values()}) == len(STATUSES)


class TestDetails:
    def test_of_a_picture(self, plain):
        _, scored, *_ = plain.score_on_page(sent(PHOTO, FAKE))
        heatmap, changes, facts, credentials = plain.show(scored, 1, 100, 1.0, 0.0)
        ((image, drawn),) = [item for item in Reader(heatmap).elements if item[0] == "img"]
        assert image and drawn["src"].startswith("data:image/jpeg;base64,") and "orange" in drawn["alt"]
        assert "Where the model looked, not proof." in words(heatmap)
        assert "The model saw 192 × 192 of 192 × 192 pixels." in words(heatmap)
        assert f"{scored[1].detection.p_fake:.3f}" in changes and "Move a slider" in changes
        assert scored[1].detection.sha256 in facts and "no EXIF" in facts
        ((_, small),) = [item for item in Reader(facts).elements if item[0] == "img"]
        data = base64.b64decode(small["src"].removeprefix("data:image/jpeg;base64,"))
        wanted = Image.open(FAKE).convert("RGB").resize((160, 160))
        assert np.abs(np.asarray(Image.open(io.BytesIO(data)), dtype=float) - np.asarray(wanted)).mean() < 5
        assert "None. Most pictures carry none" in credentials

    def test_of_a_picture_without_a_score(self, plain, tmp_path):
        _, scored, *_ = plain.score_on_page(sent(write_awkward_files(tmp_path)["cut_off.jpg"]))
        heatmap, changes, facts, _ = plain.show(scored, 0, 100, 1.0, 0.0)
        assert words(heatmap) == "No map: a picture that was not scored has no map."
        assert words(changes) == "A picture that was not scored can't be degraded."
        assert "JPEG" in facts and "<img" not in facts

    def test_sliders_give_the_detector_s_score_of_the_degraded_picture(self, plain):
        _, scored, *_ = plain.score_on_page(sent(PHOTO, FAKE))
        wanted = plain.answers.detector.score(Change(40, 0.5, 1.5)(Image.open(FAKE).convert("RGB")))
        shown = plain.change(scored, 1, 40, 0.5, 1.5)
        assert f"▼ blur σ = 1.5, size × 0.5, JPEG 40 {wanted.p_fake:.3f}" in words(shown)
        assert f"▽ as it came {scored[1].detection.p_fake:.3f}" in words(shown)
        marks = re.findall(r'class="mark" style="left:([\d.]+)%">(.)', shown)
        assert marks == [
            (f"{100 * scored[1].detection.p_fake:.2f}", "▽"),
            (f"{100 * wanted.p_fake:.2f}", "▼"),
        ]
        assert abs(wanted.p_fake - scored[1].detection.p_fake) > 0.01

    def test_a_file_that_is_gone(self, plain, tmp_path):
        path = tmp_path / "a.jpg"
        path.write_bytes(PHOTO.read_bytes())
        _, scored, *_ = plain.score_on_page(sent(path))
        path.unlink()
        heatmap, changes, facts, credentials = plain.show(scored, 0, 50, 1.0, 0.0)
        assert words(heatmap) == "No map: there is no picture to map."
        assert "No such file" in changes and scored[0].detection.sha256 in facts and "can't be read" in credentials


class TestEscaping:
    def test_names_and_texts_of_files(self, plain, tmp_path):
        path = tmp_path / "a.png"
        info = PngImagePlugin.PngInfo()
        info.add_text("Comment", HOSTILE)
        pixels = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, pnginfo=info)
        awkward = write_awkward_files(tmp_path)["text.png"]
        _, scored, shown, radio, *_ = plain.score_on_page(sent(path, awkward, name=HOSTILE))
        for markup in (shown, plain.show(scored, 0, 50, 1.0, 0.0)[2]):
            assert not [attributes for _, attributes in Reader(markup).elements if attributes.get("onerror")]
            assert not re.search(r"\$\{|\{\{|`", markup)
            assert "<img src=x onerror=alert(1)>${alert(2)}{{alert 3}}`\\\"'& .jpg" in words(markup)
        assert "\u202e" not in shown and "\n" not in radio.choices[0][0]

    def test_safe_is_read_as_what_it_was(self):
        text = "<a href='x'>\"&amp;${b}{{c}}`\\"
        assert html.unescape(safe(text)) == text
        assert not set(safe(text)) & set("<>\"'{}$`\\")

    def test_checkpoints_and_credentials(self):
        facts = describe_detector(str(TINY)) | {"model": HOSTILE, "revision": HOSTILE, "calibration": None}
        found = {"state": "untrusted", "note": None, "claim_generator": HOSTILE, "signer": HOSTILE}
        found |= {"ai_generated": True, "digital_source_types": [HOSTILE]}
        for markup in (about_html(facts), intro_html(HOSTILE, 16, 20), credentials_html(found)):
            assert {tag for tag, _ in Reader(markup).elements} <= {
                "table",
                "tbody",
                "tr",
                "th",
                "td",
                "p",
                "h1",
                "strong",
            }
            assert not re.search(r"\$\{|\{\{", markup)

    def test_the_api_s_template_asks_for_the_address_alone(self):
        assert set(re.findall(r"\$\{.*?\}", api_template())) == {"${window.location.origin}"}


class TestCredentials:
    @pytest.mark.parametrize("state", CREDENTIALS)
    def test_states(self, state):
        found = {
            "state": state,
            "note": "why",
            "claim_generator": "Cam",
            "signer": "Sue",
            "digital_source_types": None,
        }
        told = words(credentials_html(found | {"ai_generated": False}))
        assert told.startswith(CREDENTIALS[state]) and told.endswith("They never change the score.")
        assert "Signed by Sue" in told and "They say nothing of a model" in told

    def test_without_the_package(self):
        assert words(credentials_html({"state": "unavailable", "note": "install it"})) == "Not read here: install it"


class TestDetectors:
    def test_a_foreign_classifier_is_scored_without_a_map(self, foreign):
        events = DemoEvents(Answers(Detector.from_pretrained(foreign)), Path("/"), 16)
        _, scored, shown, *_ = events.score_on_page(sent(PHOTO))
        wanted = Detector.from_pretrained(foreign).score(PHOTO)
        assert scored[0].detection.p_fake == wanted.p_fake and "not calibrated" in shown
        heatmap, changes, *_ = events.show(scored, 0, 50, 1.0, 0.0)
        assert "this detector has no CLIP vision encoder" in words(heatmap) and "JPEG 50" in changes
        assert "none: scores order pictures" in words(about_html(describe_detector(foreign)))

    def test_what_is_said_of_a_calibration(self):
        facts = describe_detector(str(TINY)) | {"calibration": CALIBRATION.to_dict()}
        told = words(about_html(facts))
        assert "threshold 0.600, unsure from 0.550 to 0.900; on 30 real and 40 fake pictures (images)" in told

    def test_a_page_of_each(self, foreign, plain):
        for model in (foreign, str(TINY)):
            page = build_page(plain, describe_detector(model), 20)
            config = page.get_config_file()
            public = [one["api_name"] for one in config["dependencies"] if one["api_visibility"] == "public"]
            assert public == ["score"]
            limited = [one for one in page.fns.values() if one.concurrency_id == "detector"]
            assert len(limited) == 7 and all(one.concurrency_limit == 1 for one in limited)


@pytest.mark.parametrize(
    "uploads", [[1], "x", {"path": "/a"}, [{"path": "/tmp/../etc/passwd"}], [{"path": "/tmp/\0"}]]
)
def test_what_is_no_upload(plain, tmp_path, uploads):
    events = DemoEvents(plain.answers, tmp_path, 2)
    with pytest.raises(gr.Error, match="files: "):
        events.uploaded(uploads)


def test_names_that_are_no_text(plain):
    found = plain.uploaded([{"path": "/a/b.jpg", "orig_name": 3}, {"path": "/c.jpg", "orig_name": "\ud800.jpg"}])
    assert [one.path for one in found] == ["b.jpg", "\\ud800.jpg"]
