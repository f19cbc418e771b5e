"""Linear layers whose weights lie as oneDNN's kernels read them, which saves a CPU some of the time for them.

Otherwise PyTorch hands the weights to MKL anew with each call. `torch.compile` packs them in the same way when it
freezes a model, but needs a compiler on the machine.

[`PackedLinear`] is for inference, [`frozen_linear`] for training through layers that stay as they are.
"""

import platform
from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.autograd.function import once_differentiable


class PackedLinear(nn.Module):
    """
    A linear layer for inference in float32 on an x86 CPU, equal to the given one but for rounding.

    Args:
        linear (`nn.Linear`): Its weight is copied, so changes to it don't arrive here.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.bias = linear.bias
        # No parameter or buffer: a tensor in this layout can neither be moved nor saved.
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """`(..., in_features)` to `(..., out_features)`."""
        return _product(states, self.weight, self.bias)


def can_pack() -> bool:
    """Whether this machine and this PyTorch can, and `torch.backends.mkldnn` isn't switched off."""
    try:
        operators = (torch.ops.mkldnn._reorder_linear_weight, torch.ops.mkldnn._linear_pointwise)
    except AttributeError:  # they aren't PyTorch's public interface
        return False
    onednn = torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)
    return all(operators) and onednn and platform.machine() in ("x86_64", "AMD64")


def pack_linears(network: nn.Module) -> None:
    """Replaces the linear layers of a network on the CPU, in place, by packed ones."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear and child.weight.dtype == torch.float32:
                setattr(module, name, PackedLinear(child))


def frozen_linear(linear: nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
    """
    A frozen linear layer for training on the CPU, equal to the given one but for rounding.

    Weights that don't change are packed once, and once more as the backward pass reads them, so the layer takes three
    times the memory for as long as it lives. A weight that is changed in place, moved or replaced is packed anew; only
    a change behind PyTorch's back, through `.data`, is not seen.

    Args:
        linear (`nn.Linear`): One that [`can_freeze`].

    Returns:
        `Callable`: `(..., in_features)` to `(..., out_features)`, differentiable once, by its input.
    """
    return lambda states: _FrozenProduct.apply(states, linear)


def can_freeze(linear: nn.Module) -> bool:
    """Whether a module is a linear layer in float32 on the CPU that is not being trained."""
    if type(linear) is not nn.Linear or linear.weight.dtype != torch.float32 or linear.weight.device.type != "cpu":
        return False
    values = [linear.weight] if linear.bias is None else [linear.weight, linear.bias]
    return not any(value.requires_grad or value.is_inference() for value in values)


class _Packed(NamedTuple):
    """A packed weight; the plain one is kept beside it, lest another be made at the same address."""

    plain: torch.Tensor
    version: int
    weight: torch.Tensor


_packed: WeakKeyDictionary[nn.Linear, dict[bool, _Packed]] = WeakKeyDictionary()


def _weight_of(linear: nn.Linear, transposed: bool) -> torch.Tensor:
    kept = _packed.setdefault(linear, {})
    plain, version, found = linear.weight.detach(), linear.weight._version, kept.get(transposed)
    if found is None or found.version != version or found.plain.data_ptr() != plain.data_ptr():
        weight = plain.T.contiguous() if transposed else plain
        found = kept[transposed] = _Packed(plain, version, torch.ops.mkldnn._reorder_linear_weight(weight))
    return found.weight


class _FrozenProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, linear: nn.Linear) -> torch.Tensor:
        ctx.linear = linear
        return _product(states, _weight_of(linear, transposed=False), linear.bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _product(gradient, _weight_of(ctx.linear, transposed=True), None), None


def _product(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")


__all__ = ["PackedLinear", "can_freeze", "can_pack", "frozen_linear", "pack_linears"]
