"""What the program says about itself and the machine: version, shell completion, `daybreak doctor`."""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import daybreak
from daybreak import cli, doctor
from daybreak.core import device, machine, speed
from daybreak.core.device import compute_dtype
from daybreak.core.errors import UsageError
from daybreak.core.extras import install_command
from daybreak.core.launcher import Launch, launch
from daybreak.core.machine import Folder
from daybreak.data.canonical import PUBLISHED
from daybreak.models.native import build
from daybreak.recipes import RECIPES


def call(*arguments: object) -> int:
    return cli._run([str(a) for a in arguments])


def test_the_version_is_the_packages_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out == f"daybreak {daybreak.__version__}\n"


def complete(words: str) -> tuple[list[str], str]:
    """What a shell is offered for the last word, and the modules that were imported for it."""
    code = "from daybreak.cli import main; main()"
    env = os.environ | {"_DAYBREAK_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    command = [sys.executable, "-X", "importtime", "-c", code]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return done.stdout.split(), done.stderr


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("daybreak rec", ["recipes"]),
        ("daybreak recipes --js", ["--json"]),
        ("daybreak recipes page", [name for name in RECIPES if name.startswith("page")]),
        ("daybreak data dig", ["digits"]),
        ("daybreak inspect mara", ["marathon"]),
    ],
)
def test_a_shell_completes_without_loading_torch(words: str, offered: list[str]) -> None:
    completed, imported = complete(words)
    assert completed == offered
    assert "daybreak.cli" in imported
    assert "torch" not in imported


