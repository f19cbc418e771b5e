"""Loading a data set: its columns, damage that was not looked for, and refusals."""

import ast
import importlib.util
import pickle
import sys

import datasets
import pytest
from loading import load, paths
from trees import write_image, write_tree, write_zip

from mirage_hf.data import load_detection_dataset
from mirage_hf.image_io import decode_rgb

pytestmark = pytest.mark.usefixtures("cache_of_its_own")


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


class TestImages:
    def test_unchecked_damage_ends_no_epoch(self, tmp_path, caplog):
        write_tree(tmp_path, ["real/a.jpg", "fake/b.png"])
        (tmp_path / "fake/c.png").write_bytes(b"nothing")
        dataset = load_detection_dataset(tmp_path, check_images=False)
        images = [row["image"] for row in dataset]
        assert [image is None for image in images] == [False, False, True]
        assert f"{tmp_path}/fake/c.png: not an image" in caplog.text

    def test_members_are_not_copied_into_memory(self, tmp_path):
        write_zip(tmp_path / "x.zip", ["real/{0..9}.png", "fake/{0..9}.png"])
        table = load_detection_dataset(tmp_path / "x.zip").with_format("arrow")[:]
        assert {value["bytes"] for value in table["image"].to_pylist()} == {None}

    def test_data_loader_workers(self, tmp_path):
        torch = pytest.importorskip("torch")
        write_zip(tmp_path / "x.zip", ["real/{0..9}.png", "fake/{0..9}.jpg"])
        dataset = load_detection_dataset(tmp_path / "x.zip")
        loader = torch.utils.data.DataLoader(dataset, batch_size=4, num_workers=2, collate_fn=sizes_and_labels)
        batches = list(loader)
        assert [size for sizes, _ in batches for size in sizes] == [(8, 8)] * 20
        assert sum(label for _, labels in batches for label in labels) == 10


def sizes_and_labels(rows):
    return [row["image"].size for row in rows], [row["label"] for row in rows]


class TestRefusals:
    def test_one_class(self, tmp_path):
        write_tree(tmp_path, ["real/{0..2}.png"])
        with pytest.raises(ValueError, match="all 3 images of .* are real .layout pair.: add fakes, or `allow_one_cl"):
            load(tmp_path)
        assert load(tmp_path, allow_one_class=True)[1].counts == {"unknown": (3, 0)}
        assert load(tmp_path, allow_one_class=True, max_per_class=2)[1].counts == {"unknown": (2, 0)}

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
    modules += ["image_formats", "image_io", "image_pixels", "pillow_switches"]
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
