"""Each protocol from a tree of its own layout to metrics counted by hand; a run that is cut off goes on."""

import csv
import json
import os
import signal

import datasets
import pytest
from brightness import brightness_detector, write_levels
from PIL import Image
from trees import image_bytes

import mirage_hf.benchmark as benchmark
import mirage_hf.benchmark_scoring as benchmark_scoring
from mirage_hf.benchmark import BenchmarkArguments, run_benchmark
from mirage_hf.benchmark_report import validate_results

pytestmark = pytest.mark.usefixtures("cache_of_its_own")

DARK, LIGHT = 20, 235  # scored 0.03 and 0.97
KINDS = ("real", "fake")


@pytest.fixture
def detectors(monkeypatch):
    """What `run_benchmark` loads: the brightness detector, a fresh one each time, kept in a list."""
    made = []

    def load(*args):
        made.append(brightness_detector(threshold=0.9))
        return made[-1]

    monkeypatch.setattr(benchmark, "load_detector", load)
    return made


def run(tmp_path, protocol, data, **options):
    arguments = {"model": "brightness", "output_dir": str(tmp_path / "out"), "device": "cpu", "replicates": 50}
    results = run_benchmark(BenchmarkArguments(protocol=protocol, data=str(data), **arguments | options))
    validate_results(results)
    return results


def counts(results, view="raw"):
    return {name: (found["n_real"], found["n_fake"]) for name, found in results["views"][view]["sets"].items()}


def metric(results, name, view="raw"):
    return {key: found["metrics"][name] for key, found in results["views"][view]["sets"].items()}


def test_genimage(tmp_path, detectors):
    data = write_levels(
        tmp_path / "GenImage",
        {
            "Midjourney/imagenet_midjourney/val/ai": [LIGHT, DARK],
            "Midjourney/imagenet_midjourney/val/nature": [DARK, LIGHT, DARK],
            "Midjourney/imagenet_midjourney/train/ai": [DARK],
            "Midjourney/imagenet_midjourney/train/nature": [LIGHT],
            "stable_diffusion_v_1_4/imagenet_ai_0419_sdv4/val/ai": [LIGHT],
            "stable_diffusion_v_1_4/imagenet_ai_0419_sdv4/val/nature": [DARK],
        },
    )
    write_levels(data, {"ADM/imagenet_ai_0508_adm/val/ai": [150]}, ".PNG")
    write_levels(data, {"ADM/imagenet_ai_0508_adm/val/nature": [DARK]}, ".JPEG")
    results = run(tmp_path, "genimage", data)
    assert counts(results) == {"Midjourney": (3, 2), "SDv1.4": (1, 1), "ADM": (1, 1)}  # in the table's order
    assert metric(results, "accuracy") == {"Midjourney": 0.6, "SDv1.4": 1.0, "ADM": 1.0}
    assert metric(results, "fake_accuracy")["Midjourney"] == 0.5
    # At 0.9 the fake of level 150 (0.67) is missed.
    assert metric(results, "calibrated_accuracy") == {"Midjourney": 0.6, "SDv1.4": 1.0, "ADM": 0.5}
    mean = results["views"]["raw"]["mean"]
    assert mean["metrics"]["accuracy"] == pytest.approx((0.6 + 1 + 1) / 3, abs=1e-6)
    assert mean["over"] == ["Midjourney", "SDv1.4", "ADM"]
    assert any("3 of 8 sets; not there: SDv1.5, GLIDE" in note for note in results["notes"])
    assert results["published"][0]["values"]["mean"] == 0.647
    assert results["published_views"][-1]["values"]["blur_5"] == 0.909


