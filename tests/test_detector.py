"""`Detector`: one answer for every image, the same one as the plain model's, whatever surrounds it."""

import io
import json
import math
import pickle
import threading
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from brightness import brightness_detector
from PIL import Image
from transformers import AutoConfig, pipeline

import mirage_hf
from mirage_hf import Detector
from mirage_hf.calibration_fit import fit_calibration
from mirage_hf.detection import Detection, NamedImage, Preparer
from mirage_hf.detector import stated_calibration
from mirage_hf.image_io import ImageLimits, ImageStatus, UnreadableImage
from mirage_hf.torch_margins import TorchMargins

ROOT = Path(__file__).parent.parent
TINY = ROOT / "benchmarks" / "minibench" / "mirage-tiny"
SCHEMA = json.loads((Path(mirage_hf.__file__).parent / "detection.schema.json").read_text())


def gray(level: int, size=(20, 20)) -> Image.Image:
    return Image.new("RGB", size, (level,) * 3)


def encoded(image: Image.Image, image_format: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, image_format)
    return file.getvalue()


def level_margin(level: int) -> float:
    return 8.0 * (level / 255 - 0.5)


def make_calibration(max_fpr: float = 0.2):
    """Overlapping classes, so that there is a band between the verdicts."""
    random = np.random.default_rng(0)
    margins = np.concatenate([random.normal(-1, 1.5, 200), random.normal(1, 1.5, 200)])
    return fit_calibration(margins, np.repeat([0, 1], 200), max_fpr=max_fpr, alpha=0.1, data="two normals")


@pytest.fixture
def detector() -> Detector:
    loaded = brightness_detector()
    return Detector(TorchMargins(loaded, "cpu"), Preparer(loaded.transform), "brightness", "1", batch_size=3)


class TestAnswers:
    def test_every_kind_of_source(self, detector, tmp_path):
        image = gray(200)
        image.save(tmp_path / "a.png")
        sources = [
            tmp_path / "a.png",
            str(tmp_path / "a.png"),
            encoded(image),
            io.BytesIO(encoded(image)),
            image,
            np.asarray(image),
            np.asarray(image)[:, :, 0],
        ]
        for source in sources:
            found = detector.score(source)
            assert (found.status, found.label, found.verdict, found.width) == ("ok", "fake", "fake", 20)
            assert found.p_fake == pytest.approx(1 / (1 + math.exp(-level_margin(200))), abs=1e-6)
        assert detector.score(sources[0]).path == str(tmp_path / "a.png") and detector.score(image).path is None

    def test_lists_keep_their_order_and_lose_nothing(self, detector, tmp_path):
        sources = [gray(10), b"no image", gray(250), tmp_path / "missing.png", gray(90), gray(128, (2000, 20)), None]
        found = detector.score(sources)
        assert [item.status for item in found][:2] == ["ok", "unsupported"]
        assert [item.status for item in found][2:6] == ["ok", "not_found", "ok", "too_elongated"]
        assert found[6].status != "ok" and "NoneType" in found[6].error
        assert [item.label for item in found] == ["real", None, "fake", None, "real", None, None]
        assert all((item.p_fake is None) == (item.status != "ok") for item in found)
        assert detector.score([]) == []

    def test_rows_follow_the_schema(self, detector):
        for item in detector.score([gray(10), b"<html>", gray(4, (3, 3)), encoded(gray(3), "GIF")]):
            jsonschema.validate(json.loads(json.dumps(item.to_dict())), SCHEMA)
        wrong = detector.score(gray(10)).to_dict() | {"verdict": "perhaps"}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, SCHEMA)

    def test_named_images_and_late_ones(self, detector):
        def gone():
            raise UnreadableImage("the server is gone", ImageStatus.NOT_FOUND)

        found = detector.score([NamedImage("a", gray(200)), NamedImage("b", lambda: gray(20)), NamedImage("c", gone)])
        assert [(item.path, item.status, item.label) for item in found] == [
            ("a", "ok", "fake"),
            ("b", "ok", "real"),
            ("c", "not_found", None),
        ]
        assert found[2].error == "the server is gone"

    def test_an_answer_that_is_not_finite_is_an_error_of_its_row(self, detector):
        margins = detector.margins
        detector.margins = lambda pixels: np.where(pixels.mean((1, 2, 3)) > 0.9, np.nan, margins(pixels))
        found = detector.score([gray(10), gray(255), gray(200)])
        assert [item.status for item in found] == ["ok", "error", "ok"]
        assert found[1].p_fake is None and found[1].error == "the network's answer is not finite"

    def test_a_processor_that_fails_costs_one_row(self, detector):
        transform = detector.preparer.transform

        def failing(image):
            if image.width == 21:
                raise RuntimeError("odd\nwidth")
            return transform(image)

        detector.preparer = Preparer(failing)
        found = detector.score([gray(10), gray(10, (21, 21)), gray(10)])
        assert [item.status for item in found] == ["ok", "error", "ok"]
        assert found[1].error == "preprocessing failed: RuntimeError: odd width"

    def test_images_of_several_sizes_share_a_call(self, detector):
        sizes = []
        margins = detector.margins
        detector.margins = lambda pixels: sizes.append(tuple(pixels.shape)) or margins(pixels)
        detector.preparer = Preparer(lambda image: torch.full((3, image.height, image.width), 0.75))
        found = detector.score([gray(0, (20, 20)), gray(0, (30, 20)), gray(0, (20, 20))])
        assert sizes == [(2, 3, 20, 20), (1, 3, 20, 30)]
        assert len({item.p_fake for item in found}) == 1 and [item.width for item in found] == [20, 30, 20]

    def test_limits_and_hashes_are_arguments(self, detector):
        transform = detector.preparer.transform
        data = encoded(gray(10, (40, 40)))
        detector.preparer = Preparer(transform, ImageLimits(max_megapixels=0.001), sha256=True)
        assert detector.score(data).status == "too_large"
        detector.preparer = Preparer(transform, sha256=True)
        import hashlib

        assert detector.score(data).sha256 == hashlib.sha256(data).hexdigest()


