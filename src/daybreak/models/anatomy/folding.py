"""Batch norms folded into the convolutions before them: the same function with fewer operations.

In evaluation mode a batch norm is y = s·x + t with s = weight / sqrt(var + eps) for every channel. After a convolution
it goes into its filters and bias. Through a max-pool it may be moved where s > 0, as max(s·x) = s·max(x) then.
"""

import copy

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from daybreak.models.anatomy.trace import symbolic


@torch.no_grad()
def fold_batch_norms(net: nn.Module) -> nn.Module:
    """A copy of the net, in evaluation mode and without gradients, whose batch norms are gone where they can be."""
    graph_module = symbolic(copy.deepcopy(net).eval())
    for node in list(graph_module.graph.nodes):
        norm = _module(graph_module, node)
        if isinstance(norm, nn.BatchNorm2d) and norm.track_running_stats:
            conv_node = _convolution_before(graph_module, node, norm)
            if conv_node is not None:
                _fold(graph_module.get_submodule(str(conv_node.target)), norm)
                node.replace_all_uses_with(node.args[0])
                graph_module.graph.erase_node(node)
    graph_module.recompile()
    graph_module.delete_all_unused_submodules()
    return graph_module.requires_grad_(False)


def _convolution_before(net: fx.GraphModule, norm_node: fx.Node, norm: nn.BatchNorm2d) -> fx.Node | None:
    """The convolution whose output reaches the norm and nothing else, directly or through a max-pool."""
    node = _only_source(norm_node)
    if node is not None and isinstance(_module(net, node), nn.MaxPool2d) and _keeps_order(norm):
        node = _only_source(node)
    return node if node is not None and isinstance(_module(net, node), nn.Conv2d) else None


def _keeps_order(norm: nn.BatchNorm2d) -> bool:
    """Whether the larger of two values is the larger one behind the norm. (Without weights it scales by 1 / std.)"""
    return not norm.affine or bool((norm.weight > 0).all())


def _fold(conv: nn.Module, norm: nn.BatchNorm2d) -> None:
    assert isinstance(conv, nn.Conv2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )


def _module(net: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return net.get_submodule(str(node.target)) if node.op == "call_module" else None


def _only_source(node: fx.Node) -> fx.Node | None:
    """The node that this one reads, if nothing else reads it."""
    source = node.args[0]
    return source if isinstance(source, fx.Node) and len(source.users) == 1 else None
