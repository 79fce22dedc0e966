"""Files and folders that are whole or not there, and one writer at a time.

What is written stands beside its place first, is flushed to the disk, and is renamed; then the folder is flushed too,
so that neither a killed process nor a power cut leaves half of anything under a final name.
"""

import errno
import fcntl
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from daybreak.core.errors import BusyError, StorageError

LOCK = ".lock"
MAKE_ROOM = "free space, or another disk"


@contextmanager
def guarded(path: Path, needed: int = 0) -> Iterator[None]:
    """Turns a failing file system into a StorageError that names the file, and the bytes it needed where they are
    known."""
    try:
        yield
    except OSError as error:
        why = f"cannot be written ({error.strerror or error}{f', {needed:,} bytes needed' if needed else ''})"
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StorageError(path, why, MAKE_ROOM if is_full else "a place that can be written") from None


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it takes its place when the block ends well, else it is removed.

    Raises:
        StorageError: the file system refused.
    """
    temporary = _beside(path)
    with guarded(path):
        make_folder(path.parent)
        try:
            yield temporary
            _put_in_place(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def make_folder(path: Path) -> None:
    """A folder that is there after a power cut too."""
    if not path.exists():
        path.mkdir(parents=True, exist_ok=True)
        _flush(path.parent)


@contextmanager
def whole_folder(path: Path, needed: int = 0) -> Iterator[Path]:
    """The same for a folder of files; `path` must not be there yet.

    Args:
        needed: bytes, for the error where they are not to be had.

    Raises:
        StorageError: the file system refused.
    """
    temporary = _beside(path)
    with guarded(path, needed):
        make_folder(path.parent)
        temporary.mkdir()
        try:
            yield temporary
            for file in sorted(temporary.iterdir()):
                _flush(file)
            _put_in_place(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def to_json(values: Mapping[str, Any]) -> str:
    """JSON as every file of ours has it: indented, strictly JSON, a line break at its end."""
    return json.dumps(values, indent=2, allow_nan=False) + "\n"


def check_space(folder: Path, needed: int) -> None:
    """Find a disk that is too full before hours of work rather than after.

    Raises:
        StorageError: fewer than `needed` bytes are free.
    """
    with guarded(folder):
        free = shutil.disk_usage(folder).free
    if free < needed:
        raise StorageError(folder, f"{needed:,} bytes needed, {free:,} are free", MAKE_ROOM)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file that grows; `flush` makes it durable."""
    with guarded(path), path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def cut(path: Path, size: int) -> None:
    """Shorten a file to its first `size` bytes; one that is not there counts as empty."""
    with guarded(path):
        if path.exists() and path.stat().st_size > size:
            os.truncate(path, size)
            _flush(path)


def flush(path: Path) -> int:
    """Flush a file to the disk, an empty one where there is none; returns its size in bytes."""
    with guarded(path):
        path.touch()
        _flush(path)
        _flush(path.parent)
        return path.stat().st_size


def remove_folder(path: Path) -> None:
    """Remove a folder as a whole: killed in the middle, nothing is left under its name."""
    with guarded(path):
        doomed = _beside(path)
        path.rename(doomed)
        shutil.rmtree(doomed)


def is_leftover(path: Path, name: str | None = None) -> bool:
    """Whether a path is something that a process left unfinished which is no more.

    Args:
        name: of what was to be written; by default anything.
    """
    found = re.fullmatch(r"\.(.+)\.(\d+)\.tmp", path.name)
    return found is not None and name in (None, found[1]) and not _is_alive(int(found[2]))


def sweep(folder: Path) -> None:
    """Remove what killed writers left unfinished. Only for who holds the folder (`sole_writer`)."""
    with guarded(folder):
        for path in filter(is_leftover, list(folder.rglob("*"))):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold the folder against other writers. The kernel holds the lock (flock), so one that was killed leaves none.

    Raises:
        BusyError: another process holds it, which is named.
        StorageError: the folder cannot be written.
    """
    path = folder / LOCK
    with guarded(path):
        descriptor = _locked(path)
    try:
        yield
    finally:
        with suppress(OSError):  # a file that stays is no lock
            path.unlink()  # still locked: nobody else can have taken the name meanwhile
        os.close(descriptor)


def _locked(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace") or "another process"
            os.close(descriptor)
            raise BusyError(path.parent, f"in use by {holder}", "wait for it, or another directory") from None
        if _is_file_of(path, descriptor):
            os.truncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())
            return descriptor
        os.close(descriptor)  # its last holder removed the file between our opening and locking it


def _is_file_of(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _put_in_place(temporary: Path, path: Path) -> None:
    _flush(temporary)
    temporary.replace(path)
    _flush(path.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