class TestStreams:
    @pytest.mark.parametrize("num_workers", [0, 3])
    def test_order_and_equality(self, detector, num_workers):
        levels = [int(level) for level in np.random.default_rng(0).integers(0, 256, 25)]
        found = list(detector.stream(map(gray, levels), num_workers))
        assert [item.p_fake for item in found] == [detector.score(gray(level)).p_fake for level in levels]

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_memory_is_bounded_and_an_early_stop_ends_the_threads(self, detector, num_workers):
        taken = 0

        def endless():
            nonlocal taken
            while True:
                taken += 1
                yield gray(taken % 256)

        before = threading.active_count()
        stream = detector.stream(endless(), num_workers)
        for _ in range(10):
            next(stream)
        assert taken <= 10 + 3 * detector.batch_size
        stream.close()
        assert threading.active_count() == before

    def test_an_error_of_the_source_reaches_the_caller(self, detector):
        def broken():
            yield gray(1)
            raise OSError("the disk is gone")

        with pytest.raises(OSError, match="the disk is gone"):
            list(detector.stream(broken(), num_workers=2))


class TestCalibrated:
    def test_probability_threshold_and_verdicts(self):
        loaded, calibration = brightness_detector(), make_calibration()
        plain = Preparer(loaded.transform)
        detector = Detector(TorchMargins(loaded, "cpu"), plain, "b", "1", calibration.threshold, calibration)
        assert calibration.unsure_low < calibration.unsure_high
        seen = set()
        for level in range(0, 256, 3):
            found = detector.score(gray(level))
            expected = 1 / (1 + math.exp(-(level_margin(level) / calibration.temperature + calibration.bias)))
            assert found.p_fake == pytest.approx(expected, abs=1e-6)
            assert found.label == ("fake" if found.p_fake > calibration.threshold else "real")
            low, high = calibration.unsure_low, calibration.unsure_high
            wanted = "fake" if found.p_fake > high else "real" if found.p_fake < low else "unsure"
            assert found.verdict == wanted and found.verdict in ("unsure", found.label)
            assert found.calibration_id == calibration.id
            seen.add(found.verdict)
        assert seen == {"real", "fake", "unsure"}

    @pytest.mark.parametrize("threshold", [0.01, 0.99])
    def test_label_and_verdict_agree_at_another_threshold(self, threshold):
        loaded, calibration = brightness_detector(), make_calibration()
        detector = Detector(TorchMargins(loaded, "cpu"), Preparer(loaded.transform), "b", "1", threshold, calibration)
        found = detector.score([gray(level) for level in range(0, 256, 5)])
        assert all(item.verdict in ("unsure", item.label) for item in found)
        assert {item.threshold for item in found} == {threshold}


