"""The encoder for inference answers as the model does, whatever prompts it has, and with less arithmetic."""

import pytest
import torch
from answers import PROMPT_KINDS, logits_of
from conftest import make_config, make_model
from torch.utils.flop_counter import FlopCounterMode

from mirage_hf import MiraGeForImageDetection
from mirage_hf.detection import Preparer
from mirage_hf.detector import Detector
from mirage_hf.modeling_mirage import MiraGeOutput
from mirage_hf.torch_margins import ModelLogits, TorchMargins, model_logits
from mirage_hf.vision_inference import VisionInference, quick_gelu


def baked(**kwargs) -> MiraGeForImageDetection:
    return make_model(**kwargs).bake()


@pytest.mark.parametrize("kind", PROMPT_KINDS)
def test_logits_equal_the_models(kind, pixel_values):
    model = baked(**PROMPT_KINDS[kind])
    if model.config.tile_images:
        pixel_values = torch.cat([pixel_values, pixel_values.flip(1)], dim=2)[..., :40, :]  # 40 x 32: two tiles
    with torch.inference_mode():
        found = VisionInference(model)(pixel_values)
    torch.testing.assert_close(found, logits_of(model, pixel_values), atol=5e-6, rtol=0)


def test_each_layers_prompts_matter(pixel_values):
    """The control: the comparison sees every layer's prompts, those kept as keys and values too."""
    model = baked(prompt_depth=3)
    expected = logits_of(model, pixel_values)
    for layer in range(3):
        changed = baked(prompt_depth=3)
        changed.baked_vision_prompts[layer] = changed.baked_vision_prompts[layer].flip(-1)
        with torch.inference_mode():
            assert (VisionInference(changed)(pixel_values) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_both_activations_of_clip(activation, pixel_values):
    config = make_config()
    config.clip_config.vision_config.hidden_act = activation
    torch.manual_seed(0)
    model = MiraGeForImageDetection(config).eval().bake()
    network = VisionInference(model)
    assert (network.layers[0].activation is quick_gelu) == (activation == "quick_gelu")
    with torch.inference_mode():
        torch.testing.assert_close(network(pixel_values), logits_of(model, pixel_values), atol=5e-6, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.15), ("float16", 0.02)])
def test_half_precision_stays_close(dtype, tolerance, pixel_values):
    """Under autocast, as `Detector` runs it: as close to float32 as the model itself comes."""
    model = baked()
    exact = logits_of(model, pixel_values)
    with torch.inference_mode(), torch.autocast("cpu", dtype=getattr(torch, dtype)):
        found, by_model = VisionInference(model)(pixel_values), model(pixel_values=pixel_values).logits
    assert found.dtype == torch.float32
    assert 0 < (found - exact).abs().max() < tolerance and (by_model - exact).abs().max() < tolerance


def test_a_cast_model(pixel_values):
    model = baked().to(torch.bfloat16)
    with torch.inference_mode():
        found = VisionInference(model)(pixel_values)
    torch.testing.assert_close(found, logits_of(model, pixel_values), atol=0.15, rtol=0)


def test_less_arithmetic():
    """
    Counted, but for the attention's own products, which the counter doesn't know on a CPU: of the last layer little is
    left, and prompts aren't computed before the last prompted layer.
    """
    model = baked(prompt_depth=3, num_prompt_tokens=5)
    pixel_values = torch.randn(2, 3, 32, 32)

    def count(network) -> int:
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            network(pixel_values)
        return counter.get_total_flops()

    width, inner, tokens, prompts, images = 48, 64, 17, 5, 2
    whole = 4 * width * width + 2 * width * inner  # multiplications of a token in a layer
    keys = 2 * width * width
    rows = [tokens * whole, tokens * whole, (tokens + prompts) * whole, (tokens + prompts) * keys + whole - keys]
    embedding = 16 * width * 3 * 8 * 8 + width * 24
    expected = 2 * images * (sum(rows) + embedding)
    assert count(VisionInference(model)) == expected
    assert count(lambda pixels: model(pixel_values=pixels)) > 1.3 * expected


def test_weights_are_the_models_own():
    model = baked()
    own = {parameter.data_ptr() for parameter in model.parameters()}
    assert all(parameter.data_ptr() in own for parameter in VisionInference(model).parameters())


def test_what_it_refuses(pixel_values):
    with pytest.raises(ValueError, match="must be baked"):
        VisionInference(make_model())
    with pytest.raises(ValueError, match=r"\(40\*32\) doesn't match model \(32\*32\)"):
        VisionInference(baked())(torch.zeros(1, 3, 40, 32))
    with pytest.raises(ValueError, match="smaller than the encoder's"):
        VisionInference(baked(tile_images=True))(torch.zeros(1, 3, 24, 40))


def test_detectors_score_by_it(folders, images):
    detector = Detector.from_pretrained(folders["full"], device="cpu")
    margins = detector.margins
    assert isinstance(margins, TorchMargins) and isinstance(margins.logits, VisionInference)
    found = detector.score(images)
    slow = Detector(TorchMargins.__new__(TorchMargins), Preparer(detector.preparer.transform), "model", "1")
    slow.margins.__dict__ |= margins.__dict__ | {"logits": lambda pixels: margins.model(pixel_values=pixels).logits}
    for fast, reference in zip(found, slow.score(images), strict=True):
        assert fast.p_fake == pytest.approx(reference.p_fake, abs=1e-6)


def test_other_models_score_by_themselves(pixel_values):
    class Other(torch.nn.Module):
        def forward(self, pixel_values):
            return MiraGeOutput(logits=pixel_values.mean((1, 2, 3))[:, None] * torch.tensor([-1.0, 1.0]))

    network = model_logits(Other())
    assert isinstance(network, ModelLogits)
    torch.testing.assert_close(network(pixel_values)[:, 1], pixel_values.mean((1, 2, 3)))
