"""The trainer: what learns and what must not, accumulation, processes, resuming, logs, schedule, checkpoints."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import CLASS_INPUT_IDS, make_model
from safetensors.torch import load_file
from training_worker import RandomImages, make_augmented_images, make_trainer

from mirage_hf import MiraGeForImageDetection
from mirage_hf.losses import supervised_contrastive_loss
from mirage_hf.memory_bank import MemoryBank
from mirage_hf.training_args import MiraGeTrainingArguments

HERE = Path(__file__).parent


def snapshot(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("mapping", ["linear", "mlp", "cross_attention", "reverse"])
def test_all_prompts_move_and_clip_does_not(tmp_path, mapping):
    model = make_model(mapping=mapping)
    before = snapshot(model)
    make_trainer(tmp_path, model).train()
    for name, parameter in model.named_parameters():
        if name.startswith("clip."):
            assert torch.equal(parameter, before[name]), name
        else:
            assert not torch.equal(parameter, before[name]), name


def test_step_equals_a_loop_written_by_hand(tmp_path):
    """Forward, both loss terms, bank and SGD with momentum and weight decay, without the Trainer."""
    images = RecordedImages(48)
    trainer = make_trainer(tmp_path, images=images, num_train_epochs=1, warmup_epochs=0.5)
    model, bank = make_model().train(), MemoryBank(20, 24)
    decayed = [parameter for name, parameter in model.prompt_learner.named_parameters() if not name.endswith("bias")]
    biases = [parameter for name, parameter in model.prompt_learner.named_parameters() if name.endswith("bias")]
    groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    trainer.train()
    order = list(images.order)
    assert sorted(order) == list(range(48))
    for step in range(6):
        batch = [images[i] for i in order[8 * step : 8 * step + 8]]
        pixel_values = torch.stack([row["pixel_values"] for row in batch])
        labels = torch.stack([row["labels"] for row in batch])
        output = model(pixel_values, labels=labels, return_embeds=True)
        contrast = supervised_contrastive_loss(
            output.image_embeds, labels, bank.embeddings, bank.labels, text_embeds=output.text_embeds
        )
        bank.push(output.image_embeds.detach(), labels)
        for group in optimizer.param_groups:
            group["lr"] = 1e-5 if step < 3 else 0.05 * 0.5 * (1 + math.cos(math.pi * (step - 3) / 3))
        optimizer.zero_grad()
        (output.loss + 0.5 * contrast).backward()
        optimizer.step()
        logged = trainer.state.log_history[step]
        assert logged["cross_entropy"] == pytest.approx(output.loss.item(), abs=1e-5)
        assert logged["discriminative_loss"] == pytest.approx(contrast.item(), abs=1e-5)
    for (name, ours), theirs in zip(
        trainer.model.prompt_learner.named_parameters(), model.prompt_learner.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0, msg=name)
    torch.testing.assert_close(trainer.memory_bank.embeddings, bank.embeddings, atol=1e-6, rtol=0)


class RecordedImages(RandomImages):
    """Remembers the order in which its images were asked for."""

    def __init__(self, count):
        super().__init__(count)
        self.order = []

    def __getitem__(self, index):
        self.order.append(index)
        return super().__getitem__(index)


def test_evaluation_leaves_bank_and_weights_alone(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train()
    bank, weights = trainer.memory_bank.embeddings, snapshot(trainer.model)
    metrics = trainer.evaluate()
    assert torch.equal(trainer.memory_bank.embeddings, bank)
    assert all(torch.equal(parameter, weights[name]) for name, parameter in trainer.model.named_parameters())
    images = RandomImages(10)
    rows = [images[i] for i in range(10)]
    with torch.no_grad():
        loss = trainer.model(
            torch.stack([row["pixel_values"] for row in rows]), labels=torch.stack([row["labels"] for row in rows])
        ).loss
    assert metrics["eval_loss"] == pytest.approx(loss.item(), abs=1e-5)  # cross-entropy alone
    predictions = trainer.predict(RandomImages(10))
    assert predictions.predictions.shape == (10, 2)  # embeddings are not among the predictions


def test_logs(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(log) == 12
    assert [round(entry["memory_fill"], 2) for entry in log[:4]] == [0.4, 0.8, 1.0, 1.0]
    for entry in log:
        assert entry["loss"] == pytest.approx(entry["cross_entropy"] + 0.5 * entry["discriminative_loss"], abs=1e-4)
        assert 0 < entry["real_variation"] <= entry["intra_class_variation"] <= 2
        assert 0 < entry["fake_variation"] <= entry["intra_class_variation"] <= 2
        assert 0 < entry["inter_class_separation"] <= 2


def test_without_contrast_there_is_no_bank(tmp_path):
    trainer = make_trainer(tmp_path, discriminative_weight=0.0)
    trainer.train()
    assert trainer.memory_bank.size == 0
    entry = trainer.state.log_history[0]
    assert "discriminative_loss" not in entry and "memory_fill" not in entry
    assert entry["loss"] == pytest.approx(entry["cross_entropy"], abs=1e-6)


def test_recipe_is_the_papers():
    args = MiraGeTrainingArguments(output_dir="unused", use_cpu=True)
    assert (args.optim, args.learning_rate, args.weight_decay, args.max_grad_norm) == ("sgd", 0.002, 5e-4, 0.0)
    assert (args.num_train_epochs, args.per_device_train_batch_size) == (10, 128)
    assert (args.discriminative_weight, args.temperature, args.memory_size) == (0.5, 0.07, 1024)
    assert MiraGeTrainingArguments(output_dir="unused", use_cpu=True, optim="adamw_torch").optim_args is None


def test_schedule_is_one_constant_epoch_and_a_cosine(tmp_path):
    trainer = make_trainer(tmp_path, num_train_epochs=4, warmup_epochs=1, learning_rate=0.01)
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]
    assert rates[:6] == [1e-5] * 6
    expected = [0.005 * (1 + math.cos(math.pi * step / 18)) for step in range(18)]
    assert rates[6:] == pytest.approx(expected, abs=1e-9)
    linear = make_trainer(tmp_path, lr_scheduler_type="linear")
    linear.train()
    assert linear.state.log_history[0]["learning_rate"] == pytest.approx(0.05)  # a stock schedule stays stock


@pytest.mark.parametrize(
    "field, value",
    [
        ("discriminative_weight", -1.0),
        ("memory_size", -1),
        ("temperature", 0.0),
        ("text_anchors", "x"),
        ("discriminative_reduction", "x"),
        ("warmup_epochs", 10.0),
        ("warmup_learning_rate", -1.0),
        ("learning_rate", 0.0),
        ("hub_strategy", "every_save"),
    ],
)
def test_argument_errors_name_the_field(field, value):
    with pytest.raises(ValueError, match=field.removeprefix("discriminative_") if field.endswith("tion") else field):
        MiraGeTrainingArguments(output_dir="unused", use_cpu=True, **{field: value})


def test_a_baked_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="baked"):
        make_trainer(tmp_path, make_model().bake())


def train_and_snapshot(path, **arguments):
    trainer = make_trainer(path, **arguments)
    trainer.train()
    return trainer.model.prompt_learner.state_dict(), trainer


def distance(first, second):
    return max((first[key] - second[key]).abs().max().item() for key in first)


@pytest.mark.parametrize("weight", [0.0, 0.5])
@pytest.mark.parametrize(("batch", "accumulation"), [(4, 2), (2, 4)])
def test_accumulation_equals_the_whole_batch(tmp_path, weight, batch, accumulation):
    parts = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    whole, expected = train_and_snapshot(tmp_path, discriminative_weight=weight)
    cut, trainer = train_and_snapshot(tmp_path, discriminative_weight=weight, **parts)
    assert trainer.state.global_step == 12
    assert distance(whole, cut) < 1e-6
    assert torch.equal(trainer.memory_bank.labels, expected.memory_bank.labels)
    torch.testing.assert_close(trainer.memory_bank.embeddings, expected.memory_bank.embeddings, atol=1e-6, rtol=0)
    for first, second in zip(expected.state.log_history[:12], trainer.state.log_history[:12], strict=True):
        for term in ("loss", "cross_entropy", "inter_class_separation", *["discriminative_loss"] * (weight > 0)):
            if weight > 0 or term != "inter_class_separation":  # else it is a mean over micro-batches
                assert second[term] == pytest.approx(first[term], abs=1e-4), term


def test_micro_batches_by_themselves_are_another_loss(tmp_path):
    """Negative control of the test above; the logged loss keeps its scale all the same."""
    whole, _ = train_and_snapshot(tmp_path)
    cut, trainer = train_and_snapshot(
        tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=2, contrast_over_accumulation=False
    )
    assert distance(whole, cut) > 1e-4
    for entry in trainer.state.log_history[:12]:
        assert entry["loss"] == pytest.approx(entry["cross_entropy"] + 0.5 * entry["discriminative_loss"], abs=1e-4)


def run_worker(output_dir, *options, processes=1, expect=0):
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [*command, str(HERE / "training_worker.py"), str(output_dir), *map(str, options)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert result.returncode == expect, result.stderr[-3000:]
    if expect == 0:
        return load_file(output_dir / "final.safetensors"), json.loads((output_dir / "final.json").read_text())
    return None


def test_two_processes_equal_one(tmp_path):
    one, facts_one = run_worker(tmp_path / "one", "--batch", 8)
    two, facts_two = run_worker(tmp_path / "two", "--batch", 4, processes=2)
    cut, facts_cut = run_worker(tmp_path / "cut", "--batch", 2, "--accumulation", 2, processes=2)
    assert (facts_cut["world_size"], facts_cut["steps"]) == (2, 12) and distance(one, cut) < 1e-6
    assert (facts_one["world_size"], facts_two["world_size"]) == (1, 2)
    assert facts_one["steps"] == facts_two["steps"] == 12
    assert distance(one, two) < 1e-6  # weights and bank
    assert torch.equal(one["bank.labels"], two["bank.labels"])
    terms = ("loss", "cross_entropy", "discriminative_loss", "inter_class_separation", "eval_loss")
    for first, second in zip(facts_one["log"], facts_two["log"], strict=True):
        for term in set(terms) & set(first):
            assert first[term] == pytest.approx(second[term], abs=1e-4), term
    # Negative control: what a smaller batch in one process, that is a loss on the local batch only, would give.
    local, _ = run_worker(tmp_path / "local", "--batch", 4)
    assert distance(one, local) > 1e-4


def test_killed_and_resumed_equals_never_stopped(tmp_path):
    options = ("--augment", "--save-steps", 4)
    whole, _ = run_worker(tmp_path / "whole", *options)
    run_worker(tmp_path / "killed", *options, "--kill-at", 10, expect=-signal.SIGKILL)
    # Goes on with another number of workers: what an augmentation draws does not depend on who draws it.
    resumed, facts = run_worker(tmp_path / "killed", *options, "--workers", 2)
    assert facts["resumed_from"] == "checkpoint-8" and facts["steps"] == 12
    assert whole.keys() == resumed.keys()
    for key in whole:
        assert torch.equal(whole[key], resumed[key]), key
    # Negative control: resumed with an empty bank, it ends elsewhere.
    trainer = make_trainer(tmp_path / "killed", images=make_augmented_images(48))
    trainer.memory_bank.load_state_dict = lambda state: None
    trainer.train(resume_from_checkpoint=str(tmp_path / "killed" / "checkpoint-8"))
    assert distance(trainer.model.state_dict(), whole) > 1e-5


def test_resuming_without_a_bank_is_refused(tmp_path):
    trainer = make_trainer(tmp_path, save_strategy="epoch")
    trainer.train()
    (tmp_path / "checkpoint-6" / "memory_bank.safetensors").unlink()
    with pytest.raises(ValueError, match="memory_bank.safetensors"):
        make_trainer(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))


def test_checkpoints_are_adapters_without_pickled_arguments(tmp_path, clip_dir, pixel_values, caplog):
    model = MiraGeForImageDetection.from_clip(clip_dir, class_input_ids=CLASS_INPUT_IDS)
    trainer = make_trainer(tmp_path / "run", model, save_strategy="epoch")
    trainer.train()
    checkpoint = tmp_path / "run" / "checkpoint-12"
    assert not (checkpoint / "training_args.bin").exists()
    assert json.loads((checkpoint / "training_args.json").read_text())["discriminative_weight"] == 0.5
    assert all(key.startswith("prompt_learner.") for key in load_file(checkpoint / "model.safetensors"))
    loaded = MiraGeForImageDetection.from_pretrained(checkpoint)
    with torch.no_grad():
        torch.testing.assert_close(loaded(pixel_values).logits, model.eval()(pixel_values).logits, atol=1e-6, rtol=0)
    # Resumed: encoders come from the model, stay frozen, and nothing is said of missing weights.
    fresh = MiraGeForImageDetection.from_clip(clip_dir, class_input_ids=CLASS_INPUT_IDS)
    resumed = make_trainer(tmp_path / "run", fresh)
    with caplog.at_level("WARNING", logger="transformers"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-6"))
    assert "missing keys" not in caplog.text
    assert not any(parameter.requires_grad for parameter in resumed.model.clip.parameters())
    assert distance(resumed.model.prompt_learner.state_dict(), model.prompt_learner.state_dict()) == 0.0