def test_completion_is_installed_for_the_command_whatever_started_it(tmp_path: Path) -> None:
    # Without typer's look at the parent process: under make it is sh, which has no completion.
    env = os.environ | {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    command = [sys.executable, "-m", "daybreak", "--install-completion", "bash"]
    subprocess.run(command, env=env, capture_output=True, check=True)
    (script,) = (tmp_path / ".bash_completions").iterdir()
    assert script.name == "daybreak.sh"
    assert "_DAYBREAK_COMPLETE=complete_bash" in script.read_text()
    assert str(script) in (tmp_path / ".bashrc").read_text()


# daybreak doctor


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speeds that cost nothing to measure."""
    figures = {torch.float32: 3.0, torch.bfloat16: 5.0}
    monkeypatch.setattr(doctor, "measure_speed", lambda _, dtype: {"matmul": figures[dtype], "conv": 1.0})


@pytest.mark.usefixtures("instant")
def test_doctor_reports_what_the_sources_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAYBREAK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("DAYBREAK_DATA_DIR", str(tmp_path))
    found = doctor.doctor()
    m = found.machine
    assert (m.threads, m.cores, m.cpu_capability) == (
        torch.get_num_threads(), os.cpu_count(), torch.backends.cpu.get_cpu_capability(),
    )  # fmt: skip
    assert m.usable_cores <= len(os.sched_getaffinity(0))
    assert m.memory_bytes <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < m.available_bytes < m.memory_bytes
    assert len(m.gpus) == torch.cuda.device_count()
    assert m.keeps_memory == (platform.libc_ver()[0] == "glibc")
    assert found.versions["torch"] == torch.__version__
    assert found.versions["python"] == platform.python_version()
    assert found.versions["pillow"] == version("pillow")
    assert found.speed["bfloat16"] == {"matmul": 5.0, "conv": 1.0}
    device = torch.device(found.auto["device"].value)
    assert found.auto["precision"].value == str(compute_dtype("auto", device)).removeprefix("torch.")
    assert found.auto["threads"].value == str(torch.get_num_threads())
    assert found.folders["data"].path == str(tmp_path)
    assert found.folders["runs"] == replace(found.folders["cache"], path=str(tmp_path / "runs"))
    assert abs(found.folders["cache"].free_bytes - shutil.disk_usage(tmp_path).free) < 10**9
    assert found.data_sets["digits"] == "scikit-learn"
    assert not list(tmp_path.iterdir())  # nothing was written


@pytest.mark.usefixtures("instant")
def test_doctor_prints_lines_or_one_object_and_succeeds_whatever_it_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing"
    monkeypatch.setenv("DAYBREAK_DATA_DIR", str(missing))
    remedy = "set DAYBREAK_DATA_DIR to one that exists"
    assert call("doctor") == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"warning: {missing}: no such folder; try: {remedy}" in lines
    assert "rough speed  float32: matmul 3 GFLOP/s, conv 1 GFLOP/s" in lines
    assert call("doctor", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert {"code": "error", "what": str(missing), "why": "no such folder", "try": remedy} in told["problems"]
    assert told["machine"]["threads"] == torch.get_num_threads()
    assert told["folders"]["data"]["exists"] is False


def test_data_sets_are_found_where_they_lie_and_not_downloaded(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daybreak.data.sources.fetch", lambda *_: pytest.fail("a download"))
    data = tmp_path / "data"
    data.mkdir()
    monkeypatch.setenv("DAYBREAK_DATA_DIR", str(data))
    find = doctor.find_here
    assert [find(name) for name in ("digits", "cifar10", "mnist", "cifar10-jpeg")] == ["scikit-learn", None, None, None]
    files = [file.path for file in PUBLISHED["mnist"].files]
    for path in files[:-1]:
        (data / path).parent.mkdir(parents=True, exist_ok=True)
        (data / path).touch()
    assert find("mnist") is None  # not all of its files
    (cache / files[-1]).parent.mkdir(parents=True)
    (cache / files[-1]).touch()
    assert find("mnist") == str(data / files[0])
    (data / "cifar10-jpeg.tar.xz").touch()
    assert find("cifar10-jpeg") == str(data / "cifar10-jpeg.tar.xz")


SOUND = doctor.Machine(
    platform="Linux", cpu="CPU", cpu_capability="AVX2", cores=8, usable_cores=8, threads=4, load=1.0,
    memory_bytes=16 * 10**9, available_bytes=8 * 10**9, keeps_memory=True, gpus=(), nvidia_driver=False, compiler=None,
)  # fmt: skip
GPU = ({"name": "GPU", "memory_bytes": 80 * 10**9, "free_bytes": 79 * 10**9},)


@pytest.mark.parametrize(
    ("changes", "threads", "told"),
    [
        ({}, None, []),
        ({}, "8", []),
        ({}, "9", ["OMP_NUM_THREADS=9: 9 threads would share 8 cores; try: OMP_NUM_THREADS=8"]),
        ({"usable_cores": 1}, "2,4", ["OMP_NUM_THREADS=2,4: 2 threads would share one core; try: OMP_NUM_THREADS=1"]),
        ({"usable_cores": 2}, None, ["4 threads: 4 threads would share 2 cores; try: OMP_NUM_THREADS=2"]),
        ({"threads": 1}, "1", ["OMP_NUM_THREADS=1: 8 cores could be used; try: OMP_NUM_THREADS=8"]),
        ({"threads": 1, "gpus": GPU, "compiler": "/usr/bin/cc"}, "1", []),
        (
            {"load": 12.1},
            None,
            [
                "load 12.1: more processes want to run than there are cores (8), so times and speeds mean little; "
                "try: wait for them, or stop them"
            ],
        ),
        ({"available_bytes": 10**9}, None, ["memory: only 1.0 GB available; try: end other programs"]),
        (
            {"nvidia_driver": True},
            None,
            ["GPU: there is an NVIDIA driver, but PyTorch sees no GPU; try: a CUDA build of PyTorch"],
        ),
        (
            {"nvidia_driver": True, "gpus": GPU},
            None,
            ["compiler: none, so nets are not compiled for the GPU; try: install one, such as gcc"],
        ),
    ],
)
def test_problems_of_a_machine(changes: dict[str, Any], threads: str | None, told: list[str]) -> None:
    environment = {} if threads is None else {"OMP_NUM_THREADS": threads}
    assert [str(p) for p in doctor.machine_problems(replace(SOUND, **changes), environment)] == told


def test_problems_of_folders() -> None:
    sound = Folder("/there", exists=True, writable=True, free_bytes=10**12)
    full, closed = replace(sound, path="/full", free_bytes=10**9), replace(sound, path="/closed", writable=False)
    assert list(doctor.folder_problems({"cache": sound, "runs": sound, "data": closed})) == []
    assert [str(p) for p in doctor.folder_problems({"cache": full, "runs": closed})] == [
        "/full: only 1.0 GB free; try: free space, or set DAYBREAK_CACHE_DIR to another folder",
        "/closed: cannot be written; try: --out, or another working directory",
    ]


def test_a_folder_that_is_not_there_is_described_by_its_nearest_parent(tmp_path: Path) -> None:
    found = machine.describe_folder(tmp_path / "a" / "b")
    assert (found.exists, found.writable) == (False, True)
    (tmp_path / "a").write_text("a file")
    assert not machine.describe_folder(tmp_path / "a" / "b").writable


def test_a_containers_limits_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text("MemTotal:  8000000 kB\nMemAvailable:  1500000 kB\n")
    assert (machine.usable_cores(), machine.memory_bytes()[1]) == (8, 1_536_000_000)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.usable_cores() == 8
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    assert machine.usable_cores() == 3  # two and a half
    (tmp_path / "memory.max").write_text("1000000000\n")
    (tmp_path / "memory.current").write_text("400000000\n")
    assert machine.memory_bytes() == (10**9, 6 * 10**8)
    (tmp_path / "memory.stat").write_text("anon 90000000\nfile 310000000\ninactive_file 300000000\n")
    assert machine.memory_bytes() == (10**9, 9 * 10**8)  # files that were read are let go of


def test_extras_come_from_the_packages_own_requirements() -> None:
    listed = [
        "torch>=2.10",
        'starlette>=0.46; extra == "serve"',
        "no-such-package>=1; extra == 'serve'",
        'pytest>=9; extra == "dev"',
        'daybreak[serve]; extra == "all"',
        'rich; extra == "pretty"',
    ]
    assert doctor.find_extras(listed) == {
        "serve": doctor.Extra(("no-such-package",), install_command("serve")),
        "pretty": doctor.Extra((), install_command("pretty")),
    }


@pytest.mark.parametrize("kind", ["cpu", "cuda", "mps"])
@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_why_a_precision_is_chosen_agrees_with_the_choice(
    kind: str, has_bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has_bfloat16)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bfloat16)
    chosen = doctor.choices(torch.device(kind), {})["precision"]
    assert (chosen.value == "bfloat16") == (has_bfloat16 and kind != "mps")
    assert (" has " in chosen.why) == (chosen.value == "bfloat16")


def test_it_says_whether_loops_are_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAYBREAK_NATIVE", str(tmp_path))
    loops = doctor.choices(torch.device("cpu"), {})["loops"]
    assert loops.value == "compiled"
    assert loops.why.startswith("on first use")
    build.library_path().touch()
    assert doctor.choices(torch.device("cpu"), {})["loops"].why == "they are in the cache"
    monkeypatch.setenv("CC", "no-such-compiler")
    loops = doctor.choices(torch.device("cpu"), {})["loops"]
    assert (loops.value, "no-such-compiler" in loops.why) == ("PyTorch", True)
    assert doctor.choices(torch.device("cpu"), {"DAYBREAK_NATIVE": "0"})["loops"].value == "PyTorch"


# Its rough speeds


def works(runs: list[int]) -> list[speed.Work]:
    """Of a thousand operations each; a run is noted by its place."""
    return [(lambda place=place: runs.append(place), 1000.0) for place in range(4)]  # type: ignore[misc]


def ticking(seconds: float) -> Callable[[], float]:
    """A clock that has moved on by so much at every look."""
    ticks = count()
    return lambda: next(ticks) * seconds


@pytest.mark.parametrize(
    ("seconds", "runs_of_each"),
    [
        (0.001, [11, 11, 11, 11]),  # quick: every size, with all repetitions and the one that is not timed
        (0.02, [9, 9, 9, 9]),  # until 0.15 s are over
        (0.04, [5]),  # not quick: no larger size is tried
        (9.0, [2]),
    ],
)
def test_measuring_ends_soon_however_slow_the_device(seconds: float, runs_of_each: list[int]) -> None:
    runs: list[int] = []
    rate = speed.best_rate(works(runs), lambda: None, ticking(seconds))
    assert [runs.count(place) for place in sorted(set(runs))] == runs_of_each
    assert rate == pytest.approx(1000 / seconds)


def test_the_best_repetition_of_the_best_size_counts() -> None:
    moments = iter([0, 0.02, 0.03, 0.13, 0.16, 1.0, 1.1, 2.0])
    rate = speed.best_rate([(lambda: None, 1.0), (lambda: None, 5.0)], lambda: None, lambda: next(moments))
    assert rate == pytest.approx(1 / 0.01)


@pytest.mark.parametrize("dtype", doctor.FORMATS)
def test_a_speed_is_in_thousand_millions_and_runs_in_its_format(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_second_each(works: list[speed.Work], _: object) -> float:
        ((run, operations),) = works
        assert run().dtype == dtype  # type: ignore[attr-defined]
        return operations

    monkeypatch.setattr(speed, "SIDES", (1000,))
    monkeypatch.setattr(speed, "BATCHES", (10,))
    monkeypatch.setattr(speed, "best_rate", one_second_each)
    assert speed.measure_speed(torch.device("cpu"), dtype) == {"matmul": 2.0, "conv": 0.75497472}


def test_operations_are_those_that_pytorch_counts() -> None:
    cpu = torch.device("cpu")
    for run, operations in (speed._matmul(64, cpu, torch.float32), speed._conv(2, cpu, torch.float32)):
        with FlopCounterMode(display=False) as counter:
            run()
        assert counter.get_total_flops() == operations


# -- the machine, pretended --------------------------------------------------------------------------------------------


def test_freed_memory_is_kept_while_the_block_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """malloc.h: M_MMAP_MAX is -4 and M_TRIM_THRESHOLD -1; glibc's defaults are 65,536 maps and 128 KiB."""
    asked: list[tuple[object, ...]] = []
    libc = SimpleNamespace(
        mallopt=lambda *words: asked.append(words), malloc_trim=lambda pad: asked.append(("trim", pad))
    )
    monkeypatch.setattr(device.ctypes, "CDLL", lambda _: libc)
    monkeypatch.setattr(device, "can_keep_memory", lambda: True)
    with device.kept_memory():
        assert asked == [(-4, 0), (-1, -1)]
    assert asked[2:] == [(-4, 65536), (-1, 131072), ("trim", 0)]
    monkeypatch.setattr(device, "can_keep_memory", lambda: False)
    with device.kept_memory():
        pass
    assert len(asked) == 5


def test_only_glibc_can_be_told_to_keep_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(device.ctypes, "CDLL", lambda _: SimpleNamespace())
    assert not device.can_keep_memory()  # musl
    monkeypatch.setattr(device.ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=print))
    assert device.can_keep_memory()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not device.can_keep_memory()


