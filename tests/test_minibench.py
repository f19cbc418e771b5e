"""The carried mini-benchmark: complete, attributed, split by photograph, fair to both classes, and as audited."""

import csv
import hashlib
import json
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from PIL import Image

MINIBENCH = Path(__file__).parents[1] / "benchmarks" / "minibench"
CARRIED = MINIBENCH / "carried"
sys.path.insert(0, str(MINIBENCH))
import audit  # noqa: E402
import leak  # noqa: E402
import listing  # noqa: E402
import metadata_null  # noqa: E402
import photos  # noqa: E402

CONTROLS = {"bicubic_x2", "bicubic_x4"}
SEEN = {"realesrgan"}
UNSEEN = {"realsr", "span", "realcugan", "waifu2x", "datlight", "style", "selfstyle"}
FAMILIES = {"RRDB", "SPAN", "SE-UNet", "upconv", "transformer", "style"}
FULL_ONLY = {"clearreality", "dcgan_face", "dcgan_eye"}
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
    return listing.read(CARRIED)


@pytest.fixture(scope="module")
def audited():
    return json.loads(audit.AUDIT.read_text())


@pytest.fixture(scope="module")
def photographs():
    """{list: {photograph: its row}}"""
    lists = {}
    for name in ("photographs.csv", "photographs_build_only.csv"):
        with (MINIBENCH / name).open(newline="", encoding="utf-8") as handle:
            lists[name] = {row["id"]: row for row in csv.DictReader(handle)}
    return lists


@pytest.fixture(scope="module")
def images(rows):
    """{path: (split, sha256 of its pixels)}; every file is decoded once."""
    return {row.path: (row.split, leak.pixel_hash(Image.open(CARRIED / row.path))) for row in rows}


def test_manifest_lists_every_image_with_its_checksum(rows):
    for path, digest in {(row.path, row.sha256) for row in rows}:
        assert hashlib.sha256((CARRIED / path).read_bytes()).hexdigest() == digest, path
    on_disk = {path.relative_to(CARRIED).as_posix() for path in (CARRIED / "images").rglob("*") if path.is_file()}
    assert on_disk == {row.path for row in rows}


def test_splits_share_no_photograph_and_no_image(rows, images):
    for column in ("photo", "sha256"):
        assert not leak.shared((getattr(row, column), row.split, getattr(row, column)) for row in rows)
    assert not leak.shared((path, split, digest) for path, (split, digest) in images.items())


def test_leak_check_finds_a_planted_duplicate_and_a_tighter_crop():
    from skimage import data

    scene, other = (Image.fromarray(array) for array in (data.astronaut(), data.chelsea()))
    tighter = scene.crop((60, 20, 400, 360)).resize((512, 512))
    planted = {"scene": scene, "other": other, "again": scene.resize((400, 400)), "tighter": tighter}
    planted = {name: leak.Fingerprint(image) for name, image in planted.items()}
    found = leak.alike(planted, {"scene": "train", "other": "train", "again": "test", "tighter": "test"})
    assert found == {"difference hash": [["again", "scene"]], "keypoints": [["again", "scene"], ["scene", "tighter"]]}
    same_split = leak.alike(planted, dict.fromkeys(planted, "train"))
    assert same_split == {"difference hash": [], "keypoints": []}
    copied = leak.shared((name, split, leak.pixel_hash(scene)) for name, split in (("a", "train"), ("b", "test")))
    assert copied == [["a", "b"]]


def test_generators_of_each_split(rows):
    for split in listing.SPLITS:
        fakes = {row.generator for row in rows if row.split == split and row.label == "fake"}
        assert fakes == (SEEN | UNSEEN if split == "test" else SEEN)
        assert {row.generator for row in rows if row.split == split} - fakes == CONTROLS
    assert {row.family for row in rows} == FAMILIES | {"control"}
    assert all((row.family == "control") == (row.generator in CONTROLS) for row in rows)


def test_labels_follow_from_how_an_image_was_made(rows):
    for row in rows:
        made_by_network = row.version not in CONTROLS | {"photo"}
        assert row.label == ("fake" if made_by_network else "real"), row.path
        assert row.version in {"photo", row.generator}


def test_every_crop_has_every_version(rows):
    versions = defaultdict(set)
    for row in rows:
        versions[row.crop].add(row.version)
        assert row.index < (1 if row.split == "test" else 2)
    for crop, own in versions.items():
        assert own == {"photo"} | CONTROLS | SEEN | (UNSEEN if crop.startswith("test/") else set()), crop


def test_versions_of_a_crop_differ_in_pixels_only(rows):
    facts = metadata_null.as_saved(CARRIED, rows)
    crops = defaultdict(set)
    for row in rows:
        crops[row.crop].add((facts[row.path].size, facts[row.path].sampling, facts[row.path].tables))
    assert all(len(kinds) == 1 for kinds in crops.values())
    assert {facts[path].size for path in facts} == {(192, 192)}
    with Image.open(CARRIED / rows[0].path) as image:
        assert not {"exif", "comment", "icc_profile"} & set(image.info)


def test_licence_and_attribution_of_every_photograph(rows, photographs):
    listed = photographs["photographs.csv"]
    for row in rows:
        photo = listed[row.photo]
        assert row.license == photo["license"] in REDISTRIBUTABLE
        assert row.source == photo["package"]
    attribution = (CARRIED / "ATTRIBUTION.md").read_text(encoding="utf-8")
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in attribution.splitlines() if line[:2] == "| "}
    for name in {row.photo for row in rows}:
        assert listed[name]["author"] in lines[name] and listed[name]["license"] in lines[name]


