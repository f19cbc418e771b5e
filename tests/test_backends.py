"""Every way to run the detector gives what the plain eager path gives: attention kernels, checkpointing, half
precision, compilation, export, copies, LoRA, baking; and a lost prompt hook is an error, not a different answer."""

import copy
import io
import itertools
import pickle
from importlib.util import find_spec

import pytest
import torch
from conftest import CLASS_INPUT_IDS, make_clip_config, make_model
from safetensors import safe_open
from torch._dynamo.utils import counters
from transformers import CLIPModel
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from mirage_hf import MiraGeForImageDetection, modeling_mirage
from mirage_hf.configuration_mirage import CHOICES, OPENAI_CLASS_INPUT_IDS
from mirage_hf.prompt_learner import PROMPTS_KWARG, PromptInjector

LABELS = torch.tensor([0, 1, 0, 1])
SMALL = {"text_layers": 2, "vision_layers": 3}  # the vision encoder goes on past layer K; less to compile
DYNAMIC_BATCH = ({0: torch.export.Dim.DYNAMIC},)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Largest difference of the logits, which are 14.3 times a cosine, from float32's.
HALF_TOLERANCE = {torch.bfloat16: 0.1, torch.float16: 0.015}


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


@torch.no_grad()
def move_prompts(model):
    for parameter in model.prompt_learner.parameters():
        parameter.add_(0.5)


@torch.no_grad()
def logits_of(model, pixel_values):
    return model(pixel_values=pixel_values).logits


def saved_encoder_weights(folder) -> int:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return sum(name.startswith("clip.") for name in file.keys())


def floating_dtypes(model) -> set[torch.dtype]:
    return {tensor.dtype for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()}


# ------------------------------------------------------------------------------------------------- attention kernels


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


# --------------------------------------------------------------------------------------------- gradient checkpointing


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


# --------------------------------------------------------------------------------------------------------- precision


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


def test_default_class_prompts_need_no_tokenizer(tmp_path):
    config = make_clip_config(eos_token_id=2)
    config.text_config.vocab_size = 49408
    CLIPModel(config).save_pretrained(tmp_path)
    model = MiraGeForImageDetection.from_clip(tmp_path)
    assert model.config.class_input_ids == OPENAI_CLASS_INPUT_IDS
    for fields in ({"template": "an image of a {}"}, {"class_names": ["original", "generated"]}):
        with pytest.raises(ValueError, match="no tokenizer to read `template` and `class_names` with"):
            MiraGeForImageDetection.from_clip(tmp_path, **fields)


# --------------------------------------------------------------------------------------------- compilation and export


def test_compiled_training_step_agrees(pixel_values):
    expected = loss_and_gradients(make_model(**SMALL), pixel_values)
    model = make_model(**SMALL)
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_same_step(loss_and_gradients(model, pixel_values, forward=compiled), expected, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]


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


# ------------------------------------------------------------------------------------------------------------- copies


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


# --------------------------------------------------------------------------------------------------------------- LoRA


@pytest.fixture(scope="module")
def trained_lora(clip_dir, tmp_path_factory):
    """A detector with LoRA in both encoders, after two training steps; with its parameters from before them."""
    peft = pytest.importorskip("peft")
    from mirage_hf.trainer import MiraGeTrainer
    from mirage_hf.training_args import MiraGeTrainingArguments

    torch.manual_seed(0)
    detector = MiraGeForImageDetection.from_clip(clip_dir, class_input_ids=CLASS_INPUT_IDS)
    with torch.no_grad():
        for parameter in detector.prompt_learner.parameters():
            parameter.normal_(std=0.3)
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], modules_to_save=["prompt_learner"])
    model = peft.get_peft_model(detector, config)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    args = MiraGeTrainingArguments(
        output_dir=str(tmp_path_factory.mktemp("lora")),
        max_steps=2,
        per_device_train_batch_size=4,
        learning_rate=0.1,
        warmup_epochs=0,
        memory_size=8,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    dataset = [{"pixel_values": image, "labels": int(label)} for image, label in zip(images, LABELS, strict=True)]
    MiraGeTrainer(model=model, args=args, train_dataset=dataset).train()
    return model.eval(), before


def test_lora_and_prompts_receive_gradients(trained_lora, pixel_values):
    model = copy.deepcopy(trained_lora[0])
    model.zero_grad()
    model(pixel_values=pixel_values, labels=LABELS).loss.backward()
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert any("lora_A" in name for name in trainable) and any("text_prompts" in name for name in trainable)
    for name, parameter in trainable.items():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_lora_training_moves_nothing_else(trained_lora):
    model, before = trained_lora
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert moved == trainable
    assert all("lora_" in name or "prompt_learner.modules_to_save" in name for name in moved)
    base = {name for name in before if ".clip." in name and "lora_" not in name}
    assert len(base) == len(list(model.base_model.model.clip.named_parameters())) - sum("lora_" in n for n in moved)
    assert not base & moved


def test_lora_reloads(trained_lora, clip_dir, pixel_values, tmp_path):
    from peft import PeftModel

    model = trained_lora[0]
    model.save_pretrained(tmp_path)
    detector = MiraGeForImageDetection.from_clip(clip_dir, class_input_ids=CLASS_INPUT_IDS)
    reloaded = PeftModel.from_pretrained(detector, tmp_path).eval()
    assert torch.equal(logits_of(reloaded, pixel_values), logits_of(model, pixel_values))


def test_merged_lora_is_saved_with_its_encoders(trained_lora, clip_dir, pixel_values, tmp_path):
    """An adapter-sized file would drop what LoRA learned, since it fetches the encoders from the base."""
    untouched = MiraGeForImageDetection.from_clip(clip_dir, class_input_ids=CLASS_INPUT_IDS)
    untouched.save_pretrained(tmp_path / "untouched")
    assert saved_encoder_weights(tmp_path / "untouched") == 0

    model = copy.deepcopy(trained_lora[0])
    expected = logits_of(model, pixel_values)
    merged = model.merge_and_unload()
    torch.testing.assert_close(logits_of(merged, pixel_values), expected, atol=1e-5, rtol=0)
    merged.save_pretrained(tmp_path / "merged")
    assert saved_encoder_weights(tmp_path / "merged") == len(merged.clip.state_dict())
    reloaded = MiraGeForImageDetection.from_pretrained(tmp_path / "merged").eval()
    for name, tensor in merged.state_dict().items():
        assert torch.equal(reloaded.state_dict()[name], tensor), name
    # Bit-identical weights, but matrix kernels differ in the last digit with a tensor's place in memory.
    torch.testing.assert_close(logits_of(reloaded, pixel_values), logits_of(merged, pixel_values), atol=5e-6, rtol=0)

    # Negative control: the same prompts on the base's encoders answer differently.
    without_lora = MiraGeForImageDetection.from_clip(clip_dir, class_input_ids=CLASS_INPUT_IDS)
    without_lora.prompt_learner.load_state_dict(merged.prompt_learner.state_dict())
    assert (logits_of(without_lora, pixel_values) - expected).abs().max() > 1e-3


# --------------------------------------------------------------------------------------------------------- lost hooks


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


# ------------------------------------------------------------------------------------------------------------- baking


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
