"""The evidence table: features, schedules, and its stages on a tiny set."""

import csv
import gzip
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import OFF
from PIL import Image
from transformers import CLIPModel

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.minibench.evidence import residuals, stages, storage, tables
from benchmarks.minibench.evidence.grid import read_grid
from benchmarks.minibench.evidence.images import FlipAndAugment, TrainingCrops, draw_schedule, read_split
from mirage_hf.augmentations import AugmentationConfig
from mirage_hf.files import write_atomically

ROOT = Path(__file__).parents[1]
BACKBONE = ROOT / "benchmarks" / "minibench" / "tiny-clip"
FAMILIES = {"realesrgan": "RRDB", "realsr": "RRDB", "span": "SPAN", "dcgan_face": "GAN"}


# ------------------------------------------------------------------------------------------------------------ features


def wave(size, cycles_y, cycles_x):
    """Grey picture of one plane wave, uint8 `(1, size, size, 3)`."""
    y, x = np.mgrid[:size, :size] / size
    grey = 127.5 + 100 * np.cos(2 * np.pi * (cycles_y * y + cycles_x * x))
    return np.repeat(grey.round().astype(np.uint8)[None, :, :, None], 3, axis=3)


@pytest.mark.parametrize("cycles", [6, 15, 33, 45])
def test_a_wave_is_found_in_the_ring_of_its_frequency(cycles):
    features = residuals.spectral_features(wave(96, 0, cycles))[0, : residuals.RADIAL_BINS]
    assert features.argmax() == int(cycles / 96 / 0.5 * residuals.RADIAL_BINS)


def test_a_wave_is_found_in_the_sector_of_its_direction():
    rings, sectors = residuals.RADIAL_BINS, residuals.ANGULAR_BINS
    for cycles_y, cycles_x, angle in ((10, 30, 18.4), (30, 10, 71.6), (30, -10, 108.4), (10, -30, 161.6)):
        features = residuals.spectral_features(wave(96, cycles_y, cycles_x))[0, rings : rings + sectors]
        assert features.argmax() == int(angle / 180 * sectors)


def test_bins_are_means_and_noise_is_flat_in_them():
    bins = residuals.spectrum_bins(96)
    assert bins.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    noise = np.random.default_rng(0).normal(size=(40, 96, 96))
    power = (np.abs(np.fft.fft2(noise)) ** 2).reshape(40, -1).mean(axis=0) / 96**2
    assert bins @ power == pytest.approx(1.0, abs=0.2)


def test_neighbour_residual_vanishes_on_doubled_pixels_only():
    random = np.random.default_rng(0)
    small = random.random((2, 8, 8))
    doubled = small.repeat(2, axis=1).repeat(2, axis=2)
    assert not residuals.neighbour_residual(doubled).any()
    assert residuals.neighbour_residual(np.roll(doubled, 1, axis=2)).any()
    assert residuals.smoothing_residual(np.ones((1, 6, 6))) == pytest.approx(0.0)


# ------------------------------------------------------------------------------------------------ images and schedules


