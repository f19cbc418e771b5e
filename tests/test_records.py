"""Subsets, balanced and reproducible, and the choice of generators."""

import os
import shutil

import pytest
from loading import counted, described, load, paths
from trees import write_tree

from mirage_hf.data import load_detection_dataset
from mirage_hf.image_io import find_problem

pytestmark = pytest.mark.usefixtures("cache_of_its_own")


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
