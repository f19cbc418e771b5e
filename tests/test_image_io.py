"""Reading images: the nasty suite, what the header decides, Pillow's switches, memory."""

import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from nasty import write_nasty_suite
from nasty_bytes import animated, encoded, photo
from PIL import Image, ImageCms, ImageFile, ImageOps

from mirage_hf.image_formats import identify
from mirage_hf.image_io import SCORING_LIMITS, ImageLimits, ImageStatus, UnreadableImage, load_rgb, read_image


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return write_nasty_suite(tmp_path_factory.mktemp("nasty"))


def small(suite):
    """The cases but for the two at the limit of pixels, which take a second each."""
    return [case for case in suite if not case.name.startswith("limit_")]


def naive_rgb(data):
    """What the picture is, with no thought of memory and none of hostile files."""
    image = ImageOps.exif_transpose(Image.open(data))
    if image.mode.startswith("I"):
        return np.stack([np.rint(np.asarray(image).astype(float) / 257).astype(np.uint8)] * 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


class TestSuite:
    def test_status_facts_and_pixel(self, suite):
        assert len(suite) > 150 and {case.status for case in suite} == set(ImageStatus) - {"permission"}
        wrong = []
        for case in suite:
            reading = read_image(case.source)
            expected = {name: value for name, value in case.facts.items() if name != "pixel"}
            facts = {name: getattr(reading, name) for name in expected}
            ok = reading.status == "ok"
            sound = ok == (reading.error is None) == (reading.image is not None)
            if ok:
                sound &= reading.image.mode == "RGB" and reading.image.size == (reading.width, reading.height)
                pixel = np.array(reading.image.getpixel((0, 0)))
                sound &= np.abs(pixel - case.facts.get("pixel", pixel)).max() <= 6
            else:
                sound &= reading.error.isprintable() and " at 0x" not in reading.error and len(reading.error) < 260
            if not sound or reading.status != case.status or facts != expected:
                wrong.append((case, reading))
        assert not wrong, "\n".join(map(str, wrong))

    def test_load_rgb_agrees(self, suite):
        for case in small(suite):
            if case.name in ("broken_dict", "closed_file", "file_from_here", "text_file"):
                continue  # an error of the value's own class; a file that was read already
            if isinstance(case.source, Image.Image) and case.status.startswith("too"):
                continue  # pictures are converted whatever their size
            try:
                assert load_rgb(case.source, SCORING_LIMITS).mode == "RGB" and case.status == "ok", case.name
            except UnreadableImage as error:
                assert error.status == case.status, case.name

    def test_pixels_are_those_of_a_naive_reader(self, suite):
        differs = 0
        # What the naive reader gets wrong or cannot read.
        names = ("gray_16_key.png", "twelve_bits.tiff", "bad_exif.jpg", "no_exif.jpg", "no_exif.png")
        for case in small(suite):
            if case.status == "ok" and isinstance(case.source, Path) and case.name not in names:
                pixels = np.asarray(read_image(case.source).image)
                assert (pixels == naive_rgb(case.source)).all(), case.name
                stock = np.asarray(Image.open(case.source).convert("RGB"))
                differs += stock.shape != pixels.shape or (stock != pixels).any()
        assert differs > 8  # what Pillow alone makes of them

    def test_nothing_is_decoded_that_the_header_rules_out(self, suite, monkeypatch):
        def load(self):
            raise AssertionError("decoded")

        monkeypatch.setattr(ImageFile.ImageFile, "load", load)
        for case in suite:
            if case.status.startswith("too") and case.name != "huge_frame.gif":
                assert read_image(case.source).status == case.status, case.name
        assert read_image(encoded(photo(), "PNG")).error == "damaged: decoded"

    @pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read there")
    def test_memory_and_time(self, suite):
        """In a process of its own, whose peak before the first image is the baseline."""
        sources = [str(case.source) for case in suite if isinstance(case.source, Path)]
        script = """if True:
            import json, sys, time
            from mirage_hf.image_io import read_image
            def peak():  # not getrusage: its peak is that of the process which started this one
                return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024 / 1e6
            sources = json.load(sys.stdin)
            read_image(sources[0])
            before, start = peak(), time.process_time()
            count = sum(read_image(source, sha256=True).status == "ok" for source in sources)
            print(json.dumps([count, peak() - before, time.process_time() - start]))
        """
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
        result = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script],
            input=json.dumps(sources),
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        count, megabytes, seconds = json.loads(result.stdout)
        print(f"{len(sources)} files: peak {megabytes:.0f} MB, {seconds:.1f} s of CPU")
        assert count == sum(case.status == "ok" for case in suite if isinstance(case.source, Path))
        assert 300 < megabytes < 600 and seconds < 15


