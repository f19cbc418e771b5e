"""What `backend="auto"` measures, and that what it chooses answers as the same loaded by hand."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from bulk import assert_same_rows, encoded, rows, score, write_images
from exported import random_images, save_detector
from huggingface_hub import constants

from mirage_hf import backend_choice, backend_choice_measure
from mirage_hf.backend_choice import SYNTHETIC_COUNTS, choose_backend, difference_of_p_fake, possible_ways
from mirage_hf.backend_choice_cache import Measured
from mirage_hf.backend_choice_measure import Way, given_pixels, measure, synthetic_pixels
from mirage_hf.backends import load_backend
from mirage_hf.detector import Detector
from mirage_hf.detector_loading import load_detector
from mirage_hf.export import export_onnx
from mirage_hf.quantization import write_int8
from mirage_hf.scoring_job import DetectorSettings
from mirage_hf.torch_margins import torch_margins

REFERENCE = "torch float32"
IMAGES = random_images(9)
MINIBENCH = Path(__file__).parent.parent / "benchmarks" / "minibench"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of the test's own, also for processes that it starts."""
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path / "assets"))
    return tmp_path / "assets/mirage_hf/backends"


@pytest.fixture
def no_exports(monkeypatch):
    """PyTorch's ways alone, which take no time to prepare."""
    monkeypatch.setattr(backend_choice, "find_spec", lambda name: None)


@pytest.fixture
def loaded(folders):
    return load_detector(folders["full"])


class Planted:
    """A way that takes no time, and whose log-odds are off by so much."""

    def __init__(self, margins, offset: float):
        self.margins, self.offset, self.known = margins, offset, {}

    def __call__(self, pixel_values):
        key = pixel_values.numpy().tobytes()
        if key not in self.known:
            self.known[key] = self.margins(pixel_values) + self.offset
        return self.known[key]


def test_a_way_over_the_stated_difference_is_refused(loaded, cache, no_exports, monkeypatch):
    """The control: at a wider limit it is taken, so it is the difference that it is refused for."""

    def planted(loaded, device, dtype):
        margins = torch_margins(loaded, device)
        if dtype == "int8":
            raise RuntimeError("no engine\nhere")
        return Planted(margins, 0.3) if dtype == "bfloat16" else margins

    monkeypatch.setattr(backend_choice_measure, "torch_margins", planted)
    limits = [difference_of_p_fake(Measured(0.3, [1.0], [1.0]), 4) + step for step in (-1e-6, 1e-6)]
    assert choose_backend(loaded, "cpu", max_difference=limits[0]) == Way("torch")
    assert choose_backend(loaded, "cpu", max_difference=limits[1]) == Way("torch", "bfloat16")
    (record,) = (cache / "choices").iterdir()
    ways = json.loads(record.read_text(encoding="utf-8"))["ways"]
    assert ways["torch int8"]["failure"] == "no engine here" and ways[REFERENCE]["difference"] == 0
    assert ways["torch bfloat16"]["difference"] == pytest.approx(0.3)


def test_the_difference_that_counts_holds_on_photographs():
    """The demo detector, which is calibrated, on photographs and fakes that nothing was measured on."""
    loaded = load_detector(str(MINIBENCH / "mirage-tiny"))
    ways = possible_ways(None)
    answers, _ = measure(loaded, ways, synthetic_pixels(loaded), torch.get_num_threads())
    files = sorted((MINIBENCH / "carried/images/test").glob("*.jpg"))[::25]
    detectors = {
        name: Detector.from_pretrained(MINIBENCH / "mirage-tiny", device="cpu", dtype=way.dtype)
        for name, way in ways.items()
    }
    found = {name: [answer.p_fake for answer in detector.score(files)] for name, detector in detectors.items()}
    scale = SYNTHETIC_COUNTS / detectors[REFERENCE].calibration.temperature
    for name in list(ways)[1:]:
        difference = max(abs(a - b) for a, b in zip(found[name], found[REFERENCE], strict=True))
        assert 1e-3 < difference < difference_of_p_fake(answers[name], scale)