def test_universalfakedetect_counts_shared_reals_for_each_set_and_scores_them_once(tmp_path, detectors):
    data = write_levels(
        tmp_path / "UFD",
        {
            "test/progan/car/0_real": [DARK],
            "test/progan/car/1_fake": [LIGHT],
            "test/progan/cat/0_real": [LIGHT],
            "test/progan/cat/1_fake": [LIGHT],
            "test/seeingdark/0_real": [DARK],
            "test/seeingdark/1_fake": [LIGHT],
            "test/stylegan2/0_real": [LIGHT],
            "test/stylegan2/1_fake": [DARK],
            "diffusion_datasets/imagenet/0_real": [DARK, LIGHT],
            "diffusion_datasets/guided/1_fake": [LIGHT],
            "diffusion_datasets/laion/0_real": [40, 60, 200],
            "diffusion_datasets/ldm_200/1_fake": [LIGHT, 50],
            "diffusion_datasets/dalle/1_fake": [100],
        },
    )
    results = run(tmp_path, "ufd", data)
    assert counts(results) == {"ProGAN": (2, 2), "SITD": (1, 1), "Guided": (2, 1), "LDM_200": (3, 2), "DALL-E": (3, 1)}
    assert metric(results, "accuracy") == pytest.approx(
        {"ProGAN": 3 / 4, "SITD": 1.0, "Guided": 2 / 3, "LDM_200": 3 / 5, "DALL-E": 2 / 4}, abs=1e-6
    )
    # ProGAN: two fakes and a real share the highest score. LDM: fake, real, real, fake, real from above.
    assert metric(results, "average_precision") == pytest.approx(
        {"ProGAN": 2 / 3, "SITD": 1.0, "Guided": 1 / 2, "LDM_200": (1 + 2 / 4) / 2, "DALL-E": 1 / 2}, abs=1e-6
    )
    listed = [*results["views"]["raw"]["sets"].values()]
    assert sum(found["n_real"] + found["n_fake"] for found in listed) == 18
    assert detectors[0].model.images == 15  # 6 + 3 + 6: the real ones of LAION once for two sets, StyleGAN2 not at all
    assert any("left out: stylegan2 (2 images)" in note for note in results["notes"])


@pytest.mark.parametrize("reals", ["real", "0_real", "coco/val2017", "test/nature"])
def test_crossdataset_with_one_folder_of_reals(tmp_path, detectors, reals):
    prefix = "test/" if reals.startswith("test") else ""
    folders = {f"{prefix}sora": [LIGHT, DARK], f"{prefix}FLUX.1-dev/a": [LIGHT], f"{prefix}sd3.5/1_fake": [LIGHT]}
    data = write_levels(tmp_path / "cross", {**folders, reals: [DARK, DARK, LIGHT]})
    results = run(tmp_path, "crossdataset", data)
    assert counts(results) == {"Sora": (3, 2), "FLUX.1-dev": (3, 1), "SD 3.5": (3, 1)}
    assert metric(results, "accuracy") == {"Sora": 0.6, "FLUX.1-dev": 0.75, "SD 3.5": 0.75}


def test_chameleon(tmp_path, detectors):
    data = write_levels(tmp_path / "any", {"test/0_real": [DARK, DARK, DARK, LIGHT], "test/1_fake": [LIGHT, DARK]})
    results = run(tmp_path, "chameleon", data)
    assert counts(results) == {"Chameleon": (4, 2)}
    mean = results["views"]["raw"]["mean"]["metrics"]
    assert (mean["accuracy"], mean["fake_accuracy"], mean["real_accuracy"]) == (
        pytest.approx(4 / 6, abs=1e-6),
        0.5,
        0.75,
    )


def test_aigcdetectbenchmark_and_aigibench(tmp_path, detectors):
    folders = {"test/progan/car/0_real": [DARK], "test/progan/car/1_fake": [LIGHT]}
    folders |= {"test/whichfaceisreal/0_real": [LIGHT], "test/whichfaceisreal/1_fake": [LIGHT]}
    folders |= {"test/wukong/0_real": [DARK], "test/wukong/1_fake": [DARK]}
    data = write_levels(tmp_path / "aigc", folders)
    results = run(tmp_path, "aigcdetectbenchmark", data)
    assert metric(results, "accuracy") == {"ProGAN": 1.0, "WFIR": 0.5, "Wukong": 0.5}
    other = run(tmp_path, "aigibench", data, output_dir=str(tmp_path / "other"))
    assert metric(other, "real_accuracy") == {"progan": 1.0, "whichfaceisreal": 0.0, "wukong": 1.0}


