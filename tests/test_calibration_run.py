"""Calibrating a checkpoint: what is learned, what is written, and who reads it."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from noise_images import config_of, copy_with_more_fields, make_noise
from PIL import Image
from transformers import AutoConfig

from mirage_hf import calibration_run
from mirage_hf.benchmark_metrics import expected_calibration_error
from mirage_hf.calibration import Calibration
from mirage_hf.calibration_fit import fit_calibration
from mirage_hf.calibration_run import CalibrationArguments, run_calibration, weighted_error, weighted_log_loss
from mirage_hf.detector import Detector
from mirage_hf.detector_loading import load_detector
from mirage_hf.evaluation_run import EvaluationArguments, run_evaluation
from mirage_hf.prediction import predict_scores


@pytest.fixture(scope="module")
def noise(folders, tmp_path_factory) -> Path:
    return make_noise(folders["full"], tmp_path_factory.mktemp("images"))


@pytest.fixture
def checkpoint(folders, tmp_path) -> Path:
    return copy_with_more_fields(folders["full"], tmp_path / "checkpoint")


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "config.json"}


def arguments(model, data, **options) -> CalibrationArguments:
    return CalibrationArguments(model=str(model), data=str(data), quiet=True, **options)


def test_in_place_only_two_fields_change_and_every_front_end_agrees(checkpoint, noise, tmp_path):
    before, files = config_of(checkpoint), files_of(checkpoint)
    report = run_calibration(arguments(checkpoint, noise, max_fpr=0.2, alpha=0.12))
    after = config_of(checkpoint)
    assert {name: value for name, value in after.items() if name not in ("calibration", "threshold")} == {
        name: value for name, value in before.items() if name not in ("calibration", "threshold")
    }
    assert files_of(checkpoint) == files and report.folder == str(checkpoint)
    found = Calibration.from_dict(after["calibration"])
    assert found == report.calibration and after["threshold"] == found.raw_threshold != found.threshold
    assert AutoConfig.from_pretrained(checkpoint).calibration == after["calibration"]
    assert found.data == "noise, split validation, fakes of a" and (found.n_real, found.n_fake) == (29, 19)

    # The detector that a program loads answers by it, image by image.
    paths = sorted(noise.rglob("*.png"))
    answers = Detector.from_pretrained(str(checkpoint)).score([str(path) for path in paths])
    labels = np.array([path.parent.name == "fake" for path in paths]).astype(int)
    p_fake = np.array([answer.p_fake for answer in answers])
    called = np.array([answer.label == "fake" for answer in answers])
    assert {answer.calibration_id for answer in answers} == {found.id}
    assert [answer.verdict for answer in answers] == found.verdicts(p_fake)
    assert called[labels == 0].mean() <= 0.2 < called[labels == 1].mean()
    # Exactly so by the forward pass that was calibrated; the band ends at images of that, whose log-odds a detector,
    # which leaves out needless work, may round to its other side.
    loaded = load_detector(str(checkpoint))
    rows = [{"image": Image.open(path), "label": int(label)} for path, label in zip(paths, labels, strict=True)]
    verdicts = np.array(
        found.verdicts(found.probability(predict_scores(loaded.model, rows, loaded.transform).margins))
    )
    exact = [float((verdicts[labels == label] == "unsure").mean()) for label in (0, 1)]
    assert report.unsure == tuple(exact)
    at_end = np.abs(p_fake[:, None] - [found.unsure_low, found.unsure_high]).min(axis=1) < 1e-6 / found.temperature
    assert at_end.sum() <= 2
    np.testing.assert_array_equal(np.array([answer.verdict for answer in answers])[~at_end], verdicts[~at_end])
    assert report.unsure[0] != report.unsure[1] and (found.max_fpr, found.unsure_alpha) == (0.2, 0.12)
    assert report.ece[1] == pytest.approx(weighted_error(p_fake, labels == 1, 0.5), abs=1e-4)

    # So does an evaluation, which knows the scale without calibration only.
    evaluated, *_ = run_evaluation(EvaluationArguments(str(checkpoint), str(noise), str(tmp_path / "evaluation")))
    assert evaluated.overall["real_accuracy"] == 1 - called[labels == 0].mean()
    assert evaluated.overall["fake_accuracy"] == called[labels == 1].mean() and report.relabelled == 0


def test_it_is_the_fit_of_the_detectors_margins(checkpoint, noise):
    found = run_calibration(arguments(checkpoint, noise, prior=0.3)).calibration
    paths = sorted(noise.rglob("*.png"))
    model = load_detector(str(checkpoint))
    with torch.inference_mode():
        pixels = torch.stack([model.transform(Image.open(path)) for path in paths])
        logits = model.model(pixel_values=pixels).logits.double().numpy()
    labels = [int(path.parent.name == "fake") for path in paths]
    wanted = fit_calibration(logits[:, 1] - logits[:, 0], labels, prior=0.3)
    assert found.prior == 0.3
    for name in ("temperature", "bias", "threshold", "unsure_low", "unsure_high"):
        assert getattr(found, name) == pytest.approx(getattr(wanted, name), rel=1e-3)


def test_a_calibrated_detector_is_calibrated_anew_not_twice(checkpoint, noise):
    first = run_calibration(arguments(checkpoint, noise)).calibration
    second = run_calibration(arguments(checkpoint, noise)).calibration
    assert first.id == second.id


def test_a_copy_holds_the_files_and_the_original_stays(checkpoint, noise, tmp_path):
    (checkpoint / "checkpoint-7").mkdir()
    (checkpoint / "checkpoint-7" / "optimizer.pt").write_bytes(b"large")
    before = config_of(checkpoint)
    report = run_calibration(arguments(checkpoint, noise, output_dir=str(tmp_path / "new" / "copy")))
    copy = tmp_path / "new" / "copy"
    assert report.folder == str(copy) and config_of(checkpoint) == before
    assert {path.name for path in copy.iterdir()} == {path.name for path in checkpoint.iterdir() if path.is_file()}
    assert (copy / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()
    assert config_of(copy)["zebra"] == before["zebra"] and "calibration" in config_of(copy)
    assert Detector.from_pretrained(str(copy)).calibration == report.calibration


def test_a_copied_adapter_still_finds_a_base_that_lay_beside_it(folders, clip_dir, noise, tmp_path):
    shutil.copytree(folders["adapter"], tmp_path / "adapter")
    shutil.copytree(clip_dir, tmp_path / "clip")
    config = config_of(tmp_path / "adapter") | {"base_model_name_or_path": "../clip"}
    (tmp_path / "adapter" / "config.json").write_text(json.dumps(config))
    calibration_run.copy_checkpoint(str(tmp_path / "adapter"), None, tmp_path / "far" / "away")
    assert config_of(tmp_path / "far" / "away")["base_model_name_or_path"] == str(tmp_path / "clip")
    assert load_detector(str(tmp_path / "far" / "away")).parameters > 0


def test_a_detector_of_the_hub_is_saved_where_it_is_told(folders, noise, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    snapshot = cache / "models--org--tiny" / "snapshots" / ("0" * 40)
    shutil.copytree(folders["full"], snapshot)
    (cache / "models--org--tiny" / "refs").mkdir()
    (cache / "models--org--tiny" / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    with pytest.raises(ValueError, match="org/tiny is no folder here, .* give an `output_dir`"):
        run_calibration(arguments("org/tiny", noise))
    report = run_calibration(arguments("org/tiny", noise, output_dir=str(tmp_path / "copy")))
    saved = Detector.from_pretrained(str(tmp_path / "copy"))
    assert saved.calibration == report.calibration
    config = AutoConfig.from_pretrained(tmp_path / "copy")
    assert not config.baked and config.threshold == report.calibration.raw_threshold
    picture = str(next(noise.rglob("*.png")))
    wanted = report.calibration.probability(_margin(folders["full"], picture))
    assert saved.score(picture).p_fake == pytest.approx(float(wanted), abs=1e-5)
    assert config_of(snapshot) == config_of(folders["full"])


def _margin(folder, path) -> float:
    p_fake = Detector.from_pretrained(folder).score(path).p_fake
    return float(np.log(p_fake / (1 - p_fake)))


def test_real_images_of_several_generators_are_scored_and_counted_once(checkpoint, noise, monkeypatch):
    reals, fakes = (sorted((noise / "a" / name).iterdir()) for name in ("real", "fake"))
    root = checkpoint.parent / "listed"
    root.mkdir()
    with open(root / "manifest.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "generator"])
        writer.writerows([[path, "real", name] for name in ("a", "b") for path in reals])
        writer.writerows([[path, "fake", "ab"[number % 2]] for number, path in enumerate(fakes)])
    sizes = []

    def counting(model, rows, *given, **options):
        sizes.append(len(rows))
        return predict_scores(model, rows, *given, **options)

    monkeypatch.setattr(calibration_run, "predict_scores", counting)
    listed = run_calibration(arguments(checkpoint, root)).calibration
    assert sizes == [48] and (listed.n_real, listed.n_fake) == (29, 19)
    assert listed.data == "listed, split validation, fakes of a, b"
    plain = run_calibration(arguments(checkpoint, noise)).calibration
    assert listed.temperature == pytest.approx(plain.temperature, rel=1e-3)
    assert listed.operating_points[0]["fpr_interval"] == plain.operating_points[0]["fpr_interval"]


def test_another_s_classifier_gets_no_threshold_that_it_would_not_know(noise, tmp_path):
    from test_detector_loading import save_classifier

    folder = save_classifier(tmp_path / "other", ["AI-generated", "Nature"])
    detector = load_detector(folder)
    paths = sorted(noise.rglob("*.png"))
    rows = [{"image": Image.open(path), "label": 0} for path in paths]
    margins = predict_scores(detector.model, rows, detector.transform).margins
    for fake, number in zip(margins > np.median(margins), range(48), strict=True):
        target = tmp_path / "sorted" / "a" / ("fake" if fake else "real") / f"{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(paths[number], target)
    report = run_calibration(arguments(folder, tmp_path / "sorted"))
    assert "threshold" not in config_of(folder) and config_of(folder)["calibration"]["id"] == report.calibration.id
    assert Detector.from_pretrained(folder).threshold == report.calibration.threshold


class Sure(torch.nn.Module):
    """A detector that is sure that everything is fake, of some things more than of others."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        output = self.model(pixel_values=pixel_values)
        output.logits = 20 * output.logits + torch.tensor([0.0, 100.0])
        return output