def write_bench(folder, splits=("train", "validation", "test"), photos=4, side=192):
    """A mini-benchmark of noise: fakes are smooth, so that something can be learnt."""
    random = np.random.default_rng(0)
    rows = []
    for split in splits:
        generators = ["realesrgan"] if split != "test" else ["realesrgan", "realsr", "span"]
        for index in range(photos):
            photo = f"{split}{index}"
            versions = [("photo", "real"), ("bicubic_x2", "real"), ("bicubic_x4", "real")]
            versions += [(name, "fake") for name in generators]
            for kind, label in versions:
                path = f"images/{split}/{photo}_{kind}.jpg"
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                step = 8 if label == "fake" else 1
                noise = random.integers(0, 256, size=(side // step, side // step, 3), dtype=np.uint8)
                Image.fromarray(noise.repeat(step, axis=0).repeat(step, axis=1)).save(folder / path, quality=80)
                users = generators if kind == "photo" else [kind]
                rows += [(path, label, user, FAMILIES.get(user, "control"), split, photo) for user in users]
            if split == "test":
                for label in ("real", "fake"):
                    path = f"images/test/face{index}_{label}.jpg"
                    Image.fromarray(random.integers(0, 256, size=(side, side, 3), dtype=np.uint8)).save(folder / path)
                    rows.append((path, label, "dcgan_face", "GAN", split, f"face{index}"))
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["path", "label", "generator", "family", "split", "photo"])
        writer.writerows(rows)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    write_bench(folder)
    return folder


def test_each_image_is_read_once_with_all_its_generators(bench):
    split = read_split(bench, "test", ["dcgan_face"])
    assert len(split.paths) == len(set(split.paths)) == 4 * 8
    photo = split.kinds.index("photo")
    assert split.generators[photo] == "realesrgan realsr span"
    assert split.families[photo] == ""
    assert split.kinds.count("partner") == 4  # the face's real ones are no photographs
    assert split.labels.tolist() == [int(kind in FAMILIES) for kind in split.kinds]
    assert read_split(bench, "test", []).kinds.count("photo") == 8
    with pytest.raises(ValueError, match="no split 'trial'"):
        read_split(bench, "trial", [])


def test_a_schedule_is_balanced_and_uses_all_images_alike(bench):
    split = read_split(bench, "train", [])
    batch = {"fake": 4, "photo": 2, "bicubic_x2": 1, "bicubic_x4": 1}
    schedule = draw_schedule(split, batch, steps=6, seed=3)
    assert schedule.shape == (6, 8)
    for row in schedule:
        kinds = [split.kinds[index] for index in row]
        assert {kind: kinds.count(kind) for kind in set(kinds)} == {
            "realesrgan": 4,
            "photo": 2,
            "bicubic_x2": 1,
            "bicubic_x4": 1,
        }
    fakes = np.bincount(schedule[:, :4].ravel())
    assert set(fakes[fakes > 0].tolist()) == {6}
    assert (schedule == draw_schedule(split, batch, 6, 3)).all()
    assert (schedule != draw_schedule(split, batch, 6, 4)).any()
    with pytest.raises(ValueError, match="no image of kind 'span'"):
        draw_schedule(split, {"span": 1}, 1, 0)


def test_crops_depend_on_seed_and_place_alone(bench):
    split = read_split(bench, "train", [])
    schedule = draw_schedule(split, {"fake": 2, "photo": 2}, 2, 0)
    config = replace(OFF, geometry="crop", crop_probability=1.0)
    first, again, other = (
        np.stack(list(TrainingCrops(split, schedule, FlipAndAugment(config, 96), seed).batches()))
        for seed in (0, 0, 1)
    )
    assert first.shape == (2, 4, 96, 96, 3)
    assert (first == again).all()
    assert (first != other).any()
    for crop, row in zip(first.reshape(-1, 96, 96, 3), schedule.ravel(), strict=True):
        rows_of_source = np.lib.stride_tricks.sliding_window_view(split.pixels[row][:97, :, 0], 96, axis=1)
        assert any((rows_of_source == view[0, :, 0]).all(axis=2).any() for view in (crop, crop[:, ::-1]))


# ----------------------------------------------------------------------------------------------------- stages, storage


@pytest.fixture(scope="module")
def small_grid():
    grid = read_grid()
    names = ("always_real", "always_fake", "metadata", "spectra", "zero_shot", "linear_probe", "mirage")
    settings = {name: grid.settings[name] for name in names}
    grid = replace(grid, steps=2, batch={"fake": 4, "photo": 2, "bicubic_x2": 1, "bicubic_x4": 1}, settings=settings)
    grid = replace(grid, sweeps={})
    grid.limit_seeds(2)
    return grid


@pytest.mark.parametrize("name", ["lora", "full", "text_prompts", "cross_attention", "sum"])
def test_exactly_what_is_to_learn_learns(bench, name):
    grid = replace(read_grid(), steps=2, batch={"fake": 2, "photo": 2})
    setting = grid.settings[name]
    setting.args["warmup_epochs"] = 0.0
    split = read_split(bench, "train", [])
    detector = stages.make_detector(setting, 0, BACKBONE, 96)
    before = {key: value.clone() for key, value in detector.model.state_dict().items()}
    augmentation = FlipAndAugment(AugmentationConfig(**grid.augmentation), 96)
    detector.fit(TrainingCrops(split, draw_schedule(split, grid.batch, grid.steps, 0), augmentation, 0), split)
    moved = {key for key, value in detector.model.state_dict().items() if not value.equal(before[key])}
    learnt = set(detector.state())
    assert moved <= learnt
    if name == "full":  # unused positions and words get no gradient, but every layer does
        assert sum("encoder.layers" in key for key in learnt - moved) == 0
        assert not any("lora" in key or "prompt" in key for key in learnt)
    else:
        assert moved == learnt
        assert all(("lora_" if name == "lora" else "prompt_learner") in key for key in learnt)


def test_the_embedding_of_an_image_is_the_mean_over_its_tiles(bench):
    split = read_split(bench, "train", [])
    detector = stages.make_detector(read_grid().settings["zero_shot"], 0, BACKBONE, 96)
    image = split.pixels[[split.kinds.index("photo")]].copy()
    image[:, :, 96:] = split.pixels[split.kinds.index("realesrgan")][:, 96:]  # the right half is another picture
    tiles = np.concatenate([image[:, top : top + 96, left : left + 96] for top in (0, 96) for left in (0, 96)])
    with torch.inference_mode():
        whole, texts = detector.run(image)
        parts, _ = detector.run(tiles)
        clip = CLIPModel.from_pretrained(BACKBONE).eval()
        values = detector.processor(Image.fromarray(tiles[0]), return_tensors="pt")["pixel_values"]
        expected = torch.nn.functional.normalize(clip.get_image_features(values).pooler_output, dim=-1)
    mean = torch.nn.functional.normalize(parts.mean(dim=0), dim=-1)
    assert whole[0].tolist() == pytest.approx(mean.tolist(), abs=2e-3)
    near = pytest.approx(expected[0].tolist(), abs=2e-2)  # bfloat16 against float32
    assert parts[0].tolist() == near
    assert parts[1].tolist() != near
    assert detector.log_odds_of(whole, texts)[0] == pytest.approx(
        float(clip.logit_scale.detach().exp() * (whole[0] @ (texts[1] - texts[0]))), abs=1e-4
    )


@pytest.fixture(scope="module")
def finished(bench, small_grid, tmp_path_factory):
    """Folders of runs and results after all stages; the test images weren't there while it trained."""
    work, results = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("results")
    hidden = bench / "images" / "elsewhere"
    (bench / "images" / "test").rename(hidden)
    stages.train(small_grid, small_grid.runs(), bench, BACKBONE, work)
    hidden.rename(bench / "images" / "test")
    stages.final(small_grid, list(small_grid.settings.values()), bench, BACKBONE, work, results)
    return work, results


def test_training_writes_weights_and_validation_scores(finished, small_grid):
    work, _ = finished
    for setting, seed in small_grid.runs():
        found = json.loads((work / setting.name / f"seed{seed}" / "run.json").read_text(encoding="utf-8"))
        assert len(found["log_odds"]) == 4 * 4
        assert found["identity"]["steps"] == 2
        assert {"torch", "transformers", "mirage_hf", "threads"} <= set(found["environment"])


def test_finished_runs_are_kept_and_changed_ones_are_not(finished, small_grid, bench, tmp_path):
    work, _ = finished
    setting = small_grid.settings["metadata"]
    source = stages.identify(bench, BACKBONE)
    folder = stages.run_folder(work, setting, 0)
    assert stages.is_finished(folder, small_grid.fields(setting, 0) | source)
    assert not stages.is_finished(folder, replace(small_grid, steps=3).fields(setting, 0) | source)
    before = (folder / "run.json").stat().st_mtime_ns
    stages.train(small_grid, [(setting, 0)], bench, BACKBONE, work)
    assert (folder / "run.json").stat().st_mtime_ns == before


def test_a_stored_detector_scores_as_it_did(finished, small_grid, bench):
    """Weights that weren't saved, or not loaded, would show: scores of validation come out as in training."""
    work, _ = finished
    validation = read_split(bench, "validation", small_grid.apart)
    size = stages.image_size(BACKBONE)
    for name in ("metadata", "spectra", "linear_probe", "mirage"):
        setting = small_grid.settings[name]
        folder = stages.run_folder(work, setting, 1)
        stored = json.loads((folder / "run.json").read_text(encoding="utf-8"))["log_odds"]
        detector = stages.make_detector(setting, 1, BACKBONE, size)
        detector.load_state(stages.load_file(folder / "weights.safetensors"))
        assert detector.log_odds(validation) == pytest.approx(stored, abs=2e-4)
    untrained = stages.make_detector(small_grid.settings["mirage"], 1, BACKBONE, size).log_odds(validation)
    assert untrained != pytest.approx(stored, abs=2e-4)


def test_the_test_split_is_looked_at_once(finished, small_grid, bench):
    work, results = finished
    path = results / "detectors" / "metadata.json"
    before = path.stat().st_mtime_ns
    stages.final(small_grid, [small_grid.settings["metadata"]], bench, BACKBONE, work, results)
    assert path.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="metadata was scored on test as it was before"):
        stages.final(replace(small_grid, steps=9), [small_grid.settings["metadata"]], bench, BACKBONE, work, results)