class TestFromPretrained:
    def test_equal_to_the_pipeline(self):
        detector = Detector.from_pretrained(TINY, batch_size=4)
        calibration, threshold = detector.calibration, AutoConfig.from_pretrained(TINY).threshold
        assert calibration is not None and detector.threshold == calibration.threshold != threshold
        files = sorted((ROOT / "benchmarks/minibench/carried/images/test").glob("*.jpg"))[:6]
        classifier = pipeline("image-classification", model=str(TINY))
        for found, file in zip(detector.score(files), files, strict=True):
            scores = {item["label"]: item["score"] for item in classifier(str(file))}
            margin = np.log(scores["fake"]) - np.log(scores["real"])
            assert found.p_fake == pytest.approx(calibration.probability(margin), abs=1e-6)
            assert found.label == ("fake" if scores["fake"] > threshold else "real")  # on either scale
            assert found.verdict in (found.label, "unsure") and found.calibration_id == calibration.id
            assert (found.model, found.format) == ("mirage-tiny", "JPEG") and len(found.revision) > 16

    def test_a_calibrated_checkpoint(self, folders, tmp_path):
        import shutil

        folder = shutil.copytree(folders["full"], tmp_path / "calibrated")
        config = json.loads((folder / "config.json").read_text())
        calibration = make_calibration()
        (folder / "config.json").write_text(json.dumps(config | {"calibration": calibration.to_dict()}))
        detector = Detector.from_pretrained(folder, device="cpu")
        assert detector.calibration == calibration and detector.threshold == calibration.threshold
        raw = Detector.from_pretrained(folders["full"], device="cpu")
        assert raw.calibration is None
        image = gray(77, (50, 40))
        margin = math.log(raw.score(image).p_fake / (1 - raw.score(image).p_fake))
        expected = calibration.probability(np.array([margin]))[0]
        assert detector.score(image).p_fake == pytest.approx(expected, abs=1e-5)
        assert Detector.from_pretrained(folder, threshold=0.9).score(image).threshold == 0.9

    def test_half_precision_stays_near(self, folders, images):
        whole = Detector.from_pretrained(folders["full"], device="cpu").score(images)
        half = Detector.from_pretrained(folders["full"], device="cpu", dtype="bfloat16").score(images)
        differences = [abs(a.p_fake - b.p_fake) for a, b in zip(whole, half, strict=True)]
        assert 0 < max(differences) < 0.05

    @pytest.mark.parametrize(
        "arguments, match",
        [
            ({"backend": "tensorrt"}, "`backend` must be one of torch, onnx, openvino"),
            ({"dtype": "int3"}, "`dtype` must be one of"),
            ({"backend": "onnx", "dtype": "bfloat16"}, "settled at export"),
            ({"threshold": 1.5}, r"`threshold` must lie in \[0, 1\], got 1.5"),
            ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ],
    )
    def test_refusals(self, folders, arguments, match):
        with pytest.raises(ValueError, match=match):
            Detector.from_pretrained(folders["full"], **arguments)

    def test_a_calibration_that_was_tampered_with_is_refused(self):
        config = AutoConfig.from_pretrained(TINY)
        config.calibration = make_calibration().to_dict() | {"temperature": -1.0}
        with pytest.raises(ValueError, match="temperature"):
            stated_calibration(config)


def test_a_preparer_travels_to_other_processes(folders):
    detector = Detector.from_pretrained(folders["full"], device="cpu")
    image = gray(50, (40, 60))
    there = pickle.loads(pickle.dumps(detector.preparer))(NamedImage("named", image))
    assert there.path == "named" and there.reading.image is None
    assert torch.equal(there.pixel_values, detector.preparer(image).pixel_values)
    assert isinstance(detector.judge([there])[0], Detection)
