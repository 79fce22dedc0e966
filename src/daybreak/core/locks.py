"""One writer to a folder at a time, among processes of one machine.

The kernel holds the lock (flock on POSIX, LockFile on Windows), so a process that is killed leaves none behind; at most
it leaves the lock's file, which locks nothing.
"""

import os
import platform
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from daybreak.core.errors import BusyError
from daybreak.core.files import WINDOWS, open_unlinked, storage_errors

LOCK = ".lock"
PAUSE_SECONDS = 0.05
_LOCKED_BYTE = 2**30  # far behind the holder's name: Windows lets nobody read a locked byte

try:
    import fcntl

    def _take(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

except ImportError:  # Windows
    msvcrt: Any = import_module("msvcrt")

    def _take(descriptor: int) -> bool:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True


@contextmanager
def locked(folder: Path, *, wait: bool = False, remedy: str | None = None) -> Iterator[None]:
    """Hold a folder against other writers while the block runs.

    Args:
        wait: for whoever holds it, instead of raising.
        remedy: for the StorageError.

    Raises:
        BusyError: another process holds it; the message names the process.
        StorageError: the folder cannot be written, or the lock's file is a link.
    """
    path = folder / LOCK
    with storage_errors(path, remedy=remedy):
        descriptor = _acquire(path, wait)
    try:
        yield
    finally:
        _release(path, descriptor)


def _acquire(path: Path, wait: bool) -> int:
    while True:
        descriptor = open_unlinked(path, os.O_RDWR | os.O_CREAT, 0o644)
        with ExitStack() as unless_locked:
            unless_locked.callback(os.close, descriptor)
            if not _take(descriptor):
                if not wait:
                    why = f"in use by {_read_holder(descriptor)}"
                    raise BusyError(path.parent, why, "wait for it, or another directory")
                time.sleep(PAUSE_SECONDS)
            elif _is_file_of(path, descriptor):  # else its last holder removed it between our opening and locking it
                _write_holder(descriptor)
                unless_locked.pop_all()
                return descriptor


def _release(path: Path, descriptor: int) -> None:
    """Remove the file and let go. POSIX removes it while it is locked, since nobody else can have taken the name then;
    Windows removes no open file, so it is removed once it is closed, which fails if another process has opened it."""
    if WINDOWS:
        os.close(descriptor)
    with suppress(OSError):  # a file that stays locks nothing
        path.unlink()
    if not WINDOWS:
        os.close(descriptor)


def _write_holder(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())


def _read_holder(descriptor: int) -> str:
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.read(descriptor, 200).decode(errors="replace") or "another process"


def _is_file_of(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
