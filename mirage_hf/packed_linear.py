"""Linear layers whose weights lie as oneDNN's kernels read them, which saves a CPU some of the time for them.

Otherwise PyTorch hands the weights to MKL anew with each call. `torch.compile` packs them in the same way when it
freezes a model, but needs a compiler on the machine.
"""

import platform

import torch
from torch import nn


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
        return torch.ops.mkldnn._linear_pointwise(states, self.weight, self.bias, "none", [], "")


def can_pack() -> bool:
    """Whether this machine and this PyTorch can."""
    try:
        operators = (torch.ops.mkldnn._reorder_linear_weight, torch.ops.mkldnn._linear_pointwise)
    except AttributeError:  # they aren't PyTorch's public interface
        return False
    return all(operators) and torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")


def pack_linears(network: nn.Module) -> None:
    """Replaces the linear layers of a network on the CPU, in place, by packed ones."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear and child.weight.dtype == torch.float32:
                setattr(module, name, PackedLinear(child))


__all__ = ["PackedLinear", "can_pack", "pack_linears"]
