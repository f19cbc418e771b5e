"""Which files count as images, whatever their names, and what else lies in a tree."""

import os
import shutil

import numpy as np
import pytest
from loading import load
from trees import FORMATS, write_tree

pytestmark = pytest.mark.usefixtures("cache_of_its_own")


class TestFiles:
    @pytest.mark.parametrize("extension", [*FORMATS, ".PNG", ".JPG", ".JPEG", ".Bmp", ".WEBP"])
    def test_every_format_in_any_case(self, tmp_path, extension):
        write_tree(tmp_path, [f"real/a{extension}", f"fake/b.v1.2{extension}"])
        dataset, report = load(tmp_path, check_images="full")
        assert report.counts == {"unknown": (1, 1)}
        red, green, blue = np.asarray(dataset[0]["image"]).mean(axis=(0, 1))
        assert red > 150 > 80 > green

    def test_a_case_sensitive_filter_would_lose_all_fakes(self, tmp_path):
        write_tree(tmp_path, ["real/a.png", "fake/b.PNG"])
        assert [path.parent.name for path in tmp_path.glob("*/*.png")] == ["real"]
        assert load(tmp_path)[1].counts == {"unknown": (1, 1)}

    def test_hidden_and_system_files_do_not_count(self, tmp_path):
        write_tree(tmp_path, ["real/a.png", "fake/b.png", "fake/._b.png", "real/.hidden/c.png", "__MACOSX/real/a.png"])
        for name in ("real/Thumbs.db", "fake/.DS_Store", "real/labels.csv", "fake/notes.txt"):
            (tmp_path / name).write_text("x")
        _, report = load(tmp_path)
        assert (report.counts, report.ignored, report.skipped) == ({"unknown": (1, 1)}, 2, [])

    @pytest.mark.parametrize("check_images", ["header", False])
    def test_what_is_no_regular_file(self, tmp_path, check_images):
        write_tree(tmp_path, ["real/a.jpg", "fake/b.png", "real/folder.jpg/inside.png"])
        os.mkfifo(tmp_path / "real/pipe.jpg")
        (tmp_path / "real/dangling.jpg").symlink_to(tmp_path / "gone.jpg")
        (tmp_path / "real/linked.jpg").symlink_to(tmp_path / "real/a.jpg")
        (tmp_path / "fake/loop").symlink_to(tmp_path / "fake")
        _, report = load(tmp_path, check_images=check_images)
        assert report.counts == {"unknown": (2, 1)}
        assert {os.path.relpath(path, tmp_path): reason for path, reason in report.skipped} == {
            "real/pipe.jpg": "not a regular file",
            "real/dangling.jpg": "a link to nothing",
            "real/folder.jpg": "a folder with an image's name",
            "fake/loop": "a link to a folder above it",
        }

    def test_names_that_are_not_utf8(self, tmp_path):
        write_tree(tmp_path, ["real/ünïcode ☃.png", "fake/b.png"])
        shutil.copy(tmp_path / "fake/b.png", os.fsencode(tmp_path) + b"/fake/\xff.png")
        dataset, report = load(tmp_path)
        assert len(dataset) == 2
        assert report.skipped == [(f"{tmp_path}/fake/\\xff.png", "its name is not UTF-8: rename it")]

    def test_folders_that_cannot_be_listed(self, tmp_path, monkeypatch):
        write_tree(tmp_path, ["real/a.png", "fake/b.png", "fake/locked/c.png"])
        scandir = os.scandir

        def refuse(path):
            if str(path).endswith("locked"):
                raise PermissionError(13, "Permission denied")
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)
        _, report = load(tmp_path)
        assert report.skipped == [(f"{tmp_path}/fake/locked", "Permission denied")]
