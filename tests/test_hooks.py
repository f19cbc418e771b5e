"""The hooks that place the prompts: a copy uses its own prompts, and a lost hook is an error, not another answer."""

import copy
import io
import pickle

import pytest
import torch
from answers import SMALL, logits_of
from conftest import make_model
from transformers import CLIPModel
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from mirage_hf import modeling_mirage
from mirage_hf.prompt_learner import PROMPTS_KWARG, PromptInjector

# -------------------------------------------------------------------------------------------------------------- copies


@torch.no_grad()
def move_prompts(model):
    for parameter in model.prompt_learner.parameters():
        parameter.add_(0.5)


def pickle_and_load(model):
    return pickle.loads(pickle.dumps(model))


def save_and_load(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickle_and_load, save_and_load], ids=["copy", "pickle", "save"])
def test_a_copy_uses_its_own_prompts(duplicate, pixel_values):
    model = make_model()
    expected = logits_of(model, pixel_values)
    twin = duplicate(model)
    assert torch.equal(logits_of(twin, pixel_values), expected)
    move_prompts(twin)
    assert (logits_of(twin, pixel_values) - expected).abs().max() > 0.01
    assert torch.equal(logits_of(model, pixel_values), expected)


def use_closures(model):
    """Puts closures over the model's prompts in place of its stateless hooks."""
    for modality, encoder in (("text", model.clip.text_model.encoder), ("vision", model.clip.vision_model.encoder)):
        for index, layer in enumerate(encoder.layers):
            layer._forward_pre_hooks.clear()

            def closure(layer, args, kwargs, index=index, modality=modality):
                prompts = model._prompts()[0 if modality == "text" else 1]
                return PromptInjector(index, modality)(layer, args, kwargs | {PROMPTS_KWARG: prompts})

            layer.register_forward_pre_hook(closure, with_kwargs=True)


def test_a_copy_with_closure_hooks_would_use_the_originals_prompts(pixel_values, monkeypatch):
    """Negative control of the test above."""
    monkeypatch.setattr(modeling_mirage, "check_prompt_injectors", lambda *args: None)
    model = make_model()
    expected = logits_of(model, pixel_values)
    use_closures(model)
    assert torch.equal(logits_of(model, pixel_values), expected)  # the closures do place the prompts
    twin = copy.deepcopy(model)
    move_prompts(twin)
    assert torch.equal(logits_of(twin, pixel_values), expected)  # the copy's own prompts are ignored
    move_prompts(model)
    assert not torch.equal(logits_of(twin, pixel_values), expected)
    with pytest.raises(AttributeError):
        pickle.dumps(model)


# ---------------------------------------------------------------------------------------------------------- lost hooks


def replace_layer(model, modality="vision", index=1):
    """Swaps a layer for one of the same weights, without a hook."""
    encoder = getattr(model.clip, f"{modality}_model").encoder
    layer = CLIPEncoderLayer(getattr(model.config.clip_config, f"{modality}_config"))
    layer.load_state_dict(encoder.layers[index].state_dict())
    encoder.layers[index] = layer.eval()


def replace_clip(model):
    clip = CLIPModel(model.config.clip_config)
    clip.load_state_dict(model.clip.state_dict())
    model.clip = clip.eval()


@pytest.mark.parametrize("modality", ["text", "vision"])
def test_a_replaced_layer_is_an_error(modality, pixel_values):
    model = make_model()
    replace_layer(model, modality)
    message = f"Layer 1 of the {modality} encoder does not hold exactly one prompt hook"
    for call in (lambda: model(pixel_values), lambda: model.get_image_features(pixel_values), model.get_text_features):
        with pytest.raises(RuntimeError, match=message):
            call()
    with pytest.raises(RuntimeError, match=message):
        model.bake()


def test_a_replaced_clip_is_an_error(pixel_values):
    model = make_model()
    replace_clip(model)
    with pytest.raises(RuntimeError, match="Layer 0 of the vision encoder"):
        model(pixel_values)


def test_a_replaced_layer_is_an_error_when_compiled(pixel_values):
    model = make_model(**SMALL)
    replace_layer(model)
    torch._dynamo.reset()
    with pytest.raises(RuntimeError):
        torch.compile(model, backend="eager")(pixel_values)


def test_without_the_guard_lost_hooks_change_the_logits_silently(pixel_values, monkeypatch):
    """Negative control: what the guard is for."""
    monkeypatch.setattr(modeling_mirage, "check_prompt_injectors", lambda *args: None)
    for fields, replace in (({}, replace_layer), ({"prompt_modality": "text"}, replace_clip)):
        model = make_model(**fields)
        expected = logits_of(model, pixel_values)
        replace(model)
        assert (logits_of(model, pixel_values) - expected).abs().max() > 0.01
    # The length of the vision sequence is a second net, which catches the loss of every hook at once.
    model = make_model()
    replace_clip(model)
    with pytest.raises(RuntimeError, match="the prompts did not reach its layers"):
        model(pixel_values)
