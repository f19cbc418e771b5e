"""8-bit weights: what they are judged by, and that they are refused where they cost too much."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from exported import CALIBRATION, random_images, save_detector
from transformers import AutoImageProcessor

from mirage_hf import quantization
from mirage_hf.backends import load_backend
from mirage_hf.export import export_onnx
from mirage_hf.image_processing import EvalTransform
from mirage_hf.quantization import export_int8, quantize_onnx

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("turned")
    export_onnx(save_detector("turned", folder), folder / "float32")
    return folder / "float32"


@pytest.fixture(scope="module")
def rows(exported):
    """Images with the labels that the float32 detector gives them, four of them wrong; one can't be decoded."""
    images = random_images(40, seed=1)
    margins = margins_of(exported, images)
    labels = (margins > np.median(margins)).astype(int)
    labels[:4] = 1 - labels[:4]
    made = [{"image": image, "label": int(label)} for image, label in zip(images, labels, strict=True)]
    return [*made, {"image": None, "label": 1}]


def margins_of(folder, images):
    transform = EvalTransform(AutoImageProcessor.from_pretrained(folder))
    return load_backend(folder)(torch.stack([transform(image) for image in images]))


def auroc(labels, margins):
    """Share of the pairs of a fake and a real image in which the fake has the higher score."""
    pairs = margins[labels == 1][:, None] - margins[labels == 0][None]
    return (np.sign(pairs) / 2 + 0.5).mean()


def sigmoid(margins):
    return 1 / (1 + np.exp(-margins))


def test_what_is_reported_follows_from_both_models_scores(exported, rows, tmp_path):
    report = quantize_onnx(exported, tmp_path / "int8", rows, max_auroc_drop=0.2, batch_size=64)
    labels = np.array([row["label"] for row in rows[:-1]])
    before, after = (
        margins_of(folder, [row["image"] for row in rows[:-1]]) for folder in (exported, tmp_path / "int8")
    )
    assert report.auroc_float32 == pytest.approx(auroc(labels, before)) and 0.5 < report.auroc_float32 < 1
    assert report.auroc_int8 == pytest.approx(auroc(labels, after))
    difference = np.abs(sigmoid(after) - sigmoid(before))
    assert report.max_difference_p_fake == pytest.approx(difference.max()) and difference.max() > 0
    assert report.mean_difference_p_fake == pytest.approx(difference.mean())
    assert report.flipped == ((after > 0) != (before > 0)).sum()
    assert (report.n_real, report.n_fake, report.skipped) == ((labels == 0).sum(), (labels == 1).sum(), 1)
    assert report.bytes == (tmp_path / "int8" / "model.onnx").stat().st_size
    assert report.bytes_float32 == (exported / "model.onnx").stat().st_size


def test_a_score_does_not_depend_on_its_neighbours(exported, rows, tmp_path):
    quantize_onnx(exported, tmp_path / "int8", rows, max_auroc_drop=0.2)
    images = [row["image"] for row in rows[:6]]
    together = margins_of(tmp_path / "int8", images)
    assert together.tolist() == [margins_of(tmp_path / "int8", [image])[0] for image in images]
    transform, backend = EvalTransform(AutoImageProcessor.from_pretrained(exported)), load_backend(tmp_path / "int8")
    logits = backend.logits(torch.stack([transform(image) for image in images]).numpy())
    assert np.abs(logits[:, 1] - logits[:, 0] - together).max() > 1e-6  # in one batch it would


def test_matrix_products_are_quantised_and_the_patch_embedding_is_not(exported, rows, tmp_path):
    quantize_onnx(exported, tmp_path / "int8", rows, max_auroc_drop=0.2)
    graphs = [onnx.load(folder / "model.onnx").graph for folder in (exported, tmp_path / "int8")]
    counts = [[node.op_type for node in graph.node].count for graph in graphs]
    assert counts[0]("Conv") == counts[1]("Conv") == 1 and counts[1]("ConvInteger") == 0
    # Query, key, value and output, two of the feed-forward part, the head; attention's own products have no weights.
    assert counts[1]("MatMulInteger") == 7 and counts[1]("MatMul") == 2 and counts[1]("Gemm") == 0
    weights = {tensor.name: tensor for tensor in graphs[1].initializer}
    convolution = next(node for node in graphs[1].node if node.op_type == "Conv")
    assert weights[convolution.input[1]].data_type == onnx.TensorProto.FLOAT
    scales = [onnx.numpy_helper.to_array(weights[name]).size for name in weights if name.endswith("_scale")]
    assert max(scales) == 32  # one for each channel


