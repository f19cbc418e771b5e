"""The carried mini-benchmark: complete, attributed, split by photograph, and fair to both classes."""

import csv
import hashlib
from collections import defaultdict
from pathlib import Path

import pytest
from PIL import Image

MINIBENCH = Path(__file__).parents[1] / "benchmarks" / "minibench"
CARRIED = MINIBENCH / "carried"
CONTROLS = {"bicubic_x2", "bicubic_x4"}
REDISTRIBUTABLE = {
    "public-domain",
    "CC0-1.0",
    "CC-BY-2.0",
    "CC-BY-3.0",
    "CC-BY-4.0",
    "CC-BY-SA-3.0",
    "CC-BY-SA-4.0",
    "GPL-2.0-or-later",
    "LGPL-3.0",
    "BSD-3-Clause",
}


@pytest.fixture(scope="module")
def rows():
    with (CARRIED / "manifest.csv").open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture(scope="module")
def by_crop(rows):
    """{crop: {path: (size, quantisation tables)}}, a crop being what its versions are all made of."""
    crops = defaultdict(dict)
    for row in rows:
        with Image.open(CARRIED / row["path"]) as image:
            version = row["path"].removesuffix(".jpg")
            crop = next(
                version.removesuffix(f"_{end}") for end in (row["generator"], "photo") if version.endswith(end)
            )
            crops[crop][row["path"]] = (image.size, image.quantization, image.layer, sorted(image.info))
    return crops


def test_manifest_lists_every_image_with_its_checksum(rows):
    for path, digest in {(row["path"], row["sha256"]) for row in rows}:
        assert hashlib.sha256((CARRIED / path).read_bytes()).hexdigest() == digest, path
    on_disk = {path.relative_to(CARRIED).as_posix() for path in (CARRIED / "images").rglob("*") if path.is_file()}
    assert on_disk == {row["path"] for row in rows}


def test_splits_share_no_photograph_and_no_image(rows):
    for column in ("photo", "sha256"):
        seen = defaultdict(set)
        for row in rows:
            seen[row[column]].add(row["split"])
        assert all(len(splits) == 1 for splits in seen.values())


def test_generators_of_each_split(rows):
    fakes = {split: {row["generator"] for row in rows if row["split"] == split and row["label"] == "fake"}
             for split in ("train", "validation", "test")}  # fmt: skip
    assert fakes["train"] == fakes["validation"] == {"realesrgan"}
    assert len(fakes["test"] - fakes["train"]) >= 3
    for split in fakes:
        controls = {row["generator"] for row in rows if row["split"] == split} - fakes[split]
        assert controls == CONTROLS


def test_labels_follow_from_how_an_image_was_made(rows):
    for row in rows:
        version = row["path"].removesuffix(".jpg")
        made_by_network = version.endswith(f"_{row['generator']}") and row["generator"] not in CONTROLS
        assert row["label"] == ("fake" if made_by_network else "real"), row["path"]


def test_every_generator_stands_against_as_many_photographs_as_fakes(rows):
    count = defaultdict(lambda: defaultdict(int))
    for row in rows:
        if row["generator"] not in CONTROLS:
            count[row["split"], row["generator"]][row["label"]] += 1
    assert all(labels["real"] == labels["fake"] > 0 for labels in count.values())


def test_versions_of_a_crop_differ_in_pixels_only(by_crop):
    for crop, versions in by_crop.items():
        assert len(versions) >= 4, crop
        first = next(iter(versions.values()))
        assert all(facts == first for facts in versions.values()), crop
        assert first[0] == (128, 128)


def test_licence_and_attribution_of_every_photograph(rows):
    with (MINIBENCH / "photographs.csv").open(newline="", encoding="utf-8") as handle:
        listed = {row["id"]: row for row in csv.DictReader(handle)}
    attribution = (CARRIED / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for row in rows:
        photo = listed[row["photo"]]
        assert row["license"] == photo["license"] in REDISTRIBUTABLE
        assert row["source"] == photo["package"]
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in attribution.splitlines() if line[:2] == "| "}
    for name in {row["photo"] for row in rows}:
        assert listed[name]["author"] in lines[name] and listed[name]["license"] in lines[name]


def test_carried_set_is_small():
    assert sum(path.stat().st_size for path in CARRIED.rglob("*") if path.is_file()) <= 8_000_000


def test_tiny_clip_loads_and_reads_the_template():
    transformers = pytest.importorskip("transformers")
    folder = MINIBENCH / "tiny-clip"
    assert (folder / "model.safetensors").stat().st_size <= 10_000_000
    model = transformers.CLIPModel.from_pretrained(folder)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    assert 2e6 < model.num_parameters() < 4e6
    assert model.config.text_config.eos_token_id == tokenizer.eos_token_id == len(tokenizer) - 1
    ids = tokenizer(["a photo of a real", "a photo of a fake"])["input_ids"]
    assert [len(each) for each in ids] == [7, 7]  # start, five words of one token each, end
    assert ids[0][:5] == ids[1][:5] and ids[0][5] != ids[1][5] and ids[0][6] == ids[1][6] == len(tokenizer) - 1


def test_tiny_clip_takes_native_pixels():
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil.from_pretrained(MINIBENCH / "tiny-clip")
    image = Image.effect_noise((128, 128), 60).convert("RGB")
    pixels = processor(image, return_tensors="pt")["pixel_values"]  # (1, 3, 96, 96)
    middle = processor(image.crop((16, 16, 112, 112)), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 96, 96) and (pixels == middle).all()
