"""The model against the forward pass written out by hand, and its public behaviour."""

import pytest
import torch
from conftest import CLASS_INPUT_IDS, END, make_model
from reference import reference_image_features, reference_prompts, reference_text_features

CONFIGS = {
    "method": {},
    "one-token": {"num_prompt_tokens": 1},
    "many-tokens": {"num_prompt_tokens": 5},
    "shallow": {"prompt_depth": 1},
    "depth-2": {"prompt_depth": 2},
    "text-deeper": {"text_layers": 5, "vision_layers": 2},
    "vision-deeper": {"text_layers": 2, "vision_layers": 5},
    "equal-depths": {"text_layers": 3, "vision_layers": 3},
    "context": {"prompt_position": "context", "num_prompt_tokens": 4},
    "context-short": {"prompt_position": "context", "num_prompt_tokens": 1, "prompt_depth": 2},
    "text-only": {"prompt_modality": "text"},
    "vision-only": {"prompt_modality": "vision"},
    "mlp": {"mapping": "mlp"},
    "cross-attention": {"mapping": "cross_attention"},
    "reverse": {"mapping": "reverse"},
    "shared": {"shared_mapping": True},
    "legacy-end": {"eos_token_id": 2},
    "padded": {"class_input_ids": [[97, 1, 2, 3, 1, 4, END, END], [97, 1, 2, 3, 1, 5, 6, END]]},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_forward_equals_reference(name, pixel_values):
    model = make_model(**CONFIGS[name])
    output = model(pixel_values, return_embeds=True)
    text_prompts, vision_prompts = reference_prompts(model)
    text = reference_text_features(model, text_prompts)
    image = reference_image_features(model, vision_prompts, pixel_values)
    torch.testing.assert_close(output.text_embeds, text, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.image_embeds, image, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.logits, model.clip.logit_scale.exp() * image @ text.T, atol=1e-4, rtol=0)
    torch.testing.assert_close(model.get_text_features(), output.text_embeds)
    torch.testing.assert_close(model.get_image_features(pixel_values), output.image_embeds)


@pytest.mark.parametrize("name", ["method", "context", "cross-attention", "reverse", "mlp"])
def test_gradients_equal_reference(name, pixel_values):
    model = make_model(**CONFIGS[name])
    labels = torch.tensor([0, 1, 1, 0])
    parameters = list(model.prompt_learner.parameters())
    gradients = torch.autograd.grad(model(pixel_values, labels=labels).loss, parameters)
    text_prompts, vision_prompts = reference_prompts(model)
    logits = model.clip.logit_scale.exp() * (
        reference_image_features(model, vision_prompts, pixel_values) @ reference_text_features(model, text_prompts).T
    )
    expected = torch.autograd.grad(-logits.log_softmax(-1)[range(4), labels].mean(), parameters)
    for gradient, reference in zip(gradients, expected, strict=True):
        scale = reference.abs().max()  # attention over two tokens has small gradients: compare each at its own scale
        assert scale > 1e-9
        torch.testing.assert_close(gradient / scale, reference / scale, atol=1e-3, rtol=0)


@pytest.mark.parametrize("rule", [{"positions": False}, {"deep": False}])
def test_reference_without_a_text_rule_differs(rule):
    model = make_model()
    broken = reference_text_features(model, reference_prompts(model)[0], **rule)
    assert (model.get_text_features() - broken).abs().max() > 1e-3


@pytest.mark.parametrize("rule", [{"normalised": False}, {"deep": False}])
def test_reference_without_a_vision_rule_differs(rule, pixel_values):
    model = make_model()
    broken = reference_image_features(model, reference_prompts(model)[1], pixel_values, **rule)
    assert (model.get_image_features(pixel_values) - broken).abs().max() > 1e-3


def test_zero_shot_features_are_clips_own(pixel_values):
    model = make_model(prompt_modality="text")
    features = model.clip.get_image_features(pixel_values).pooler_output
    torch.testing.assert_close(model.get_image_features(pixel_values), torch.nn.functional.normalize(features, dim=-1))


def test_embeddings_are_unit_norm_and_loss_is_cross_entropy(pixel_values):
    model = make_model()
    labels = torch.tensor([0, 1, 0, 1])
    output = model(pixel_values, labels=labels, return_embeds=True)
    assert output.logits.shape == (4, 2)
    torch.testing.assert_close(output.image_embeds.norm(dim=-1), torch.ones(4))
    torch.testing.assert_close(output.text_embeds.norm(dim=-1), torch.ones(2))
    expected = -output.logits.softmax(-1)[range(4), labels].log().mean()
    torch.testing.assert_close(output.loss, expected)
    plain = model(pixel_values)
    assert plain.loss is None and plain.image_embeds is None and plain.text_embeds is None
    assert torch.equal(model(pixel_values, return_dict=False)[0], plain.logits)


def test_only_the_prompt_learner_is_trainable():
    model = make_model()
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {f"prompt_learner.{name}" for name, _ in model.prompt_learner.named_parameters()}
    assert trainable


@pytest.mark.parametrize("name", ["method", "text-only", "vision-only", "reverse"])
def test_bake_keeps_the_logits(name, pixel_values):
    model = make_model(**CONFIGS[name])
    expected = model(pixel_values).logits
    baked = model.bake()
    assert baked is model and baked.clip.text_model is None and not list(filter(_trainable, model.parameters()))
    torch.testing.assert_close(baked(pixel_values).logits, expected, atol=1e-6, rtol=0)
    assert baked.bake() is baked
    with pytest.raises(RuntimeError, match="no text encoder"):
        baked.set_class_prompts(WordTokenizer(), "a {}", ["b", "c"])


def _trainable(parameter):
    return parameter.requires_grad


class WordTokenizer:
    """Maps every word to an id of its own, as a stand-in with the call of a transformers tokenizer."""

    def __call__(self, text):
        ids = [97, *(1 + sum(map(ord, word)) % 90 for word in text.split()), END]
        return type("Encoding", (), {"input_ids": ids})()


def test_set_class_prompts_changes_the_anchors():
    model = make_model()
    before = model.get_text_features()
    model.set_class_prompts(WordTokenizer(), "an {} picture", ["original", "artificially generated"])
    assert model.config.template == "an {} picture"
    assert model.config.class_input_ids[0][-2:] == [END, END]  # the shorter row is padded by its end
    after = model.get_text_features()
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(after, reference_text_features(model, reference_prompts(model)[0]), atol=1e-5, rtol=0)


def test_a_rejected_template_changes_nothing():
    model = make_model()
    before = model.get_text_features()
    with pytest.raises(ValueError, match="num_prompt_tokens"):
        model.set_class_prompts(WordTokenizer(), "a " * 20 + "{}", ["real", "fake"])
    with pytest.raises(ValueError, match="class_names"):
        model.set_class_prompts(WordTokenizer(), "a {}", ["same", "same"])
    assert model.config.class_input_ids == CLASS_INPUT_IDS
    assert torch.equal(model.get_text_features(), before)
