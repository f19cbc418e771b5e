"""Which files are opened, what is asked of their headers, how frames are counted."""

import io
import sys
from types import SimpleNamespace

import pytest
from nasty_bytes import animated, encoded, exif, photo
from PIL import Image, PngImagePlugin

from mirage_hf.image_formats import FORMATS, count_frames, identify
from mirage_hf.image_io import ImageLimits, read_image

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
MIF1 = b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic"
JXL = b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(20)


def test_only_listed_formats_are_opened(monkeypatch):
    def opened(*_):
        raise AssertionError("opened")

    assert not {"EPS", "WMF", "TGA", "ICO", "FITS"} & set(FORMATS)
    for name in ("EPS", "WMF", "TGA", "ICO", "PCX"):
        monkeypatch.setitem(Image.OPEN, name, (opened, lambda prefix: True))
    assert read_image(b"%!PS-Adobe-3.0 EPSF-3.0\n").error == "not an image: looks like PostScript"
    monkeypatch.setattr("mirage_hf.image_formats.FORMATS", (*FORMATS, "EPS"))
    assert read_image(b"\x93PS-Adobe-3.0 EPSF-3.0\n").error == "damaged: opened"


class TestFrames:
    def test_gif(self):
        for frames in (1, 2, 7):
            data = encoded(photo(), "GIF") if frames == 1 else animated("GIF", frames)
            assert read_image(data).n_frames == Image.open(io.BytesIO(data)).n_frames == frames

    @pytest.mark.parametrize("image_format", ["GIF", "TIFF"])
    def test_counting_ends(self, image_format, monkeypatch):
        monkeypatch.setattr("mirage_hf.image_formats.MAX_COUNTED_FRAMES", 3)
        assert read_image(animated(image_format, 7)).n_frames == 3

    def test_later_frames_may_be_missing(self):
        data = animated("GIF", 5)
        assert read_image(data[: len(data) - 3000]).status == "ok"

    def test_counting_never_fails(self):
        image = identify(io.BytesIO(animated("TIFF")))
        image.seek = None
        assert count_frames(image, io.BytesIO()) is None


class TestPlugins:
    """With stand-ins for the plugins: PNG behind the mark of another format."""

    @pytest.fixture
    def plugins(self, monkeypatch):
        """Imported modules by name, and the calls that registered a format."""
        calls = []
        monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))

        def register(name, marks):
            def register_format():
                calls.append(name)
                Image.OPEN[name] = (behind_the_mark, lambda prefix: prefix.startswith(marks))

            return register_format

        def behind_the_mark(file, filename):
            data = file.read()
            return PngImagePlugin.PngImageFile(io.BytesIO(data[data.index(b"\x89PNG") :]))

        def find(name):
            if name == "pillow_jxl":
                register("JXL", JXL[:12])()
            return SimpleNamespace(register_heif_opener=register("HEIF", (HEIC[:12], MIF1[:12])))

        monkeypatch.setattr("mirage_hf.image_formats.importlib.import_module", find)
        return calls

    @pytest.mark.parametrize(("mark", "name"), [(HEIC, "HEIF"), (MIF1, "HEIF"), (JXL, "JXL")])
    def test_are_loaded_once_and_when_needed(self, plugins, mark, name):
        assert read_image(encoded(photo(), "PNG")).status == "ok" and plugins == []
        for _ in range(2):
            assert read_image(mark + encoded(photo(), "PNG")).image.tobytes() == photo().tobytes()
        assert plugins == [name]

    @pytest.mark.parametrize(("mark", "remedy"), [(HEIC, "pillow-heif"), (MIF1, "pillow-heif"), (JXL, "pillow-jxl")])
    def test_are_asked_for(self, mark, remedy, monkeypatch):
        for module in ("pillow_heif", "pillow_jxl"):
            monkeypatch.setitem(sys.modules, module, None)
        reading = read_image(mark + bytes(100))
        assert reading.status == "unsupported" and f"install {remedy}" in reading.error

    def test_avif_under_a_shared_brand(self):
        data = encoded(photo(), "AVIF")
        assert data[8:12] == b"avif"
        assert read_image(data[:8] + b"mif1" + data[12:]).format == "AVIF"


def test_a_format_that_pillow_was_built_without(monkeypatch):
    factory, _ = Image.OPEN["WEBP"]
    monkeypatch.setitem(Image.OPEN, "WEBP", (factory, lambda prefix: prefix[:4] == b"RIFF" and "WEBP not installed"))
    reading = read_image(encoded(photo(), "WEBP"))
    assert (reading.status, reading.error) == ("unsupported", "WEBP not installed")


GREEN = Image.new("RGB", (1000, 900), (0, 255, 0))


@pytest.mark.parametrize(
    ("lean", "hungry"),
    [
        (encoded(GREEN, "JPEG"), encoded(GREEN, "JPEG", exif=exif(6))),
        (encoded(GREEN, "TIFF"), encoded(GREEN, "TIFF", exif=exif(6))),
        (encoded(GREEN, "PNG"), encoded(GREEN, "PNG", exif=exif(6))),
        (encoded(GREEN, "PNG"), encoded(GREEN, "PNG", transparency=(1, 2, 3))),
        (encoded(GREEN.convert("RGBA"), "PNG"), encoded(GREEN.convert("LA"), "PNG")),
        (encoded(GREEN, "JPEG"), encoded(GREEN.convert("CMYK"), "JPEG")),
        (encoded(GREEN, "JPEG"), encoded(GREEN, "JPEG", progressive=True, subsampling=0)),
        (encoded(GREEN, "PNG"), encoded(GREEN, "WEBP")),
    ],
    ids=["turned jpeg", "turned tiff", "turned png", "key colour", "gray alpha", "cmyk", "progressive", "webp"],
)
def test_what_takes_more_memory_may_have_fewer_pixels(lean, hungry):
    limits = ImageLimits(max_megapixels=0.91)
    assert read_image(lean, limits).status == "ok"
    assert read_image(hungry, limits).status == "too_large"
