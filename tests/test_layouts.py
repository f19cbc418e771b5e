"""Every layout of the field, on small trees with expectations written by hand; GenImage's is in `test_genimage.py`."""

import pytest
from loading import counts, labels_by_folder, load
from trees import write_tree

from mirage_hf.layouts import FAKE_NAMES, LAYOUTS, REAL_NAMES, find_layout, label_of, split_of


class TestNames:
    @pytest.mark.parametrize("name", ["real", "REAL", "0_real", "nature", "Authentic", "1-real", "Real Images"])
    def test_real(self, name):
        assert label_of(name) == 0

    @pytest.mark.parametrize("name", ["fake", "FAKE", "1_fake", "ai", "AI-generated", "Synthetic", "0_fake"])
    def test_fake(self, name):
        assert label_of(name) == 1

    @pytest.mark.parametrize("name", ["", "0", "1", "unreal", "deepfake", "Real-ESRGAN", "realistic_vision", "aiart"])
    def test_neither(self, name):
        assert label_of(name) is None

    def test_no_name_is_both(self):
        assert not REAL_NAMES & FAKE_NAMES

    def test_splits(self):
        assert [split_of(name) for name in ("train", "VAL", "val2017", "test", "trainer")] == [
            "train",
            "validation",
            "validation",
            "test",
            None,
        ]

    def test_layouts_are_found_by_any_spelling(self):
        assert find_layout("DRCT_2M") is find_layout("drct-2m")
        assert len({layout.name for layout in LAYOUTS}) == len(LAYOUTS)

    def test_unknown_layout(self):
        with pytest.raises(ValueError, match="unknown layout 'imagenet': choose one of auto, universalfakedetect"):
            find_layout("imagenet")


class TestGrids:
    """`[split/]<generator>/[category/]{0_real,1_fake}`: ForenSynths, AIGCDetectBenchmark, AIGIBench, any other."""

    FORENSYNTHS = [
        "test/progan/airplane/0_real/a{0..1}.png",
        "test/progan/airplane/1_fake/a{0..1}.png",
        "test/progan/cat/0_real/a{0..1}.png",
        "test/progan/cat/1_fake/a.png",
        "test/seeingdark/0_real/s.png",
        "test/seeingdark/1_fake/s.png",
        "test/san/0_real/s{0..2}.bmp",
        "test/san/1_fake/s.png",
    ]

    def test_forensynths_with_and_without_categories(self, tmp_path):
        write_tree(tmp_path, self.FORENSYNTHS)
        _, report = load(tmp_path, split="test")
        assert report.layout == "forensynths"
        assert report.counts == {"progan": (4, 3), "san": (3, 1), "seeingdark": (1, 1)}

    def test_forensynths_train_beside_test(self, tmp_path):
        write_tree(tmp_path, [*self.FORENSYNTHS, "progan/chair/0_real/a.png", "progan/chair/1_fake/a{0..1}.png"])
        assert counts(tmp_path) == {"progan": (1, 2)}
        assert counts(tmp_path, split="test")["progan"] == (4, 3)

    def test_forensynths_train_alone(self, tmp_path):
        write_tree(tmp_path, ["progan/chair/0_real/a.png", "progan/chair/1_fake/a.png", "progan/cow/1_fake/a.png"])
        assert counts(tmp_path) == {"progan": (1, 2)}

    def test_under_one_more_folder(self, tmp_path):
        write_tree(tmp_path / "data" / "CNNDetection", self.FORENSYNTHS)
        assert counts(tmp_path, split="test")["progan"] == (4, 3)

    @pytest.mark.parametrize(
        ("name", "generators"),
        [
            ("aigcdetectbenchmark", ["progan/car", "wukong", "DALLE2"]),
            ("aigibench", ["R3GAN", "SocialRF", "FLUX1-dev"]),
            ("generic", ["my_model.v1.2", "other"]),
        ],
    )
    def test_others(self, tmp_path, name, generators):
        for generator in generators:
            write_tree(tmp_path / "test" / generator, ["0_real/a{0..1}.jpg", "1_fake/b.png"])
        expected = {generator.split("/")[0]: (2, 1) for generator in generators}
        _, report = load(tmp_path, split="test")
        assert report.layout == name
        assert report.counts == expected
        assert counts(tmp_path, split="test", layout=name) == expected
        with pytest.raises(ValueError, match="there is no split 'train': pass `split=` one of test"):
            load(tmp_path)

    def test_splits_within_generators(self, tmp_path):
        write_tree(tmp_path, ["sdxl/train/real/a.png", "sdxl/train/fake/a.png", "sdxl/test/fake/b{0..1}.png"])
        write_tree(tmp_path, ["flux/train/real/a.png", "flux/train/fake/a.png", "sdxl/test/real/b.png"])
        assert counts(tmp_path) == {"flux": (1, 1), "sdxl": (1, 1)}
        assert counts(tmp_path, split="test") == {"sdxl": (1, 2)}

    def test_splits_within_classes(self, tmp_path):
        write_tree(tmp_path, ["sdxl/real/train/a.png", "sdxl/fake/train/a.png", "sdxl/fake/test/b{0..1}.png"])
        write_tree(tmp_path, ["sdxl/real/test/{0..3}.png"])
        assert counts(tmp_path) == {"sdxl": (1, 1)}
        assert counts(tmp_path, split="test") == {"sdxl": (4, 2)}