def test_the_fastest_device_that_is_there_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    names: tuple[Any, ...] = ("auto", "mps", "cpu")
    assert [device.pick_device(name).type for name in names] == ["mps", "mps", "cpu"]
    unknown: tuple[Any, ...] = ("cuda", "gpu")
    for name in unknown:
        with pytest.raises(UsageError) as caught:
            device.pick_device(name)
        expected = f"--device {name}: not available on this machine; try: --device auto, or one of mps, cpu"
        assert str(caught.value) == expected


def test_every_kind_of_device_is_waited_for_and_described(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    gpu, cpu = torch.device("cuda", 1), torch.device("cpu")
    device.synchronizer(gpu)()
    device.synchronizer(cpu)()
    assert waited == [gpu]
    assert device.synchronizer(torch.device("mps")) is torch.mps.synchronize
    assert device.describe_hardware(gpu)["gpu"] == "a GPU"
    assert "gpu" not in device.describe_hardware(cpu)


def test_a_gpu_that_only_emulates_bfloat16_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert compute_dtype("auto", torch.device("cuda")) == torch.float32


def test_the_processor_is_named_by_its_first_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert device._cpu_name() == "riscv64"
    first, second = ("Swift: 9", 25, 17), ("other", 6, 1)
    cores = "\n".join("model name\t: {}\ncpu family\t: {}\nmodel\t: {}\n".format(*core) for core in (first, second))
    (tmp_path / "cpuinfo").write_text(cores)
    assert device._cpu_name() == "Swift: 9 (family 25 model 17)"
    (tmp_path / "cpuinfo").write_text("Features\t: fp asimd\n")
    assert device._cpu_name() == "riscv64"


def test_a_folder_is_writable_where_files_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Path, int]] = []
    monkeypatch.setattr(os, "access", lambda path, mode: asked.append((path, mode)) is None)
    assert machine.describe_folder(tmp_path / "a").writable
    assert asked == [(tmp_path, os.W_OK | os.X_OK)]
    (tmp_path / "file").write_text("")
    assert not machine.describe_folder(tmp_path / "file" / "a").writable