def test_drct_and_synthbuster_share_the_reals_that_are_given(tmp_path, detectors):
    drct = write_levels(
        tmp_path / "DRCT",
        {"MSCOCO/val2017": [DARK, LIGHT], "DRCT-2M/sdxl/val2017": [LIGHT], "DRCT-2M/ldm/val2017": [DARK, DARK]},
    )
    results = run(tmp_path, "drct", drct)
    assert counts(results) == {"ldm": (2, 2), "sdxl": (2, 1)}
    assert metric(results, "balanced_accuracy") == {"ldm": 0.25, "sdxl": 0.75}
    fakes = tmp_path / "synthbuster"
    write_levels(fakes, {"glide": [LIGHT], "firefly": [DARK]})
    for folder in fakes.iterdir():
        (folder / "0.png").rename(folder / "r0000abcdt.png")
    with pytest.raises(ValueError, match="Synthbuster holds fakes only: give a folder of real images as `real_root`"):
        run(tmp_path, "synthbuster", fakes, output_dir=str(tmp_path / "sb"))
    reals = write_levels(tmp_path / "raise1k", {"": [DARK, DARK]})
    results = run(tmp_path, "synthbuster", fakes, real_root=str(reals), output_dir=str(tmp_path / "sb"))
    assert metric(results, "balanced_accuracy") == {"firefly": 0.5, "glide": 1.0}


def gray_bytes(level):
    return image_bytes(".png", (level,) * 3, 20)


def test_openfake_shares_reals_that_name_no_generator(tmp_path, detectors):
    levels = [DARK, LIGHT, LIGHT, DARK]
    columns = {
        "image": [{"bytes": gray_bytes(level), "path": None} for level in levels],
        "label": ["real", "real", "fake", "fake"],
        "model": ["real", "real", "flux.1-dev", "sd-3.5"],
    }
    features = {"image": datasets.Image(), "label": datasets.Value("string"), "model": datasets.Value("string")}
    path = tmp_path / "openfake" / "data" / "test-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    datasets.Dataset.from_dict(columns, datasets.Features(features)).to_parquet(str(path))
    results = run(tmp_path, "openfake", tmp_path / "openfake")
    assert counts(results) == {"flux.1-dev": (2, 1), "sd-3.5": (2, 1)}
    assert metric(results, "balanced_accuracy") == {"flux.1-dev": 0.75, "sd-3.5": 0.25}
    assert detectors[0].model.images == 4
    with open(tmp_path / "out/scores/raw/sd-3.5.csv", encoding="utf-8", newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["#3", "#0", "#1"]


def test_communityforensics_and_cifake(tmp_path, detectors):
    columns = {
        "image_data": [gray_bytes(level) for level in (LIGHT, DARK, DARK)],
        "label": [1, 0, 1],
        "model_name": ["m1", "coco", "m2"],
    }
    path = tmp_path / "cf" / "data" / "test-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    datasets.Dataset.from_dict(columns).to_parquet(str(path))
    results = run(tmp_path, "communityforensics", tmp_path / "cf")
    assert metric(results, "accuracy") == {"m1": 1.0, "m2": 0.5}
    data = write_levels(
        tmp_path / "cifake", {"test/REAL": [DARK, DARK], "test/FAKE": [LIGHT, DARK], "train/REAL": [1]}
    )
    results = run(tmp_path, "cifake", data, output_dir=str(tmp_path / "other"))
    assert metric(results, "accuracy") == {"CIFAKE": 0.75}


def test_own_images_keep_one_class_sets_outside_the_means(tmp_path, detectors):
    data = write_levels(tmp_path / "own", {"a/real": [DARK], "a/fake": [DARK], "resampled/real": [LIGHT, DARK]})
    results = run(tmp_path, "folder", data)
    assert counts(results) == {"a": (1, 1), "resampled": (2, 0)}
    assert metric(results, "balanced_accuracy") == {"a": 0.5, "resampled": None}
    assert metric(results, "real_accuracy") == {"a": 1.0, "resampled": 0.5}
    assert results["views"]["raw"]["mean"]["over"] == ["a"]


def test_one_class_and_unreadable_sets_are_refused_and_the_others_go_on(tmp_path, detectors):
    data = write_levels(
        tmp_path / "GenImage",
        {
            "ADM/val/ai": [LIGHT],
            "ADM/val/nature": [DARK],
            "glide/val/ai": [LIGHT],
            "wukong/val/ai": [LIGHT],
            "wukong/val/nature": [DARK],
        },
    )
    (data / "wukong/val/nature/0.png").write_bytes(b"damaged")
    (data / "ADM/val/nature/broken.png").write_bytes(b"damaged")
    results = run(tmp_path, "genimage", data)
    assert counts(results) == {"ADM": (1, 1)} and results["views"]["raw"]["sets"]["ADM"]["skipped"] == 1
    assert results["refused"] == {
        "GLIDE": "it holds 0 real and 1 fake images, and needs both",
        "Wukong": "it holds 0 real and 1 fake images, and needs both",
    }
    for folder in ("ADM", "wukong"):
        for path in (data / folder).rglob("*.png"):
            path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="no test set of GenImage can be used: GLIDE: it holds 0 real and 1 fake"):
        run(tmp_path, "genimage", data, output_dir=str(tmp_path / "other"))


