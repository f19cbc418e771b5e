"""Every layout of the field, on small trees with expectations written by hand."""

import pytest
from trees import write_tree, write_zip

from mirage_hf.data import load_detection_dataset
from mirage_hf.layouts import FAKE_NAMES, LAYOUTS, REAL_NAMES, find_layout, label_of, split_of
from mirage_hf.recognition import recognise

GENIMAGE_AS_UNZIPPED = {
    "stable_diffusion_v_1_4": "imagenet_ai_0419_sdv4",
    "stable_diffusion_v_1_5": "imagenet_ai_0424_sdv5",
    "Midjourney": "imagenet_midjourney",
    "ADM": "imagenet_ai_0508_adm",
    "wukong": "imagenet_ai_0424_wukong",
    "glide": "imagenet_glide",
    "VQDM": "imagenet_ai_0419_vqdm",
    "BigGAN": "imagenet_ai_0419_biggan",
}


def load(root, **options):
    dataset, report = load_detection_dataset(root, return_report=True, **options)
    return dataset, report


def counts(root, **options):
    return load(root, **options)[1].counts


def labels_by_folder(dataset, folders):
    """The set of labels of the rows whose path goes through each folder."""
    return {
        folder: {row["label"] for row in dataset.select_columns(["label", "path"]) if f"/{folder}/" in row["path"]}
        for folder in folders
    }


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


class TestGenImage:
    def test_as_published(self, tmp_path):
        write_tree(
            tmp_path,
            [
                "Midjourney/train/ai/a{0..3}.png",
                "Midjourney/train/nature/n{0..2}.JPEG",
                "Midjourney/val/ai/v.png",
                "Midjourney/val/nature/v.JPEG",
                "ADM/train/ai/x{0..1}.PNG",
                "ADM/train/nature/y.JPEG",
                "ADM/val/ai/v{0..1}.PNG",
                "ADM/val/nature/v{0..2}.JPEG",
            ],
        )
        dataset, report = load(tmp_path)
        assert report.layout == "genimage"
        assert report.counts == {"ADM": (1, 2), "Midjourney": (3, 4)}
        assert labels_by_folder(dataset, ["ai", "nature"]) == {"ai": {1}, "nature": {0}}
        for split in ("validation", "test", "val"):
            assert counts(tmp_path, split=split) == {"ADM": (3, 2), "Midjourney": (1, 1)}

    def test_sorted_folder_names_would_invert_the_labels(self, tmp_path):
        write_tree(tmp_path, ["ADM/train/ai/x.PNG", "ADM/train/nature/y.JPEG"])
        naive = {name: label for label, name in enumerate(sorted(p.name for p in (tmp_path / "ADM/train").iterdir()))}
        assert naive == {"ai": 0, "nature": 1}
        dataset, _ = load(tmp_path)
        assert labels_by_folder(dataset, naive) == {"ai": {1}, "nature": {0}}

    def test_as_unzipped(self, tmp_path):
        for generator, inner in GENIMAGE_AS_UNZIPPED.items():
            write_tree(tmp_path / generator / inner, ["train/ai/a{0..1}.PNG", "train/nature/n.JPEG", "val/ai/a.PNG"])
        expected = dict.fromkeys(sorted(GENIMAGE_AS_UNZIPPED, key=str.lower), (1, 2))
        assert counts(tmp_path) == expected
        assert list(counts(tmp_path)) == list(expected)

    @pytest.mark.parametrize("generator", GENIMAGE_AS_UNZIPPED)
    def test_one_generator_alone(self, tmp_path, generator):
        inner = GENIMAGE_AS_UNZIPPED[generator]
        files = [f"{generator}/{inner}/train/ai/a.png", f"{generator}/{inner}/train/nature/n.JPEG"]
        write_tree(tmp_path, files)
        for root in (tmp_path, tmp_path / generator, tmp_path / generator / inner):
            assert counts(root) == {generator: (1, 1)}

    def test_zipped(self, tmp_path):
        write_zip(
            tmp_path / "ADM/imagenet_ai_0508_adm.zip",
            [
                "train/ai/x{0..2}.PNG",
                "train/nature/y.JPEG",
                "val/ai/z.PNG",
                "__MACOSX/train/ai/._x0.PNG",
                "README.txt",
            ],
        )
        write_zip(
            tmp_path / "glide/imagenet_glide.zip",
            ["imagenet_glide/train/ai/x.png", "imagenet_glide/train/nature/y{0..1}.JPEG"],
        )
        dataset, report = load(tmp_path)
        assert report.layout == "genimage"
        assert report.counts == {"ADM": (1, 3), "glide": (2, 1)}
        assert report.ignored == 1
        assert dataset[0]["path"] == f"{tmp_path}/ADM/imagenet_ai_0508_adm.zip!train/nature/y.JPEG"
        assert all(image.mode == "RGB" and image.size == (8, 8) for image in dataset["image"])
        assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [
            "imagenet_ai_0508_adm.zip",
            "imagenet_glide.zip",
        ]

    def test_archive_as_root(self, tmp_path):
        path = write_zip(tmp_path / "imagenet_glide.zip", ["train/ai/x.png", "train/nature/y{0..1}.JPEG"])
        assert counts(path, layout="genimage") == {"glide": (2, 1)}

    @pytest.mark.parametrize("unpacked_in", ["ADM", "ADM/imagenet_ai_0508_adm"])
    def test_unpacked_beside_its_archive_is_taken_once(self, tmp_path, unpacked_in):
        files = ["train/ai/x{0..1}.PNG", "train/nature/y.JPEG"]
        write_zip(tmp_path / "ADM/imagenet_ai_0508_adm.zip", files)
        write_tree(tmp_path / unpacked_in, files)
        _, report = load(tmp_path)
        assert report.counts == {"ADM": (1, 2)}
        assert "3 images of archives are there unpacked too and were taken once" in report.notes

    def test_split_archive_is_named(self, tmp_path):
        write_tree(tmp_path, ["glide/train/ai/x.png", "glide/train/nature/y.JPEG"])
        write_zip(tmp_path / "ADM/imagenet_ai_0508_adm.zip", ["train/ai/x.PNG", "train/nature/y.JPEG"])
        (tmp_path / "ADM/imagenet_ai_0508_adm.z01").write_bytes(b"part one")
        _, report = load(tmp_path)
        assert report.counts == {"glide": (1, 1)}
        assert [reason for _, reason in report.skipped] == [
            "a split archive: join its parts with `zip -s 0 <this.zip> --out <joined.zip>`"
        ]

    def test_repacked(self, tmp_path):
        write_tree(
            tmp_path,
            [
                "test/ADM/0_real/a.JPEG",
                "test/ADM/1_fake/a{0..1}.PNG",
                "test/wukong/0_real/a.JPEG",
                "test/wukong/1_fake/b.png",
            ],
        )
        expected = {"ADM": (1, 2), "wukong": (1, 1)}
        assert counts(tmp_path, split="test") == expected
        assert counts(tmp_path, split="test", layout="genimage") == expected
        assert counts(tmp_path / "test", split="test") == expected


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
