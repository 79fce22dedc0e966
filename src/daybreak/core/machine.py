"""The machine as its operating system describes it: cores and memory that this process may use, folders. No torch."""

import math
import os
import platform
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import psutil

from daybreak.core.errors import UsageError

CGROUP = Path("/sys/fs/cgroup")  # version 2: the limits of the container this runs in
MEMINFO = Path("/proc/meminfo")
CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Folder:
    """A folder that may not exist yet: then what holds for the nearest parent that does.

    Attributes:
        free_bytes: what its file system can still take.
    """

    path: str
    exists: bool
    writable: bool
    free_bytes: int


def usable_cores() -> int:
    """How many cores this process may use: its affinity, and the container's quota where there is one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, *period = _words(CGROUP / "cpu.max") or ["max"]
    return allowed if quota == "max" else max(1, min(allowed, math.ceil(int(quota) / int(period[0]))))


def memory_bytes() -> tuple[int, int]:
    """Total memory and what is available to this process, in bytes, within the container's limit where there is one."""
    memory = psutil.virtual_memory()
    total, available = memory.total, _available() or memory.available
    limit, *_ = _words(CGROUP / "memory.max") or ["max"]
    if limit != "max" and int(limit) < total:
        used = int(_words(CGROUP / "memory.current")[0])
        files = _words(CGROUP / "memory.stat")  # what was read or written lately, and is let go of when memory is short
        idle = dict(zip(files[::2], files[1::2], strict=False)).get("inactive_file", 0)
        total, available = int(limit), min(available, int(limit) - used + int(idle))
    return total, max(0, available)


def parse_bytes(text: str, option: str) -> int:
    """The bytes in a size such as `500MB`, `2GB` or `1073741824`.

    Raises:
        UsageError: it is none; it names the option that it was given for.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kMGT]?)B?", text)
    if not found:
        raise UsageError(f"{option} {text}", "not a size", "a size such as 500MB or 2GB")
    return int(float(found[1]) * 1000 ** " kMGT".index(found[2] or " "))


def cache_dir() -> Path:
    """$DAYBREAK_CACHE_DIR, or the user's cache directory."""
    return Path(os.environ.get("DAYBREAK_CACHE_DIR") or platformdirs.user_cache_dir("daybreak", appauthor=False))


def cpu_facts() -> dict[str, str]:
    """What Linux says about the first processor; nothing elsewhere."""
    lines = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
    pairs = [line.split(":", 1) for line in lines if ":" in line]
    return {key.strip(): value.strip() for key, value in reversed(pairs)}


def processor() -> str:
    """The processor with its instruction sets: code made for one runs on another only where this is the same."""
    facts = cpu_facts()
    names = ("vendor_id", "cpu family", "model", "model name", "flags", "Features")
    return " ".join([platform.machine(), platform.processor(), *(facts.get(name, "") for name in names)])


def describe_folder(path: Path) -> Folder:
    """Whether a folder exists, can be written, and how many bytes are free there."""
    nearest = next(place for place in (path, *path.absolute().parents) if place.exists())
    writable = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    return Folder(str(path), path.is_dir(), writable, shutil.disk_usage(nearest).free)


def _available() -> int | None:
    """MemAvailable: free memory, and caches that the kernel would give up. None where there is no /proc/meminfo."""
    lines = MEMINFO.read_text().splitlines() if MEMINFO.exists() else []
    found = [line for line in lines if line.startswith("MemAvailable:")]
    return int(found[0].split()[1]) * 1024 if found else None


def _words(path: Path) -> list[str]:
    return path.read_text().split() if path.is_file() else []
