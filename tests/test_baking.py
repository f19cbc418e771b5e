"""A baked detector, without text encoder and prompt learner, answers as before."""

import itertools

import pytest
import torch
from answers import HALF_TOLERANCE, floating_dtypes, logits_of
from conftest import make_model

from mirage_hf.configuration_mirage import CHOICES


@pytest.mark.parametrize(
    ("modality", "mapping"), [*itertools.product(CHOICES["prompt_modality"], CHOICES["mapping"])], ids=str
)
def test_baking_keeps_the_logits_and_nothing_to_train(modality, mapping, pixel_values):
    model = make_model(prompt_modality=modality, mapping=mapping)
    expected = logits_of(model, pixel_values)
    baked = model.bake()
    assert baked is model and baked.config.baked and baked.bake() is baked
    torch.testing.assert_close(logits_of(baked, pixel_values), expected, atol=1e-6, rtol=0)
    assert not any(parameter.requires_grad for parameter in baked.parameters())
    assert baked.prompt_learner is None
    assert baked.clip.text_model is None and baked.clip.text_projection is None
    assert not any("text_model" in name or "prompt_learner" in name for name in baked.state_dict())
    with pytest.raises(RuntimeError, match="baked model has no text encoder"):
        baked.set_class_prompts(None, "an image of a {}", ["real", "fake"])


@pytest.mark.parametrize("dtype", HALF_TOLERANCE, ids=str)
def test_baking_a_half_precision_model_keeps_its_logits(dtype, pixel_values):
    model = make_model().to(dtype)
    expected = logits_of(model, pixel_values)
    torch.testing.assert_close(logits_of(model.bake(), pixel_values), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", HALF_TOLERANCE, ids=str)
def test_baking_and_casting_in_either_order(dtype, pixel_values):
    expected = logits_of(make_model(), pixel_values)
    for model in (make_model().to(dtype).bake(), make_model().bake().to(dtype)):
        assert floating_dtypes(model) == {dtype}
        torch.testing.assert_close(logits_of(model, pixel_values), expected, atol=HALF_TOLERANCE[dtype], rtol=0)