def test_views(tmp_path, detectors):
    data = write_levels(tmp_path / "own", {"a/real": [DARK], "a/fake": [LIGHT]})
    Image.new("RGB", (20, 20)).save(data / "a/real/pattern.png")
    stripes = Image.new("RGB", (200, 200))
    stripes.paste((255, 255, 255), (0, 0, 100, 200))
    stripes.save(data / "a/fake/stripes.png")  # the centre crop of the detector is half dark, however it is blurred
    results = run(tmp_path, "folder", data, align=True, align_size=20, degrade=("jpeg_30", "blur_5"))
    assert list(results["views"]) == ["raw", "aligned", "jpeg_30", "blur_5"]
    assert metric(results, "real_accuracy", "blur_5") == {"a": 1.0}
    assert results["views"]["jpeg_30"]["sets"]["a"]["null"] is None
    files = {path.name for path in (tmp_path / "out/scores/jpeg_30").iterdir()}
    assert files == {"a.csv", "a.npz", "a.json"}
    with pytest.raises(ValueError, match="unknown degradation 'jpeg_31': choose all or some of resize_112"):
        run(tmp_path, "folder", data, degrade=("jpeg_31",))
    with pytest.raises(ValueError, match="`align_quality` is given without `align`"):
        run(tmp_path, "folder", data, align_quality=90)


class CutOff(Exception):
    pass


