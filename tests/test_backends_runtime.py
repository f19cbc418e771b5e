"""Exported detectors through ONNX Runtime and OpenVINO: the scores of PyTorch, and errors that say what is wrong."""

import json
import pickle
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from exported import CALIBRATION, margins_in_torch, preprocess, random_images, save_detector

from mirage_hf.backends import OpenVINOBackend, load_backend
from mirage_hf.detector import Detector
from mirage_hf.export import export_onnx
from mirage_hf.signal_stack import kept_signal_stack, signal_stack

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
if find_spec("openvino") is None:  # not imported, which would report it
    pytest.skip("needs openvino", allow_module_level=True)

KINDS = ("tiled", "text", "linear_probe", "turned")
BACKENDS = ("onnx", "openvino")
IMAGES = random_images(9)


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Each kind's checkpoint, exported folder and report, made when first asked for."""
    made = {}

    def export(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            source = save_detector(kind, folder / "source" if kind != "linear_probe" else folder)
            made[kind] = source, folder / "exported", export_onnx(source, folder / "exported")
        return made[kind]

    return export


# ----------------------------------------------------------------------------------------------------------- equality


@pytest.mark.parametrize("kind", KINDS)
def test_margins_are_those_of_pytorch_at_any_batch_size(kind, exports):
    source, folder, report = exports(kind)
    expected = margins_in_torch(source, IMAGES)
    pixel_values = preprocess(source, IMAGES)
    assert np.ptp(expected) > 0.02  # other images, other answers
    for name in BACKENDS:
        backend = load_backend(folder, name, threads=1)
        start = 0
        for batch in (1, 3, 5):
            margins = backend(pixel_values[start : start + batch])
            assert margins.dtype == np.float64
            assert margins == pytest.approx(expected[start : start + batch], abs=2e-5), (name, batch)
            start += batch
    assert report.comparison.max_difference_p_fake < 1e-5 and report.comparison.batch_sizes == [1, 3, 8]


def test_other_weights_have_other_margins(exports):
    """The control: what is compared above is not a constant of the architecture."""
    source, folder, _ = exports("turned")
    pixel_values = preprocess(source, IMAGES)
    model = onnx.load(folder / "model.onnx")
    head = next(tensor for tensor in model.graph.initializer if "classifier.weight" in tensor.name)
    head.raw_data = (1.001 * onnx.numpy_helper.to_array(head)).tobytes()
    changed = folder.parent / "changed.onnx"
    onnx.save(model, changed)
    difference = load_backend(changed)(pixel_values) - margins_in_torch(source, IMAGES)
    assert np.abs(difference).max() > 2e-5


@pytest.mark.parametrize("kind", ["tiled", "turned"])
@pytest.mark.parametrize("name", BACKENDS)
def test_detector_answers_from_the_folder_alone_as_from_the_checkpoint(kind, name, exports):
    source, folder, report = exports(kind)
    wanted = Detector.from_pretrained(source, device="cpu").score(IMAGES)
    found = Detector.from_pretrained(folder, backend=name).score(IMAGES)
    for one, other in zip(wanted, found, strict=True):
        assert other.p_fake == pytest.approx(one.p_fake, abs=1e-5)
        assert (other.label, other.verdict, other.threshold) == (one.label, one.verdict, one.threshold)
        assert other.calibration_id == one.calibration_id and other.revision == report.metadata["fingerprint"]
    assert (found[0].calibration_id is None) == (kind == "turned")


def test_a_backend_survives_pickling(exports):
    source, folder, _ = exports("turned")
    pixel_values = preprocess(source, IMAGES)
    backends = [load_backend(folder, "onnx", threads=2), OpenVINOBackend(folder / "model.onnx", 1, precision=None)]
    for backend in backends:
        again = pickle.loads(pickle.dumps(backend))
        assert type(again) is type(backend) and again.threads == backend.threads
        assert np.array_equal(again(pixel_values), backend(pixel_values))
    assert again.precision is None


def test_threads_and_precision_reach_the_libraries(exports):
    folder = exports("turned")[1]
    assert load_backend(folder, "onnx", threads=3).session.get_session_options().intra_op_num_threads == 3
    assert load_backend(folder, "onnx").session.get_session_options().intra_op_num_threads == 0
    compiled = load_backend(folder, "openvino", threads=1).compiled
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    half = OpenVINOBackend(folder / "model.onnx", precision="bf16").compiled
    assert half.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "bf16"


# ----------------------------------------------------------------------------------------------------------- metadata


@pytest.mark.parametrize("name", BACKENDS)
def test_the_file_states_preprocessing_classes_threshold_and_calibration(name, exports):
    source, folder, report = exports("tiled")
    found = load_backend(folder, name).metadata
    assert found == report.metadata
    assert found["calibration"] == CALIBRATION.to_dict() and found["threshold"] == 0.7
    assert found["id2label"] == {"0": "real", "1": "fake"} == found["source_id2label"]
    assert (found["input_size"], found["tile_size"], found["precision"]) == ([48, 48], 32, "float32")
    for place in (source, folder):
        stated = json.loads((Path(place) / "preprocessor_config.json").read_text(encoding="utf-8"))
        assert found["preprocessor_config"] == stated
    turned = load_backend(exports("turned")[1], name).metadata
    assert turned["source_id2label"] == {"0": "AI-generated", "1": "Nature"}
    assert turned["id2label"] == {"0": "real", "1": "fake"}
    assert (turned["calibration"], turned["tile_size"], turned["threshold"]) == (None, None, 0.5)


# ------------------------------------------------------------------------------------------------------------- errors


def write_onnx(path, names=("x", "y"), properties=None):
    """An ONNX file that copies its input."""
    ports = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, 2]) for name in names]
    node = onnx.helper.make_node("Identity", [names[0]], [names[1]])
    graph = onnx.helper.make_graph([node], "copy", ports[:1], ports[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.helper.set_model_props(model, properties or {})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("name", BACKENDS)
def test_files_that_are_no_exported_detector(name, exports, tmp_path):
    properties = load_backend(exports("turned")[1]).properties
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    ours = ("pixel_values", "logits")
    cases = [
        (broken, "broken.onnx can't be read as an ONNX model: .*"),
        (write_onnx(tmp_path / "a.onnx"), "did not write it: it turns x into y, not pixel_values into logits"),
        (write_onnx(tmp_path / "b.onnx", ours), "did not write it: it states no mirage_hf_version"),
        (
            write_onnx(tmp_path / "c.onnx", ours, properties | {"threshold": "{"}),
            "the metadata of .*c.onnx is damaged",
        ),
    ]
    for file, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            load_backend(file, name)
        assert len(str(caught.value).splitlines()) == 1
    for missing in (tmp_path, tmp_path / "nothing.onnx"):
        with pytest.raises(FileNotFoundError, match="there is no .*onnx; `mirage-hf export` writes one"):
            load_backend(missing, name)


def test_arguments_that_do_not_fit(exports):
    folder = exports("turned")[1]
    with pytest.raises(ValueError, match="`backend` must be one of onnx, openvino, got 'tensorrt'"):
        load_backend(folder, "tensorrt")
    with pytest.raises(ValueError, match="`threads` must be at least 1, got 0"):
        load_backend(folder, threads=0)
    backend = load_backend(folder)
    for shape in ((1, 3, 40, 32), (3, 32, 32), (1, 1, 32, 32)):
        with pytest.raises(ValueError, match=r"takes `pixel_values` of \(B, 3, 32, 32\), got \("):
            backend(torch.zeros(shape))


@pytest.mark.parametrize(("name", "module", "title"), [("onnx", "onnxruntime", "ONNX Runtime"), ("openvino",) * 3])
def test_a_missing_package_names_its_extra(name, module, title, exports, monkeypatch):
    folder = exports("turned")[1]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"(?i){title} is missing: `pip install mirage_hf\[{name}\]`"):
        load_backend(folder, name)


def test_openvino_is_not_let_report_its_import(exports):
    load_backend(exports("turned")[1], "openvino")
    assert "openvino.tools.ovc.telemetry_stub" in sys.modules
    assert "openvino_telemetry" not in sys.modules


@pytest.mark.skipif(sys.platform != "linux", reason="alternate signal stacks are kept on Linux")
def test_openvino_leaves_the_signal_stack_alone(exports):
    """Else a child that ends under PyTorch's DataLoader kills this process."""
    file = exports("turned")[1] / "model.onnx"
    before = signal_stack()
    backend = OpenVINOBackend(file)
    backend(torch.zeros(1, 3, *backend.input_size))
    assert signal_stack() == before
    with kept_signal_stack():
        backend.compiled = sys.modules["openvino"].Core().compile_model(str(file), "CPU")
        assert signal_stack() != before  # what it does by itself
    assert signal_stack() == before
