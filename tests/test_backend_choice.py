"""`backend="auto"`: what is chosen of what was measured, and when that is remembered, measured again or refused."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from exported import CALIBRATION, save_detector
from huggingface_hub import constants

from mirage_hf import backend_choice
from mirage_hf.backend_choice import choose_backend, decide, difference_of_p_fake, possible_ways
from mirage_hf.backend_choice_cache import Measured, cache_folder, is_whole, keep
from mirage_hf.backend_choice_measure import Way
from mirage_hf.detector import Detector
from mirage_hf.detector_loading import load_detector

REFERENCE = "torch float32"
SLOW, FAST = [2.0, 2.0, 4.0], [1.0, 1.0, 2.0]


def found(gain: float, difference: float = 0.0) -> Measured:
    return Measured(difference, [value / gain for value in SLOW], SLOW)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of the test's own, and PyTorch's ways alone, which take no time to prepare."""
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setattr(backend_choice, "find_spec", lambda name: None)
    return tmp_path / "assets/mirage_hf/backends"


@pytest.fixture
def measured(monkeypatch) -> list[list[str]]:
    """The ways that each call of `measure` was asked for; bfloat16 is always found the fastest."""
    calls: list[list[str]] = []

    def pretend(loaded, ways, batches, threads):
        calls.append(list(ways))
        gains = {"torch bfloat16": found(3.0, 0.02)}
        return {name: gains.get(name, found(1.0)) for name in ways}, None

    monkeypatch.setattr(backend_choice, "measure", pretend)
    return calls


@pytest.fixture
def loaded(folders):
    return load_detector(folders["full"])


# ----------------------------------------------------------------------------------------------------------- decision


def test_the_fastest_within_the_limit_is_taken():
    ways = {REFERENCE: found(1.3), "a": found(1.5, 0.001), "b": found(4.0, 0.4), "c": found(2.0, 0.04)}
    assert [decide(ways, limit) for limit in (0.0, 0.0001, 0.001, 0.02, 0.2)] == [
        REFERENCE,
        REFERENCE,
        "a",
        "c",
        "b",
    ]
    assert decide(ways, 0.02, 10.0) == "a"  # calibrated to be surer, differences grow
    assert decide(ways | {"d": Measured(failure="no")}, 1.0) == "b"


def test_less_than_a_tenth_faster_is_noise():
    assert decide({REFERENCE: found(1.0), "a": found(1.09)}, 1.0) == REFERENCE
    assert decide({REFERENCE: found(1.0), "a": found(1.11)}, 1.0) == "a"
    # The median of ratios within rounds: one disturbed round of the other's counts for nothing.
    disturbed = Measured(0.0, [1.0, 1.0, 1.0], [1.0, 1.0, 90.0])
    assert decide({REFERENCE: found(1.0), "a": disturbed}, 1.0) == REFERENCE


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_difference_of_log_odds_as_p_fake(temperature):
    """Against the largest difference on a fine grid of log-odds."""
    margins = np.linspace(-20, 20, 200_001)
    for difference in (1e-4, 0.03, 0.7):
        low, high = (1 / (1 + np.exp(-(margins + sign * difference / 2) / temperature)) for sign in (-1, 1))
        assert difference_of_p_fake(found(1, difference), 1 / temperature) == pytest.approx(
            (high - low).max(), rel=1e-6
        )


def test_ways_follow_what_is_installed(monkeypatch, tmp_path):
    for missing, count in ((set(), 7), ({"openvino"}, 5), ({"onnxscript"}, 3), ({"onnx", "openvino"}, 3)):
        monkeypatch.setattr(backend_choice, "find_spec", lambda name, missing=missing: None if name in missing else 1)
        assert len(possible_ways(tmp_path)) == count
    assert list(possible_ways(None)) == [REFERENCE, "torch bfloat16", "torch int8"]


def test_on_a_gpu_nothing_is_measured(loaded, cache, measured):
    assert choose_backend(loaded, "cuda:1") == choose_backend(loaded, torch.device("mps")) == Way("torch")
    assert not measured and not cache.exists()