def tree(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_a_run_that_is_cut_off_goes_on_and_ends_with_the_same_files(tmp_path, detectors, monkeypatch):
    data = write_levels(
        tmp_path / "UFD",
        {
            "test/progan/car/0_real": [DARK, 90],
            "test/progan/car/1_fake": [LIGHT, 160],
            "diffusion_datasets/laion/0_real": [40, 60, 200],
            "diffusion_datasets/ldm_200/1_fake": [LIGHT, 50],
            "diffusion_datasets/dalle/1_fake": [100],
        },
    )
    options = {"degrade": ("jpeg_65",)}
    whole = run(tmp_path, "ufd", data, **options)
    assert detectors[0].model.images == 20
    save, calls = benchmark_scoring.BenchmarkFolder.save, []

    def save_until_cut_off(self, view, name, found):
        if len(calls) == 4:
            raise CutOff
        calls.append((view, name))
        save(self, view, name, found)

    other = {"output_dir": str(tmp_path / "cut"), **options}
    with monkeypatch.context() as patch:
        patch.setattr(benchmark_scoring.BenchmarkFolder, "save", save_until_cut_off)
        with pytest.raises(CutOff):
            run(tmp_path, "ufd", data, **other)
    assert calls == [("raw", "ProGAN"), ("raw", "LDM_200"), ("raw", "DALL-E"), ("jpeg_65", "ProGAN")]
    resumed = run(tmp_path, "ufd", data, **other)
    assert detectors[2].model.images == 6  # two sets of one view: the shared three, and the fakes
    assert tree(tmp_path / "cut") == tree(tmp_path / "out")
    del whole["arguments"]["output_dir"], resumed["arguments"]["output_dir"]
    assert json.dumps(whole) == json.dumps(resumed)
    run(tmp_path, "ufd", data, **other)
    assert detectors[3].model.images == 0


def test_a_run_that_is_killed_goes_on(tmp_path, detectors, monkeypatch):
    """SIGKILL in a forked process while it scores the third set."""
    data = write_levels(tmp_path / "own", {f"{name}/{kind}": [DARK, LIGHT, 90] for name in "abcd" for kind in KINDS})
    whole = run(tmp_path, "folder", data)
    score, out = benchmark_scoring.predict_scores, tmp_path / "killed"

    def score_until_killed(*args, **options):
        if (out / "scores/raw/b.json").is_file():
            (out / "scores/raw/.c.csv.tmp").write_text("path,lab")  # what a kill amid writing would leave
            os.kill(os.getpid(), signal.SIGKILL)
        return score(*args, **options)

    child = os.fork()
    if child == 0:
        try:
            monkeypatch.setattr(benchmark_scoring, "predict_scores", score_until_killed)
            run(tmp_path, "folder", data, output_dir=str(out))
        finally:
            os._exit(1)  # never back into pytest
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (out / "scores/raw/c.json").exists()
    resumed = run(tmp_path, "folder", data, output_dir=str(out))
    assert detectors[1].model.images == 12  # two of four sets
    assert tree(out) == tree(tmp_path / "out")
    assert resumed["views"] == whole["views"]


def test_scores_of_other_data_or_another_detector_are_not_taken_over(tmp_path, detectors, monkeypatch):
    data = write_levels(tmp_path / "own", {"a/real": [DARK], "a/fake": [LIGHT]})
    run(tmp_path, "folder", data)
    with pytest.raises(ValueError, match="holds scores made with another dtype: choose another output folder"):
        run(tmp_path, "folder", data, dtype="bfloat16")
    write_levels(data, {"a/fake": [LIGHT, LIGHT]})
    with pytest.raises(ValueError, match="holds scores made with another data:"):
        run(tmp_path, "folder", data)


def test_a_threshold_is_fixed_on_validation_images_of_the_training_generator(tmp_path, detectors):
    validation = {"a/val/real": [10, 20, 30, 150], "a/val/fake": [LIGHT, LIGHT]}
    data = write_levels(tmp_path / "own", {"a/test/real": [140], "a/test/fake": [200], **validation})
    results = run(tmp_path, "folder", data, calibrate_on=str(data), calibrate_fpr=0.0)
    # Halfway between the highest real score, 150's, and the lowest fake one.
    assert results["model"]["threshold"] == pytest.approx((0.6696 + 0.9668) / 2, abs=1e-3)
    assert metric(results, "real_accuracy") == {"a": 0.0}
    assert metric(results, "calibrated_real_accuracy") == {"a": 1.0}


def test_limit_per_class(tmp_path, detectors):
    data = write_levels(tmp_path / "own", {"a/real": [DARK] * 5, "a/fake": [LIGHT] * 3, "b/real": [1], "b/fake": [2]})
    results = run(tmp_path, "folder", data, limit_per_class=2)
    assert counts(results) == {"a": (2, 2), "b": (1, 1)}


def test_a_null_that_tells_real_from_fake_is_reported(tmp_path, detectors):
    data = write_levels(tmp_path / "own", {"a/real": [DARK] * 30}, ".jpg")
    write_levels(data, {"a/fake": [LIGHT] * 30}, ".png")
    results = run(tmp_path, "folder", data)
    assert results["views"]["raw"]["null"]["balanced_accuracy"] > 0.95
    assert "raw: a null that reads no pixel" in results["notes"][0] and "a 100%" in results["notes"][0]
    same = write_levels(tmp_path / "same", {"a/real": [DARK] * 30, "a/fake": [DARK] * 30})
    results = run(tmp_path, "folder", same, output_dir=str(tmp_path / "other"))
    assert results["views"]["raw"]["null"]["balanced_accuracy"] <= 0.6
    assert not any("null" in note for note in results["notes"])
