"""Convolutions of a net that does not learn: filters in the format they are computed in, and the activation with them.

A convolution and the ReLU behind it are one operation of PyTorch's library for CPUs (oneDNN), which writes a map once
in place of twice, and filters need no rounding at every call. What comes out is the same
up to the order of its sums; in bfloat16, on an AMD EPYC (Zen 4), to the last bit.
"""

from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from daybreak.models.lite import SameConv

ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
}


class FixedConv(nn.Module):
    """A convolution (N, C, H, W) that does not learn, in `dtype`, and what follows it.

    Args:
        activation: ReLU, ReLU6 or None.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, conv: nn.Conv2d, activation: nn.Module | None, dtype: torch.dtype) -> None:
        super().__init__()
        weight = conv.weight.detach().to(dtype).contiguous(memory_format=torch.channels_last)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", None if conv.bias is None else conv.bias.detach().to(dtype))
        self._around = conv.around if isinstance(conv, SameConv) else None
        self._padding, self._stride, self._dilation = map(list, (_sides(conv.padding), conv.stride, conv.dilation))
        self._groups = conv.groups
        self._activation = ACTIVATIONS[type(activation)] if activation else ("none", [])

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x_NCHW, padding = x_NCHW.to(self.weight.dtype), self._padding
        if self._around and (around := self._around(x_NCHW)):
            x_NCHW, padding = F.pad(x_NCHW, around), [0, 0]
        geometry = (padding, self._stride, self._dilation, self._groups)
        found: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x_NCHW, self.weight, self.bias, *geometry, *self._activation, ""
        )
        return found


def _sides(padding: str | tuple[int, ...]) -> tuple[int, ...]:
    assert not isinstance(padding, str)
    return padding


def fuse(net: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A folded net (`anatomy.folding`) with its convolutions in this form, where the device has it; the net is changed.

    Args:
        dtype: of the convolutions.
    """
    if not isinstance(net, fx.GraphModule) or not _is_there(device, dtype):
        return net
    calls = Counter(node.target for node in net.graph.nodes if node.op == "call_module")
    for node in list(net.graph.nodes):
        conv = net.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(conv, nn.Conv2d) and _is_plain(conv) and calls[node.target] == 1:
            behind = _activation_behind(net, node)
            name = str(node.target)
            parent, _, leaf = name.rpartition(".")
            activation = net.get_submodule(str(behind.target)) if behind else None
            setattr(net.get_submodule(parent), leaf, FixedConv(conv, activation, dtype))
            if behind:
                behind.replace_all_uses_with(node)
                net.graph.erase_node(behind)
    net.recompile()
    return net


def _is_there(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the library, and what it needs for the format, is there."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _is_plain(conv: nn.Conv2d) -> bool:
    """Whether it does no more than its name says, and its padding is zeros, so many px."""
    return type(conv) in (nn.Conv2d, SameConv) and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def _activation_behind(net: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """What alone reads a convolution, if it is an activation."""
    reader = next(iter(node.users)) if len(node.users) == 1 else None
    if reader is None or reader.op != "call_module":
        return None
    return reader if type(net.get_submodule(str(reader.target))) in ACTIVATIONS else None
