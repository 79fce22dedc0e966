"""Which parts of a net a person can ask to see: its stages, the modules whose output is a map (N, C, h, w).

Daybreak's own nets name theirs. Those of any other net are found by showing it one blank image: its children that put
out maps, in the order in which they run. Where no more than one does (`features`, say), the children's children are
looked at; where many do, those before each next convolution are taken.
"""

from collections import Counter
from collections.abc import Iterable
from itertools import product
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from daybreak.models.mode import evaluating

PROBE_SIZES = (64, 32, 28, 16, 96, 128, 224)  # px: some nets take images of one size only
MAX_STAGES = 8
_FOUND: WeakKeyDictionary[nn.Module, tuple[str, ...]] = WeakKeyDictionary()


def stage_names(net: nn.Module) -> tuple[str, ...]:
    """The names of the modules that are a net's stages, in order of depth; none where nothing in it puts out a map.

    `net.stages` says them where it is a tuple or list of names; for other nets they are found and remembered.
    """
    named = getattr(net, "stages", None)
    if isinstance(named, tuple | list) and all(isinstance(name, str) for name in named):
        return tuple(named)
    if net not in _FOUND:
        _FOUND[net] = _found_stages(net)
    return _FOUND[net]


def maps_among(net: nn.Module, names: Iterable[str], in_channels: int, image_size: int) -> dict[str, int]:
    """The modules that put out square maps, in the order in which they run, with the side of those maps.

    The net, which is left as it was, is run once on a blank image; whatever it raises is passed on. A module that runs
    several times has no one place in the order, and is left out.
    """
    calls, sides = Counter[str](), dict[str, int]()

    def note(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, out: Any) -> None:
            calls[name] += 1
            if isinstance(out, Tensor) and out.dim() == 4 and out.shape[2] == out.shape[3]:
                sides[name] = out.shape[2]

        return hook

    handles = [net.get_submodule(name).register_forward_hook(note(name)) for name in names]
    first = next(net.parameters(), torch.zeros(1))
    try:
        with evaluating(net), torch.no_grad():
            net(torch.zeros(1, in_channels, image_size, image_size, device=first.device, dtype=first.dtype))
    finally:
        for handle in handles:
            handle.remove()
    return {name: side for name, side in sides.items() if calls[name] == 1}


def convolves(module: nn.Module) -> bool:
    """Whether there is a convolution in it."""
    return any(isinstance(part, nn.Conv2d) for part in module.modules())


def _found_stages(net: nn.Module) -> tuple[str, ...]:
    sides = _probed(net)
    depths = sorted({name.count(".") for name in sides})
    levels = [[name for name in sides if name.count(".") == depth] for depth in depths]
    found = next((level for level in levels if len(level) > 1), levels[0] if levels else [])
    return tuple(_thinned(found if len(found) <= MAX_STAGES else _before_convolutions(net, found)))


def _probed(net: nn.Module) -> dict[str, int]:
    """Maps of all modules, of the first kind of image that the net takes; without global pools, whose maps show no
    place."""
    names = [name for name, part in net.named_modules() if name and not isinstance(part, nn.Identity)]
    made_first = next((part.in_channels for part in net.modules() if isinstance(part, nn.Conv2d)), 3)
    for size, in_channels in product(PROBE_SIZES, dict.fromkeys((made_first, 3, 1))):
        try:
            sides = maps_among(net, names, in_channels, size)
        except Exception:  # whatever a net of any make does not like about an image
            continue
        return {name: side for name, side in sides.items() if side > 1 or convolves(net.get_submodule(name))}
    return {}


def _before_convolutions(net: nn.Module, names: list[str]) -> list[str]:
    """Of layers one after the other, the last before each next convolution, and the last of all."""
    following = [*names[1:], None]
    pairs = zip(names, following, strict=True)
    return [name for name, after in pairs if after is None or convolves(net.get_submodule(after))]


def _thinned(names: list[str]) -> list[str]:
    """At most MAX_STAGES of them, evenly spread; the last one always."""
    step = max(1.0, len(names) / MAX_STAGES)
    chosen = sorted({len(names) - 1 - int(n * step) for n in range(min(len(names), MAX_STAGES))})
    return [names[at] for at in chosen]
