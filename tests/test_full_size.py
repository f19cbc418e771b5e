"""ViT-L/14, the paper's backbone, with random weights: sizes, one training step and a reload. Minutes and 6 GB."""

import json
import os
import resource
import time
from contextlib import contextmanager

import pytest
import torch
from safetensors import safe_open
from transformers import CLIPConfig, CLIPModel

from mirage_hf import MiraGeConfig, MiraGeForImageDetection
from mirage_hf.configuration_mirage import OPENAI_CLASS_INPUT_IDS
from mirage_hf.prompt_learner import PromptLearner

MIB = 2**20
LARGE = {
    "text_config": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "projection_dim": 768,
        "bos_token_id": 0,
        "eos_token_id": 2,  # as published: neither is in a tokenized text, see `test_legacy_end_token`
        "pad_token_id": 1,
    },
    "vision_config": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "patch_size": 14,
        "image_size": 224,
        "projection_dim": 768,
    },
    "projection_dim": 768,
}


@contextmanager
def timed(what):
    start = time.perf_counter()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{what}: {time.perf_counter() - start:.1f} s, peak memory of the process so far {peak:.2f} GiB")


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        # K·m·768 prompt values and, for each map, 768·1024 weights and 1024 biases
        ({}, 12 * 2 * 768 + 12 * (768 * 1024 + 1024)),
        ({"prompt_depth": 9}, 7_100_928),
        ({"shared_mapping": True}, 805_888),
        ({"mapping": "reverse"}, 12 * 2 * 1024 + 12 * (1024 * 768 + 768)),
        ({"prompt_modality": "text"}, 18_432),
    ],
    ids=str,
)
def test_prompt_learner_size(fields, count):
    """METHOD's 9.47, 7.10 and 0.81 million parameters; the learner alone is small enough for the default suite."""
    learner = PromptLearner(MiraGeConfig(clip_config=CLIPConfig(**LARGE), **fields))
    assert sum(parameter.numel() for parameter in learner.parameters()) == count
    if not fields:
        assert count == 9_467_904


@pytest.fixture(scope="module")
def large_clip_dir(tmp_path_factory):
    """ViT-L/14 in bfloat16, 0.86 GB, without a tokenizer."""
    folder = tmp_path_factory.mktemp("large")
    with timed("random ViT-L/14 made and saved"):
        torch.manual_seed(0)
        clip = CLIPModel._from_config(CLIPConfig(**LARGE), dtype=torch.bfloat16)
        assert sum(parameter.numel() for parameter in clip.parameters()) == 427_616_513
        clip.save_pretrained(folder, max_shard_size="5GB")
    return folder


@pytest.mark.slow
@torch.no_grad()
def test_legacy_end_token(large_clip_dir, tmp_path):
    """The published `eos_token_id` 2 means "the largest id", which is where 49407 is: both pool the same place."""
    config = json.loads((large_clip_dir / "config.json").read_text())
    assert config["text_config"]["eos_token_id"] == 2
    config["text_config"]["eos_token_id"] = 49407
    (tmp_path / "config.json").write_text(json.dumps(config))
    os.link(large_clip_dir / "model.safetensors", tmp_path / "model.safetensors")
    features = []
    for folder in (large_clip_dir, tmp_path):
        torch.manual_seed(0)
        model = MiraGeForImageDetection.from_clip(folder, dtype=torch.bfloat16).eval()
        assert model.config.class_input_ids == OPENAI_CLASS_INPUT_IDS
        features.append(model.get_text_features())
    assert torch.equal(*features)
    model.clip.text_model.eos_token_id = 539  # "of": pooling elsewhere is not the same
    assert (model.get_text_features() - features[0]).abs().max() > 1e-3


@pytest.mark.slow
def test_one_training_step(large_clip_dir, tmp_path):
    from mirage_hf.trainer import MiraGeTrainer
    from mirage_hf.training_args import MiraGeTrainingArguments

    with timed("from_clip in float32"):
        torch.manual_seed(0)
        model = MiraGeForImageDetection.from_clip(large_clip_dir)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 9_467_904
    before = {name: p.detach().clone() for name, p in model.prompt_learner.named_parameters()}
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    args = MiraGeTrainingArguments(
        output_dir=str(tmp_path / "run"),
        max_steps=1,
        per_device_train_batch_size=2,
        warmup_epochs=0,
        save_strategy="no",
        bf16=True,
        use_cpu=True,
        disable_tqdm=True,
    )
    dataset = [{"pixel_values": image, "labels": label} for label, image in enumerate(images)]
    trainer = MiraGeTrainer(model=model, args=args, train_dataset=dataset)
    with timed("one training step of 2 images under bfloat16 autocast"):
        trainer.train()
    for name, parameter in model.prompt_learner.named_parameters():
        assert parameter.isfinite().all() and not torch.equal(parameter, before[name]), name
    assert len(trainer.memory_bank) == 2

    with safe_open(large_clip_dir / "model.safetensors", "pt") as file, timed("encoders compared with the base's"):
        parameters = dict(model.clip.named_parameters())
        assert parameters.keys() <= set(file.keys())
        for name, parameter in parameters.items():
            assert torch.equal(parameter, file.get_tensor(name).float()), name

    model = trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False).eval()  # else autocast stays on
    with torch.inference_mode(), timed("forward of 2 images in float32"):
        expected = model(images).logits
    with timed("save"):
        model.save_pretrained(tmp_path / "adapter")
    size = (tmp_path / "adapter" / "model.safetensors").stat().st_size
    print(f"adapter: {size / MIB:.2f} MiB")
    assert 9_467_904 * 4 < size <= 40 * MIB
    trained = {name: p.detach().clone() for name, p in model.prompt_learner.named_parameters()}
    del model, trainer, parameters, parameter
    with timed("reload"):
        model = MiraGeForImageDetection.from_pretrained(tmp_path / "adapter").eval()
    for name, parameter in model.prompt_learner.named_parameters():
        assert torch.equal(parameter, trained[name]), name
    with torch.inference_mode():
        difference = (model(images).logits - expected).abs().max().item()
    print(f"reloaded logits: largest difference {difference:.1e}")
    assert difference < 2e-5  # bit-identical weights; the kernel chosen depends on a tensor's place in memory
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 10 * 2**20  # KiB on Linux
