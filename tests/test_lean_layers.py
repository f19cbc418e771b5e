"""The vision encoder without needless work gives what CLIP's layers with hooks give, and so do its gradients."""

import copy

import pytest
import torch
from answers import PROMPT_KINDS
from conftest import make_model
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode

from mirage_hf import MiraGeForImageDetection
from mirage_hf.lean_layers import can_be_lean


def gradients(model: MiraGeForImageDetection, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
    """The loss, the logits and the gradient of every learnable parameter."""
    model.zero_grad()
    labels = torch.arange(len(pixel_values)) % 2
    output = model(pixel_values=pixel_values, labels=labels)
    output.loss.backward()
    found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    return {"loss": output.loss.detach(), "logits": output.logits.detach()} | found


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).abs().max() < 2e-5 * value.abs().max() + 1e-7, name


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", PROMPT_KINDS)
def test_logits_and_gradients_equal_those_with_hooks(kind, attention, pixel_values):
    model = make_model(**PROMPT_KINDS[kind]).train()
    model.set_attn_implementation(attention)
    if model.config.tile_images:
        pixel_values = torch.cat([pixel_values, pixel_values.flip(1)], dim=2)[..., :40, :]  # 40 x 32: two tiles
    expected = gradients(model, pixel_values)
    assert len(expected) > 2  # learnable parameters beside loss and logits
    model.lean_vision = True
    assert_equal(gradients(model, pixel_values), expected)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_comparison_sees_each_layers_prompts(layer, pixel_values):
    """The control: prompts of any one layer that are a little different are found out."""
    model = make_model(prompt_depth=3).train()
    expected = gradients(model, pixel_values)
    model.lean_vision = True
    with torch.no_grad():
        model.prompt_learner.text_prompts[layer] += 0.1
    with pytest.raises(AssertionError):
        assert_equal(gradients(model, pixel_values), expected)


def test_half_precision_stays_as_close(pixel_values):
    model = make_model(prompt_depth=3).train()
    exact = gradients(model, pixel_values)["logits"]
    found = []
    for model.lean_vision in (False, True):
        with torch.autocast("cpu", torch.bfloat16):
            found.append(gradients(model, pixel_values)["logits"])
    with_hooks, lean = ((logits - exact).abs().max() for logits in found)
    assert 0 < lean < 2 * with_hooks


def test_arithmetic_is_saved(pixel_values):
    """Of the last layer all but the class token, prompts as queries, the gradients of the first layer's tokens."""
    model = make_model(prompt_depth=3, num_prompt_tokens=5).train()
    counted = []
    for model.lean_vision in (False, True):
        with FlopCounterMode(display=False) as counter:
            gradients(model, pixel_values)
        counted.append(counter.get_total_flops())
    assert counted[1] < 0.8 * counted[0]


def test_evaluation_is_by_hooks(pixel_values):
    """To the last digit what the saved model gives, whatever way it was trained."""
    model = make_model(prompt_depth=3)
    with torch.inference_mode():
        expected = model(pixel_values=pixel_values).logits
        model.lean_vision = True
        assert torch.equal(model(pixel_values=pixel_values).logits, expected)
        assert not torch.equal(model.train()(pixel_values=pixel_values).logits, expected)


@pytest.mark.parametrize("watch", ["hook", "pre-hook on attention", "forward", "checkpointing", "dropout", "class"])
def test_where_somebody_wraps_or_watches_a_layer_clips_own_layers_run(watch, pixel_values, monkeypatch):
    model = make_model(prompt_depth=3).train()
    model.lean_vision = True
    expected = gradients(model, pixel_values)
    layer = model.clip.vision_model.encoder.layers[1]
    seen: list[str] = []
    assert can_be_lean(model.clip.vision_model.encoder)
    if watch == "hook":
        layer.register_forward_hook(lambda *args: seen.append("layer"))
    elif watch == "pre-hook on attention":
        layer.self_attn.register_forward_pre_hook(lambda *args: seen.append("attention"))
    elif watch == "forward":
        plain = layer.forward

        def forward(*args, **kwargs):
            seen.append("forward")
            return plain(*args, **kwargs)

        layer.forward = forward
    elif watch == "checkpointing":
        model.gradient_checkpointing_enable()
    elif watch == "dropout":
        layer.self_attn.dropout = 0.5
    else:
        layer.__class__ = type("Sharded", (type(layer),), {})
    assert not can_be_lean(model.clip.vision_model.encoder)
    if watch != "dropout":
        assert_equal(gradients(model, pixel_values), expected)
    assert bool(seen) == (watch in ("hook", "pre-hook on attention", "forward"))


def test_adapters_around_the_frozen_layers_are_used(pixel_values):
    """LoRA's matrices in the encoders, which peft puts around the linear layers."""
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = get_peft_model(make_model(prompt_depth=3), config)
    detector = model.get_base_model().train()
    expected = gradients(detector, pixel_values)
    assert any("vision_model" in name and "lora" in name for name in expected)
    detector.lean_vision = True
    assert_equal(gradients(detector, pixel_values), expected)


def test_copies_and_saved_models(pixel_values, tmp_path):
    """A copy keeps the setting and uses its own weights; a checkpoint doesn't state it."""
    model = make_model(prompt_depth=3).train()
    expected = gradients(model, pixel_values)
    model.lean_vision = True
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(1.5)
    assert_equal(gradients(twin, pixel_values), expected)
    assert twin.lean_vision
    twin.save_pretrained(tmp_path)
    assert not MiraGeForImageDetection.from_pretrained(tmp_path).lean_vision
