"""Decoding to RGB, damaged files, and images inside zip archives."""

import io
import multiprocessing
import os
import random
import zipfile

import numpy as np
import pytest
from loading import counted, load
from PIL import Image
from trees import image_bytes, write_tree, write_zip

from mirage_hf.data import load_detection_dataset
from mirage_hf.image_io import ImageLimits, UnreadableImage, decode_rgb, load_rgb
from mirage_hf.reading import member_source, one_line, open_archive

pytestmark = pytest.mark.usefixtures("cache_of_its_own")


def encoded(image, file_format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


class TestDecodeRgb:
    """Pixel values worked out by hand."""

    @pytest.mark.parametrize(
        ("image", "pixel"),
        [
            (Image.new("L", (2, 2), 90), (90, 90, 90)),
            (Image.new("1", (2, 2), 1), (255, 255, 255)),
            (Image.new("LA", (2, 2), (0, 0)), (255, 255, 255)),
            (Image.new("RGBA", (2, 2), (255, 0, 0, 0)), (255, 255, 255)),
            (Image.new("RGBA", (2, 2), (255, 0, 0, 51)), (255, 204, 204)),
            (Image.new("RGBA", (2, 2), (9, 8, 7, 255)), (9, 8, 7)),
            (Image.new("CMYK", (2, 2), (0, 255, 255, 0)), (255, 0, 0)),
            (Image.fromarray(np.full((2, 2), 257 * 100, np.uint16)), (100, 100, 100)),
            (Image.fromarray(np.full((2, 2), 65535, np.int32)), (255, 255, 255)),
        ],
        ids=lambda value: value.mode if isinstance(value, Image.Image) else "",
    )
    def test_modes(self, image, pixel):
        converted = decode_rgb(image)
        assert (converted.mode, converted.getpixel((0, 0))) == ("RGB", pixel)

    def test_sixteen_bit_files(self):
        data = encoded(Image.fromarray(np.full((2, 2), 257 * 200, np.uint16)))
        assert decode_rgb({"bytes": data, "path": None}).getpixel((0, 0)) == (200, 200, 200)

    def test_palette_with_transparency(self):
        image = Image.new("P", (2, 2), 0)
        image.putpalette([10, 20, 30, 40, 50, 60])
        image.putpixel((0, 0), 1)
        converted = decode_rgb(encoded(image, transparency=1))
        assert [converted.getpixel(at) for at in ((0, 0), (1, 1))] == [(255, 255, 255), (10, 20, 30)]

    def test_exif_orientation(self):
        image = Image.new("RGB", (4, 2))
        exif = Image.Exif()
        exif[0x0112] = 6
        assert decode_rgb(encoded(image, "JPEG", exif=exif)).size == (2, 4)

    def test_first_frame(self):
        frames = [Image.new("L", (2, 2), value) for value in (0, 255)]
        data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
        assert decode_rgb(data).getpixel((0, 0)) == (0, 0, 0)

    @pytest.mark.parametrize("value", [None, 3, {"bytes": None, "path": None}, b"", b"text", "/nowhere/x.png"])
    def test_nothing_raises(self, value):
        assert decode_rgb(value) is None

    def test_thirty_two_bit_integers(self):
        with pytest.raises(UnreadableImage, match="integer pixels outside 0..65535"):
            load_rgb(Image.fromarray(np.full((2, 2), 70_000, np.int32)))


class TestFiles:
    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    @pytest.mark.parametrize("check_images", ["header", "full", True])
    def test_damaged_files_are_listed(self, tmp_path, check_images):
        write_tree(tmp_path, ["real/ok.png", "fake/ok.jpg"])
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
        bomb = encoded(Image.new("1", (10_000, 9_000)))
        bad = {
            "real/cut.jpg": encoded(noise, "JPEG")[:2000],
            "real/cut.png": encoded(noise)[:2000],
            "real/cut.webp": encoded(noise, "WEBP")[:500],
            "real/cut.bmp": encoded(noise, "BMP")[:500],
            "real/empty.jpg": b"",
            "fake/page.jpg": b"<html>not found</html>",
            "fake/bomb.png": bomb,
            "fake/thin.png": encoded(Image.new("L", (1, 300))),
            "fake/float.tif": encoded(Image.new("F", (8, 8)), "TIFF"),
        }
        for name, data in bad.items():
            (tmp_path / name).write_bytes(data)
        _, report = load(tmp_path, check_images=check_images)
        assert report.counts == {"unknown": (1, 1)}
        reasons = {os.path.relpath(path, tmp_path): reason for path, reason in report.skipped}
        assert reasons.keys() == bad.keys()
        assert reasons["real/empty.jpg"] == "empty file"
        assert reasons["fake/page.jpg"] == "not an image: looks like HTML"
        assert reasons["fake/thin.png"] == "1x300 is more elongated than 20:1"
        assert reasons["fake/float.tif"] == "float pixels have no defined range"
        assert reasons["fake/bomb.png"].startswith("10000x9000 is more than 89.48 megapixels")
        assert "truncated" in reasons["real/cut.jpg"]

    def test_a_bad_checksum_needs_the_full_check(self, tmp_path):
        write_tree(tmp_path, ["real/ok.png", "fake/ok.png"])
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
        data = bytearray(encoded(noise))
        data[len(data) // 2] ^= 0xFF
        (tmp_path / "fake/flipped.png").write_bytes(data)
        assert len(load(tmp_path, check_images="header")[0]) == 3
        assert len(load(tmp_path, check_images="full")[0]) == 2

    def test_junk_after_the_end_is_harmless(self, tmp_path):
        write_tree(tmp_path, ["real/a.jpg", "fake/b.png"])
        for name in ("real/a.jpg", "fake/b.png"):
            with open(tmp_path / name, "ab") as file:
                file.write(b"\0" * 40)
        assert load(tmp_path)[1].counts == {"unknown": (1, 1)}

    def test_decoding_a_pipe_does_not_wait(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.jpg")
        assert decode_rgb(tmp_path / "pipe.jpg") is None


class TestZips:
    def test_damaged_members_and_archives(self, tmp_path):
        write_tree(tmp_path, ["a/real/x.png", "a/fake/x.png"])
        with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("real/ok.png", image_bytes())
            archive.writestr("fake/ok.png", image_bytes())
            archive.writestr("fake/broken.png", b"GOODBYTES" * 20)
            archive.writestr("fake/cut.jpg", image_bytes(".jpg")[:100])
        data = (tmp_path / "b.zip").read_bytes().replace(b"GOODBYTES", b"EVILBYTES", 1)
        (tmp_path / "b.zip").write_bytes(data)
        (tmp_path / "c.zip").write_bytes(b"PK not a zip")
        _, report = load(tmp_path)
        assert report.counts == {"a": (1, 1), "b": (1, 1)}
        reasons = {os.path.relpath(path, tmp_path): reason for path, reason in report.skipped}
        assert reasons.keys() == {"b.zip!fake/broken.png", "b.zip!fake/cut.jpg", "c.zip"}
        assert reasons["b.zip!fake/broken.png"].startswith("cannot be unpacked: Bad CRC-32")
        assert reasons["c.zip"].startswith("not a readable zip archive")

    def test_table_of_contents_is_read_once(self, tmp_path, monkeypatch):
        write_zip(tmp_path / "x.zip", ["real/{0..9}.png", "fake/{0..9}.png"])
        opened = []
        monkeypatch.setattr(zipfile.ZipFile, "_RealGetContents", counted(zipfile.ZipFile._RealGetContents, opened))
        dataset = load_detection_dataset(tmp_path / "x.zip", check_images="full")
        assert sum(row["image"].size == (8, 8) for row in dataset) == 20
        assert len(opened) == 1

    def test_forked_readers_do_not_disturb_each_other(self, tmp_path):
        path = tmp_path / "x.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for number in range(200):
                archive.writestr(f"{number}.png", image_bytes(".png", (number, 0, 0), 32))
        sources = [member_source(str(path), f"{number}.png") for number in range(200)]
        assert red_values(sources) == list(range(200))  # opened before the fork
        with multiprocessing.get_context("fork").Pool(4) as pool:
            assert pool.map(red_values, [sources] * 8) == [list(range(200))] * 8

    def test_replaced_archive_is_read_anew(self, tmp_path):
        path = write_zip(tmp_path / "x.zip", ["real/a.png", "fake/b.png"])
        assert len(load_detection_dataset(path)) == 2
        write_zip(path, ["real/{0..3}.png", "fake/{0..3}.png"])
        assert len(load_detection_dataset(path)) == 8

    def test_zip_bomb(self, tmp_path):
        write_zip(tmp_path / "x.zip", ["a.png"])
        with pytest.raises(UnreadableImage, match="unpacks to .* bytes") as caught:
            load_rgb(member_source(str(tmp_path / "x.zip"), "a.png"), ImageLimits(max_bytes=10))
        assert caught.value.status == "too_large"

    def test_missing_member(self, tmp_path):
        write_zip(tmp_path / "x.zip", ["a.png"])
        with pytest.raises(UnreadableImage, match="no item named 'b.png'"):
            load_rgb(member_source(str(tmp_path / "x.zip"), "b.png"))
        assert open_archive(str(tmp_path / "x.zip")) is open_archive(str(tmp_path / "x.zip"))


def red_values(sources):
    order = random.Random(os.getpid()).sample(range(len(sources)), len(sources))
    red = {index: load_rgb(sources[index]).getpixel((0, 0))[0] for index in order}
    return [red[index] for index in range(len(sources))]


def test_a_message_is_one_short_line_without_addresses():
    error = OSError(f"cannot identify {io.BytesIO()!r}\n\x1b[31m {'x' * 500}")
    message = one_line(error)
    assert message.startswith("cannot identify <_io.BytesIO> [31m xxx") and len(message) == 200
    assert one_line(KeyError()) == "KeyError"
