"""Loading any two-class detector; which logit means fake is told by name or asked for."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessorPil,
)

from mirage_hf.detector_loading import class_order, load_detector
from mirage_hf.prediction import predict_scores


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 256, (40, 40, 3), dtype=np.uint8)) for _ in range(5)]
    return [{"image": image, "label": 0} for image in images]


def save_classifier(folder, names):
    """A small ResNet with random weights."""
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    config.id2label = dict(enumerate(names))
    ResNetForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


def test_a_mirage_checkpoint_is_baked_and_scores_as_itself(folders, models, rows):
    detector = load_detector(folders["full"])
    assert detector.model.config.baked and detector.takes_return_embeds and detector.threshold is None
    assert (detector.model_type, detector.parameters) == (
        "mirage",
        sum(p.numel() for p in detector.model.parameters()),
    )
    wanted = predict_scores(models["full"], rows, detector.transform).scores
    assert predict_scores(detector.model, rows, detector.transform).scores == pytest.approx(wanted, abs=1e-5)


def test_the_checkpoint_s_threshold_is_taken_over(models, folders, tmp_path):
    model = AutoModelForImageClassification.from_pretrained(folders["full"])
    model.config.threshold = 0.7
    model.save_pretrained(tmp_path)
    load = load_detector(folders["full"])
    load.transform.processor.save_pretrained(tmp_path)
    found = load_detector(str(tmp_path))
    assert found.threshold == 0.7 and found.fingerprint == load.fingerprint


def test_another_s_classifier_with_its_classes_the_other_way_round(tmp_path, rows):
    straight = load_detector(save_classifier(tmp_path / "straight", ["real", "fake"]))
    turned = load_detector(save_classifier(tmp_path / "turned", ["AI-generated", "Nature"]))
    scores = [predict_scores(found.model, rows, found.transform).scores for found in (straight, turned)]
    assert scores[0] == pytest.approx(1 - scores[1], abs=1e-6)
    assert np.abs(scores[0] - scores[1]).max() > 1e-3  # the same weights, so without the turn they'd be equal
    asked = load_detector(save_classifier(tmp_path / "asked", ["a", "b"]), fake_label="A")
    assert predict_scores(asked.model, rows, asked.transform).scores == pytest.approx(scores[1], abs=1e-6)
    assert not turned.takes_return_embeds and turned.threshold is None
    assert turned.fingerprint == straight.fingerprint  # the weights', not the names'


def test_another_weight_or_another_processor_has_another_fingerprint(tmp_path):
    first = save_classifier(tmp_path / "a", ["real", "fake"])
    marks = [load_detector(first).fingerprint]
    ViTImageProcessorPil(size={"height": 30, "width": 32}).save_pretrained(first)
    marks.append(load_detector(first).fingerprint)
    model = AutoModelForImageClassification.from_pretrained(first)
    torch.nn.init.zeros_(model.classifier[1].bias)
    model.save_pretrained(first)
    marks.append(load_detector(first).fingerprint)
    assert len(set(marks)) == 3


@pytest.mark.parametrize(
    ("names", "fake_label", "message"),
    [
        (["a", "b", "c"], None, "x has 3 classes; a detector needs two, real and fake"),
        (["LABEL_0", "LABEL_1"], None, "the classes of x are LABEL_0, LABEL_1, which doesn't say what is fake"),
        (["real", "nature"], None, "which doesn't say what is fake: name the fake one with `fake_label`"),
        (["a", "b"], "c", "`fake_label` is 'c', the classes of x are a, b"),
    ],
)
def test_what_cannot_be_told_is_refused(names, fake_label, message):
    with pytest.raises(ValueError, match=message):
        class_order("x", dict(enumerate(names)), fake_label)


def test_class_order():
    assert class_order("x", {0: "real", 1: "fake"}, None) == [0, 1]
    assert class_order("x", {0: "Deepfake", 1: "Real"}, "deepfake") == [1, 0]
    assert class_order("x", {0: "LABEL_0", 1: "LABEL_1"}, "1") == [0, 1]