def test_the_quantised_folder_is_an_exported_detector(exported, rows, tmp_path):
    quantize_onnx(exported, tmp_path / "int8", rows, max_auroc_drop=0.2)
    found, source = load_backend(tmp_path / "int8").metadata, load_backend(exported).metadata
    assert found == source | {"precision": "int8", "fingerprint": source["fingerprint"] + "-int8"}
    for name in ("config.json", "preprocessor_config.json"):
        assert (tmp_path / "int8" / name).read_bytes() == (exported / name).read_bytes()
    with pytest.raises(ValueError, match="model.onnx is of int8 already; quantise the float32 one"):
        quantize_onnx(tmp_path / "int8", tmp_path / "again", rows)


def test_a_model_that_ranks_worse_is_refused_with_both_numbers(exported, rows, tmp_path, monkeypatch):
    right = quantization._quantize

    def ruin(source, target):
        right(source, target)
        model = onnx.load(target)
        for tensor in model.graph.initializer:
            if tensor.data_type == onnx.TensorProto.INT8:
                weights = onnx.numpy_helper.to_array(tensor)
                tensor.raw_data = (-weights.clip(-127)).astype(np.int8).tobytes()
        onnx.save(model, target)

    monkeypatch.setattr(quantization, "_quantize", ruin)
    message = r"AUROC on \d+ real and \d+ fake images is 0\.\d{4}, that of float32 0\.\d{4}, a fall by more than 0\.01"
    with pytest.raises(ValueError, match=message):
        quantize_onnx(exported, tmp_path / "int8", rows)
    assert list(tmp_path.iterdir()) == []
    quantize_onnx(exported, tmp_path / "int8", rows, max_auroc_drop=1)  # the control: it is the fall that is refused


def test_a_calibrated_detector_is_judged_by_its_calibrated_threshold(exported, rows, tmp_path):
    quantize_onnx(exported, tmp_path / "plain", rows, max_auroc_drop=1)
    before, after = (margins_of(folder, [r["image"] for r in rows[:-1]]) for folder in (exported, tmp_path / "plain"))
    bias = 1 - float(min(before.min(), after.min()))  # every image above 0.5
    p_before, p_after = sigmoid(before + bias), sigmoid(after + bias)
    moved = np.abs(p_after - p_before).argmax()
    threshold = float((p_before + p_after)[moved] / 2)
    numbers = {"temperature": 1.0, "bias": bias, "threshold": threshold, "unsure_low": 0.1, "unsure_high": 0.999}
    properties = {"calibration": json.dumps(dataclasses.replace(CALIBRATION, **numbers).to_dict())}
    source = tmp_path / "calibrated"
    shutil.copytree(exported, source)
    model = onnx.load(exported / "model.onnx")
    onnx.helper.set_model_props(model, load_backend(exported).properties | properties)
    onnx.save(model, source / "model.onnx")
    report = quantize_onnx(source, tmp_path / "int8", rows, max_auroc_drop=1, batch_size=64)
    assert report.flipped == ((p_after > threshold) != (p_before > threshold)).sum() > 0
    assert report.max_difference_p_fake == pytest.approx(np.abs(p_after - p_before).max(), abs=1e-6)


def test_what_cannot_be_judged_is_refused(exported, rows, tmp_path):
    for function in (quantize_onnx, export_int8):
        with pytest.raises(ValueError, match=r"without labelled images to judge it on: pass `dataset` \(--data\)"):
            function(exported, tmp_path / "int8", None)
    with pytest.raises(ValueError, match="by real and fake images: there are 0 and 3 that can be read"):
        quantize_onnx(exported, tmp_path / "int8", [row for row in rows if row["label"] == 1][-4:])
    with pytest.raises(ValueError, match="there are 0 and 0 that can be read"):
        quantize_onnx(exported, tmp_path / "int8", [])
    with pytest.raises(ValueError, match=r"`max_auroc_drop` must lie in \[0, 1\], got -0.1"):
        quantize_onnx(exported, tmp_path / "int8", rows, max_auroc_drop=-0.1)
    with pytest.raises(FileNotFoundError, match="`mirage-hf export` writes one"):
        quantize_onnx(tmp_path, tmp_path / "int8", rows)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ValueError, match="is not an empty folder"):
        export_int8("nowhere", tmp_path, rows)
