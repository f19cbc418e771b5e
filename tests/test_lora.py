"""LoRA in both encoders beside the prompts: training, saving, merging."""

import copy

import pytest
import torch
from answers import LABELS, logits_of
from conftest import CLASS_INPUT_IDS
from saved import saved_encoder_weights

from mirage_hf import MiraGeForImageDetection


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