class TestLimits:
    @pytest.mark.parametrize(
        ("size", "limits", "status"),
        [
            ((100, 100), ImageLimits(max_megapixels=0.01), "ok"),
            ((101, 100), ImageLimits(max_megapixels=0.01), "too_large"),
            ((200, 10), ImageLimits(max_aspect_ratio=20), "ok"),
            ((10, 201), ImageLimits(max_aspect_ratio=20), "too_elongated"),
            ((40, 16), SCORING_LIMITS, "ok"),
            ((15, 40), SCORING_LIMITS, "too_small"),
            ((1, 1), ImageLimits(), "ok"),
        ],
    )
    def test_exactly(self, size, limits, status):
        image = Image.new("RGB", size)
        for source in (encoded(image, "PNG"), np.asarray(image), image):
            assert read_image(source, limits).status == status

    def test_bytes(self, tmp_path):
        data = encoded(photo(), "PNG")
        (tmp_path / "x.png").write_bytes(data)
        for source in (data, tmp_path / "x.png", io.BytesIO(data)):
            assert read_image(source, ImageLimits(max_bytes=len(data) - 1)).status == "too_large"
        assert read_image(data, ImageLimits(max_bytes=len(data))).status == "ok"

    def test_the_way_out_lets_it_pass(self):
        for image_format, options in {"PNG": {}, "WEBP": {}, "JPEG": {"progressive": True, "subsampling": 0}}.items():
            data = encoded(Image.new("RGB", (1900, 1900)), image_format, **options)
            reading = read_image(data, ImageLimits(max_megapixels=2))
            assert reading.status == "too_large"
            needed = int(reading.error.split("--max-megapixels ")[1].split()[0])
            assert read_image(data, ImageLimits(max_megapixels=needed)).status == "ok"
            assert read_image(data, ImageLimits(max_megapixels=needed - 1)).status == "too_large"

    @pytest.mark.parametrize("name", ["max_megapixels", "max_aspect_ratio", "min_side", "max_bytes"])
    @pytest.mark.parametrize("value", [0, float("nan")])
    def test_impossible_limits(self, name, value):
        with pytest.raises(ValueError, match=name):
            ImageLimits(**{name: value})


def test_colour_profiles_are_not_applied():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    tagged, plain = (load_rgb(encoded(photo(), "PNG", **o)) for o in ({"icc_profile": profile}, {}))
    assert tagged.tobytes() == plain.tobytes() == photo().tobytes()


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_picture_given_stays_as_it_is(mode):
    image = photo().convert(mode)
    image.putpixel((0, 0), (9, 8, 7, 0)[: len(mode)])
    result = load_rgb(image)
    result.paste((1, 2, 3), (0, 0, 64, 48))
    assert image.mode == mode and image.getpixel((0, 0)) == (9, 8, 7, 0)[: len(mode)]


def test_a_picture_keeps_no_decoder():
    for image_format in ("JPEG", "WEBP", "GIF"):
        assert type(load_rgb(encoded(photo(), image_format))) is Image.Image