def test_a_setting_with_missing_runs_is_not_scored(finished, small_grid, bench, tmp_path):
    stages.final(small_grid, [small_grid.settings["metadata"]], bench, BACKBONE, tmp_path / "none", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_always_real_and_always_fake_come_out_as_they_must(finished, small_grid):
    _, results = finished
    found = tables.build_table(small_grid, results, replicates=20)["settings"]
    for name, rate in (("always_real", 0.0), ("always_fake", 1.0)):
        metrics = found[name]["metrics"]
        assert metrics["fpr_chosen/photo"] == [rate] * 3
        assert metrics["auc/span"] == [0.5] * 3
        assert metrics["balanced_equal/unseen"] == [0.5] * 3
        assert metrics["ap/span"] == [0.5] * 3  # as many photographs as fakes


def test_paired_differences_of_equal_rows_are_zero_and_of_others_not(finished, small_grid, tmp_path):
    _, results = finished
    copied = tmp_path / "detectors"
    copied.mkdir()
    (tmp_path / "images.csv.gz").write_bytes((results / "images.csv.gz").read_bytes())
    for name in ("mirage", "spectra"):
        for suffix in (".json", ".csv.gz"):
            content = (results / "detectors" / (name + suffix)).read_bytes()
            (copied / (name + suffix)).write_bytes(content)
            if name == "mirage":
                (copied / ("linear_probe" + suffix)).write_bytes(content)
    found = tables.build_table(small_grid, tmp_path, replicates=50)["settings"]
    assert all(cell == [0.0, 0.0, 0.0] for cell in found["linear_probe"]["differences"].values())
    assert any(cell != [0.0, 0.0, 0.0] for cell in found["spectra"]["differences"].values())


def test_the_table_has_a_row_for_each_setting_and_repeats(finished, small_grid):
    _, results = finished
    tables.write_tables(small_grid, results)
    text = (results / "table.md").read_text(encoding="utf-8")
    tables.write_tables(small_grid, results)
    assert (results / "table.md").read_text(encoding="utf-8") == text
    assert all(f"\n| {setting.title} |" in text for setting in small_grid.settings.values())
    assert "dcgan_face AP" in text
    table = json.loads((results / "table.json").read_text(encoding="utf-8"))
    assert table["seen"] == ["realesrgan"]
    assert "representation" in table["settings"]["mirage"]


def test_sweeps_hold_finished_runs_of_this_grid_beside_their_base(bench, tmp_path):
    grid = read_grid()
    grid = replace(grid, sweeps={name: found for name, found in grid.sweeps.items() if name.startswith("mirage.temp")})
    varied, *others = grid.sweeps.values()
    source = stages.identify(bench, BACKBONE)
    for setting, seed, steps in (
        (grid.settings["mirage"], 0, grid.steps),
        (grid.settings["mirage"], 4, grid.steps),  # of a seed that no sweep has
        (varied, 0, grid.steps),
        (varied, 1, grid.steps),
        (others[0], 0, grid.steps + 1),  # of another grid
    ):
        identity = replace(grid, steps=steps).fields(setting, seed) | source
        validation = dict.fromkeys(("selection", "auc_photo"), 0.5 + 0.1 * seed)
        record = {"setting": setting.name, "seed": seed, "identity": identity, "validation": validation}
        path = stages.run_folder(tmp_path, setting, seed) / "run.json"
        write_atomically(path, json.dumps(record | {"training_cpu_seconds": 1.0}))
    stages.gather_sweeps(grid, bench, BACKBONE, tmp_path, tmp_path)
    runs = json.loads((tmp_path / "sweeps.json").read_text(encoding="utf-8"))
    rows = tables.summarise_sweeps(grid, runs)
    assert [(row["setting"], row["runs"]) for row in rows] == [("mirage", 1), (varied.name, 2)]
    assert rows[1]["selection"] == pytest.approx(0.55)
    assert rows[1]["spread"] == pytest.approx(0.1)


def damage_scores(folder, edit):
    path = folder / "detectors" / "spectra.csv.gz"
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    path.write_bytes(gzip.compress("\n".join(edit(lines)).encode()))


def damage_index(folder):
    content = gzip.decompress((folder / "images.csv.gz").read_bytes())
    (folder / "images.csv.gz").write_bytes(gzip.compress(content.replace(b"span", b"spam")))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: damage_scores(folder, lambda lines: lines[:-1]), "scores of shape"),
        (lambda folder: damage_scores(folder, lambda lines: [*lines[:-1], "nan,0.1"]), "aren't finite"),
        (lambda folder: damage_scores(folder, lambda lines: ["seed7,seed8", *lines[1:]]), "other seeds"),
        (damage_index, "on other images"),
    ],
    ids=["a row lost", "a score lost", "other seeds", "other images"],
)
def test_damaged_results_are_refused(finished, small_grid, tmp_path, damage, message):
    _, results = finished
    for path in [results / "images.csv.gz", *(results / "detectors").iterdir()]:
        target = tmp_path / path.relative_to(results)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    storage.read_scores(tmp_path, "spectra", storage.read_index(tmp_path))
    damage(tmp_path)
    with pytest.raises(ValueError, match=message):
        storage.read_scores(tmp_path, "spectra", storage.read_index(tmp_path))
