"""The demo's answers against the detector, the degradations and the maps that they are made of."""

import base64
import io
import threading

import numpy as np
import pytest
from demos import FAKE, PHOTO, TINY, write_awkward_files
from nasty_bytes import exif_bomb, jpeg_with_exif
from PIL import ExifTags, Image, PngImagePlugin
from scipy.ndimage import gaussian_filter

import mirage_hf.demo_answers
from mirage_hf import Detector
from mirage_hf.degradations import degrade
from mirage_hf.demo_answers import MAX_LETTERS, MAX_TEXTS, Answers, Change, draw_map, file_facts, printable
from mirage_hf.detection import NamedImage
from mirage_hf.explain import explain
from mirage_hf.image_io import SCORING_LIMITS, UnreadableImage

LEGEND = 106  # pixels of five lines below a map


@pytest.fixture(scope="module")
def answers():
    return Answers(Detector.from_pretrained(TINY, sha256=True))


@pytest.fixture(scope="module")
def image():
    return Image.open(FAKE).convert("RGB")


class TestChange:
    @pytest.mark.parametrize(
        ("change", "name"),
        [
            (Change(quality=65), "jpeg_65"),
            (Change(quality=30), "jpeg_30"),
            (Change(sigma=3.0), "blur_3"),
            (Change(sigma=5.0), "blur_5"),
            (Change(factor=64 / 192), "resize_64"),
        ],
    )
    def test_one_slider_is_a_row_of_the_robustness_table(self, image, change, name):
        assert np.array_equal(change(image), degrade(image, name))

    def test_all_three_in_their_order(self, image):
        image = image.crop((0, 0, 191, 120))
        pixels = np.asarray(image, dtype=np.float64)
        blurred = np.rint(gaussian_filter(pixels, (1.5, 1.5, 0), truncate=4.0)).astype(np.uint8)
        smaller = Image.fromarray(blurred).resize((96, 60), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        smaller.save(file, "JPEG", quality=40, subsampling="4:2:0")
        wanted = Image.open(file).resize((191, 120), Image.Resampling.BICUBIC)
        found = Change(40, 0.5, 1.5)(image)
        assert np.array_equal(found, wanted)
        assert not np.array_equal(found, Change(40, 0.5, 1.4)(image))

    def test_nothing_is_nothing(self, image):
        assert Change()(image) is image and Change().words == ""

    def test_words(self):
        assert Change(40, 0.5, 1.5).words == "blur σ = 1.5, size × 0.5, JPEG 40"

    @pytest.mark.parametrize(
        ("name", "value"),
        [("quality", 4), ("quality", 101), ("factor", 0.05), ("factor", 9.0), ("sigma", -1.0), ("sigma", 1e9)]
        + [("sigma", float("nan")), ("factor", "1"), ("quality", True)],
    )
    def test_out_of_range(self, name, value):
        with pytest.raises(ValueError, match=f"`{name}` must lie in"):
            Change(**{name: value})


class TestScores:
    def test_those_of_the_detector(self, answers):
        pictures = [NamedImage("b", str(FAKE)), NamedImage("a", str(PHOTO))]
        assert answers.score(pictures) == list(answers.detector.stream(pictures))
        assert answers.score([]) == []

    def test_behind_a_change(self, answers, image):
        change = Change(quality=35, sigma=1.0)
        found = answers.score_changed(NamedImage("a", str(FAKE)), change)
        assert found.p_fake == answers.detector.score(change(image)).p_fake and found.path == "a"
        assert abs(found.p_fake - answers.detector.score(image).p_fake) > 0.01

    def test_what_can_t_be_changed(self, answers, tmp_path):
        awkward = write_awkward_files(tmp_path)
        assert answers.score_changed(NamedImage("a", str(awkward["cut_off.jpg"])), Change(50)).status == "corrupt"
        Image.new("RGB", (4000, 3300)).save(tmp_path / "large.png")
        with pytest.raises(UnreadableImage, match="only pictures of up to 13 megapixels"):
            answers.score_changed(NamedImage("a", str(tmp_path / "large.png")), Change(50))

    def test_maps_and_scores_at_once_do_not_disturb_each_other(self, answers):
        pictures = [NamedImage("a", str(path)) for path in (PHOTO, FAKE)]
        alone = answers.score(pictures), answers.map(pictures[0])
        found: list = []

        def visit() -> None:
            found.append((answers.score(pictures), answers.map(pictures[0])))

        threads = [threading.Thread(target=visit) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [alone] * 6

    def test_nobody_is_scored_while_a_map_hooks_into_the_model(self, answers, monkeypatch):
        picture, threads = NamedImage("a", str(PHOTO)), []

        def explain_among_others(detector, image):
            for score in (lambda: answers.score([picture]), lambda: detector.score(str(PHOTO))):
                threads.append(threading.Thread(target=score))
                threads[-1].start()
            threads[1].join(60)
            threads[0].join(1)
            assert threads[0].is_alive() and not threads[1].is_alive()
            return explain(detector, image)

        monkeypatch.setattr(mirage_hf.demo_answers, "explain", explain_among_others)
        answers.map(picture)
        threads[0].join(60)
        assert not threads[0].is_alive()


class TestMaps:
    def test_a_picture_as_large_as_what_the_model_sees(self, answers, image):
        shown = answers.map(NamedImage("a", str(FAKE)))
        assert (shown.looked_at, shown.shown_whole) == ((192, 192), True)
        data = base64.b64decode(shown.picture.removeprefix("data:image/jpeg;base64,"))
        drawn = np.asarray(Image.open(io.BytesIO(data)), dtype=float)
        wanted = np.asarray(explain(answers.detector, image).overlay(image), dtype=float)
        assert drawn.shape == wanted.shape == (shown.height, shown.width, 3)
        assert np.abs(drawn - wanted).mean() < 3
        assert np.abs(drawn - wanted[::-1]).mean() > 10

    def test_of_a_large_picture_only_what_was_looked_at_and_around_it(self, answers):
        image = Image.effect_noise((3000, 2000), 80).convert("RGB")
        drawn, whole = draw_map(explain(answers.detector, image), image)
        assert not whole and drawn.height == 384 + LEGEND  # 192 pixels, and half as much on each side

    def test_a_small_map_stays_in_its_place(self, answers):
        image = Image.effect_noise((900, 300), 80).convert("RGB")
        explanation = explain(answers.detector, image)
        drawn, _ = draw_map(explanation, image)
        _, upper, _, lower = explanation.box
        assert (drawn.height, lower - upper) == (300 + LEGEND, 192)
        inside = np.asarray(drawn)[60:200, 100:280].reshape(-1, 3).astype(int)
        assert (np.ptp(inside, axis=1) > 30).any()  # colours
        outside = np.asarray(drawn)[60:200, :90].reshape(-1, 3).astype(int)
        assert (np.ptp(outside, axis=1) == 0).all()  # gray: not looked at

    def test_no_picture(self, answers, tmp_path):
        with pytest.raises(UnreadableImage):
            answers.map(NamedImage("a", str(write_awkward_files(tmp_path)["text.png"])))
        assert answers.why_no_map() is None


class TestFacts:
    def save(self, path, image_format="JPEG", **tags):
        exif = Image.Exif()
        for name, value in tags.items():
            exif[ExifTags.Base[name]] = value
        Image.new("RGB", (40, 30)).save(path, image_format, exif=exif)
        return path

    def test_exif(self, tmp_path):
        exif = Image.Exif()
        exif[ExifTags.Base.Make] = "<b>Maker</b>\n\0"
        exif.get_ifd(ExifTags.IFD.Exif).update(
            {ExifTags.Base.FNumber: 2.8, ExifTags.Base.DateTimeOriginal: "2024:05:06 07:08:09"}
        )
        exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (48.0, 51.0, 24.0)
        Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif)
        found = file_facts(tmp_path / "a.jpg", SCORING_LIMITS)
        assert found.pop("GPS").endswith("not shown")
        assert found == {"Make": "<b>Maker</b>", "FNumber": "2.8", "DateTimeOriginal": "2024:05:06 07:08:09"}

    def test_texts_that_generators_write(self, tmp_path):
        info = PngImagePlugin.PngInfo()
        info.add_text("parameters", "a cat\nSteps: 20" + "x" * 1000)
        for number in range(30):
            info.add_text(f"k{number}", "v")
        Image.new("RGB", (40, 30)).save(tmp_path / "a.png", pnginfo=info)
        found = file_facts(tmp_path / "a.png", SCORING_LIMITS)
        assert found["text: parameters"].startswith("a cat Steps: 20x")
        assert len(found["text: parameters"]) == MAX_LETTERS + 1 and len(found) == MAX_TEXTS

    def test_hostile_files_say_nothing(self, tmp_path):
        hostile = [b"", b"no picture", exif_bomb(), jpeg_with_exif(b"Exif\0\0MM\0*\xff\xff\xff\xff")]
        for data in [*hostile, *(path.read_bytes() for path in write_awkward_files(tmp_path).values())]:
            found = file_facts(data, SCORING_LIMITS)
            assert isinstance(found, dict) and all(len(value) <= MAX_LETTERS + 1 for value in found.values())
        assert file_facts(tmp_path / "nothing", SCORING_LIMITS) == {}

    def test_printable(self):
        assert printable("a\u202eb\ud800\x1b[31m\n") == "a b  [31m "
        assert printable("x" * MAX_LETTERS) == "x" * MAX_LETTERS
