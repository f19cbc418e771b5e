"""The layout of GenImage: as published, unzipped, zipped and repacked."""

import pytest
from loading import counts, labels_by_folder, load
from trees import write_tree, write_zip

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