def test_answers_that_are_not_finite_and_ways_that_cannot_be_tried_now(loaded, monkeypatch):
    def planted(loaded, device, dtype):
        if dtype == "int8":
            raise OSError("the disk is full")
        return Planted(torch_margins(loaded, device), float("nan") if dtype == "bfloat16" else 0.0)

    monkeypatch.setattr(backend_choice_measure, "torch_margins", planted)
    threads = torch.get_num_threads()
    answers, trouble = measure(loaded, possible_ways(None), synthetic_pixels(loaded), threads + 1)
    assert answers["torch bfloat16"].failure == "its answers are not finite"
    assert "torch int8" not in answers and trouble == "the disk is full"  # so the record is not taken for whole
    assert torch.get_num_threads() == threads


def test_images_given_and_made(loaded, images, tmp_path):
    batches = given_pixels(loaded, [b"no image", *images, tmp_path / "missing.png"])
    assert [len(batch) for batch in batches] == [8, 1]
    expected = torch.stack([loaded.transform(image.convert("RGB")) for image in images])
    assert torch.equal(torch.cat(batches), expected)
    assert sum(len(batch) for batch in given_pixels(loaded, iter(images * 10))) == 64
    assert [len(batch) for batch in synthetic_pixels(loaded)] == [8, 8]
    with pytest.raises(ValueError, match="none of `calibration_images` can be read: .*missing.png"):
        given_pixels(loaded, [b"no image", tmp_path / "missing.png"])
    with pytest.raises(ValueError, match="none of `calibration_images` can be read: there are none"):
        given_pixels(loaded, [])


def test_int8_in_pytorch_scores_each_image_by_itself(loaded, pixel_values):
    margins = torch_margins(loaded, "cpu", "int8")
    mixed = torch.cat([pixel_values, 30 * pixel_values[:1]])
    answers = margins(mixed)
    assert [margins(image[None])[0] for image in mixed] == answers.tolist()
    with torch.inference_mode():  # the control: images of a batch share a scale
        together = margins.logits(mixed).double()
    assert abs((together[:, 1] - together[:, 0]).numpy() - answers)[:4].max() > 1e-3
    with pytest.raises(ValueError, match="`dtype` int8 runs on the CPU, not on cuda:0"):
        torch_margins(loaded, "cuda:0", "int8")


# ------------------------------------------------------------------------------------------------------- real choices


def make_fastest(cache: Path, name: str) -> None:
    """Says so in the one record."""
    (record,) = (cache / "choices").iterdir()
    stored = json.loads(record.read_text(encoding="utf-8"))
    for way, entry in stored["ways"].items():
        entry["seconds"] = [1e-9 if way == name else 1.0] * len(entry["torch_seconds"])
    record.write_text(json.dumps(stored), encoding="utf-8")


def by_hand(source: str, name: str, folder: Path) -> Detector:
    """The detector of that name without auto."""
    backend, dtype = name.split()
    if backend == "torch":
        return Detector.from_pretrained(source, device="cpu", dtype=dtype)
    if not folder.exists():
        export_onnx(source, folder / "float32")
        shutil.copytree(folder / "float32", folder / "int8")
        write_int8(load_backend(folder / "float32"), folder / "int8")
    part = folder / ("int8" if dtype == "int8" else "float32")
    return Detector.from_pretrained(part, backend=backend, dtype="bfloat16" if dtype == "bfloat16" else "float32")


@pytest.mark.parametrize("kind", ["tiled", "linear_probe", "turned"])
def test_every_way_answers_as_by_hand(kind, cache, tmp_path, monkeypatch):
    for package in ("onnx", "onnxruntime", "onnxscript", "openvino"):
        if find_spec(package) is None:  # not imported, which openvino would report
            pytest.skip(f"needs {package}")
    source = save_detector(kind, tmp_path / "source" if kind != "linear_probe" else tmp_path)
    ways = list(possible_ways(tmp_path))
    first = Detector.from_pretrained(source, backend="auto", device="cpu", max_difference=1)
    assert first.backend in ways
    monkeypatch.setattr(backend_choice, "measure", lambda *_: pytest.fail("it is remembered"))
    answers = {}
    for name in ways:
        make_fastest(cache, name)
        detector = Detector.from_pretrained(source, backend="auto", device="cpu", max_difference=1)
        hand = by_hand(source, name, tmp_path / "hand")
        expected = hand.score(IMAGES)
        assert (detector.backend, hand.backend) == (name, name)
        answers[name] = [answer.p_fake for answer in detector.score(IMAGES)]
        assert answers[name] == pytest.approx([answer.p_fake for answer in expected], abs=1e-9)
        assert detector.revision == hand.revision and detector.threshold == hand.threshold
        assert detector.calibration == hand.calibration and detector.name == Path(source).name
    for name in ways:  # the control: what is compared above tells ways apart
        if name.endswith(("int8", "bfloat16")):
            difference = max(abs(a - b) for a, b in zip(answers[name], answers[REFERENCE], strict=True))
            assert 1e-6 < difference < 0.1


