"""What torchrun, or another launcher that sets its variables, says about this process and those beside it."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """This process among those that were started together.

    Attributes:
        rank: its number, from 0.
        size: how many there are, on all machines.
        local_rank, local_size: the same on this machine.
        may_restart: whether the launcher starts all of them again after one has died.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    may_restart: bool = False

    @property
    def is_first(self) -> bool:
        """The first process writes the run and talks to the user."""
        return self.rank == 0


def launch() -> Launch:
    """How this process was started; alone where no launcher's variables are set."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Launch()
    rank, size = _number("RANK", 0), _number("WORLD_SIZE", 1)
    return Launch(
        rank,
        size,
        _number("LOCAL_RANK", rank),
        _number("LOCAL_WORLD_SIZE", size),
        _number("TORCHELASTIC_MAX_RESTARTS", 0) > 0,
    )


def _number(name: str, default: int) -> int:
    try:
        return int(os.environ[name])
    except (KeyError, ValueError):
        return default
