"""Exported detectors, `torch.export` and ONNX, answer as the model in Python does, at any batch size."""

import pytest
import torch
from answers import SMALL, logits_of
from conftest import make_model

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


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_onnx_export_of_a_baked_model(pixel_values, tmp_path):
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    model = make_model(**SMALL).bake()
    file = tmp_path / "mirage.onnx"
    torch.onnx.export(
        model,
        (pixel_values,),
        file,
        dynamo=True,
        dynamic_shapes=DYNAMIC_BATCH,
        input_names=["pixel_values"],
        output_names=["logits"],
        verbose=False,
    )
    evaluator = ReferenceEvaluator(onnx.load(file))
    assert evaluator.output_names == ["logits"]
    for batch in (1, 5):
        images = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(batch))
        (logits,) = evaluator.run(None, {"pixel_values": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), logits_of(model, images), atol=1e-5, rtol=0)
