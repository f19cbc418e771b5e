"""Pillow's process-wide switches while pictures are decoded: strict, sparing, and as they were afterwards."""

import io
import os
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from nasty import damaged_files
from nasty_bytes import SIZE, encoded, photo, uniform_png
from PIL import Image, ImageFile

from mirage_hf.image_io import read_image
from mirage_hf.pillow_switches import pillow_switches

CUT_FILES = {name: data for name, data, *_ in damaged_files() if name.startswith(("cut", "bad_crc", "ztxt"))}


class TestPillowSwitches:
    def test_truncated_files_stay_errors(self, monkeypatch):
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        stock = 0
        for name, data in CUT_FILES.items():
            assert read_image(data).status == "corrupt", name
            assert ImageFile.LOAD_TRUNCATED_IMAGES
            try:
                Image.open(io.BytesIO(data)).load()
                stock += 1
            except Exception:
                continue
        assert stock > 4  # what the switch does otherwise

    def test_threads(self, monkeypatch):
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        blocks = Image.core.get_use_block_allocator()
        with ThreadPoolExecutor(8) as pool:
            readings = list(pool.map(read_image, [*CUT_FILES.values()] * 20))
        assert {reading.status for reading in readings} == {"corrupt"}
        assert ImageFile.LOAD_TRUNCATED_IMAGES and Image.core.get_use_block_allocator() == blocks

    def test_fork_from_a_decoding_thread(self, monkeypatch):
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        with pillow_switches(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
            if child == 0:
                restored = ImageFile.LOAD_TRUNCATED_IMAGES
                os._exit(0 if restored and read_image(encoded(photo(), "PNG")).status == "ok" else 1)
        assert os.waitpid(child, 0)[1] == 0

    def test_the_limit_of_pixels_is_ours(self, monkeypatch, recwarn):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1 << 19)
        data = uniform_png(1100, 1000, 8, 6, b"\0\0\0\0")
        with pytest.raises(Image.DecompressionBombError):
            Image.open(io.BytesIO(data))
        assert read_image(data).status == "ok" and Image.MAX_IMAGE_PIXELS == 1 << 19
        assert not recwarn.list

    def test_the_bomb_warning_as_an_error(self, monkeypatch):
        frame = encoded(Image.new("P", SIZE), "GIF")
        start = frame.index(b",\0\0\0\0") + 5
        huge = frame[:start] + b"\x10\x27\x10\x27" + frame[start + 4 :]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert read_image(huge).status == "too_large"