def test_a_damaged_export_is_made_and_measured_again(loaded, cache, monkeypatch):
    pytest.importorskip("onnxruntime")
    choose_backend(loaded, "cpu", max_difference=1)
    make_fastest(cache, "onnx float32")
    way = choose_backend(loaded, "cpu", max_difference=1)
    assert way.backend == "onnx"
    file = Path(way.export) / "model.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    calls = []
    monkeypatch.setattr(backend_choice, "measure", lambda *a: calls.append(1) or measure(*a))
    choose_backend(loaded, "cpu", max_difference=1)
    content[len(content) // 2] ^= 1
    assert calls == [1] and file.read_bytes() == content


# --------------------------------------------------------------------------------------------------- several processes


@pytest.fixture
def photos(tmp_path):
    folder = write_images(tmp_path / "photos", 10)
    (folder / "a" / "cut.png").write_bytes(encoded(3)[:100])
    return folder


@pytest.mark.parametrize("name", ["torch bfloat16", "onnx float32"])
def test_workers_do_not_choose_again(name, folders, photos, cache, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    choose_backend(load_detector(folders["full"]), "cpu", 1, 1)
    make_fastest(cache, name)
    settled = DetectorSettings.settled

    def forget(self, threads):
        found = settled(self, threads)
        if self.backend == "auto":
            assert threads == 1
            shutil.rmtree(cache / "choices")  # whoever chooses after this leaves a record
        return found

    monkeypatch.setattr(DetectorSettings, "settled", forget)
    monkeypatch.setattr("mirage_hf.scoring.usable_cores", lambda: 2)
    summary = score(photos, folders["full"], tmp_path / "auto", workers=2, backend="auto", max_difference=1)
    assert summary.complete and not summary.failures and not (cache / "choices").exists()
    backend, dtype = name.split()
    stored = json.loads((tmp_path / "auto/manifest.json").read_text(encoding="utf-8"))
    assert (stored["backend"], stored["dtype"]) == (backend, dtype)
    by_hand = {"backend": backend, "dtype": dtype} if backend == "torch" else {}  # float32 beside PyTorch's
    score(photos, folders["full"], tmp_path / "hand", **by_hand)
    found, expected = rows(tmp_path / "auto"), rows(tmp_path / "hand")
    assert_same_rows(found, expected)


def test_under_torchrun_the_first_process_measures(folders, photos, cache, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no-python"]
    command += [
        sys.executable,
        "-c",
        "from mirage_hf_cli.main import app; app()",
        "score",
        photos,
        "--model",
        folders["full"],
    ]
    command += ["--output-dir", tmp_path / "out"]
    command += ["--backend", "auto", "--max-difference", "0.5", "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    answer = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=300)
    assert answer.stderr.count(": measuring torch float32, ") == 1, answer.stderr
    assert len(list((cache / "choices").iterdir())) == 1 and len(rows(tmp_path / "out")) == 11


def test_one_machine_cannot_measure_for_others(folders, photos, cache, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="`backend` auto measures this machine, not those of a cluster: name a back"):
        score(photos, folders["full"], tmp_path / "out", backend="auto", engine="ray", ray_address="auto")
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "4"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="`backend` auto measures one machine, and there are several: name a back"):
        score(photos, folders["full"], tmp_path / "out", backend="auto")
    assert not cache.exists()