class TestUniversalFakeDetect:
    LAION = ["ldm_200", "ldm_200_cfg", "ldm_100", "glide_100_27", "glide_50_27", "glide_100_10", "dalle"]

    def write(self, root, diffusion="diffusion_datasets"):
        write_tree(
            root / diffusion,
            [
                "imagenet/0_real/i{0..2}.png",
                "laion/0_real/l{0..1}.png",
                "guided/1_fake/g.png",
                *(f"{generator}/1_fake/f{{0..3}}.png" for generator in self.LAION),
            ],
        )
        return {**dict.fromkeys(sorted(self.LAION), (2, 4)), "guided": (3, 1)}

    def test_reals_are_shared(self, tmp_path):
        expected = self.write(tmp_path)
        write_tree(tmp_path, ["test/progan/car/0_real/a.png", "test/progan/car/1_fake/a{0..1}.png"])
        dataset, report = load(tmp_path, split="test")
        assert report.layout == "universalfakedetect"
        assert report.counts == {**expected, "progan": (1, 2)}
        rows = [
            row for row in dataset.select_columns(["path", "generator", "label"]) if row["path"].endswith("l0.png")
        ]
        assert [row["generator"] for row in rows] == sorted(self.LAION)
        assert {row["label"] for row in rows} == {0}
        assert counts(tmp_path, split="test", generators=["DALLE"]) == {"dalle": (2, 4)}

    def test_fakes_beside_shared_reals_are_not_shared(self, tmp_path):
        expected = self.write(tmp_path)
        write_tree(tmp_path, ["diffusion_datasets/laion/1_fake/x.png"])
        assert counts(tmp_path, split="test") == {**expected, "laion": (0, 1)}

    @pytest.mark.parametrize("place", ["test/diffusion_datasets", "diffusion_datasets"])
    def test_wherever_the_diffusion_sets_lie(self, tmp_path, place):
        expected = self.write(tmp_path, place)
        assert counts(tmp_path, split="test") == expected
        assert counts(tmp_path / place, split="test") == expected

    def test_nineteen_sets(self, tmp_path):
        expected = self.write(tmp_path)
        gans = "progan cyclegan biggan stylegan gaugan stargan deepfake seeingdark san crn imle".split()
        for gan in gans:
            write_tree(tmp_path / gan, ["0_real/a.png", "1_fake/a.png"])
        found = counts(tmp_path, split="test")
        assert found == {**expected, **dict.fromkeys(gans, (1, 1))}
        assert len(found) == 19


