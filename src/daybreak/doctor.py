"""What this machine is, what daybreak would use of it and why, and what is wrong with it: `daybreak doctor`.

Nothing is trained, downloaded or written. It takes a few seconds: torch is imported, and speed is measured roughly, in
sizes that stop growing once one takes longer than a moment (`core.speed`).
"""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import requires
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import torch

from daybreak.core.device import can_keep_memory, compute_dtype, describe_hardware, pick_device, versions
from daybreak.core.errors import DaybreakError
from daybreak.core.extras import install_command
from daybreak.core.machine import Folder, cache_dir, describe_folder, memory_bytes, usable_cores
from daybreak.core.speed import measure_speed
from daybreak.data.sources import KNOWN_ARCHIVES, NAMES, find_here
from daybreak.models.native import build

FORMATS = (torch.float32, torch.bfloat16)
COMPILERS = ("c++", "g++", "clang++", "cc", "gcc", "clang")
ENOUGH_DISK = 2 * 10**9  # bytes: CIFAR-10 downloaded and decoded, and a few runs
ENOUGH_MEMORY = 2 * 10**9  # bytes: what a sprint on CIFAR-10 needs on a CPU
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Machine:
    """Hardware and the state that it is in.

    Attributes:
        cpu_capability: the vector instructions that PyTorch uses.
        cores, usable_cores: the machine's, and those that this process may use.
        threads: what PyTorch uses for one operation.
        load: processes that wanted a core, as a mean over the last minute.
        keeps_memory: whether freed memory can be kept in the process while training on the CPU.
        gpus: name, total and free bytes of each.
        nvidia_driver: whether the kernel has one, whatever PyTorch makes of it.
        compiler: the path of a C++ or C compiler, or None.
    """

    platform: str
    cpu: str
    cpu_capability: str
    cores: int
    usable_cores: int
    threads: int
    load: float
    memory_bytes: int
    available_bytes: int
    keeps_memory: bool
    gpus: tuple[dict[str, Any], ...]
    nvidia_driver: bool
    compiler: str | None


@dataclass(frozen=True)
class Choice:
    """What `auto` means here."""

    value: str
    why: str


@dataclass(frozen=True)
class Extra:
    """An optional part of daybreak: the packages that are missing, and the command that installs them."""

    missing: tuple[str, ...]
    install: str


@dataclass(frozen=True)
class Diagnosis:
    """What `doctor` finds.

    Attributes:
        auto: what `device`, `precision` and the number of threads are unless you say otherwise.
        extras: by name.
        folders: "cache", "runs" (where a new run goes), and "data" if $DAYBREAK_DATA_DIR is set.
        data_sets: where each data set with a name is on this machine, or None.
        speed: GFLOP/s of "matmul" and "conv" by number format; rough.
        problems: errors that nothing has raised yet; each names a remedy.
    """

    machine: Machine
    versions: dict[str, str]
    auto: dict[str, Choice]
    extras: dict[str, Extra]
    folders: dict[str, Folder]
    data_sets: dict[str, str | None]
    speed: dict[str, dict[str, float]]
    problems: tuple[DaybreakError, ...]

    def as_json(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in ("versions", "data_sets", "speed")}
        values |= {"machine": asdict(self.machine)}
        values |= {name: {key: asdict(v) for key, v in getattr(self, name).items()} for name in ("auto", "extras")}
        values |= {"folders": {key: asdict(folder) for key, folder in self.folders.items()}}
        return values | {"problems": [problem.as_json()["error"] for problem in self.problems]}


def doctor() -> Diagnosis:
    """Describe this machine, what daybreak would use of it and why, and what is wrong with it."""
    device = pick_device("auto")
    machine, folders = describe_machine(), describe_folders()
    return Diagnosis(
        machine=machine,
        versions=versions(),
        auto=choices(device, os.environ),
        extras=find_extras(requires("daybreak") or []),
        folders=folders,
        data_sets={name: find_here(name) for name in (*NAMES, *(name for name, _ in KNOWN_ARCHIVES.values()))},
        speed={_name(dtype): measure_speed(device, dtype) for dtype in FORMATS},
        problems=(*machine_problems(machine, os.environ), *folder_problems(folders)),
    )


def describe_machine() -> Machine:
    """The hardware as PyTorch and the operating system report it."""
    hardware: dict[str, Any] = describe_hardware(torch.device("cpu"))
    total, available = memory_bytes()
    return Machine(
        **{name: hardware[name] for name in ("platform", "cpu", "cpu_capability", "cores", "threads")},
        usable_cores=usable_cores(),
        load=psutil.getloadavg()[0],
        memory_bytes=total,
        available_bytes=available,
        keeps_memory=can_keep_memory(),
        gpus=tuple(_gpu(index) for index in range(torch.cuda.device_count())),
        nvidia_driver=NVIDIA_DRIVER.exists(),
        compiler=next((path for name in COMPILERS if (path := shutil.which(name))), None),
    )


