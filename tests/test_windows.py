"""What differs on Windows, as far as it can be tried elsewhere: modules that it lacks, locks, flushing, processes."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from daybreak.core import device, files
from daybreak.core.files import is_leftover, whole_file, whole_folder

# psutil needs `resource` on Linux, and subprocess would take our msvcrt for Windows: both are imported before.
WITHOUT = "import fcntl as posix, psutil, subprocess, sys\nsys.modules['fcntl'] = sys.modules['resource'] = None\n"

# A msvcrt whose locks are those of POSIX: one byte, far behind the holder's name, which a lock would make unreadable.
MSVCRT = """
import os, types
def locking(descriptor, mode, size):
    assert (mode, size) == (2, 1) and os.lseek(descriptor, 0, os.SEEK_CUR) >= 2**20
    try:
        posix.flock(descriptor, posix.LOCK_EX | posix.LOCK_NB)
    except BlockingIOError:
        raise PermissionError(13, "Permission denied") from None
sys.modules["msvcrt"] = types.SimpleNamespace(LK_NBLCK=2, locking=locking)
"""


def in_python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


def test_every_module_is_imported_without_the_modules_of_posix(tmp_path: Path) -> None:
    code = """
from importlib import import_module
from pkgutil import walk_packages
import daybreak
names = [module.name for module in walk_packages(daybreak.__path__, "daybreak.") if module.name != "daybreak.__main__"]
for name in names:
    import_module(name)
print(len(names), "daybreak.core.locks" in names, sys.modules["fcntl"], sys.modules["resource"])
"""
    found = in_python(WITHOUT + MSVCRT + code, tmp_path)
    assert found.returncode == 0, found.stderr[-2000:]
    count, *others = found.stdout.split()
    assert int(count) > 90
    assert others == ["True", "None", "None"]


def test_the_lock_of_windows_names_its_holder_and_is_gone_afterwards(tmp_path: Path) -> None:
    code = """
from pathlib import Path
from daybreak.core import locks
from daybreak.core.errors import BusyError
locks.WINDOWS = True
closed, unlink = [], Path.unlink
def close(descriptor, original=os.close):
    closed.append(descriptor)
    original(descriptor)
def unlink_closed(path, original=Path.unlink):
    assert closed, "Windows removes no open file"
    original(path)
os.close, Path.unlink = close, unlink_closed
here = Path()
with locks.locked(here):
    closed.clear()
    try:
        with locks.locked(here):
            print("both")
    except BusyError as error:
        print(error.why)
    closed.clear()
print([path.name for path in here.iterdir()])
with locks.locked(here):
    print("again")
"""
    found = in_python(WITHOUT + MSVCRT + code, tmp_path)
    assert found.stderr == ""
    busy, left, again = found.stdout.splitlines()
    assert busy.startswith("in use by process ")
    assert " on " in busy
    assert (left, again) == ("[]", "again")


def test_a_folder_is_not_flushed_there_and_a_file_is_opened_for_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str, int]] = []
    original = os.open

    def record(path: Path, flags: int, *more: int) -> int:
        opened.append(("folder" if Path(path).is_dir() else "file", flags))
        return original(path, flags, *more)

    monkeypatch.setattr(files, "WINDOWS", True)
    monkeypatch.setattr(os, "open", record)
    with whole_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("text")
    with whole_folder(tmp_path / "folder") as unfinished:
        (unfinished / "b.txt").write_text("text")
    assert opened == [("file", os.O_RDWR), ("file", os.O_RDWR)]
    assert (tmp_path / "folder" / "b.txt").read_text() == (tmp_path / "a.txt").read_text() == "text"


def test_no_signal_is_sent_to_learn_whether_a_process_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """`os.kill(pid, 0)` asks on POSIX and kills on Windows."""
    asked: list[int] = []
    monkeypatch.setattr(psutil, "pid_exists", lambda process: bool(asked.append(process)))
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("os.kill was called"))
    other = os.getppid()
    assert is_leftover(Path(f".config.json.{other}.tmp"))
    assert asked == [other]
    monkeypatch.undo()
    assert not is_leftover(Path(f".config.json.{other}.tmp"))
    assert is_leftover(Path(f".config.json.{10**30}.tmp"))


def test_peak_memory_is_that_of_the_process_there(monkeypatch: pytest.MonkeyPatch) -> None:
    here = device.peak_memory_bytes()
    assert 0.5 * psutil.Process().memory_info().rss < here < psutil.virtual_memory().total
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=123_456_789))
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(psutil, "Process", lambda: process)
    assert device.peak_memory_bytes() == 123_456_789


@pytest.mark.parametrize(("system", "expected"), [("linux", 3072), ("darwin", 3)])
def test_peak_memory_is_counted_in_kib_on_linux(system: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=3))
    monkeypatch.setattr(sys, "platform", system)
    assert device.peak_memory_bytes() == expected
