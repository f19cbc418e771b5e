"""Exported detectors, `torch.export` and ONNX, answer as the model in Python does, at any batch size."""

import dataclasses
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from answers import SMALL, logits_of
from conftest import make_model
from exported import margins_in_torch, preprocess, random_images, save_detector
from PIL import Image
from transformers import AutoConfig, PilBackend
from transformers.modeling_outputs import ImageClassifierOutput

from mirage_hf.backends import load_backend
from mirage_hf.detector_loading import load_detector
from mirage_hf.export import export_onnx, export_torch
from mirage_hf.export_comparison import compare, synthetic_images
from mirage_hf.export_metadata import write_configuration
from mirage_hf.image_processing import EvalTransform

ROOT = Path(__file__).parent.parent
IMAGES = random_images(6)
GRAY = Image.new("RGB", (32, 32), (128, 128, 128))

DYNAMIC_BATCH = ({0: torch.export.Dim.DYNAMIC},)


@pytest.mark.parametrize("baked", [False, True], ids=["plain", "baked"])
def test_export_with_a_dynamic_batch(baked, pixel_values):
    model = make_model(**SMALL)
    if baked:
        model.bake()
    exported = torch.export.export(model, (pixel_values,), dynamic_shapes=DYNAMIC_BATCH).module()
    for batch in (1, 5):
        images = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(batch))
        torch.testing.assert_close(exported(images).logits, logits_of(model, images), atol=1e-6, rtol=0)


# ---------------------------------------------------------------------------------------------------- whole detectors


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_detector("turned", tmp_path_factory.mktemp("turned"))


def leaves_no_trace(folder):
    """The folder isn't there, and nothing beside it."""
    return list(folder.parent.iterdir()) == []


