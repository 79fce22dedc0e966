"""Filters at the points, kept while weights stand still: of a net that is only asked, they are transformed once and not
for every batch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

# By the weight's place in memory and the form that is wanted; the weight is held, so that its place stays its own.
Kept = dict[tuple[int, object], tuple[Tensor, Tensor]]
_KEPT: ContextVar[Kept | None] = ContextVar("filters", default=None)


@contextmanager
def fixed_weights() -> Iterator[None]:
    """While the block runs nobody changes a weight (in this thread)."""
    token = _KEPT.set({}) if _KEPT.get() is None else None
    try:
        yield
    finally:
        if token is not None:
            _KEPT.reset(token)


def transformed(weight_KC33: Tensor, form: object, transform: Callable[[Tensor], Tensor]) -> Tensor:
    """What `transform` makes of a weight.

    Args:
        form: tells the transforms of one weight apart.
    """
    kept = _KEPT.get()
    if kept is None:
        return transform(weight_KC33.detach())
    key = (weight_KC33.data_ptr(), form)
    if key not in kept:
        kept[key] = weight_KC33, transform(weight_KC33.detach())
    return kept[key][1]
