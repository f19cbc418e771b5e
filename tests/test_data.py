"""Loading: columns, decoding, damaged files, subsets, manifests, data sets with columns, and every refusal."""

import ast
import csv
import importlib.util
import io
import multiprocessing
import os
import pickle
import random
import shutil
import sys
import zipfile

import datasets
import numpy as np
import pytest
from PIL import Image
from trees import FORMATS, image_bytes, write_image, write_tree, write_zip

from mirage_hf.data import load_detection_dataset
from mirage_hf.manifests import labels_from_values
from mirage_hf.reading import UnreadableImage, decode_rgb, find_problem, load_rgb, member_source, open_archive


@pytest.fixture
def pair(tmp_path):
    """Two generators with 6 real and 6 fake images each."""
    return write_tree(tmp_path / "pair", [f"{g}/{c}/{{0..5}}.png" for g in ("a", "b") for c in ("real", "fake")])


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path, monkeypatch):
    """`load_dataset` writes to a cache; the one of the person who runs the tests stays as it is."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


def load(root, **options):
    return load_detection_dataset(root, return_report=True, **options)


def described(dataset):
    return list(dataset.select_columns(["path", "label", "generator"]))


def paths(dataset):
    return [row["path"] for row in described(dataset)]


def encoded(image, file_format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


class TestColumns:
    def test_columns_and_order(self, pair):
        dataset = load_detection_dataset(pair)
        assert dataset.column_names == ["image", "label", "generator", "path"]
        assert dataset.features["label"].names == ["real", "fake"]
        assert len(dataset) == 24
        first = dataset[0]
        assert first["image"].mode == "RGB"
        assert (first["label"], first["generator"], first["path"]) == (0, "a", str(pair / "a/real/0.png"))
        assert paths(dataset) == paths(load_detection_dataset(pair))
        assert dataset["label"][:] == [0] * 6 + [1] * 6 + [0] * 6 + [1] * 6

    def test_a_transform_of_ones_own_gets_what_decode_rgb_takes(self, pair):
        dataset = load_detection_dataset(pair)
        dataset.set_transform(lambda batch: {"size": [decode_rgb(value).size for value in batch["image"]]})
        assert dataset[:2] == {"size": [(8, 8), (8, 8)]}

    def test_survives_pickle_and_usual_operations(self, pair):
        dataset = pickle.loads(pickle.dumps(load_detection_dataset(pair)))
        part = dataset.shuffle(seed=1).select(range(5))
        assert [image.size for image in part["image"]] == [(8, 8)] * 5
        assert len(dataset.filter(lambda label: label == 1, input_columns="label")) == 12

    def test_stock_datasets_can_decode_it(self, tmp_path):
        write_zip(tmp_path / "x.zip", ["real/a.png", "fake/b.png"])
        dataset = load_detection_dataset(tmp_path / "x.zip").with_format(None)
        assert dataset.cast_column("image", datasets.Image())[0]["image"].size == (8, 8)

    def test_report_is_a_table(self, pair):
        write_image(pair / "a/real/notes.png").write_bytes(b"")
        (pair / "a/readme.txt").write_text("hello")
        _, report = load(pair)
        lines = str(report).splitlines()
        assert lines[0] == f"{pair}: layout generic, split train"
        assert [line.split() for line in lines[1:5]] == [
            ["generator", "real", "=", "0", "fake", "=", "1"],
            ["a", "6", "6"],
            ["b", "6", "6"],
            ["all", "12", "12"],
        ]
        assert lines[5] == "unreadable images left out: 1; other files ignored: 1"
        assert lines[6] == f"  {pair}/a/real/notes.png: empty file"

    def test_report_is_logged_not_printed(self, pair, caplog, capsys):
        with caplog.at_level("INFO", logger="mirage_hf"):
            _, report = load(pair)
        assert str(report) in caplog.messages
        assert capsys.readouterr().out == ""


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
        assert reasons["fake/page.jpg"] == "not an image"
        assert reasons["fake/thin.png"] == "1x300 is more elongated than 20:1"
        assert reasons["fake/float.tif"] == "float pixels have no defined range"
        assert reasons["fake/bomb.png"] == "10000x9000 is more than 89478485 pixels"
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

    def test_unchecked_damage_ends_no_epoch(self, tmp_path, caplog):
        write_tree(tmp_path, ["real/a.jpg", "fake/b.png"])
        (tmp_path / "fake/c.png").write_bytes(b"nothing")
        dataset = load_detection_dataset(tmp_path, check_images=False)
        images = [row["image"] for row in dataset]
        assert [image is None for image in images] == [False, False, True]
        assert f"{tmp_path}/fake/c.png: not an image" in caplog.text

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

    def test_decoding_a_pipe_does_not_wait(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.jpg")
        assert decode_rgb(tmp_path / "pipe.jpg") is None

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

    def test_members_are_not_copied_into_memory(self, tmp_path):
        write_zip(tmp_path / "x.zip", ["real/{0..9}.png", "fake/{0..9}.png"])
        table = load_detection_dataset(tmp_path / "x.zip").with_format("arrow")[:]
        assert {value["bytes"] for value in table["image"].to_pylist()} == {None}

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

    def test_data_loader_workers(self, tmp_path):
        torch = pytest.importorskip("torch")
        write_zip(tmp_path / "x.zip", ["real/{0..9}.png", "fake/{0..9}.jpg"])
        dataset = load_detection_dataset(tmp_path / "x.zip")
        loader = torch.utils.data.DataLoader(dataset, batch_size=4, num_workers=2, collate_fn=sizes_and_labels)
        batches = list(loader)
        assert [size for sizes, _ in batches for size in sizes] == [(8, 8)] * 20
        assert sum(label for _, labels in batches for label in labels) == 10

    def test_replaced_archive_is_read_anew(self, tmp_path):
        path = write_zip(tmp_path / "x.zip", ["real/a.png", "fake/b.png"])
        assert len(load_detection_dataset(path)) == 2
        write_zip(path, ["real/{0..3}.png", "fake/{0..3}.png"])
        assert len(load_detection_dataset(path)) == 8

    def test_zip_bomb(self, tmp_path, monkeypatch):
        write_zip(tmp_path / "x.zip", ["a.png"])
        monkeypatch.setattr("mirage_hf.reading.MAX_MEMBER_BYTES", 10)
        assert find_problem(member_source(str(tmp_path / "x.zip"), "a.png"), "header").startswith("unpacks to ")

    def test_missing_member(self, tmp_path):
        write_zip(tmp_path / "x.zip", ["a.png"])
        with pytest.raises(UnreadableImage, match="no item named 'b.png'"):
            load_rgb(member_source(str(tmp_path / "x.zip"), "b.png"))
        assert open_archive(str(tmp_path / "x.zip")) is open_archive(str(tmp_path / "x.zip"))


def counted(function, calls):
    def counting(*args):
        calls.append(args)
        return function(*args)

    return counting


def red_values(sources):
    order = random.Random(os.getpid()).sample(range(len(sources)), len(sources))
    red = {index: load_rgb(sources[index]).getpixel((0, 0))[0] for index in order}
    return [red[index] for index in range(len(sources))]


def sizes_and_labels(rows):
    return [row["image"].size for row in rows], [row["label"] for row in rows]


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


class TestSubsets:
    def test_balanced_and_even(self, pair):
        dataset, report = load(pair, max_per_class=4)
        assert report.counts == {"a": (2, 2), "b": (2, 2)}
        assert load(pair, max_per_class=5)[1].counts == {"a": (3, 3), "b": (2, 2)}

    def test_uneven_generators(self, pair):
        write_tree(pair, ["c/real/0.png", "c/fake/0.png"])
        assert load(pair, max_per_class=11)[1].counts == {"a": (5, 5), "b": (5, 5), "c": (1, 1)}

    def test_nested_and_reproducible(self, pair):
        drawn = [set(paths(load_detection_dataset(pair, max_per_class=n, seed=7))) for n in (1, 2, 3, 6, 12)]
        assert [len(paths_) for paths_ in drawn] == [2, 4, 6, 12, 24]
        assert all(small < large for small, large in zip(drawn, drawn[1:], strict=False))
        assert set(paths(load_detection_dataset(pair, max_per_class=3, seed=7))) == drawn[2]
        others = [set(paths(load_detection_dataset(pair, max_per_class=3, seed=seed))) for seed in range(5)]
        assert len({frozenset(other) for other in others}) > 1

    def test_independent_of_place_and_listing_order(self, pair, tmp_path, monkeypatch):
        moved = tmp_path / "elsewhere"
        shutil.copytree(pair, moved)
        here = [os.path.relpath(path, pair) for path in paths(load_detection_dataset(pair, max_per_class=3))]
        scandir = os.scandir

        class Reversed:
            def __init__(self, path):
                with scandir(path) as listing:
                    self.entries = list(listing)[::-1]

            def __enter__(self):
                return iter(self.entries)

            def __exit__(self, *error):
                return None

        monkeypatch.setattr(os, "scandir", Reversed)
        there = [os.path.relpath(path, moved) for path in paths(load_detection_dataset(moved, max_per_class=3))]
        assert here == there

    def test_capped_by_the_smaller_class(self, tmp_path):
        write_tree(tmp_path, ["real/{0..9}.png", "fake/{0..2}.png"])
        _, report = load(tmp_path, max_per_class=5)
        assert report.counts == {"unknown": (3, 3)}
        assert "`max_per_class=5` asks for more images than the smaller class has" in report.notes

    def test_shared_images_are_drawn_once_while_others_last(self, tmp_path):
        write_tree(tmp_path, ["MSCOCO/val2017/{0..5}.jpg", *(f"DRCT-2M/m{i}/val2017/{{0..5}}.png" for i in range(4))])
        dataset = load_detection_dataset(tmp_path, split="test", max_per_class=6)
        reals = [row["path"] for row in described(dataset) if row["label"] == 0]
        assert len(reals) == len(set(reals)) == 6

    def test_unreadable_images_are_replaced(self, pair):
        for path in pair.glob("a/*/[0-3].png"):
            path.write_bytes(b"")
        _, report = load(pair, max_per_class=4)
        assert sum(real for real, _ in report.counts.values()) == sum(fake for _, fake in report.counts.values()) == 4
        small = set(paths(load_detection_dataset(pair, max_per_class=2)))
        assert small < set(paths(load_detection_dataset(pair, max_per_class=4)))

    def test_only_what_is_drawn_is_checked(self, pair, monkeypatch):
        checked = []
        monkeypatch.setattr("mirage_hf.data.find_problem", counted(find_problem, checked))
        load_detection_dataset(pair, max_per_class=2, num_proc=1)
        assert len(checked) == 4


class TestGenerators:
    def test_by_name_whatever_the_case(self, pair):
        assert load(pair, generators=["A"])[1].counts == {"a": (6, 6)}

    def test_unknown(self, pair):
        with pytest.raises(ValueError, match="`generators` names sdxl, found are: a, b"):
            load(pair, generators=["a", "SDXL"])

    def test_string(self, pair):
        with pytest.raises(ValueError, match="`generators` is the string 'a': pass a list of names"):
            load(pair, generators="a")

    def test_one_class_for_one_generator_is_noted(self, pair):
        write_tree(pair, ["c/fake/0.png"])
        assert "only one class for c: no AP or AUC for these alone" in load(pair)[1].notes


class TestManifests:
    ROWS = [
        ("path", "label", "generator", "split"),
        ("img/r.png", "real", "sd", "train"),
        ("img/r.png", "real", "flux", "train"),
        ("img/f1.png", "fake", "sd", "train"),
        ("img/f2.PNG", "Fake", "flux", "train"),
        ("img/t.png", "real", "sd", "val"),
        ("img/gone.png", "fake", "sd", "train"),
        ("img/f1.png", "fake", "sd", "train"),
    ]

    def write(self, folder, rows, name="manifest.csv"):
        folder.mkdir(exist_ok=True)
        if name.endswith(".csv"):
            with open(folder / name, "w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(rows)
        else:
            header, *values = rows
            columns = dict(zip(header, map(list, zip(*values, strict=True)), strict=True))
            datasets.Dataset.from_dict(columns).to_parquet(str(folder / name))
        return folder / name

    @pytest.mark.parametrize("name", ["manifest.csv", "manifest.parquet", "mine.csv", "mine.parquet"])
    def test_columns(self, tmp_path, name):
        write_tree(tmp_path, ["img/r.png", "img/f1.png", "img/f2.PNG", "img/t.png"])
        path = self.write(tmp_path, self.ROWS, name)
        dataset, report = load(tmp_path if name.startswith("manifest") else path)
        assert report.layout == "manifest"
        assert report.counts == {"flux": (1, 1), "sd": (1, 1)}
        assert report.skipped == [(f"{tmp_path}/img/gone.png", "missing")]
        assert report.notes == ["1 rows that repeat another were left out"]
        assert dataset[0]["image"].size == (8, 8)
        with pytest.raises(ValueError, match="there is no split 'test': pass `split=` one of train, val"):
            load(path, split="test")

    def test_numbers_need_the_fake_id(self, tmp_path):
        write_tree(tmp_path, ["r.png", "f{0..1}.png"])
        path = self.write(tmp_path, [("path", "label"), ("r.png", 1), ("f0.png", 0), ("f1.png", 0)])
        with pytest.raises(ValueError, match=r"labels are the numbers \[0, 1\].*pass `fake_id="):
            load(path)
        assert load(path, fake_id=0)[1].counts == {"unknown": (1, 2)}
        assert load(path, fake_id=1)[1].counts == {"unknown": (2, 1)}

    def test_other_label_column(self, tmp_path):
        write_tree(tmp_path, ["r.png", "f.png"])
        path = self.write(tmp_path, [("Path", "Truth"), ("r.png", "authentic"), ("f.png", "AI-generated")])
        assert load(path, label_column="truth")[1].counts == {"unknown": (1, 1)}
        with pytest.raises(ValueError, match="manifest .* has no column `label` but path, truth"):
            load(path)

    def test_reals_without_a_generator_go_with_any(self, tmp_path):
        write_tree(tmp_path, ["r{0..2}.png", "a.png", "b.png"])
        rows = [("path", "label", "generator"), *((f"r{i}.png", "real", "") for i in range(3))]
        path = self.write(tmp_path, [*rows, ("a.png", "fake", "A"), ("b.png", "fake", "B")])
        assert load(path, generators=["B"])[1].counts == {"B": (0, 1), "unknown": (3, 0)}

    def test_zip_members(self, tmp_path):
        write_zip(tmp_path / "x.zip", ["in/a.png", "b.png"])
        path = self.write(tmp_path, [("path", "label"), ("x.zip!in/a.png", "real"), ("x.zip!b.png", "fake")])
        dataset = load_detection_dataset(path)
        assert paths(dataset) == [f"{tmp_path}/x.zip!in/a.png", f"{tmp_path}/x.zip!b.png"]
        assert dataset[0]["image"].size == (8, 8)

    def test_paths_of_a_loaded_data_set_load_again(self, tmp_path):
        write_zip(tmp_path / "data/x.zip", ["real/a.png", "fake/b.png"])
        rows = [
            (row["path"], ["real", "fake"][row["label"]])
            for row in described(load_detection_dataset(tmp_path / "data"))
        ]
        path = self.write(tmp_path / "other", [("path", "label"), *rows])
        assert load(path)[1].counts == {"unknown": (1, 1)}

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([("path", "label"), ("a.png", "real"), ("a.png", "fake")], "calls 'a.png' both real and fake"),
            ([("path", "label"), ("a.png", "cat")], r"labels \['cat'\] say neither real nor fake"),
            ([("path", "label"), ("a.png",)], "row 1 has 1 fields, the header 2"),
            ([("file", "label"), ("a.png", "real")], "has no column `path` but file, label"),
            ([("path", "label"), ("gone.png", "real")], "no image is left .*gone.png, missing|gone.png: missing"),
            ([], "is not a UTF-8 CSV file with a header"),
        ],
    )
    def test_refusals(self, tmp_path, rows, message):
        write_tree(tmp_path, ["a.png"])
        with pytest.raises(ValueError, match=message):
            load(self.write(tmp_path, rows))

    def test_two_manifests(self, tmp_path):
        for name in ("manifest.csv", "manifest.parquet"):
            self.write(tmp_path, self.ROWS, name)
        with pytest.raises(ValueError, match="ambiguous: .* holds both manifest.csv and manifest.parquet"):
            load(tmp_path)

    def test_manifest_goes_before_folders(self, tmp_path):
        write_tree(tmp_path, ["real/a.png", "fake/b.png", "fake/c.png"])
        self.write(
            tmp_path, [("path", "label", "generator"), ("real/a.png", "real", "x"), ("fake/b.png", "fake", "x")]
        )
        assert load(tmp_path)[1].counts == {"x": (1, 1)}
        assert load(tmp_path, layout="pair")[1].counts == {"unknown": (1, 2)}


class TestLabels:
    def test_class_names(self):
        assert labels_from_values([0, 1, None], None, ["FAKE", "REAL"]) == [1, 0, None]

    def test_fake_id_that_contradicts_the_names(self):
        with pytest.raises(ValueError, match="`fake_id=1` contradicts the class names"):
            labels_from_values([0, 1], 1, ["FAKE", "REAL"])

    def test_class_names_that_say_nothing(self):
        with pytest.raises(ValueError, match=r"numbers \[0, 1\] .class names \['0', '1'\]."):
            labels_from_values([0, 1], None, ["0", "1"])
        assert labels_from_values([0, 1], 0, ["0", "1"]) == [1, 0]

    def test_numbers_as_text_are_numbers(self):
        with pytest.raises(ValueError, match="do not say what is fake"):
            labels_from_values(["0", "1"], None)
        assert labels_from_values(["0", "1", " 1"], 1) == [0, 1, 1]

    def test_empty_and_odd_values(self):
        assert labels_from_values([1.0, float("nan"), 0.0, None], 1) == [1, None, 0, None]
        assert labels_from_values(["fake", "", " real ", None], None) == [1, None, 0, None]
        assert labels_from_values([-1, 0], None, ["real", "fake"]) == [None, 0]
        with pytest.raises(ValueError, match=r"labels \[0.5\] say neither"):
            labels_from_values([0.5], 1)

    @pytest.mark.parametrize("values", [[0, 1, 2], [0, 2]])
    def test_numbers_that_are_no_two_classes(self, values):
        with pytest.raises(ValueError, match="`fake_id=1` does not split the labels"):
            labels_from_values(values, 1)

    def test_booleans(self):
        assert labels_from_values([True, False], 1) == [1, 0]


class TestDataSetsWithColumns:
    def parquet(self, folder, columns, features=None, split="train"):
        (folder / "data").mkdir(parents=True, exist_ok=True)
        dataset = datasets.Dataset.from_dict(columns, datasets.Features(features) if features else None)
        dataset.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
        return folder

    def images(self, count):
        return [{"bytes": image_bytes(".png", (10 * i, 0, 0)), "path": None} for i in range(count)]

    def test_openfake(self, tmp_path):
        columns = {
            "image": self.images(4),
            "prompt": ["", "a cat", "a dog", "a cow"],
            "label": ["real", "fake", "fake", "real"],
            "model": ["real", "flux.1-dev", "sd-3.5", "real"],
        }
        root = self.parquet(tmp_path / "openfake", columns, {"image": datasets.Image(), **text("prompt label model")})
        dataset, report = load(root)
        assert report.layout == "hub"
        assert report.counts == {"flux.1-dev": (0, 1), "real": (2, 0), "sd-3.5": (0, 1)}
        assert dataset.column_names == ["image", "label", "generator", "path"]
        assert dataset[0]["path"] == f"{root}#1"
        assert dataset[0]["image"].getpixel((0, 0)) == (10, 0, 0)
        assert load(root, generators=["sd-3.5"])[1].counts == {"real": (2, 0), "sd-3.5": (0, 1)}
        assert load(root, layout="OpenFake")[1].counts == report.counts

    def test_community_forensics(self, tmp_path):
        columns = {
            "image_data": [image["bytes"] for image in self.images(3)],
            "label": [1, 0, 1],
            "model_name": ["m1", "coco", "m2"],
        }
        root = self.parquet(tmp_path / "cf", columns)
        with pytest.raises(ValueError, match="pass `fake_id=`"):
            load(root)
        dataset, report = load(root, fake_id=1)
        assert report.counts == {"coco": (1, 0), "m1": (0, 1), "m2": (0, 1)}
        assert [image.getpixel((0, 0))[0] for image in dataset["image"]] == [10, 0, 20]

    def test_cifake_copies_say_it_by_name(self, tmp_path):
        features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["FAKE", "REAL"])}
        columns = {"image": self.images(3), "label": [0, 0, 1]}
        root = self.parquet(tmp_path / "cifake", columns, features)
        self.parquet(root, {"image": self.images(2), "label": [0, 1]}, features, split="test")
        dataset, report = load(root)
        assert report.counts == {"unknown": (1, 2)}
        assert dataset["label"][:] == [0, 1, 1]
        assert dataset[0]["image"].getpixel((0, 0)) == (20, 0, 0)
        assert load(root, split="test")[1].counts == {"unknown": (1, 1)}
        with pytest.raises(ValueError, match="there is no split 'validation': pass `split=` one of test, train"):
            load(root, split="validation")

    def test_tiny_genimage(self, tmp_path):
        columns = {"image": self.images(2), "label": [0, 1], "generator": [1, 0]}
        features = {
            "image": datasets.Image(),
            "label": datasets.Value("int64"),
            "generator": datasets.ClassLabel(names=["adm", "nature"]),
        }
        root = self.parquet(tmp_path / "tiny", columns, features, split="validation")
        assert load(root, split="val", fake_id=1)[1].counts == {"adm": (0, 1), "nature": (1, 0)}

    def test_loaded_data_set_and_saved_one(self, tmp_path):
        dataset = datasets.Dataset.from_dict(
            {"image": self.images(4), "label": ["real", "fake", "real", "fake"]},
            datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")}),
        )
        for indices in ([0, 1, 2, 3], [3, 0, 1]):
            loaded = load_detection_dataset(dataset.select(indices))
            reds = {row["image"].getpixel((0, 0))[0]: row["label"] for row in loaded}
            assert reds == {10 * index: index % 2 for index in indices}
        dataset.save_to_disk(tmp_path / "saved")
        assert load(tmp_path / "saved")[1].counts == {"unknown": (2, 2)}
        datasets.DatasetDict({"test": dataset}).save_to_disk(tmp_path / "saved_dict")
        assert load(tmp_path / "saved_dict", split="test")[1].counts == {"unknown": (2, 2)}

    def test_images_are_not_copied(self, tmp_path):
        columns = {"image": self.images(6), "label": ["real", "fake"] * 3}
        root = self.parquet(tmp_path / "big", columns, {"image": datasets.Image(), **text("label")})
        before = sorted(tmp_path.rglob("*.arrow"))
        loaded = load_detection_dataset(root)
        assert len(sorted(tmp_path.rglob("*.arrow"))) == len(before) + 1  # what `load_dataset` itself keeps
        assert loaded.cache_files

    def test_paths_in_a_column_of_text(self, tmp_path):
        write_tree(tmp_path, ["r.png", "f.png"])
        images = [str(tmp_path / "r.png"), str(tmp_path / "f.png")]
        loaded = load_detection_dataset(datasets.Dataset.from_dict({"image": images, "label": ["real", "fake"]}))
        assert paths(loaded) == images
        assert loaded[1]["image"].size == (8, 8)

    def test_single_parquet_file_with_images(self, tmp_path):
        columns = {"image": self.images(2), "label": ["real", "fake"]}
        root = self.parquet(tmp_path / "one", columns, {"image": datasets.Image(), **text("label")})
        assert load(root / "data/train-00000-of-00001.parquet")[1].counts == {"unknown": (1, 1)}

    def test_damaged_rows(self, tmp_path):
        images = [*self.images(2), {"bytes": b"nothing", "path": None}]
        columns = {"image": images, "label": ["real", "fake", None]}
        root = self.parquet(tmp_path / "bad", columns, {"image": datasets.Image(), **text("label")})
        assert load(root)[1].skipped == [(f"{root}#2", "no label")]
        columns["label"][2] = "fake"
        root = self.parquet(tmp_path / "worse", columns, {"image": datasets.Image(), **text("label")})
        dataset, report = load(root)
        assert (len(dataset), report.skipped) == (2, [(f"{root}#2", "not an image")])
        assert len(load_detection_dataset(root, max_per_class=1)) == 2

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"image": "i", "truth": "l"}, "has no label column among image, truth: pass `label_column=`"),
            ({"pixels": "i", "label": "l"}, "has no image column among pixels, label: rename"),
        ],
    )
    def test_missing_columns(self, columns, message):
        values = {"i": self.images(2), "l": ["real", "fake"]}
        dataset = datasets.Dataset.from_dict({name: values[kind] for name, kind in columns.items()})
        with pytest.raises(ValueError, match=message):
            load(dataset)


def text(names):
    return {name: datasets.Value("string") for name in names.split()}


class TestRefusals:
    def test_one_class(self, tmp_path):
        write_tree(tmp_path, ["real/{0..2}.png"])
        with pytest.raises(ValueError, match="all 3 images of .* are real .layout pair.: add fakes, or `allow_one_cl"):
            load(tmp_path)
        assert load(tmp_path, allow_one_class=True)[1].counts == {"unknown": (3, 0)}
        assert load(tmp_path, allow_one_class=True, max_per_class=2)[1].counts == {"unknown": (2, 0)}

    def test_nothing_there(self, tmp_path):
        with pytest.raises(ValueError, match="'/nowhere/at/all' does not exist"):
            load("/nowhere/at/all")
        with pytest.raises(ValueError, match="'nowhere' does not exist .and is no Hub id"):
            load("nowhere")
        with pytest.raises(ValueError, match="no images under .* .0 other files"):
            load(tmp_path)
        (tmp_path / "x.txt").write_text("hello")
        with pytest.raises(ValueError, match="is neither a folder nor a .zip archive"):
            load(tmp_path / "x.txt")

    def test_hub_id_that_cannot_be_read(self, monkeypatch):
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        with pytest.raises(ValueError, match="'nobody/nothing' is neither a folder nor a data set that could be read"):
            load("nobody/nothing")

    def test_all_unreadable(self, tmp_path):
        write_image(tmp_path / "real/a.png").write_bytes(b"")
        with pytest.raises(
            ValueError, match="no image is left in split 'train' of .*1 unreadable, first .*empty file"
        ):
            load(tmp_path)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"check_images": "quick"}, "`check_images` is 'quick': pass 'header', True, 'full' or False"),
            ({"max_per_class": 0}, "`max_per_class` is 0: pass a positive number"),
            ({"real_root": "/nowhere"}, "`real_root` '/nowhere' does not exist"),
            ({"layout": "manifest"}, "is and holds no manifest"),
        ],
    )
    def test_arguments(self, pair, options, message):
        with pytest.raises(ValueError, match=message):
            load(pair, **options)

    def test_every_message_is_one_line(self, tmp_path):
        write_tree(tmp_path, ["real/a.png"])
        with pytest.raises(ValueError) as caught:
            load(tmp_path)
        assert "\n" not in str(caught.value)


def test_only_light_libraries_are_imported():
    modules = "collect data layouts manifests reading recognition records report scan".split()
    imported = set()
    for module in modules:
        path = importlib.util.find_spec(f"mirage_hf.{module}").origin
        with open(path, encoding="utf-8") as file:
            for node in ast.walk(ast.parse(file.read())):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    imported.add(node.module.split(".")[0])
    assert imported - sys.stdlib_module_names - set(modules) == {"PIL", "datasets", "numpy", "pyarrow"}