def test_images_beyond_the_reach_of_float32_are_told_of(checkpoint, noise, monkeypatch, caplog):
    plain = run_calibration(arguments(checkpoint, noise, max_fpr=0.2))
    assert plain.relabelled == 0 and "float32" not in caplog.text

    def load_sure(*given):
        detector = load_detector(*given)
        return dataclasses.replace(detector, model=Sure(detector.model))

    monkeypatch.setattr(calibration_run, "load_detector", load_sure)
    sure = run_calibration(arguments(checkpoint, noise, max_fpr=0.2))
    assert sure.calibration.temperature == pytest.approx(20 * plain.calibration.temperature, rel=1e-3)
    assert sure.calibration.operating_points[0]["tpr"] == plain.calibration.operating_points[0]["tpr"]
    assert sure.calibration.raw_threshold == 1.0 and sure.unsure == plain.unsure
    assert sure.relabelled > 0 and f"{sure.relabelled} images lie where float32" in caplog.text


@pytest.mark.parametrize("prior", [0.5, 0.1])
def test_the_weighted_error_is_that_of_a_set_with_such_a_share(prior):
    rng = np.random.default_rng(0)
    p_fake, labels = rng.uniform(size=40), np.repeat([0, 1], [30, 10])
    times = {0.5: (1, 3), 0.1: (3, 1)}[prior]  # 30 and 30 images, 90 and 10
    copies = np.repeat(np.arange(40), np.where(labels == 1, times[1], times[0]))
    log_odds = np.log(p_fake / (1 - p_fake))
    loss = -np.log(np.where(labels == 1, p_fake, 1 - p_fake))[copies].mean()
    assert weighted_log_loss(log_odds, labels == 1, prior) == pytest.approx(loss)
    wanted = expected_calibration_error(p_fake[copies], labels[copies])
    assert weighted_error(p_fake, labels == 1, prior) == pytest.approx(wanted)
    assert weighted_error(p_fake, labels == 1, prior) != pytest.approx(expected_calibration_error(p_fake, labels))
