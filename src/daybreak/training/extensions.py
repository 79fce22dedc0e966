"""What a person brings to a training besides options: a net, a loss, an augmentation, callbacks.

Each is an object, or an import path that the options name. What a run directory names is imported only where the user
has named it too, since a run directory may come from anyone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from daybreak.core.errors import RunError, UsageError
from daybreak.core.nets import is_from_library
from daybreak.core.options import TrainOptions, flag_of
from daybreak.core.plugins import Factory, imported, is_path, path_of

if TYPE_CHECKING:
    from daybreak.training.callbacks import Callback

# logits (B, K), float32, and labels (B,), int64, to the mean loss of the batch, a scalar with a gradient
Loss = Callable[[Tensor, Tensor], Tensor]
# images (B, C, H, W) and labels (B,) of a batch to those to train on; all randomness from the generator (on the CPU)
BatchAugment = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Extensions:
    """Whatever is None or empty is the recipe's own."""

    net: Factory | None = None
    loss: Loss | None = None
    augment: BatchAugment | None = None
    callbacks: tuple["Callback", ...] = ()


@dataclass(frozen=True)
class Given:
    """What a call was given for an option: an object, or its name as text."""

    net: str | nn.Module | Factory | None = None
    loss: str | Loss | None = None
    augment: str | BatchAugment | None = None
    callbacks: Sequence["str | Callback"] = ()

    def names(self) -> dict[str, Any]:
        """The options that say what was given; nothing for what was not."""
        named = {name: _name(getattr(self, name)) for name in ("net", "loss", "augment")}
        names: dict[str, Any] = {name: text for name, text in named.items() if text is not None}
        return names | ({"callbacks": tuple(str(_name(c)) for c in self.callbacks)} if self.callbacks else {})

    def extensions(self) -> Extensions:
        """The objects; what is text is imported.

        Raises:
            UsageError: there is no such object, or a callback is none.
        """
        net = self.net
        factory = (imported(net, "--net") if _is_own(net) else None) if isinstance(net, str) else net
        callbacks = tuple(_callback(one) for one in self.callbacks)
        return Extensions(factory, _object(self.loss, "loss"), _object(self.augment, "augment"), callbacks)


def check_given(options: TrainOptions, given: Given, where: object) -> None:
    """A run that was trained with somebody's own parts goes on with them only.

    Raises:
        RunError: a part that the run names was not given.
        UsageError: a net was given to a run that has another.
    """
    net = given.names().get("net")
    if net is not None and net != options.net and not (_is_own(net) and _is_own(options.net)):
        raise UsageError(f"--net {net} with --resume", "the run has its own net", "without --net, or a new run")
    missing = [name for name in ("loss", "augment") if getattr(options, name) and getattr(given, name) is None]
    missing += ["net"] if _is_own(options.net) and given.net is None else []
    missing += ["callbacks"] if len(options.callbacks) > len(given.callbacks) else []
    if missing:
        value = getattr(options, missing[0])
        named = " ".join(f"{flag_of(missing[0])} {one}" for one in (value if isinstance(value, tuple) else [value]))
        raise RunError(
            where, f"was trained with a {missing[0]} of its own, {named}", f"{named}, or the object in Python"
        )


def batch_generator(seed: int, step: int) -> torch.Generator:
    """The random numbers of one batch: a function of seed and step, so that a resumed run draws the same."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 2_147_483_647 % 2**63)


def _is_own(net: Any) -> bool:
    return isinstance(net, str) and is_path(net) and not is_from_library(net)


def _name(thing: Any) -> str | None:
    return thing if thing is None or isinstance(thing, str) else path_of(thing)


def _object(thing: Any, name: str) -> Any:
    return imported(thing, flag_of(name)) if isinstance(thing, str) else thing


def _callback(thing: Any) -> "Callback":
    from daybreak.training.callbacks import Callback

    found = imported(thing, flag_of("callbacks")) if isinstance(thing, str) else thing
    made = found() if isinstance(found, type) else found
    if not isinstance(made, Callback):
        why = f"{type(made).__name__} is no daybreak.Callback"
        raise UsageError(f"{flag_of('callbacks')} {_name(thing)}", why, "a class that inherits from it, or an instance")
    return made