def test_a_containers_limits_at_their_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text("MemAvailable:  1500000 kB\n")
    for quota, cores in (("50000 100000", 1), ("1600000 100000", 8)):
        (tmp_path / "cpu.max").write_text(quota)
        assert machine.usable_cores() == cores
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    (tmp_path / "memory.current").write_text("1000000001\n")
    for limit, found in (("max", (total, 1_536_000_000)), (2 * total, (total, 1_536_000_000)), (10**9, (10**9, 0))):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert machine.memory_bytes() == found


def test_a_clock_that_stands_still_is_no_error() -> None:
    assert speed.best_rate([(lambda: None, 5.0)], lambda: None, lambda: 0.0) == pytest.approx(5e9)


# -- what a launcher says ----------------------------------------------------------------------------------------------

ALONE = Launch(rank=0, size=1, local_rank=0, local_size=1, may_restart=False)
LAUNCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_MAX_RESTARTS")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, ALONE),
        ({"RANK": "3"}, ALONE),
        ({"WORLD_SIZE": "4"}, ALONE),
        ({"RANK": "x", "WORLD_SIZE": ""}, ALONE),
        ({"RANK": "3", "WORLD_SIZE": "4"}, Launch(3, 4, 3, 4, False)),
        (dict(zip(LAUNCH, "34121", strict=True)), Launch(3, 4, 1, 2, True)),
        ({"RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_MAX_RESTARTS": "0"}, Launch(0, 2, 0, 2, False)),
    ],
)
def test_what_a_launcher_says(said: dict[str, str], expected: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCH:
        monkeypatch.delenv(name, raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    assert launch() == expected
    assert Launch() == ALONE
    assert launch().is_first == (expected.rank == 0)
