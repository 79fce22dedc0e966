"""Which way a 3×3 convolution takes: direct, or by F(m×m, 3×3), in blocks or in one loop: what is fastest here.

A layer shape is timed once a machine, for about a second, forward and backward, and what won is kept in the
cache directory. A run keeps its choices in config.json, since the bits of a result depend on them: a resumed run and
the evaluation of a finished one take the same ways again, whatever the clock would say by then.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from daybreak.core.config import Convolution
from daybreak.core.errors import StorageError
from daybreak.core.files import make_folder, write_json
from daybreak.core.locks import locked
from daybreak.core.machine import cache_dir, processor
from daybreak.models.minimal import KNOWN, Minimal, min_products
from daybreak.models.native.build import is_written_down, library, library_path
from daybreak.models.winograd.convolve import winograd
from daybreak.models.winograd.whole import can_be_whole

DIRECT: Convolution = "direct"
# F(6×6) loses too many of bfloat16's eight bits: 5 % of a value, where F(4×4) loses 1.4.
SIDES = {torch.float32: (4, 6, 2), torch.bfloat16: (4, 2)}
MIN_TILES = 128  # of a batch; below, transforming the filters costs more than it saves
MIN_CHANNELS = 8  # coming in or going out; below, the transforms alone cost more than the direct form
MIN_OPERATIONS = 2e8  # of a direct forward pass; below, it is over in a millisecond or two either way
TIMED_OPERATIONS = 4e9  # of a direct forward pass: enough to tell, and over soon
ROUNDS = 5
HOPELESS = 2.0  # times the seconds of the best way: not tried again


@dataclass(frozen=True)
class Way:
    """Minimal filtering: in blocks of images (models/winograd/convolve), or `whole`, in one loop (…/whole)."""

    kind: Minimal
    whole: bool = False

    def __str__(self) -> str:
        return f"{self.kind}{', whole' if self.whole else ''}"

    def __call__(self, x_NCHW: Tensor, weight_KC33: Tensor, pools: bool = False) -> Tensor:
        return winograd(x_NCHW, weight_KC33, self.kind, self.whole, pools)


WAYS = {str(way): way for way in (Way(KNOWN[m], whole) for whole in (False, True) for m in (4, 6, 2))}


class Convolutions:
    """How the 3×3 convolutions of one net are computed.

    Attributes:
        chosen: by layer shape, as `256→256 at 8×8`: "direct" or the name of a `Way`. It grows as shapes are met.
    """

    def __init__(self, wanted: Convolution = "direct", chosen: Mapping[str, str] | None = None) -> None:
        self.wanted, self.chosen = wanted, dict(chosen or {})

    @classmethod
    def of(cls, values: Mapping[str, Any] | None) -> "Convolutions":
        """From what `as_json` gave; direct for a run that says nothing, as it had no choice."""
        return cls(**values) if values else cls()

    def as_json(self) -> dict[str, Any]:
        """As plain values: what config.json keeps."""
        return {"wanted": self.wanted, "chosen": dict(sorted(self.chosen.items()))}

    def __deepcopy__(self, memo: dict[int, Any]) -> "Convolutions":
        return self  # copies of a net go the same ways

    def way_for(self, x_NCHW: Tensor, weight_KC33: Tensor, dtype: torch.dtype) -> Way | None:
        """The minimal filtering for this convolution in this dtype; None for the direct form."""
        has_its_own = x_NCHW.device.type != "cpu" and self.wanted != "winograd"  # of cuDNN, say
        if self.wanted == DIRECT or has_its_own or not _is_worth_a_thought(x_NCHW, weight_KC33, dtype):
            return None
        images, _, height, width = x_NCHW.shape
        shape = _name(weight_KC33, height, width, dtype)
        if shape not in self.chosen:
            self.chosen[shape] = self._choose(shape, (images, height, width), weight_KC33, dtype)
        way = WAYS.get(self.chosen[shape])
        return way if way and images * _count(way.kind, height, width) >= MIN_TILES else None

    def _choose(self, shape: str, size: tuple[int, int, int], weight_KC33: Tensor, dtype: torch.dtype) -> str:
        if self.wanted == "winograd":
            return str(min_products(*size[1:]))
        return _remembered(shape, lambda: fastest(size, weight_KC33.shape[1], len(weight_KC33), dtype))


def _is_worth_a_thought(x_NCHW: Tensor, weight_KC33: Tensor, dtype: torch.dtype) -> bool:
    if dtype not in SIDES or is_written_down():
        return False
    images, _, height, width = x_NCHW.shape
    most = images * _count(KNOWN[2], height, width)
    operations = 2 * weight_KC33.numel() * images * height * width
    is_large = operations >= MIN_OPERATIONS and most >= MIN_TILES
    return is_large and min(weight_KC33.shape[:2]) >= MIN_CHANNELS


def _count(kind: Minimal, height: int, width: int) -> int:
    down, across = kind.tiles(height, width)
    return down * across


def _name(weight_KC33: Tensor, height: int, width: int, dtype: torch.dtype) -> str:
    out_channels, in_channels = weight_KC33.shape[:2]
    number_format = "" if dtype == torch.float32 else f", {str(dtype).removeprefix('torch.')}"
    return f"{in_channels}→{out_channels} at {height}×{width}{number_format}"


def fastest(size: tuple[int, int, int], in_channels: int, out_channels: int, dtype: torch.dtype) -> str:
    """What takes the least time for a forward and a backward pass: "direct" or the name of a minimal filtering.

    Args:
        size: images, height and width; of more images than needed to tell, fewer are timed.
    """
    images, height, width = size
    enough = round(TIMED_OPERATIONS / (2 * 9 * in_channels * out_channels * height * width))
    images = min(images, max(8, enough))
    with torch.inference_mode(False), torch.enable_grad(), _without_autocast():
        x = torch.ones(images, in_channels, height, width, dtype=dtype).to(memory_format=torch.channels_last)
        weight = torch.ones(out_channels, in_channels, 3, 3).to(memory_format=torch.channels_last)
        dy = torch.ones(images, out_channels, height, width, dtype=dtype).to(memory_format=torch.channels_last)
        learning = (x.requires_grad_(), weight.requires_grad_())
        ways: dict[str, Callable[[], Tensor]] = {DIRECT: lambda: F.conv2d(x, weight.to(dtype), padding=1)}
        for name, way in WAYS.items():
            if way.kind.m in SIDES[dtype] and (not way.whole or can_be_whole(way.kind, x, weight)):
                ways[name] = lambda way=way: way(x, weight)  # type: ignore[misc]
        return _fastest_of({name: lambda f=f: torch.autograd.grad(f(), learning, dy) for name, f in ways.items()})  # type: ignore[misc]


def _fastest_of(ways: Mapping[str, Callable[[], object]]) -> str:
    """What runs fastest, of several rounds in turn, as the clock rate moves. The first round is not counted."""
    seconds = dict.fromkeys(ways, float("inf"))
    for round_ in range(1 + ROUNDS):
        for name in [name for name in ways if round_ < 2 or seconds[name] <= HOPELESS * min(seconds.values())]:
            begun = time.perf_counter()
            ways[name]()
            took = time.perf_counter() - begun
            seconds[name] = min(seconds[name], took) if round_ else seconds[name]
    return min(seconds, key=lambda name: seconds[name])


def _without_autocast() -> torch.autocast:
    return torch.autocast("cpu", enabled=False)


def _remembered(shape: str, decide: Callable[[], str]) -> str:
    """What was found for this shape on this machine before, else what `decide` says, which is then kept. Of several
    processes that decide at the same time the first one is right."""
    path = cache_dir() / "convolutions" / _machine() / "chosen.json"
    if shape in (known := _read(path)):
        return known[shape]
    decided = decide()
    with suppress(StorageError, OSError):  # only a shortcut: the next process times it again
        make_folder(path.parent)
        with locked(path.parent, wait=True):
            known = _read(path)
            decided = known.setdefault(shape, decided)
            write_json(path, known)
    return decided


def _read(path: Path) -> dict[str, str]:
    """The choices in a file, as far as they make sense."""
    try:
        found = json.loads(path.read_text("utf-8"))
        return {shape: way for shape, way in found.items() if way == DIRECT or way in WAYS}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return {}


def _machine() -> str:
    """A name for all that the timing depends on: processor, threads, versions, and the loops that are compiled."""
    loops = library_path().stem if library() else "plain"
    facts = [processor(), torch.__version__, str(torch.get_num_threads()), loops]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