def choices(device: torch.device, environment: Mapping[str, str]) -> dict[str, Choice]:
    """What `auto` stands for on this device, and why."""
    dtype = compute_dtype("auto", device)
    reasons = {
        "cuda": "a CUDA GPU is available",
        "mps": "no CUDA GPU is available, but Apple's Metal is",
        "cpu": "neither a CUDA GPU nor Apple's Metal is available",
    }
    threads = environment.get("OMP_NUM_THREADS")
    return {
        "device": Choice(device.type, reasons[device.type]),
        "precision": Choice(_name(dtype), _why_precision(device, dtype)),
        "threads": Choice(
            str(torch.get_num_threads()), f"OMP_NUM_THREADS={threads}" if threads else "PyTorch's own choice"
        ),
        "loops": _loops(environment),
    }


def _loops(environment: Mapping[str, str]) -> Choice:
    """Whether convolutions and norms on CPUs use the compiled loops (`models.native`)."""
    if environment.get(build.PLACE) == "0":
        return Choice("PyTorch", f"{build.PLACE}=0")
    if build.library_path().is_file():
        return Choice("compiled", "they are in the cache")
    compiler = build.compiler()[0]
    if shutil.which(compiler):
        return Choice("compiled", f"on first use, by {compiler}")
    return Choice("PyTorch", f"no C compiler {compiler} (set CC to one for faster training on CPUs)")


def _why_precision(device: torch.device, dtype: torch.dtype) -> str:
    if device.type == "mps":
        return "on Apple's Metal daybreak computes in float32"
    unit, what = ("GPU", "bfloat16") if device.type == "cuda" else ("CPU", "AVX-512 bfloat16 instructions")
    return f"the {unit} has {what}" if dtype == torch.bfloat16 else f"the {unit} reports no {what}"


def find_extras(requirements: list[str]) -> dict[str, Extra]:
    """The optional parts, from the package's requirements (`NAME>=1; extra == "EXTRA"`); those for development are not
    among them."""
    found: dict[str, list[str]] = {}
    for requirement in requirements:
        package = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"""extra == ['"]([\w-]+)['"]""", requirement)
        if package and extra and extra[1] != "dev" and package[0] != "daybreak":
            found.setdefault(extra[1], []).append(package[0])
    return {
        extra: Extra(
            tuple(name for name in packages if find_spec(name.replace("-", "_")) is None),
            install_command(extra),
        )
        for extra, packages in found.items()
    }


def describe_folders() -> dict[str, Folder]:
    """Where daybreak reads and writes."""
    data = os.environ.get("DAYBREAK_DATA_DIR")
    given = {"data": describe_folder(Path(data))} if data else {}
    return {"cache": describe_folder(cache_dir()), "runs": describe_folder(Path("runs").absolute())} | given


def machine_problems(machine: Machine, environment: Mapping[str, str]) -> Iterator[DaybreakError]:
    """What makes training slow or impossible."""
    yield from _thread_problems(machine, environment.get("OMP_NUM_THREADS"))
    if machine.load > 1.5 * machine.cores:
        why = f"more processes want to run than there are cores ({machine.cores}), so times and speeds mean little"
        yield DaybreakError(f"load {machine.load:.1f}", why, "wait for them, or stop them")
    if machine.available_bytes < ENOUGH_MEMORY:
        yield DaybreakError("memory", f"only {_gigabytes(machine.available_bytes)} available", "end other programs")
    if machine.nvidia_driver and not machine.gpus:
        yield DaybreakError("GPU", "there is an NVIDIA driver, but PyTorch sees no GPU", "a CUDA build of PyTorch")
    if machine.gpus and machine.compiler is None:
        yield DaybreakError("compiler", "none, so nets are not compiled for the GPU", "install one, such as gcc")


def _thread_problems(machine: Machine, asked: str | None) -> Iterator[DaybreakError]:
    digits = re.match(r"\d+", asked or "")
    threads, cores = int(digits[0]) if digits else machine.threads, machine.usable_cores
    what = f"OMP_NUM_THREADS={asked}" if digits else f"{threads} threads"
    if threads > cores:
        yield DaybreakError(what, f"{threads} threads would share {_cores(cores)}", f"OMP_NUM_THREADS={cores}")
    elif digits and 2 * threads <= cores and not machine.gpus:
        yield DaybreakError(what, f"{_cores(cores)} could be used", f"OMP_NUM_THREADS={cores}")


def folder_problems(folders: Mapping[str, Folder]) -> Iterator[DaybreakError]:
    """Folders that are missing, full or read-only; data is only read."""
    elsewhere = {"cache": "set DAYBREAK_CACHE_DIR to another folder", "runs": "--out, or another working directory"}
    for name, folder in folders.items():
        if name == "data":
            if not folder.exists:
                yield DaybreakError(folder.path, "no such folder", "set DAYBREAK_DATA_DIR to one that exists")
        elif not folder.writable:
            yield DaybreakError(folder.path, "cannot be written", elsewhere[name])
        elif folder.free_bytes < ENOUGH_DISK:
            why = f"only {_gigabytes(folder.free_bytes)} free"
            yield DaybreakError(folder.path, why, f"free space, or {elsewhere[name]}")


def _gpu(index: int) -> dict[str, Any]:
    free, total = torch.cuda.mem_get_info(index)
    return {"name": torch.cuda.get_device_name(index), "memory_bytes": total, "free_bytes": free}


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def _cores(count: int) -> str:
    return "one core" if count == 1 else f"{count} cores"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