# ------------------------------------------------------------------------------------------------------------- memory


def test_the_choice_is_remembered_for_every_limit(folders, cache, measured, caplog):
    caplog.set_level(logging.INFO, "mirage_hf.backend_choice")
    for limit, way in ((0.05, "torch bfloat16"), (0.05, "torch bfloat16"), (0.001, REFERENCE)):
        caplog.clear()
        options = {"device": "cpu", "max_difference": limit}
        assert Detector.from_pretrained(folders["full"], backend="auto", **options).backend == way
        assert "torch bfloat16 3.00 times as fast, within 0.02" in caplog.records[-1].message
        assert f": {way}, " in caplog.text and f"within {limit} of" in caplog.text
        assert len(caplog.records[-1].message.splitlines()) == 1
    assert len(measured) == 1 and len(list((cache / "choices").iterdir())) == 1
    assert "(remembered: " in caplog.text


def spoil(record: Path, change) -> None:
    stored = json.loads(record.read_text(encoding="utf-8"))
    change(stored)
    record.write_text(json.dumps(stored), encoding="utf-8")


@pytest.mark.parametrize(
    "change",
    [
        lambda stored: stored["ways"]["torch int8"].update(seconds=[float("nan")] * 3),
        lambda stored: stored["ways"]["torch int8"].update(seconds=[1.0]),
        lambda stored: stored["ways"]["torch int8"].update(seconds="1.0"),
        lambda stored: stored["ways"]["torch int8"].update(difference=-0.1),
        lambda stored: stored["ways"]["torch int8"].update(failure=3, seconds=None),
        lambda stored: stored["ways"]["torch int8"].update(another=1),
        lambda stored: stored["ways"].pop("torch int8"),
        lambda stored: stored["ways"].update({"onnx int8": stored["ways"]["torch int8"]}),
        lambda stored: stored["facts"].update(processor="another"),
        lambda stored: stored["facts"].pop("threads"),
        lambda stored: stored.pop("facts"),
        lambda stored: stored.update(ways=[]),
    ],
)
def test_a_damaged_record_is_measured_again(change, loaded, cache, measured):
    choose_backend(loaded, "cpu")
    (record,) = (cache / "choices").iterdir()
    whole = record.read_text(encoding="utf-8")
    spoil(record, change)
    choose_backend(loaded, "cpu")
    assert len(measured) == 2 and record.read_text(encoding="utf-8") == whole


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\x80\x02}", b"null"])
def test_a_file_that_is_no_record(content, loaded, cache, measured):
    choose_backend(loaded, "cpu")
    next((cache / "choices").iterdir()).write_bytes(content)
    choose_backend(loaded, "cpu")
    choose_backend(loaded, "cpu")
    assert len(measured) == 2


def test_what_differs_is_measured_apart(folders, loaded, cache, measured, monkeypatch, images):
    """Weights, to the last value; preprocessing; threads; the processor; versions; images."""
    choose_backend(loaded, "cpu", threads=1)
    other = load_detector(folders["full"])
    with torch.no_grad():
        other.model.clip.vision_model.encoder.layers[1].mlp.fc1.weight[1, 1] += 1e-3
    assert other.fingerprint == loaded.fingerprint  # which samples
    choose_backend(other, "cpu", threads=1)
    choose_backend(loaded, "cpu", threads=2)
    choose_backend(loaded, "cpu", threads=1, images=images)
    choose_backend(loaded, "cpu", threads=1, images=images[:2])
    with monkeypatch.context() as context:
        context.setattr(backend_choice, "processor_name", lambda: "another")
        choose_backend(loaded, "cpu", threads=1)
    with monkeypatch.context() as context:
        context.setattr(backend_choice, "versions", lambda: {"torch": "0"})
        choose_backend(loaded, "cpu", threads=1)
    loaded.fingerprint = "another"
    choose_backend(loaded, "cpu", threads=1)
    assert len(measured) == 8
    choose_backend(loaded, "cpu", threads=1)
    choose_backend(other, "cpu", threads=1)
    assert len(measured) == 8 and len(list((cache / "choices").iterdir())) == 8


