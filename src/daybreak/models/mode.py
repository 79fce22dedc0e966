"""Whether a net trains or answers."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluation mode during the block, in which a forward pass changes nothing; afterwards every module is in its own
    mode again, also one that was kept in evaluation mode while the rest trained."""
    training = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
