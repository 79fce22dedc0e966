"""Files and folders that are whole or not there: the one place that writes them.

Everything is written under a temporary name beside its final one, flushed to the disk, and renamed; then the folder is
flushed too, so that neither a killed process nor a power cut leaves half of anything under a final name. Who may write
to a folder: `core.locks`.
"""

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from daybreak.core.errors import StorageError

FREE_SPACE = "free space, or another disk"
WINDOWS = os.name == "nt"
NO_LINK: int = getattr(os, "O_NOFOLLOW", 0)  # Windows has no such flag
LIFE = secrets.token_hex(4)  # beside our number, which in a container may have been that of a killed writer too


@contextmanager
def storage_errors(path: Path, needed: int = 0, remedy: str | None = None) -> Iterator[None]:
    """Turn an error of the file system into a StorageError that names the file.

    Args:
        needed: bytes, for the message, where they are known.
        remedy: by default what suits the error: free space, or another place.
    """
    try:
        yield
    except OSError as error:
        why = f"cannot be written ({error.strerror or error}{f', {needed:,} bytes needed' if needed else ''})"
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        usual = FREE_SPACE if is_full else "a place that can be written"
        raise StorageError(path, why, remedy or usual) from None


def write_text(path: Path | str, text: str) -> Path:
    """Write a text file as UTF-8, with line breaks as they are in `text`; returns its path.

    Raises:
        StorageError: the file system refused; what was there is still there.
    """
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: Path | str, values: Mapping[str, Any]) -> Path:
    """Write a JSON file as `to_json` has it; errors as for `write_text`.

    Raises:
        ValueError: a number is not finite.
    """
    return write_text(path, to_json(values))


def write_picture(path: Path | str, picture: Image.Image) -> Path:
    """Write a picture as PNG; errors as for `write_text`."""
    with whole_file(Path(path)) as temporary:
        picture.save(temporary, "PNG")
    return Path(path)


def write_bytes(path: Path | str, content: bytes) -> Path:
    """Write a file; errors as for `write_text`."""
    with whole_file(Path(path)) as temporary:
        temporary.write_bytes(content)
    return Path(path)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it is renamed to `path` when the block ends without an error, else
    removed.

    Raises:
        StorageError: the file system refused, or there is something at `path` that is no file. (Renaming would put a
            file in the place of /dev/null.)
    """
    temporary = _beside(path)
    with storage_errors(path):
        if path.exists() and not path.is_file():
            raise StorageError(path, "cannot be written (it is there and is not a file)", "another path")
        make_folder(path.parent)
        temporary.unlink(missing_ok=True)  # it could be a link, put there by whoever made the folder
        try:
            yield temporary
            _put_in_place(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, so that it is still there after a power cut."""
    if not path.exists():
        path.mkdir(parents=True, exist_ok=True)
        flushed(path.parent)


@contextmanager
def whole_folder(path: Path, needed: int = 0) -> Iterator[Path]:
    """The same for a folder of files; `path` must not exist yet.

    Args:
        needed: bytes that will be written, for the error message.

    Raises:
        StorageError: the file system refused.
    """
    temporary = _beside(path)
    with storage_errors(path, needed):
        make_folder(path.parent)
        temporary.mkdir()
        try:
            yield temporary
            for file in sorted(temporary.iterdir()):
                flushed(file)
            _put_in_place(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def to_json(values: Mapping[str, Any]) -> str:
    """JSON as in every file of ours: indented, strict (no NaN), with a line break at its end."""
    return json.dumps(values, indent=2, allow_nan=False) + "\n"


def check_space(folder: Path, needed: int) -> None:
    """Refuse a disk that is too full before hours of work rather than after.

    Raises:
        StorageError: fewer than `needed` bytes are free.
    """
    with storage_errors(folder):
        free = shutil.disk_usage(folder).free
    if free < needed:
        raise StorageError(folder, f"{needed:,} bytes needed, {free:,} are free", FREE_SPACE)


def append_text(path: Path, text: str) -> None:
    """Append to a file, which may not be a link; after `flush` it will survive a power cut."""
    with storage_errors(path), open(path, "a", encoding="utf-8", newline="", opener=open_unlinked) as file:
        file.write(text)


def open_unlinked(path: Path | str, flags: int, mode: int = 0o666) -> int:
    """`os.open` that does not follow a link at `path`: in a folder from somebody else it could lead to any file.

    Raises:
        OSError: there is a link.
    """
    if not NO_LINK and Path(path).is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return os.open(path, flags | NO_LINK, mode)


def free_name(path: Path, why: str = "damaged") -> Path:
    """Where something can be set aside: WHY-NAME beside it, or with -2, -3 and so on at its end."""
    names = [path.with_name(f"{why}-{path.name}{suffix}") for suffix in ("", *(f"-{n}" for n in range(2, 1000)))]
    return next(name for name in names if not name.exists())


def truncate(path: Path, size: int) -> None:
    """Shorten a file, which may not be a link, to its first `size` bytes; a missing one counts as empty."""
    with storage_errors(path):
        if path.exists() and path.stat().st_size > size:
            descriptor = open_unlinked(path, os.O_RDWR)
            try:
                os.ftruncate(descriptor, size)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def flush(path: Path) -> int:
    """Flush a file to the disk, an empty one if there is none; returns its size in bytes."""
    with storage_errors(path):
        if not path.exists():
            os.close(open_unlinked(path, os.O_WRONLY | os.O_CREAT))
        flushed(path)
        flushed(path.parent)
        return path.stat().st_size


def remove_folder(path: Path) -> None:
    """Remove a folder as a whole: a process killed in the middle leaves nothing under its name."""
    with storage_errors(path):
        renamed = _beside(path)
        path.rename(renamed)
        shutil.rmtree(renamed)


def is_leftover(path: Path, name: str | None = None) -> bool:
    """Whether a path is a temporary file or folder of a process that no longer runs.

    Args:
        name: the final name it was meant for; by default any.
    """
    match = re.fullmatch(r"\.(.+)\.(\d+)(?:-([0-9a-f]+))?\.tmp", path.name)
    if match is None or name not in (None, match[1]):
        return False
    process = int(match[2])
    return match[3] != LIFE if process == os.getpid() else not _is_running(process)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left unfinished. Only for the holder of the folder's lock (`core.locks`)."""
    with storage_errors(folder):
        for path in filter(is_leftover, list(folder.rglob("*"))):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        return psutil.pid_exists(process)  # os.kill(process, 0) would end it on Windows
    except OverflowError:  # no process can have this number
        return False


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{LIFE}.tmp")


def _put_in_place(temporary: Path, path: Path) -> None:
    flushed(temporary)
    temporary.replace(path)
    flushed(path.parent)


def flushed(path: Path) -> None:
    """Wait until a file or folder has reached the disk."""
    if WINDOWS and path.is_dir():
        return  # Windows cannot flush a folder
    descriptor = os.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)  # Windows flushes what it may write to
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
