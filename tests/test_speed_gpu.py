"""The sections for a GPU of `benchmarks/speed.py` on tiny models on the CPU, and what is stored of a GPU."""

import json

import pytest
import torch
from conftest import make_model
from handmade_speed import BENCHMARKS, load_harness
from torch._dynamo.testing import CompileCounterWithBackend

from mirage_hf.vision_inference import VisionInference

RESULTS = BENCHMARKS / "results" / "speed"


@pytest.fixture
def harness(monkeypatch):
    return load_harness(monkeypatch)


@pytest.fixture
def dry(harness):
    return harness.turns.Settings("cpu", dry=True, repeats=2)


# ----------------------------------------------------------------------------------------------------------- inference


def test_inference(harness, dry, monkeypatch):
    from speed_sections import gpu_inference as section

    monkeypatch.setattr(section, "matrix_peak", lambda *_, **__: 2e9)
    found = section.run(dry)
    cases = [f"{precision}, {batch} images" for precision in ("bf16", "fp16") for batch in (4, 1)]
    assert list(found.turns) == cases and all(found.items[case] == int(case.split()[1]) for case in cases)
    ways = [(way, other) for way in (section.EAGER, section.COMPILED) for other in (section.PRODUCT, section.PLAIN)]
    assert [(row.case, row.what, row.alternative) for row in found.rows] == [
        (case, way, other) for case in cases for way, other in ways
    ]
    # The bar is on one row, the best of bfloat16's shares of the peak.
    shares = [row for row in found.rows if row.alternative == section.PRODUCT]
    (barred,) = [row for row in found.rows if row.bar is not None]
    assert barred.bar == 0.5 and barred.goal == "at least" and barred.limit == 1.0
    assert barred.ratio.median == max(row.ratio.median for row in shares if row.case.startswith("bf16"))
    assert all(row.limit < 1 for row in found.rows if row.alternative == section.PLAIN)  # it computes less
    assert len(found.equality) == 6 and 0 < min(found.equality.values()) and max(found.equality.values()) <= 0.02
    # A way's time for the network's arithmetic at the peak's speed gives that peak again, whatever the batch.
    assert found.details["matrix_peak_tflops"] == dict.fromkeys(cases, 0.002)
    assert found.details["largest_difference_of_p_fake_between_images"] > 0.2
    assert "Not compiled" not in "".join(found.notes)
    assert all(shares.keys() == {"attention", "matrix products", "all others"} for shares in found.profiles.values())
    harness.records.section_from_dict(json.loads(json.dumps(harness.records.section_to_dict(found))))


def test_no_time_and_no_compiler_leave_notes(harness, dry, monkeypatch):
    from speed_sections import gpu_inference as section

    def refuse(*_, **__):
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setattr(section.torch, "compile", lambda *_, **__: refuse)
    monkeypatch.setattr(section, "BUDGET", -1.0)
    found = section.run(dry)
    assert found.rows == [] and len(found.equality) == 4
    assert "Not compiled in bf16: no compiler" in found.notes
    assert "Batches of 4 in bf16 and what follows: not measured, no time was left." in found.notes


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_network_is_one_graph_for_every_batch_size(harness, dtype, pixel_values):
    from speed_sections.gpu_inference import batch_of

    network = VisionInference(make_model().bake()).to(dtype)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(network, fullgraph=True, backend=counter)
    for count in (4, 2, 7, 1):
        images = batch_of(pixel_values.to(dtype), count)
        assert len(images) == count and torch.equal(images[-1], pixel_values[(count - 1) % 4].to(dtype))
        torch.testing.assert_close(compiled(images), network(images), atol=1e-5, rtol=0)
    assert counter.frame_count == 2  # one image is a case of its own


@pytest.mark.slow
@torch.inference_mode()
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.15)])
def test_compiled_by_inductor(harness, dtype, tolerance, pixel_values):
    """As on a GPU, but for the kernels: takes a C++ compiler and a minute."""
    from speed_sections.gpu_inference import batch_of

    network = VisionInference(make_model().bake())
    expected = network(pixel_values)
    torch._dynamo.reset()
    compiled = torch.compile(network.to(dtype), fullgraph=True)
    for count in (4, 3, 1):
        found = compiled(batch_of(pixel_values.to(dtype), count)).float()
        torch.testing.assert_close(found, expected[:count], atol=tolerance, rtol=0)


# ------------------------------------------------------------------------------------------------------------ training


@pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning")
def test_training(harness, dry):
    from speed_sections import gpu_training as section

    found = section.run(dry)
    step = section.STEP
    assert [(row.what, row.alternative) for row in found.rows] == [
        *((step, other) for other in (section.PLAIN, section.FULL, section.TEXT)),
        (section.CHECKPOINTED, step),
        (step, section.PRODUCT),
    ]
    flops = found.details["flops"]
    # Dearer than a forward pass, cheaper than full fine-tuning and than long texts; checkpointing computes more.
    assert (
        flops[section.PLAIN] < flops[step] < min(flops[section.FULL], flops[section.TEXT], flops[section.CHECKPOINTED])
    )
    assert found.rows[1].limit == pytest.approx(flops[step] / flops[section.FULL], rel=1e-3)
    assert len(found.equality) == 2 and max(found.equality.values()) < 1e-4
    trainer = found.details["trainer"]
    assert trainer["prompts_moved"] and trainer["clip_unchanged"] and trainer["precision"] == "bf16"
    minutes = 200_000 / trainer["images_per_second"] / 60
    assert trainer["minutes_of_the_papers_run"] == pytest.approx(minutes, abs=1e-3)
    memory = [found.details[f"memory, {way}"] for way in (section.CHECKPOINTED, step)]
    assert memory[0]["extra_mib"] < memory[1]["extra_mib"] and memory[0]["batch"] == 4
    harness.records.section_from_dict(json.loads(json.dumps(harness.records.section_to_dict(found))))


