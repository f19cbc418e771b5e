"""Data sets with columns: from the Hub's Parquet files, saved, and loaded already."""

import datasets
import pytest
from loading import load, paths
from trees import image_bytes, write_tree

from mirage_hf.data import load_detection_dataset

pytestmark = pytest.mark.usefixtures("cache_of_its_own")


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