def test_nothing_of_unverified_origin_is_carried(rows, photographs):
    build_only, allowed = photographs["photographs_build_only.csv"], photographs["photographs.csv"]
    assert not set(build_only) & set(allowed)
    assert not {photo["sha256"] for photo in build_only.values()} & {photo["sha256"] for photo in allowed.values()}
    assert not set(build_only) & {row.photo for row in rows}
    assert not FULL_ONLY & {row.generator for row in rows}


def test_checksums(rows, audited, photographs):
    checksums = json.loads((CARRIED / "checksums.json").read_text())
    assert checksums["manifest"]["carried"] == listing.checksum(CARRIED)
    split = {row.photo: row.split for row in rows} | audited["tiers"]["carried"]["without a crop"]
    lines = sorted(f"{name},{row['sha256']},{split[name]}\n" for name, row in photographs["photographs.csv"].items())
    assert hashlib.sha256("".join(lines).encode()).hexdigest() == checksums["split"]["carried"]
    assert audited["checksums"] == checksums


def test_another_split_than_the_recorded_one_is_refused():
    before = photos.CHECKSUMS.read_bytes()
    with pytest.raises(ValueError, match="aren't those recorded in checksums.json"):
        photos.check_split({photo.id: "train" for photo in photos.photographs()})
    assert photos.CHECKSUMS.read_bytes() == before


def test_audit_agrees_with_the_manifest(rows, audited):
    own = audited["tiers"]["carried"]
    assert own["rows"] == audit.counts(rows)
    assert own["photographs"] == audit.count({(row.split, row.photo) for row in rows})
    assert own["crops"] == audit.count({(row.split, row.crop) for row in rows})
    files = {row.path: row for row in rows}
    assert own["images"] == len(files)
    assert own["bytes of images"] == sum((CARRIED / path).stat().st_size for path in files)
    assert own["encoding"] == audit.encoding(files.values(), metadata_null.as_saved(CARRIED, rows))


def test_audit_of_the_full_tier(audited, photographs):
    full, carried = (audited["tiers"][tier] for tier in ("full", "carried"))
    assert set(full["rows"]["test"]) == set(carried["rows"]["test"]) | FULL_ONLY
    for split in listing.SPLITS:
        for name, labels in full["rows"][split].items():
            assert name in CONTROLS or labels["real"] == labels["fake"] > 0
            assert all(labels[label] >= n for label, n in carried["rows"][split].get(name, {}).items())
    count = sum(full["photographs"].values()) + len(full["without a crop"])
    assert count == sum(map(len, photographs.values())) == audited["leak"]["compared"]["photographs"]
    assert audited["leak"]["compared"]["images"] == full["images"]
    assert not any(audited["leak"]["found"].values())


def test_audited_null_has_every_generator(audited):
    for tier in audited["tiers"].values():
        fakes = {name for name, labels in tier["rows"]["test"].items() if "fake" in labels}
        for how in ("as saved", "aligned"):
            null = tier["null"][how]
            assert set(null["single numbers"]["test"]) == fakes
            assert all(set(null[kind]["test"]) == fakes | CONTROLS for kind in audit.CLASSIFIERS)
            numbers = [n for kind in null.values() for own in kind["test"].values() for n in own.values()]
            assert all(0 <= number <= 1 for number in numbers)
        tables = [own["quantisation tables"] for own in tier["null"]["as saved"]["single numbers"]["test"].values()]
        assert set(tables) == {0.5}


def test_null_of_the_carried_set_is_the_audited_one(rows, audited):
    numbers = metadata_null.single_numbers(rows, metadata_null.as_saved(CARRIED, rows))
    for split, expected in audited["tiers"]["carried"]["null"]["as saved"]["single numbers"].items():
        for generator, own in expected.items():
            assert own == pytest.approx(numbers[split][generator], abs=1e-4)


def test_alignment_brings_file_sizes_together(rows):
    crop = [row for row in rows if row.crop == rows[-1].crop]
    saved, aligned = metadata_null.as_saved(CARRIED, crop), metadata_null.aligned(CARRIED, crop)
    photo = next(row.path for row in crop if row.version == "photo")
    assert aligned[photo] == saved[photo]
    apart = {path: abs(facts.length / saved[photo].length - 1) for path, facts in saved.items()}
    assert max(apart.values()) > 0.2
    assert all(abs(aligned[path].length / saved[photo].length - 1) < 0.1 for path in apart)


def test_readme_shows_the_audit(audited):
    readme = " ".join(audit.README.read_text(encoding="utf-8").split())
    assert " ".join(audit.tables(audited).split()) in readme
    compared, photographs = (
        audited["leak"]["compared"],
        [audited["tiers"][t]["photographs"] for t in ("carried", "full")],
    )
    assert f"any two of the {compared['images']} images" in readme
    assert f"any two of the {compared['photographs']} photographs" in readme
    recognised = audited["leak"]["crops matched to their own photograph"]
    assert f"recognises {recognised} of the {compared['plain crops']} crops" in readme
    assert (
        f"{photographs[0]['test']} test photographs are carried, the full tier has {photographs[1]['test']}" in readme
    )


def test_carried_set_is_small():
    assert sum(path.stat().st_size for path in CARRIED.rglob("*") if path.is_file()) <= 18_000_000


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
