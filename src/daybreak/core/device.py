"""Which device and number format a run uses, and how the machine describes itself."""

import ctypes
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import psutil
import torch

from daybreak.core.config import Device, Precision
from daybreak.core.errors import UsageError
from daybreak.core.machine import cpu_facts

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def pick_device(name: Device = "auto") -> torch.device:
    """The device of this name; `auto` takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        UsageError: the device is not there.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    if not available.get(name, False):
        there = ", ".join(kind for kind, is_there in available.items() if is_there)
        raise UsageError(f"--device {name}", "not available on this machine", f"--device auto, or one of {there}")
    return torch.device(name)


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The number format of convolutions; weights stay float32. `auto` is bfloat16 where the processor has it."""
    if precision == "auto":
        return torch.bfloat16 if _has_bfloat16(device) else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def can_keep_memory() -> bool:
    """Whether the C library is one whose allocator can be told to keep freed memory: glibc."""
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt")


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep freed memory in the process while the block runs, and give it back at the end.

    glibc returns large blocks to the kernel as soon as they are freed, and every training step then pays for mapping
    and zeroing hundreds of MiB again: at batch 2000 of 32 px, 40 % of the time (benchmarks/LOG.md). Elsewhere than on
    glibc this does nothing. Afterwards glibc's thresholds are fixed at its defaults and no longer move by themselves.
    """
    if not can_keep_memory():
        yield
        return
    libc: Any = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        libc.mallopt(_M_MMAP_MAX, 65536)
        libc.mallopt(_M_TRIM_THRESHOLD, 128 << 10)
        libc.malloc_trim(0)


@contextmanager
def repeatable(wanted: bool) -> Iterator[None]:
    """If wanted, PyTorch uses only algorithms that give the same bits each time while the block runs, and raises where
    it has none; if not, cuDNN times its algorithms and takes the fastest. (cuBLAS reads its part from the environment
    when it starts.)"""
    before = torch.are_deterministic_algorithms_enabled()
    warns_only = torch.is_deterministic_algorithms_warn_only_enabled()
    is_timing, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, not wanted
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns_only)
        torch.backends.cudnn.benchmark = is_timing


def synchronizer(device: torch.device) -> Callable[[], None]:
    """A function that waits until the device has done all that was queued."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    if device.type == "mps":
        return torch.mps.synchronize
    return lambda: None


def describe_hardware(device: torch.device) -> dict[str, object]:
    """Processor, cores, threads and accelerator, for the record of a run."""
    facts: dict[str, object] = {
        "device": device.type,
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "platform": platform.platform(terse=True),
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    return {"daybreak": version("daybreak"), "python": platform.python_version()} | {
        name: version(name) for name in ("torch", "numpy", "pillow")
    }


def peak_memory_bytes() -> int:
    """The most memory this process has held, in bytes."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # Windows has no such module

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def _cpu_name() -> str:
    facts = cpu_facts()
    if not facts:
        return platform.processor() or platform.machine()
    family = f" (family {facts['cpu family']} model {facts['model']})" if "cpu family" in facts else ""
    return facts.get("model name", platform.machine()) + family
