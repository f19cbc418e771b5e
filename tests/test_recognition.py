"""Trees that fit several layouts or none."""

import pytest
from loading import counts, load
from trees import write_tree

from mirage_hf.recognition import recognise


class TestRefusals:
    def test_two_layouts_in_one_tree(self, tmp_path):
        write_tree(tmp_path, ["sd/train/ai/a.png", "sd/train/nature/b.png", "train/real/a.png", "train/fake/b.png"])
        with pytest.raises(ValueError, match="ambiguous: layouts genimage and pair .*: pass `layout='genimage'`"):
            load(tmp_path)
        dataset, report = load(tmp_path, layout="genimage")
        assert report.counts == {"sd": (1, 1)}
        assert "2 images in 2 folders fit no rule, such as 'train/fake/'" in report.notes

    def test_two_data_sets_in_one_tree(self, tmp_path):
        write_tree(tmp_path, ["GenImage/sd/train/ai/a.png", "GenImage/sd/train/nature/b.png"])
        write_tree(tmp_path, ["MSCOCO/val2017/0.png", "DRCT-2M/sdxl/val2017/0.png"])
        with pytest.raises(ValueError, match="ambiguous: layouts drct-2m and genimage"):
            load(tmp_path)

    @pytest.mark.parametrize("other", ["CIFAKE/test/{}", "Chameleon/{}", "{}"])
    def test_another_set_beside_drct_is_never_taken_for_its_fakes(self, tmp_path, other):
        write_tree(tmp_path, ["MSCOCO/val2017/0.png", "DRCT-2M/sdxl/val2017/0.png"])
        write_tree(tmp_path, [f"{other.format(name)}/a.png" for name in ("real", "fake")])
        with pytest.raises(ValueError, match="ambiguous: layouts drct-2m and (generic|pair) both fit"):
            load(tmp_path, split="test")

    def test_folders_that_fit_nothing_are_told(self, tmp_path, caplog):
        write_tree(tmp_path, ["MSCOCO/val2017/0.png", "DRCT-2M/sdxl/val2017/0.png", "a/b/c/d/{0..3}.png"])
        _, report = load(tmp_path, split="test")
        assert report.counts == {"sdxl": (1, 1)}
        assert report.notes == ["4 images in 1 folders fit no rule, such as 'a/b/c/d/'"]
        assert "4 images in 1 folders fit no rule" in caplog.text

    def test_named_layout_settles_what_auto_refuses(self, tmp_path):
        write_tree(tmp_path, ["real/nature/a.png", "fake/nature/a{0..1}.png"])
        with pytest.raises(ValueError, match="names both classes"):
            load(tmp_path)
        assert counts(tmp_path, layout="pair") == {"unknown": (1, 2)}

    def test_both_classes_in_one_path(self, tmp_path):
        write_tree(tmp_path, ["real/fake/a.png"])
        with pytest.raises(ValueError, match="folder 'real/fake/' names both classes: pass `layout=`"):
            load(tmp_path)

    def test_half_with_splits(self, tmp_path):
        write_tree(tmp_path, ["train/real/a.png", "train/fake/a.png", "real/a.png", "fake/a.png"])
        with pytest.raises(ValueError, match="folder 'fake/' names no split but others do"):
            load(tmp_path)

    def test_named_layout_that_does_not_fit(self, tmp_path):
        write_tree(tmp_path, ["holiday/a.png"])
        with pytest.raises(ValueError, match="no folder under .* fits layout genimage: pass another, or 'auto'"):
            load(tmp_path, layout="genimage")

    def test_numbered_folders_are_not_guessed(self, tmp_path):
        write_tree(tmp_path, ["0/a.png", "1/b.png"])
        with pytest.raises(ValueError, match="no known layout"):
            load(tmp_path)

    def test_layouts_that_agree_are_no_conflict(self):
        folders = {"test/progan/0_real/": ["a.png"], "test/progan/1_fake/": ["a.png"]}
        layout, placed = recognise(folders)
        assert layout.name == "forensynths"
        assert {folder: place.label for folder, place in placed.items()} == {
            "test/progan/0_real/": 0,
            "test/progan/1_fake/": 1,
        }
