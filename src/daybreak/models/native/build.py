"""The library of native loops, compiled once for this processor where there is a C compiler.

It lies in $DAYBREAK_NATIVE, or below the cache directory, under a name that says what it was made from and for which
processor, so that machines that share a home directory do not run each other's. Where it cannot be made or loaded,
`library` is None and plain PyTorch does the work: nothing else changes. DAYBREAK_NATIVE=0 asks for that.
"""

import ctypes
import hashlib
import os
import shlex
import subprocess
import sysconfig
import tempfile
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from daybreak.core.errors import StorageError
from daybreak.core.files import whole_file
from daybreak.core.machine import cache_dir, processor
from daybreak.models.minimal import KNOWN, Matrix, Minimal

SOURCES = ("winograd.c", "norm.c")
INCLUDED = (
    "vectors.h", "products.h", "winograd_passes.h", "winograd_whole.h", "undefine.h", "norm_passes.h", "norm_acts.h"
)  # fmt: skip
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC", "-fopenmp")
PATIENCE_SECONDS = 120
TYPES = {torch.float32: "float", torch.bfloat16: "bfloat16"}
PLACE = "DAYBREAK_NATIVE"  # a folder, or 0 for none


def channels_last(x_NCHW: Tensor) -> Tensor:
    """The same values as (N, H, W, C), contiguous: how native loops read them."""
    return x_NCHW.permute(0, 2, 3, 1).contiguous()


def takes(x: Tensor) -> bool:
    """Whether native loops can be used for this tensor."""
    return x.dtype in TYPES and x.device.type == "cpu" and library() is not None


def is_written_down() -> bool:
    """Whether PyTorch is writing the program down, to compile, export or trace it: that gets plain operations."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def call(name: str, struct: ctypes.Structure, *tensors: Tensor | None) -> None:
    """Run one of the library's functions: a struct of sizes, then the data of each tensor. All are contiguous, or the
    struct has their strides.

    Raises:
        MemoryError: there was none for what it works with.
    """
    run = getattr(library(), name)
    if run(struct, *(ctypes.c_void_p(None if t is None else t.data_ptr()) for t in tensors)):
        raise MemoryError(f"{name}: no memory to work with")


@lru_cache(maxsize=1)
def lanes() -> int:
    """How many float32 numbers a vector of the native loops has."""
    return int(library().vector_lanes())  # type: ignore[union-attr]


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled loops, made now if they are not there yet; None where they cannot be had."""
    if os.environ.get(PLACE) == "0":
        return None
    try:
        path = library_path()
        if not path.is_file():
            _build(path)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError, StorageError):
        return None


def library_path() -> Path:
    """Where the library lies, or will."""
    text = "\n".join([*_texts().values(), *compiler(), *FLAGS, processor(), torch.__version__])
    folder = Path(os.environ.get(PLACE) or cache_dir() / "native")
    return folder / f"loops-{hashlib.sha256(text.encode()).hexdigest()[:16]}.so"


def _texts() -> dict[str, str]:
    """What is compiled, by file name."""
    package = files("daybreak.models.native")
    written = {name: (package / name).read_text("utf-8") for name in (*SOURCES, *INCLUDED)}
    return written | {"constants.h": "\n".join(map(_constants, KNOWN.values()))}


def _constants(kind: Minimal) -> str:
    """The numbers of one minimal filtering as a struct `constants` of winograd.c."""
    count = len(kind.pairs)
    power, every, others = np.zeros((3, 6)), np.zeros(4), np.zeros((3, 3))
    power[:count] = np.power.outer(np.array(kind.pairs), np.arange(6))
    every[: count + 1] = kind.squares[0]
    others[:count, :count] = kind.squares[1:, :count]
    return f"static const constants constants_{count} = {{{_braces(power)}, {_braces(every)}, {_braces(others)}}};"


def _braces(values: Matrix) -> str:
    return "{" + ", ".join(_braces(v) if v.ndim else f"{float(v)!r}f" for v in values) + "}"


def _build(path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, text in _texts().items():
            (Path(folder) / name).write_text(text, "utf-8")
        with whole_file(path) as made:
            words = [*compiler(), *FLAGS, *SOURCES, "-o", str(made.absolute())]
            subprocess.run(words, cwd=folder, check=True, capture_output=True, timeout=PATIENCE_SECONDS)


def compiler() -> list[str]:
    """$CC, or the compiler that Python was built with."""
    return shlex.split(os.environ.get("CC") or (sysconfig.get_config_var("CC") or "cc").split()[0])