class TestHash:
    def test_is_of_the_encoded_bytes(self, tmp_path):
        data = encoded(photo(), "PNG") + b"trailing"
        (tmp_path / "x.png").write_bytes(data)
        stream = io.BytesIO(b"skipped" + data)
        stream.seek(7)
        for source in (data, memoryview(data), tmp_path / "x.png", str(tmp_path / "x.png"), stream, {"bytes": data}):
            assert read_image(source, sha256=True).sha256 == hashlib.sha256(data).hexdigest()
            assert read_image(source).sha256 is None
            stream.seek(7)
        assert not stream.closed
        assert read_image(photo(), sha256=True).sha256 is None
        assert read_image(np.asarray(photo()), sha256=True).sha256 is None

    def test_unreadable_files_have_one_too(self):
        for data in (b"text", encoded(photo(), "PNG")[:900], encoded(Image.new("L", (1, 99)), "PNG")):
            reading = read_image(data, sha256=True)
            assert reading.status != "ok" and reading.sha256 == hashlib.sha256(data).hexdigest()

    def test_a_file_that_changes_meanwhile(self, tmp_path, monkeypatch):
        path = tmp_path / "x.png"

        def identify_and_change(file):
            image = identify(file)
            path.write_bytes(path.read_bytes() + b"more")
            return image

        path.write_bytes(encoded(photo(), "PNG"))
        monkeypatch.setattr("mirage_hf.image_io.identify", identify_and_change)
        reading = read_image(path, sha256=True)
        assert (reading.status, reading.error) == ("error", "the file changed while it was read")
        assert reading.image is None


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_files_that_do_not_open(error, tmp_path, monkeypatch):
    def refuse(*_):
        raise error

    (tmp_path / "x.png").write_bytes(encoded(photo(), "PNG"))
    monkeypatch.setattr("builtins.open", refuse)
    reading = read_image(tmp_path / "x.png")
    assert reading.status == ("permission" if isinstance(error, PermissionError) else "error")
    assert reading.error == error.strerror


def test_no_memory(monkeypatch):
    def load(self):
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    reading = read_image(encoded(photo(), "PNG"))
    assert (reading.status, reading.error) == ("error", "not enough memory")


def test_an_error_travels_between_processes():
    with pytest.raises(UnreadableImage) as caught:
        load_rgb(b"<html>")
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (str(copied), copied.status) == ("not an image: looks like HTML", ImageStatus.UNSUPPORTED)


def test_a_path_that_can_be_read_is_still_a_path(tmp_path):
    class ReadablePath(PurePosixPath):
        def read(self, size=-1):
            raise AssertionError("read")

    (tmp_path / "x.png").write_bytes(encoded(photo(), "PNG"))
    assert read_image(ReadablePath(tmp_path, "x.png")).status == "ok"


def test_a_stream_that_gives_little_at_a_time():
    class Socket(io.RawIOBase):
        def __init__(self, data):
            self.parts = [data[start : start + 100] for start in range(0, len(data), 100)]

        def read(self, size=-1):
            return self.parts.pop(0) if self.parts else b""

    assert read_image(Socket(encoded(photo(), "PNG"))).image.tobytes() == photo().tobytes()


def test_an_endless_stream_is_left():
    class Endless(io.RawIOBase):
        given = 0

        def read(self, size=-1):
            assert size > 0
            self.given += size
            return bytes(size)

    stream = Endless()
    assert read_image(stream, ImageLimits(max_bytes=3 << 20)).status == "too_large"
    assert stream.given == (3 << 20) + 1


def test_a_picture_from_a_file_of_several_frames_is_taken_as_it_stands():
    image = Image.open(io.BytesIO(animated("GIF", 3)))
    image.seek(2)
    reading = read_image(image)
    assert (reading.n_frames, reading.image.getpixel((0, 0))[0]) == (3, pytest.approx(160, abs=8))