def test_a_batch_is_halved_until_every_step_fits(harness):
    from speed_sections.gpu_training import fitting

    tried = []

    def step(images):
        tried.append(len(images))
        if len(images) > 3:
            raise torch.OutOfMemoryError("no room")

    images = torch.arange(16)
    assert torch.equal(fitting({"small": lambda images: None, "large": step}, images, "cpu"), images[:2])
    assert tried == [16, 8, 4, 2]

    def never(images):
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError):
        fitting({"never": never}, images, "cpu")


def test_kinds_of_kernels(harness):
    from speed_sections.kernels import holds, kind_of, shares_of

    for name, kind in {
        "nvjet_hsh_256x128_64x4_1x2_h_bz_coopA_TNT": "matrix products",
        "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n": "matrix products",
        "aten::addmm": "matrix products",
        "void pytorch_flash::flash_fwd_kernel<cutlass::bfloat16_t>": "attention",
        "fmha_cutlassF_bf16_aligned_64x64_rf_sm80(PyTorchMemEffAttention)": "attention",
        "aten::_scaled_dot_product_flash_attention_for_cpu": "attention",
        "triton_poi_fused_mul_sigmoid_4": "all others",
        "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<c10::BFloat16>>": "all others",
        "Memcpy DtoD (Device -> Device)": "all others",
    }.items():
        assert kind_of(name) == kind, name
    assert shares_of({"a": 1.0, "b": 3.0}) == {"a": 0.25, "b": 0.75}
    seconds = {"attention": 1.0, "matrix products": 6.0, "all others": 1.0}
    assert holds(seconds, 10.0, "cuda") == (
        "Kernels run for 80% of the time: matrix products take 75% of what is computed, attention 12%, all others 12%."
    )
    assert holds(seconds, 1.0, "cpu").startswith("Matrix products take 75%")


def test_training_is_tried_with_half_the_batch(harness, monkeypatch):
    import gpu_check

    tried = []

    def train(clip_dir, precision, device, batch_size, steps):
        tried.append(batch_size)
        if batch_size > 5:
            raise torch.OutOfMemoryError("no room")
        return {"batch_size": batch_size}

    monkeypatch.setattr(gpu_check, "train", train)
    assert gpu_check.train_if_it_fits("clip", "bf16", "cpu", 20, 1) == {"batch_size": 5} and tried == [20, 10, 5]
    monkeypatch.setattr(gpu_check, "train", lambda *_: train("", "", "", 9, 1))
    assert gpu_check.train_if_it_fits("clip", "bf16", "cpu", 4, 1)["skipped"] == "out of memory"


# ------------------------------------------------------------------------------------------------------- results


def check_training(stored):
    """The paper's run within five minutes, a batch of 128 within 24 GB one way or the other."""
    trainer = stored["details"]["trainer"]
    assert trainer["batch_size"] == 128 and trainer["minutes_of_the_papers_run"] <= 5
    assert trainer["minutes_of_the_papers_run"] == pytest.approx(200_000 / trainer["images_per_second"] / 60, abs=1e-3)
    peaks = [part["peak_mib"] for name, part in stored["details"].items() if name.startswith("memory, ")]
    assert len(peaks) == 2 and min(peak for peak in peaks if peak is not None) <= 24_000


def check_inference(stored):
    """Half of the matrix peak, and scores within 0.02 of float32's."""
    (barred,) = [row for row in stored["rows"] if row["bar"] is not None]
    assert barred["bar"] == 0.5 and barred["met"]
    assert len(stored["equality"]) >= 4 and max(stored["equality"].values()) <= 0.02


CHECKS = {"gpu_training": check_training, "gpu_inference": check_inference}


@pytest.mark.parametrize("name", CHECKS)
def test_what_is_stored_of_a_gpu(name):
    file = RESULTS / f"{name}-cuda.json"
    if file.exists():
        CHECKS[name](json.loads(file.read_text(encoding="utf-8")))


def test_the_checks_can_fail():
    trainer = {"batch_size": 128, "minutes_of_the_papers_run": 4.1667, "images_per_second": 800.0}
    details = {"trainer": trainer, "memory, a": {"peak_mib": None}, "memory, b": {"peak_mib": 9000.0}}
    check_training({"details": details})
    for wrong in (
        details | {"trainer": trainer | {"minutes_of_the_papers_run": 3.0}},
        details | {"trainer": trainer | {"minutes_of_the_papers_run": 8.3333, "images_per_second": 400.0}},
        details | {"memory, b": {"peak_mib": 25_000.0}},
    ):
        with pytest.raises(AssertionError):
            check_training({"details": wrong})
    rows, equality = [{"bar": None}, {"bar": 0.5, "met": True}], {"abcd"[place]: 0.01 for place in range(4)}
    check_inference({"rows": rows, "equality": equality})
    for wrong in ({"rows": [{"bar": 0.5, "met": False}]}, {"equality": equality | {"a": 0.03}}):
        with pytest.raises(AssertionError):
            check_inference({"rows": rows, "equality": equality} | wrong)