def test_a_calibration_needs_no_new_measurement(folders, loaded, cache, measured):
    assert choose_backend(loaded, "cpu", max_difference=0.015) == Way("torch")  # 4 x 0.02 in log-odds is 0.02
    loaded.config.calibration = CALIBRATION.to_dict()  # temperature 2
    assert choose_backend(loaded, "cpu", max_difference=0.015) == Way("torch", "bfloat16")
    assert len(measured) == 1


def test_differences_on_images_that_were_given_count_once(loaded, cache, measured, images):
    assert choose_backend(loaded, "cpu", max_difference=0.01) == Way("torch")
    assert choose_backend(loaded, "cpu", max_difference=0.01, images=images) == Way("torch", "bfloat16")
    assert choose_backend(loaded, "cpu", max_difference=0.004, images=images) == Way("torch")


def test_a_cache_that_cannot_be_written(folders, tmp_path, measured, monkeypatch, caplog):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        caplog.clear()
        detector = Detector.from_pretrained(folders["full"], backend="auto", device="cpu", max_difference=0.05)
        assert detector.backend == "torch bfloat16"
        (line,) = caplog.messages
        assert line.startswith("what is found of backends can't be remembered, PyTorch's alone are tried: ")
    # There is nowhere to keep an export.
    assert measured == [[REFERENCE, "torch bfloat16", "torch int8"]] * 2


def test_a_disk_that_is_full(loaded, cache, measured, monkeypatch, caplog):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(backend_choice, "write_record", full)
        assert choose_backend(loaded, "cpu", max_difference=0.05) == Way("torch", "bfloat16")
        assert "can be remembered: " in caplog.text and "No space left" in caplog.text
    monkeypatch.setattr(backend_choice, "check_writable", full)
    assert choose_backend(loaded, "cpu", max_difference=0.05) == Way("torch", "bfloat16")
    assert len(measured) == 2


def test_folders_appear_whole_and_damage_is_noticed(tmp_path):
    made = []

    def make(folder):
        made.append(folder)
        folder.mkdir()
        (folder / "a").write_text("content")

    folder = tmp_path / "exports/key/float32"
    keep(folder, make)
    keep(folder, make)
    assert len(made) == 1 and is_whole(folder) and [path.name for path in folder.parent.iterdir()] == ["float32"]
    for damage in (
        lambda: (folder / "a").write_text("Content"),
        lambda: (folder / "b").write_text("more"),
        lambda: (folder / "a").unlink(),
        lambda: (folder / "files.json").write_text("{"),
    ):
        damage()
        assert not is_whole(folder)
        keep(folder, make)
        assert is_whole(folder)
    assert len(made) == 5

    def fail(folder):
        make(folder)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        keep(tmp_path / "other", fail)
    assert not (tmp_path / "other").exists()

    def overtaken(folder):  # another process writes the same meanwhile
        make(folder)
        keep(tmp_path / "other", make)

    keep(tmp_path / "other", overtaken)
    assert is_whole(tmp_path / "other")


def test_the_cache_is_huggingface_hubs(cache):
    assert cache_folder("choices") == cache / "choices"


def test_arguments_that_do_not_fit(folders, loaded, cache):
    for options, match in (
        ({"dtype": "bfloat16"}, '`dtype` and `export` are chosen by backend="auto": leave them out'),
        ({"export": "folder"}, "`dtype` and `export` are chosen"),
        ({"max_difference": 1.5}, r"`max_difference` must lie in \[0, 1\], got 1.5"),
        ({"threads": 0}, "`threads` must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=match):
            Detector.from_pretrained(folders["full"], backend="auto", device="cpu", **options)


@pytest.mark.parametrize("kind", ["turned", "linear_probe"])
def test_the_order_of_classes_counts(kind, tmp_path, cache, measured):
    folder = save_detector(kind, tmp_path)
    for fake in ("0", "1", "0"):
        choose_backend(load_detector(folder, fake_label=fake), "cpu")
    assert len(measured) == 2
