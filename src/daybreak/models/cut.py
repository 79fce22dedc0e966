"""A net cut in two: the part below, which stays as it is, and the part above, which learns.

What the part below makes of an image is computed once and kept (training/features.py). Where nothing but the head
learns it is the net's features (N, D); above a cut further down it is maps (N, C, H, W).

Every net can be cut below its head, if the head is the last that happens to an image. A net that has `parts()` can be
cut below each of them: the modules by name through which an image goes one after the other, ending with features, which
`answer(features)` turns into logits. Its head is linear. `fit_features(features)` is shown those of training images and
returns them as the head sees them. What lies below a cut is in evaluation mode: dropout in it does nothing.
"""

import copy
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor, nn

from daybreak.core.errors import UsageError, nearest
from daybreak.models.mode import evaluating

HEAD = "head"
Pixels = tuple[tuple[float, ...], tuple[float, ...]]  # mean and deviation, see `pixels_of`


class Cut:
    """A net cut below one of its stages. The parts share the net's modules, but for the part below of a net that has no
    `parts()`: that is a copy.

    Raises:
        UsageError: the net cannot be cut there.

    Attributes:
        features: what the part above begins with to features (N, D), the input of the head.
        logits: from there to logits (N, K).
        learning: the modules of the part above, in order of depth; the head is not among them.
    """

    def __init__(self, net: nn.Module, stage: str = HEAD) -> None:
        stages = stages_to_tune(net)
        if stage not in stages:
            raise UsageError(f"tune {stage}", f"{type(net).__name__} cannot be cut there", nearest(stage, stages))
        self._net, parts = net, _parts(net)
        at = len(parts) if stage == HEAD else list(parts).index(stage)
        modules = list(parts.values())
        self._below, above = modules[:at], nn.Sequential(*modules[at:])
        answer: Callable[[Tensor], Tensor] = net.answer if parts else _head(net)  # type: ignore[assignment]
        self.features: Callable[[Tensor], Tensor] = above
        self.logits: Callable[[Tensor], Tensor] = lambda x: answer(above(x))
        self.learning: tuple[nn.Module, ...] = tuple(modules[at:-1])

    @cached_property
    def below(self) -> nn.Module:
        """Images (N, C, H, W) to what the part above begins with.

        Raises:
            UsageError: the head is not the last that happens to an image.
        """
        return nn.Sequential(*self._below) if self._below else _without_head(self._net)


def stages_to_tune(net: nn.Module) -> tuple[str, ...]:
    """Where a net can be cut, from the head down: not below the stem, which leaves nothing, nor below the pool."""
    return (HEAD, *reversed(list(_parts(net))[1:-1]))


def _parts(net: nn.Module) -> dict[str, nn.Module]:
    return net.parts() if hasattr(net, "parts") else {}  # type: ignore[operator]


def _head(net: nn.Module) -> nn.Module:
    head = getattr(net, "head", None)
    if not isinstance(head, nn.Module):
        raise UsageError("tune head", f"{type(net).__name__} does not say which layer its head is", "--net lite0")
    return head


def _without_head(net: nn.Module) -> nn.Module:
    """A copy of the net that ends with features."""
    head, below = _head(net), copy.deepcopy(net)
    below.set_submodule(next(name for name, module in net.named_modules() if module is head), nn.Identity())
    if not _is_whole(net, below, head):
        raise UsageError("tune head", f"the head of {type(net).__name__} is not its last layer", "--net lite0")
    return below


@torch.no_grad()
def _is_whole(net: nn.Module, below: nn.Module, head: nn.Module) -> bool:
    """Whether the two parts do what the net does, on one image of noise."""
    first = next((p for p in net.parameters() if p.dim() == 4), torch.zeros(1, 3, 1, 1))
    image = torch.randn(1, first.shape[1], 64, 64, generator=torch.Generator().manual_seed(0)).to(first)
    try:
        with evaluating(net):
            features = below.eval()(image)
            return features.dim() == 2 and torch.allclose(head(features), net(image), atol=1e-4, rtol=1e-4)
    except RuntimeError:  # whatever the net does not like about the image
        return False


def pixels_of(net: nn.Module) -> Pixels | None:
    """Mean and deviation with which a net's weights want images normalised, on the scale of [0, 1], for each channel or
    for all; None for a net that has none of its own, or means something else by the name."""
    pixels = getattr(net, "pixels", None)
    if not (isinstance(pixels, tuple) and len(pixels) == 2 and all(isinstance(part, tuple) for part in pixels)):
        return None
    mean, std = pixels
    return mean, std
