"""What only a GPU can show, with tiny models; and that the benchmark for one, `benchmarks/gpu_check.py`, runs."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from conftest import make_model
from handmade_speed import load_harness

from mirage_hf.vision_inference import VisionInference

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu_check.py"
DIFFERENCES = {"max_abs_difference_of_logits", "max_abs_difference_of_p_fake", "relative_difference_of_gradient"}
TRAINING = {
    "precision": str,
    "batch_size": int,
    "steps": int,
    "seconds_per_step": float,
    "images_per_second": float,
    "losses": list,
    "prompts_moved": bool,
    "clip_unchanged": bool,
}

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def run_script(monkeypatch, folder, *arguments):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))  # as `python benchmarks/gpu_check.py` does
    monkeypatch.setattr("sys.argv", [str(SCRIPT), "--out", str(folder), *arguments])
    runpy.run_path(str(SCRIPT), run_name="__main__")

    def refuse(name):
        raise ValueError(f"{name} is no JSON number")

    return json.loads((folder / "gpu_check.json").read_text(), parse_constant=refuse)


def check_report(report):
    """The schema of `gpu_check.json`, and what must hold wherever it was made."""
    assert report.keys() == {
        *("command", "model", "weights", "environment", "training", "precision", "attention"),
        *("peak_rss_mib", "seconds"),
    }
    assert {"device", "cpu", "torch", "cuda", "transformers", "accelerate", "mirage_hf"} <= report[
        "environment"
    ].keys()
    assert [row["precision"] for row in report["training"]] == ["fp32", "fp16", "bf16"]
    for row in report["training"]:
        if "skipped" in row:
            continue
        for key, kind in TRAINING.items():
            assert isinstance(row[key], kind), key
        assert row["images_per_second"] > 0 and len(row["losses"]) == row["steps"]
        assert row["prompts_moved"] and row["clip_unchanged"]
    assert [row["name"] for row in report["precision"]["rows"]] == [
        *("fp16_autocast", "fp16_weights", "bf16_autocast", "bf16_weights"),
    ]
    names = [row["name"] for row in report["attention"]]
    assert names[:2] == ["eager", "sdpa"] and "sdpa_flash" in names and names[-1] == "flash_attention_2"
    for row in (*report["precision"]["rows"], *report["attention"]):
        assert row.keys() == {"name"} | DIFFERENCES or row.keys() == {"name", "unavailable"}
    for row in report["precision"]["rows"]:
        assert row["max_abs_difference_of_p_fake"] < 0.05, row
    assert not any("unavailable" in row for row in report["attention"][:2])


def test_gpu_check_runs_dry(monkeypatch, tmp_path, capsys):
    report = run_script(monkeypatch, tmp_path, "--device", "cpu", "--dry")
    check_report(report)
    assert report["environment"]["device"] == "cpu" and report["model"] == "tiny CLIP"
    assert "skipped" in report["training"][1]  # float16 training
    out = capsys.readouterr().out
    assert json.loads(out[out.index("{\n") :]) == report


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_gpu_check_without_a_gpu_says_so(monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run_script(monkeypatch, tmp_path)
    assert "no CUDA device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.gpu
@needs_cuda
def test_gpu_check_at_full_size(monkeypatch, tmp_path):
    report = run_script(monkeypatch, tmp_path, "--batch-size", "16", "--steps", "5")
    check_report(report)
    assert not any("skipped" in row for row in report["training"])
    fp16 = report["training"][1]
    assert fp16["gradient_scale"] > 0


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_training_on_a_gpu(precision, tmp_path):
    from mirage_hf.trainer import MiraGeTrainer
    from mirage_hf.training_args import MiraGeTrainingArguments

    model = make_model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    args = MiraGeTrainingArguments(
        output_dir=str(tmp_path),
        max_steps=10,  # the gradient scaler may skip the first ones
        warmup_epochs=0,
        per_device_train_batch_size=8,
        save_strategy="no",
        fp16=precision == "fp16",
        bf16=precision == "bf16",
        disable_tqdm=True,
    )
    dataset = [{"pixel_values": image, "labels": index % 2} for index, image in enumerate(images)]
    trainer = MiraGeTrainer(model=model, args=args, train_dataset=dataset)
    assert (trainer.accelerator.scaler is not None) is (precision == "fp16")
    trainer.train()
    assert trainer.memory_bank.embeddings.is_cuda and trainer.memory_bank.embeddings.isfinite().all()
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all()
        assert torch.equal(parameter.cpu(), before[name]) is not parameter.requires_grad, name


@pytest.mark.gpu
@needs_cuda
@torch.inference_mode()
def test_gpu_logits_equal_the_cpus(pixel_values):
    expected = make_model()(pixel_values).logits
    model = make_model().cuda()
    torch.testing.assert_close(
        model(pixel_values.cuda()).logits.cpu(), expected, atol=1e-3, rtol=0
    )  # TF32 convolution
    torch.testing.assert_close(model.bake()(pixel_values.cuda()).logits.cpu(), expected, atol=1e-3, rtol=0)
    moved = make_model().bake().cuda()
    torch.testing.assert_close(moved(pixel_values.cuda()).logits.cpu(), expected, atol=1e-3, rtol=0)


@pytest.mark.gpu
@needs_cuda
def test_compiled_by_inductor_on_a_gpu(pixel_values):
    model = make_model().cuda()
    images = pixel_values.cuda()
    expected = model(images).logits
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(model, fullgraph=True)(images).logits, expected, atol=1e-3, rtol=0)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.float16, 0.02), (torch.bfloat16, 0.15)]
)
@torch.inference_mode()
def test_the_inference_network_on_a_gpu(dtype, tolerance, pixel_values, monkeypatch):
    """Moved and cast after it was made, with buffers and all; and compiled once for every batch size."""
    load_harness(monkeypatch)
    from speed_sections.gpu_inference import batch_of

    network = VisionInference(make_model().bake())
    expected = network(pixel_values)
    network = network.to("cuda", dtype)
    assert all(value.is_cuda for value in (*network.parameters(), *network.buffers()))
    images = pixel_values.to("cuda", dtype)
    torch.testing.assert_close(network(images).float().cpu(), expected, atol=tolerance, rtol=0)
    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True)
    for count in (4, 3, 1):
        found = compiled(batch_of(images, count)).float().cpu()
        torch.testing.assert_close(found, expected[:count], atol=tolerance, rtol=0)


def test_full_size_cpu_runs_dry(monkeypatch, tmp_path):
    script = SCRIPT.with_name("full_size_cpu.py")
    monkeypatch.syspath_prepend(str(script.parent))
    monkeypatch.setattr("sys.argv", [str(script), "--dry", "--out", str(tmp_path)])
    runpy.run_path(str(script), run_name="__main__")
    report = json.loads((tmp_path / "full_size_cpu.json").read_text())
    assert all(row["prompts_moved"] and row["clip_unchanged"] for row in report["training"])
    assert report["adapter"]["reload_max_abs_difference_of_logits"] < 1e-4
    assert all(seconds >= 0 for seconds in report["seconds"].values()) and report["peak_rss_mib"] > 0
