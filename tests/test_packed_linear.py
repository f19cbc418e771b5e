"""Packed linear layers answer as PyTorch's own, and only where they can."""

import copy

import pytest
import torch
from conftest import make_model
from torch import nn

from mirage_hf import packed_linear
from mirage_hf.detector import Detector
from mirage_hf.packed_linear import PackedLinear, can_pack, pack_linears
from mirage_hf.vision_inference import VisionInference

pytestmark = pytest.mark.skipif(not can_pack(), reason="no x86 CPU with oneDNN")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5,), (1, 7), (4, 17)])
def test_equal_to_the_plain_layer(bias, shape):
    torch.manual_seed(0)
    linear, states = nn.Linear(48, 33, bias=bias), torch.randn(*shape, 48)
    with torch.inference_mode():
        found, expected = PackedLinear(linear)(states), linear(states)
        reference = states.double() @ linear.weight.double().T + (linear.bias.double() if bias else 0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (
        (found - reference).abs().max() < 1e-5 < (found - states.mean()).abs().max()
    )  # the control: it isn't constant


def test_only_linear_layers_in_float32_are_replaced():
    network = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.GELU()), nn.Linear(4, 4).bfloat16())
    pack_linears(network)
    assert [type(module) for module in (network[0], network[1][0], network[1][1], network[2])] == [
        PackedLinear,
        PackedLinear,
        nn.GELU,
        nn.Linear,
    ]


def test_detectors_on_the_cpu_pack_and_leave_the_model_alone(folders, pixel_values):
    detector = Detector.from_pretrained(folders["full"], device="cpu")
    packed = [module for module in detector.margins.logits.modules() if isinstance(module, PackedLinear)]
    assert len(packed) == 6 * len(detector.margins.logits.layers)
    model = detector.margins.model
    assert not [module for module in model.modules() if isinstance(module, PackedLinear)]
    with torch.inference_mode():
        logits = model(pixel_values=pixel_values).logits.double()
    assert abs(detector.margins(pixel_values) - (logits[:, 1] - logits[:, 0]).numpy()).max() < 5e-6


def test_autocast_and_other_machines_do_without(folders, monkeypatch):
    half = Detector.from_pretrained(folders["full"], device="cpu", dtype="bfloat16")
    monkeypatch.setattr(packed_linear.platform, "machine", lambda: "riscv64")
    assert not can_pack()
    other = Detector.from_pretrained(folders["full"], device="cpu")
    for detector in (half, other):
        assert not [module for module in detector.margins.logits.modules() if isinstance(module, PackedLinear)]


def test_a_packed_network_is_for_scoring_alone():
    """It can't be copied with its weights: what is exported or saved is the model, which can."""
    model = make_model().bake()
    network = VisionInference(model)
    copy.deepcopy(network)
    pack_linears(network)
    with pytest.raises((RuntimeError, NotImplementedError)):
        copy.deepcopy(network)
