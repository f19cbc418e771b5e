"""Attention kernels, gradient checkpointing, half precision and compilation give what the plain eager path gives."""

from importlib.util import find_spec

import pytest
import torch
from answers import HALF_TOLERANCE, LABELS, SMALL, assert_same_step, floating_dtypes, logits_of, loss_and_gradients
from conftest import CLASS_INPUT_IDS, make_clip_config, make_model
from saved import saved_encoder_weights
from torch._dynamo.utils import counters
from transformers import CLIPModel

from mirage_hf import MiraGeForImageDetection

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


# --------------------------------------------------------------------------------------------------- attention kernels


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_attention_implementations_agree(implementation, pixel_values):
    expected = loss_and_gradients(make_model(), pixel_values)
    model = make_model()
    model.set_attn_implementation(implementation)
    for encoder in (model.clip.text_model, model.clip.vision_model):
        assert encoder.config._attn_implementation == implementation
    assert_same_step(loss_and_gradients(model, pixel_values), expected, atol=1e-5)


def test_attention_implementation_is_an_argument_of_from_clip(clip_dir, pixel_values):
    logits = {}
    for implementation in ("sdpa", "eager"):
        torch.manual_seed(0)
        model = MiraGeForImageDetection.from_clip(
            clip_dir, class_input_ids=CLASS_INPUT_IDS, attn_implementation=implementation
        )
        assert model.clip.vision_model.config._attn_implementation == implementation
        logits[implementation] = logits_of(model, pixel_values)
    torch.testing.assert_close(logits["sdpa"], logits["eager"], atol=1e-5, rtol=0)


@pytest.mark.skipif(find_spec("flash_attn") is not None, reason="flash-attn is installed")
def test_flash_attention_without_its_package_is_a_clear_error(clip_dir):
    with pytest.raises(ImportError, match="FlashAttention2 .* cannot be used"):
        make_model().set_attn_implementation("flash_attention_2")
    with pytest.raises(ImportError, match="FlashAttention2 .* cannot be used"):
        MiraGeForImageDetection.from_clip(
            clip_dir, class_input_ids=CLASS_INPUT_IDS, attn_implementation="flash_attention_2"
        )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.skipif(find_spec("flash_attn") is None, reason="needs flash-attn")
def test_flash_attention_agrees(pixel_values):
    model = make_model().to("cuda", torch.float16)
    images = pixel_values.to("cuda", torch.float16)
    expected = logits_of(model, images)
    model.set_attn_implementation("flash_attention_2")
    torch.testing.assert_close(logits_of(model, images), expected, atol=HALF_TOLERANCE[torch.float16], rtol=0)


# ---------------------------------------------------------------------------------------------- gradient checkpointing


@pytest.mark.filterwarnings(
    "ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning",
    "ignore:None of the inputs have requires_grad:UserWarning",  # an encoder without prompts
)
@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize(
    "fields", [{}, {"shared_mapping": True}, {"mapping": "reverse"}, {"prompt_modality": "vision"}], ids=str
)
def test_gradient_checkpointing_agrees(use_reentrant, fields, pixel_values):
    expected = loss_and_gradients(make_model(**fields).train(), pixel_values)
    model = make_model(**fields).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
    calls = []
    model.clip.vision_model.encoder.layers[1].self_attn.register_forward_hook(lambda *args: calls.append(1))
    assert_same_step(loss_and_gradients(model, pixel_values), expected, atol=1e-6)
    assert len(calls) == 2  # once forward, once again in the backward pass


# ----------------------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("dtype", HALF_TOLERANCE, ids=str)
@pytest.mark.parametrize("pixel_dtype", ["float32", "model"])
def test_half_precision_weights_stay_close(dtype, pixel_dtype, pixel_values):
    expected = logits_of(make_model(), pixel_values)
    model = make_model().to(dtype)
    images = pixel_values if pixel_dtype == "float32" else pixel_values.to(dtype)
    outputs = model(pixel_values=images, labels=LABELS, return_embeds=True)
    assert outputs.logits.dtype == outputs.loss.dtype == torch.float32
    torch.testing.assert_close(outputs.logits, expected, atol=HALF_TOLERANCE[dtype], rtol=0)
    for embeds in (outputs.image_embeds, outputs.text_embeds):
        assert embeds.dtype == torch.float32
        torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(len(embeds)), atol=1e-6, rtol=0)
    outputs.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.prompt_learner.parameters())


def test_bfloat16_autocast_stays_close(pixel_values):
    reference, model = make_model(), make_model()
    expected = loss_and_gradients(reference, pixel_values)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(pixel_values=pixel_values, labels=LABELS, return_embeds=True)
    outputs.loss.backward()
    assert outputs.logits.dtype == outputs.image_embeds.dtype == outputs.text_embeds.dtype == torch.float32
    torch.testing.assert_close(outputs.logits, expected[1], atol=HALF_TOLERANCE[torch.bfloat16], rtol=0)
    assert not torch.equal(outputs.logits, expected[1])  # autocast was on
    torch.testing.assert_close(outputs.image_embeds.norm(dim=-1), torch.ones(4), atol=1e-6, rtol=0)
    for name, parameter in model.prompt_learner.named_parameters():
        cosine = torch.cosine_similarity(
            parameter.grad.flatten(), reference.prompt_learner.get_parameter(name).grad.flatten(), dim=0
        )
        assert parameter.grad.dtype == torch.float32 and cosine > 0.98, name


@pytest.mark.parametrize("base", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("requested", DTYPES, ids=str)
@pytest.mark.parametrize("full", [False, True], ids=["adapter", "full"])
def test_a_requested_dtype_reaches_every_weight(base, requested, full, pixel_values, tmp_path):
    """Encoders left in the base checkpoint's type would make training in float32 anything but that."""
    CLIPModel._from_config(make_clip_config(), dtype=base).save_pretrained(tmp_path / "clip")
    model = MiraGeForImageDetection.from_clip(
        tmp_path / "clip", class_input_ids=CLASS_INPUT_IDS, dtype=requested, save_base_model=full
    )
    assert floating_dtypes(model) == {requested}
    assert logits_of(model, pixel_values).isfinite().all()
    if requested == torch.float32:  # as in mixed-precision training
        with torch.autocast("cpu", torch.bfloat16):
            assert logits_of(model, pixel_values).isfinite().all()
    model.save_pretrained(tmp_path / "saved")
    assert (saved_encoder_weights(tmp_path / "saved") > 0) is full
    for dtype in (None, "auto", torch.float32, torch.bfloat16):
        kwargs = {} if dtype is None else {"dtype": dtype}
        reloaded = MiraGeForImageDetection.from_pretrained(tmp_path / "saved", **kwargs)
        assert floating_dtypes(reloaded) == {dtype if isinstance(dtype, torch.dtype) else requested}, dtype


# --------------------------------------------------------------------------------------------------------- compilation


def test_compiled_training_step_agrees(pixel_values):
    expected = loss_and_gradients(make_model(**SMALL), pixel_values)
    model = make_model(**SMALL)
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_same_step(loss_and_gradients(model, pixel_values, forward=compiled), expected, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
