"""CSV and Parquet manifests, and labels written as names, numbers or booleans."""

import csv

import datasets
import pytest
from loading import described, load, paths
from trees import write_tree, write_zip

from mirage_hf.data import load_detection_dataset
from mirage_hf.manifests import labels_from_values

pytestmark = pytest.mark.usefixtures("cache_of_its_own")


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