class TestOtherSets:
    def test_chameleon(self, tmp_path):
        write_tree(tmp_path, ["test/0_real/a{0..2}.jpg", "test/1_fake/b.jpg"])
        assert counts(tmp_path, split="test") == {"unknown": (3, 1)}
        assert counts(tmp_path, split="test", layout="chameleon") == {"chameleon": (3, 1)}
        assert counts(tmp_path / "test", split="test", layout="Chameleon") == {"chameleon": (3, 1)}

    def test_drct(self, tmp_path):
        write_tree(
            tmp_path,
            [
                "MSCOCO/train2017/{0..3}.jpg",
                "MSCOCO/val2017/9{0..1}.jpg",
                "DRCT-2M/stable-diffusion-v1-4/train2017/{0..2}.png",
                "DRCT-2M/stable-diffusion-v1-4/val2017/9.png",
                "DRCT-2M/sdxl-turbo/val2017/9{0..2}.png",
            ],
        )
        _, report = load(tmp_path)
        assert report.layout == "drct-2m"
        assert report.counts == {"stable-diffusion-v1-4": (4, 3)}
        for split in ("validation", "test"):
            assert counts(tmp_path, split=split) == {"sdxl-turbo": (2, 3), "stable-diffusion-v1-4": (2, 1)}

    def test_drct_with_reals_elsewhere(self, tmp_path):
        write_tree(tmp_path / "DRCT-2M", ["sdxl/train2017/{0..2}.png", "sdxl/val2017/9.png"])
        write_tree(tmp_path / "coco", ["train2017/{0..1}.jpg", "val2017/9{0..3}.jpg"])
        options = {"layout": "drct-2m", "real_root": tmp_path / "coco"}
        assert counts(tmp_path / "DRCT-2M", **options) == {"sdxl": (2, 3)}
        assert counts(tmp_path / "DRCT-2M", split="test", **options) == {"sdxl": (4, 1)}

    def test_synthbuster(self, tmp_path):
        write_tree(tmp_path / "sb", ["dalle3/r000da54ft.png", "dalle3/r001.png", "firefly/r000da54ft.png"])
        write_tree(tmp_path / "raise", ["r000da54ft.TIF", "more/r1.tif", "more/r2.tif"])
        with pytest.raises(ValueError, match="all 3 images of .* are fake .layout synthbuster.: pass `real_root="):
            load(tmp_path / "sb", split="test")
        assert counts(tmp_path / "sb", split="test", allow_one_class=True) == {"dalle3": (0, 2), "firefly": (0, 1)}
        dataset, report = load(tmp_path / "sb", split="test", real_root=tmp_path / "raise")
        assert report.counts == {"dalle3": (3, 2), "firefly": (3, 1)}
        assert all(
            ("/raise/" in row["path"]) == (row["label"] == 0) for row in dataset.select_columns(["path", "label"])
        )

    def test_other_names_are_not_taken_for_fakes(self, tmp_path):
        write_tree(tmp_path, ["holiday/render1.png", "work/r1.png"])
        with pytest.raises(ValueError, match="no known layout among the image folders 'holiday/', 'work/'"):
            load(tmp_path)

    def test_cifake(self, tmp_path):
        write_tree(tmp_path, ["train/REAL/{0..2}.jpg", "train/FAKE/{0..1}.jpg", "test/REAL/0.jpg", "test/FAKE/0.jpg"])
        dataset, report = load(tmp_path)
        assert (report.layout, report.counts) == ("cifake", {"cifake": (3, 2)})
        assert labels_by_folder(dataset, ["REAL", "FAKE"]) == {"REAL": {0}, "FAKE": {1}}

    @pytest.mark.parametrize(
        ("real", "fake"),
        [
            ("real", "fake"),
            ("nature", "ai"),
            ("0_real", "1_fake"),
            ("1_real", "0_fake"),
            ("Authentic", "AI-Generated"),
            ("REAL", "synthetic"),
            ("genuine images", "generated images"),
        ],
    )
    def test_pairs(self, tmp_path, real, fake):
        write_tree(tmp_path, [f"{real}/a.png", f"{real}/deeper/folder/b.png", f"{fake}/c.png"])
        dataset, report = load(tmp_path)
        assert (report.layout, report.counts) == ("pair", {"unknown": (2, 1)})
        assert labels_by_folder(dataset, [real, fake]) == {real: {0}, fake: {1}}
        assert "it names no splits: all of it answers for 'train'" in report.notes

    @pytest.mark.parametrize("order", ["{split}/{name}", "{name}/{split}"])
    def test_pairs_with_splits_are_not_mixed(self, tmp_path, order):
        for split, last in (("train", 2), ("val", 0)):
            for name in ("real", "fake"):
                folder = order.format(split=split, name=name)
                write_tree(tmp_path, [f"{folder}/a{{0..{last}}}.png"])
        assert counts(tmp_path) == {"unknown": (3, 3)}
        assert counts(tmp_path, split="validation") == {"unknown": (1, 1)}
        with pytest.raises(ValueError, match="no split 'test': pass `split=` one of train, val"):
            load(tmp_path, split="test")
