"""What a training sets for the whole process, and that it is afterwards as it was found, also after an error.

PyTorch's modes belong to the caller, who may train in the middle of an evaluation or with another default dtype; random
states, warning filters and environment variables belong to everything else that runs in the process. Because a
training sets what all threads share, PyTorch's random state above all, one runs at a time: another one waits for it.
"""

import os
import random
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch

_ONE_AT_A_TIME = threading.RLock()  # a callback may train too


@contextmanager
def left_as_found() -> Iterator[None]:
    """Waits until no other thread is in such a block. Whatever the block, or a library that it calls, does to the
    process-wide random states of Python and NumPy, to warning filters and to the environment is undone. (PyTorch's
    random state: `torch.random.fork_rng`.)"""
    with _ONE_AT_A_TIME:
        environment, generator = dict(os.environ), random.getstate()
        numpy_generator = np.random.get_state()  # that of others: daybreak's own generators are objects
        try:
            with warnings.catch_warnings():
                yield
        finally:
            random.setstate(generator)
            np.random.set_state(numpy_generator)
            _put_back(environment)


@contextmanager
def plain_torch() -> Iterator[None]:
    """PyTorch as a training needs it: gradients, no autocast, and float32 and the CPU where nothing else is said. What
    is so already is left alone: a default device costs time at every call."""
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device() != torch.device("cpu"):
            stack.enter_context(torch.device("cpu"))
        if dtype != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        yield


def _put_back(environment: dict[str, str]) -> None:
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    for name, value in environment.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _compute_alone() -> None:
    """GNU OpenMP waits for ever in a forked process for threads that only its parent has; one thread needs no other."""
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_compute_alone)
