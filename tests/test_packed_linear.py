"""Packed linear layers answer as PyTorch's own, and only where they can."""

import copy
import gc

import pytest
import torch
from conftest import make_model
from torch import nn
from torch.nn import functional as F
from transformers.activations import QuickGELUActivation

from mirage_hf import packed_linear
from mirage_hf.detector import Detector
from mirage_hf.lean_layers import quick_gelu_by_silu
from mirage_hf.packed_linear import PackedLinear, can_freeze, can_pack, frozen_linear, pack_linears
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


# ------------------------------------------------------------------------------------------------------- training


def frozen(bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(48, 33, bias=bias).requires_grad_(False)


def answer(layer, states: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Output, and gradient of the input for a gradient of the output."""
    states = states.clone().requires_grad_()
    output = layer(states)
    output.backward(gradient.to(output.dtype))
    return output.detach(), states.grad


def assert_as_plain(linear: nn.Linear) -> None:
    """Output and gradient of the packed layer are those of the layer as it is now, calculated in float64."""
    torch.manual_seed(1)
    states, gradient = torch.randn(4, 17, 48), torch.randn(4, 17, 33)
    found = answer(frozen_linear(linear), states, gradient)
    exact = copy.deepcopy(linear).double()
    for mine, theirs in zip(found, answer(exact, states.double(), gradient), strict=True):
        assert mine.dtype == torch.float32
        assert (mine - theirs).abs().max() < 1e-5


@pytest.mark.parametrize("bias", [True, False])
def test_frozen_layers_give_output_and_gradient(bias):
    assert_as_plain(frozen(bias))


@pytest.mark.parametrize("layout", ["one state", "few", "none", "strided", "expanded"])
def test_frozen_layers_take_any_layout(layout):
    linear = frozen()
    shapes = {"one state": (), "few": (1, 3), "none": (0, 5)}
    states, gradient = (torch.randn(*shapes.get(layout, (4, 5)), width) for width in (48, 33))
    if layout == "strided":
        states, gradient = torch.randn(5, 4, 48).transpose(0, 1), torch.randn(4, 5, 66)[..., ::2]
    elif layout == "expanded":
        states, gradient = torch.randn(1, 48).expand(6, -1), torch.ones(()).expand(6, 33)
    found, expected = (answer(layer, states, gradient) for layer in (frozen_linear(linear), linear))
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("change", ["in place", "loaded", "replaced", "half and back", "moved and back"])
def test_a_changed_weight_is_packed_anew(change):
    linear = frozen()
    assert_as_plain(linear)
    before = linear.weight.clone()
    if change == "in place":
        with torch.no_grad():
            linear.weight.mul_(-2)
    elif change == "loaded":
        linear.load_state_dict({name: value + 1 for name, value in linear.state_dict().items()})
    elif change == "replaced":
        linear.weight = nn.Parameter(before * 3, requires_grad=False)
    elif change == "half and back":
        linear.to(torch.bfloat16).to(torch.float32)
    else:
        linear.to("meta")
        linear.to_empty(device="cpu")
        with torch.no_grad():
            linear.weight.copy_(before * 5)
            linear.bias.fill_(1)
    assert not torch.equal(linear.weight, before)
    assert_as_plain(linear)


def test_only_frozen_layers_in_float32_on_the_cpu_are_taken():
    assert can_freeze(frozen()) and can_freeze(frozen(bias=False))
    with_bias, inside = frozen(), frozen()
    with_bias.bias.requires_grad_()
    with torch.inference_mode():
        made_for_inference = frozen()
    subclass = type("Adapter", (nn.Linear,), {})(4, 4).requires_grad_(False)
    refused = [nn.Linear(4, 4), with_bias, made_for_inference, subclass, nn.Identity()]
    for layer in [*refused, inside.to(torch.bfloat16), frozen().to("meta")]:
        assert not can_freeze(layer)


def test_second_derivatives_are_refused():
    states = torch.randn(3, 48, requires_grad=True)
    (gradient,) = torch.autograd.grad(frozen_linear(frozen())(states).pow(2).sum(), states, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def count_products(monkeypatch, work) -> int:
    """How often a packed weight is multiplied with."""
    plain, seen = packed_linear._product, []

    def product(*args):
        seen.append(args)
        return plain(*args)

    with monkeypatch.context() as patched:
        patched.setattr(packed_linear, "_product", product)
        work()
    return len(seen)


@pytest.fixture
def step(pixel_values):
    """A model and its step of training."""
    model = make_model(prompt_depth=3).train()
    model.lean_vision = True
    labels = torch.arange(len(pixel_values)) % 2
    return model, lambda: model(pixel_values=pixel_values, labels=labels).loss.backward()


def test_training_packs_the_vision_encoder(step, monkeypatch):
    """Each linear layer forth and back, but for the first layer's keys, values and queries of its own tokens."""
    model, train = step
    layers = len(model.clip.vision_model.encoder.layers)
    products = count_products(monkeypatch, train)
    assert products > 2 * 6 * (layers - 1)
    model.lean_vision = False
    assert count_products(monkeypatch, train) == 0


@pytest.mark.parametrize("reason", ["switched off", "autocast", "other machine", "being trained", "watched"])
def test_training_without_packing(reason, step, monkeypatch):
    model, train = step
    linears = [module for module in model.clip.vision_model.encoder.modules() if isinstance(module, nn.Linear)]
    seen = []
    if reason == "switched off":
        monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    elif reason == "other machine":
        monkeypatch.setattr(packed_linear.platform, "machine", lambda: "riscv64")
    elif reason == "being trained":
        model.clip.vision_model.requires_grad_(True)
    elif reason == "watched":
        for linear in linears:
            linear.register_forward_hook(lambda *args: seen.append("linear"))
    with torch.autocast("cpu", torch.bfloat16, enabled=reason == "autocast"):
        assert count_products(monkeypatch, train) == 0
    assert bool(seen) == (reason == "watched")
    if reason == "being trained":
        assert all(linear.weight.grad is not None for linear in linears)


def test_packed_weights_go_with_their_layer():
    linear = frozen()
    assert_as_plain(linear)
    assert linear in packed_linear._packed
    packed = len(packed_linear._packed)
    del linear
    gc.collect()
    assert len(packed_linear._packed) < packed


def test_quick_gelu_by_silu():
    states = torch.linspace(-20, 20, 4001)
    one, other = (
        answer(function, states, torch.ones(4001)) for function in (quick_gelu_by_silu, QuickGELUActivation())
    )
    for mine, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-6, rtol=1e-6)
    assert (answer(F.gelu, states, torch.ones(4001))[0] - other[0]).abs().max() > 1e-2  # the control