def test_onnx_folder_holds_what_scoring_needs_and_no_path_of_this_machine(checkpoint, tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    monkeypatch.setattr("mirage_hf.export.LARGEST_FILE", 0)  # as if the weights were too many for one file
    loaded = load_detector(checkpoint)
    report = export_onnx(loaded, tmp_path / "new" / "exported", images=random_images(5))
    files = {path.name: path.read_bytes() for path in (tmp_path / "new" / "exported").iterdir()}
    assert set(files) == {"model.onnx", "model.onnx.data", "config.json", "preprocessor_config.json"}
    assert os.listdir(tmp_path / "new") == ["exported"]
    assert report.bytes == len(files["model.onnx"]) + len(files["model.onnx.data"])
    assert report.file == str(tmp_path / "new" / "exported" / "model.onnx")
    assert (report.comparison.images, report.comparison.batch_sizes) == (5, [1, 3])
    for text in files.values():
        assert not any(part in text for part in (b"site-packages", str(ROOT).encode(), str(tmp_path).encode()))
    model = onnx.load(report.file)
    assert {(entry.domain, entry.version) for entry in model.opset_import} == {("", report.opset)} == {("", 18)}
    assert [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [
        "batch", 3, 32, 32,
    ]  # fmt: skip
    (logits,) = ReferenceEvaluator(model).run(None, {"pixel_values": preprocess(checkpoint, IMAGES).numpy()})
    expected = margins_in_torch(checkpoint, IMAGES)
    assert logits[:, 1] - logits[:, 0] == pytest.approx(expected, abs=2e-5)
    assert load_backend(report.file)(preprocess(checkpoint, IMAGES)) == pytest.approx(expected, abs=2e-5)
    assert loaded.config._attn_implementation == "sdpa"  # as before
    assert json.loads(json.dumps(report.to_dict()))["comparison"]["images"] == 5


def test_torch_export_answers_alike_and_says_what_it_is(checkpoint, tmp_path):
    report = export_torch(checkpoint, tmp_path / "exported", fake_label="Nature")
    assert report.comparison.max_difference_logits < 1e-6 and report.opset is None
    with zipfile.ZipFile(report.file) as archive:
        assert not any(b"site-packages" in archive.read(name) for name in archive.namelist())
    extra = dict.fromkeys(("fingerprint", "threshold", "source_id2label"), "")
    program = torch.export.load(report.file, extra_files=extra).module()
    images = random_images(3)
    logits = program(preprocess(checkpoint, images)).double()
    margins = (logits[:, 0] - logits[:, 1]).detach().numpy()  # `fake_label` turned the classes
    assert margins == pytest.approx(margins_in_torch(checkpoint, images), abs=1e-5)
    assert extra["fingerprint"] == load_detector(checkpoint).fingerprint and extra["threshold"] == "0.5"


def test_a_file_that_answers_otherwise_is_not_kept(checkpoint, tmp_path, monkeypatch):
    load = torch.export.load

    class Wrong:
        def __init__(self, file):
            self.right = load(file).module()

        def module(self):
            return lambda pixel_values: self.right(pixel_values).detach() + torch.tensor([0, 1e-3])

    monkeypatch.setattr("torch.export.load", Wrong)
    with pytest.raises(
        ValueError, match="model.pt2 was not written: it differs from .* by .*e-04 in the prob.* 0.0001"
    ):
        export_torch(checkpoint, tmp_path / "exported")
    assert leaves_no_trace(tmp_path / "exported")


def test_what_cannot_be_exported_is_refused_in_one_line(checkpoint, tmp_path):
    class Branching(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, pixel_values):
            return torch.zeros(len(pixel_values), 1 + int(pixel_values.sum().item() > 0))

    loaded = dataclasses.replace(load_detector(checkpoint), model=Branching())
    with pytest.raises(ValueError, match="turned.* can't be exported to torch.export: ") as caught:
        export_torch(loaded, tmp_path / "exported")
    assert len(str(caught.value).splitlines()) == 1 and leaves_no_trace(tmp_path / "exported")


def test_folders_in_use_are_left_alone(checkpoint, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "config.json").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        for function in (export_onnx, export_torch):
            with pytest.raises(ValueError, match=f"{name} is not an empty folder; name a new one"):
                function(checkpoint, tmp_path / name)
    assert (tmp_path / "full" / "config.json").read_text() == "mine" and len(os.listdir(tmp_path)) == 2


def test_configuration_beside_the_model(folders, tmp_path):
    loaded = load_detector(folders["adapter"])
    assert Path(loaded.config.base_model_name_or_path).is_absolute()
    metadata = write_configuration(loaded, tmp_path)
    assert "/" not in (tmp_path / "config.json").read_text(encoding="utf-8")
    config = AutoConfig.from_pretrained(tmp_path)
    assert (config.model_type, config.baked, config.base_model_name_or_path) == ("mirage", True, None)
    assert metadata["input_size"] == [32, 32] and metadata["tile_size"] is None


def test_the_classes_beside_the_model_are_those_of_its_logits(checkpoint, tmp_path):
    write_configuration(load_detector(checkpoint), tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.id2label == {0: "real", 1: "fake"} and config.label2id == {"real": 0, "fake": 1}


def test_a_processor_of_several_sizes_is_refused(checkpoint, tmp_path):
    processor = PilBackend(
        do_resize=True, size={"shortest_edge": 32}, resample=3, do_rescale=True, rescale_factor=1 / 255
    )
    loaded = dataclasses.replace(load_detector(checkpoint), transform=EvalTransform(processor))
    with pytest.raises(ValueError, match="gives images of 32 x 32 and 32 x 42 and 42 x 32, and an exported model"):
        export_torch(loaded, tmp_path / "exported")
    assert leaves_no_trace(tmp_path / "exported")


# -------------------------------------------------------------------------------------------------------- comparison


class Brightness(torch.nn.Module):
    """Logits of 0 and of the mean pixel times a factor."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, pixel_values):
        mean = pixel_values.mean(dim=(1, 2, 3))
        return ImageClassifierOutput(logits=torch.stack([torch.zeros_like(mean), self.factor * mean], dim=1))


def compared(checkpoint, factor, change):
    """The comparison of `Brightness` with itself, its logits changed."""
    loaded = dataclasses.replace(load_detector(checkpoint), model=Brightness(factor))

    def exported(pixel_values):
        return change(loaded.model(torch.from_numpy(pixel_values)).logits.numpy())

    return compare(loaded, exported, [*IMAGES, GRAY], "it")


def test_comparison_against_its_definition(checkpoint):
    found = compared(checkpoint, 1.0, lambda logits: logits + np.array([[0, 3e-5]]))
    pixels = preprocess(checkpoint, [*IMAGES, GRAY]).mean(dim=(1, 2, 3)).double()
    assert found.max_difference_logits == pytest.approx(3e-5, rel=1e-2)
    change = ((pixels + 3e-5).sigmoid() - pixels.sigmoid()).max().item()
    assert found.max_difference_p_fake == pytest.approx(change, rel=1e-2)
    assert found.max_logit == pytest.approx(pixels.abs().max().item())
    assert (found.images, found.batch_sizes) == (7, [1, 3])


@pytest.mark.parametrize(
    ("factor", "change"),
    [
        (100.0, lambda logits: logits + np.array([[0, 1e-3]])),  # in the probability alone, of the gray image
        (1e4, lambda logits: logits * 1.001),  # in the logits alone: the probabilities are 0 and 1
        (1.0, lambda logits: logits * np.nan),
    ],
)
def test_comparison_refuses(factor, change, checkpoint):
    with pytest.raises(ValueError, match="it was not written: it differs from turned"):
        compared(checkpoint, factor, change)


def test_comparison_allows_for_large_logits_and_asks_for_images(checkpoint):
    assert compared(checkpoint, 1e4, lambda logits: logits * 1.00001).max_difference_logits > 1e-4
    with pytest.raises(ValueError, match="there are no images to compare it on"):
        compare(load_detector(checkpoint), None, [], "it")


def test_synthetic_images_are_of_several_shapes_and_always_the_same():
    images, again = synthetic_images(32), synthetic_images(32)
    assert len({image.size for image in images}) > 6 and all(
        a.tobytes() == b.tobytes() for a, b in zip(images, again, strict=True)
    )
