"""What a detector answers, to compare two ways of running it."""

import torch

LABELS = torch.tensor([0, 1, 0, 1])
SMALL = {"text_layers": 2, "vision_layers": 3}  # the vision encoder goes on past layer K; less to compile
# Text of 3 layers and vision of 4, 3 and 2: prompts end before, or reach into, the last vision layer.
PROMPT_KINDS = {
    "one prompted layer": {"prompt_depth": 1},
    "two of four": {"prompt_depth": 2},
    "three of four": {"prompt_depth": 3},
    "all of three": {"prompt_depth": 3, "vision_layers": 3},
    "all of two": {"prompt_depth": 2, "vision_layers": 2},
    "one layer": {"prompt_depth": 1, "vision_layers": 1},
    "many prompts": {"prompt_depth": 3, "num_prompt_tokens": 5},
    "text only": {"prompt_modality": "text"},
    "vision only": {"prompt_modality": "vision"},
    "cross-attention": {"mapping": "cross_attention"},
    "reverse": {"mapping": "reverse"},
    "context": {"prompt_position": "context"},
    "tiles": {"tile_images": True},
}
# Largest difference of the logits, which are 14.3 times a cosine, from float32's.
HALF_TOLERANCE = {torch.bfloat16: 0.1, torch.float16: 0.015}


@torch.no_grad()
def logits_of(model, pixel_values):
    return model(pixel_values=pixel_values).logits


@torch.no_grad()
def image_features_of(model, pixel_values):
    return model.get_image_features(pixel_values)


def assert_same_logits(model, expected_model, pixel_values, atol: float = 1e-6) -> None:
    torch.testing.assert_close(
        logits_of(model, pixel_values), logits_of(expected_model, pixel_values), atol=atol, rtol=0
    )


def loss_and_gradients(model, pixel_values, forward=None):
    """Loss, logits and the gradient of every trainable parameter after one backward pass."""
    outputs = (model if forward is None else forward)(pixel_values=pixel_values, labels=LABELS)
    outputs.loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return outputs.loss.detach(), outputs.logits.detach(), gradients


def assert_same_step(actual, expected, atol):
    """Compares two results of `loss_and_gradients`; an absent or vanishing gradient fails."""
    for got, wanted in zip(actual[:2], expected[:2], strict=True):
        torch.testing.assert_close(got, wanted, atol=atol, rtol=0)
    assert actual[2].keys() == expected[2].keys() and len(expected[2]) > 0
    for name, gradient in expected[2].items():
        assert gradient.abs().max() > 1e-6, name
        torch.testing.assert_close(actual[2][name], gradient, atol=atol, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def floating_dtypes(model) -> set[torch.dtype]:
    return {tensor.dtype for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()}
