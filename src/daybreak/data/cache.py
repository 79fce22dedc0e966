"""Decoded data sets on disk: written once, whole or not at all, then memory-mapped.

    <cache directory>/decoded/<key>/   train_images.npy  train_labels.npy  test_images.npy  test_labels.npy  meta.json
                                       and, of data with a validation part, validation_images.npy  validation_labels.npy
    <cache directory>/seen/            which content a path had, so that the next start reads nothing

The key says what the content was and how it was decoded, not where it came from, so a copy elsewhere finds the same
entry. One that is not what was written (entry.py) is set aside and decoded again.
"""

import hashlib
import json
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from daybreak.core.errors import StorageError
from daybreak.core.files import storage_errors, write_text
from daybreak.core.locks import locked
from daybreak.core.machine import cache_dir
from daybreak.data.dataset import Indices, Part, Pictures
from daybreak.data.entry import DamagedEntryError, Entry, read_entry, write_entry

FORMAT = 2
FORMAT_OF_0_1_0 = 1  # without a validation part
STALE_SECONDS = 24 * 3600
REMEDY = "set DAYBREAK_CACHE_DIR to a folder that can be written and has space"


def entry_key(
    content: str, size: int | None, split_seed: int | None, skip_bad: bool = False, parts_of_0_1_0: bool = False
) -> str:
    """The entry's name; `split_seed` is None where the source has a test part of its own. Parts as 0.1.0 understood
    them are in the entries that 0.1.0 wrote, under its keys."""
    asked = [
        FORMAT_OF_0_1_0 if parts_of_0_1_0 else FORMAT,
        content,
        size,
        split_seed,
        *(["skip bad"] if skip_bad else []),
    ]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def recall(where: str, stamp: str) -> str | None:
    """The content digest that `where` had when its stamp was this one; None if that is not known."""
    try:
        seen = json.loads(_seen(where).read_text("utf-8"))
        return str(seen["content"]) if seen["stamp"] == stamp else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def remember(where: str, stamp: str, content: str) -> None:
    """Note what was read. Only a shortcut: where it cannot be written, the next start reads again."""
    with suppress(StorageError):
        write_text(_seen(where), json.dumps({"stamp": stamp, "content": content}))


def load(key: str, verify: bool = False) -> Entry | None:
    """The entry, memory-mapped; None if there is none.

    Raises:
        DamagedEntryError: there is one, and it is not what was written.
    """
    return read_entry(_entries() / key, verify)


def set_aside(key: str) -> Path | None:
    """Take a damaged entry out of the way; it is kept for a day. None where another process was faster."""
    with storage_errors(cache_dir(), remedy=REMEDY):
        aside = _temporary(_entries()) / key
    try:
        (_entries() / key).rename(aside)
    except OSError:
        aside.parent.rmdir()
        return None
    return aside


@contextmanager
def turn(key: str) -> Iterator[None]:
    """While the block runs other processes wait that want to decode the same: it is decoded once.

    Raises:
        StorageError: the cache cannot be written.
    """
    folder = _entries() / f".turn-{key[:16]}"
    held = ExitStack()
    while True:
        with storage_errors(cache_dir(), remedy=REMEDY):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            held.enter_context(locked(folder, wait=True, remedy=REMEDY))
            break
        except StorageError:  # unless whoever had it before has just removed the folder
            if folder.exists():
                raise
    try:
        yield
    finally:
        held.close()
        with suppress(OSError):  # another process waits for it
            folder.rmdir()


@contextmanager
def staging(key: str) -> Iterator[Path]:
    """A directory beside the entries, of whoever has the turn; gone after the block, unless published. What a process
    that was killed or interrupted had written in it is still there, for a day.

    Raises:
        StorageError: the cache cannot be written, or the disk is full.
    """
    root = _entries()
    folder = root / f".decoding-{key[:16]}"
    with storage_errors(cache_dir(), remedy=REMEDY):
        root.mkdir(parents=True, exist_ok=True)
        _remove_stale(root)
        folder.mkdir(exist_ok=True)
    goes_on = False
    try:
        yield folder
    except (KeyboardInterrupt, SystemExit):
        goes_on = True
        raise
    finally:
        if not goes_on:
            shutil.rmtree(folder, ignore_errors=True)


def write(folder: Path, pictures: Pictures, parts: Mapping[Part, Indices], notes: tuple[str, ...]) -> None:
    """Decode into a staging directory.

    Raises:
        DataError: from `pictures.images`, if any image is broken.
        StorageError: the disk is full.
    """
    with storage_errors(cache_dir(), remedy=REMEDY):  # closing a file writes too, and fails again on a full disk
        write_entry(folder, pictures, parts, notes)


def publish(folder: Path, key: str) -> Entry:
    """Give a staged entry its name. Where another process was faster, its entry is the one; both are the same."""
    target = folder.parent / key
    for _ in range(3):
        with suppress(OSError):
            folder.rename(target)
        try:
            if (entry := load(key)) is not None:
                return entry
        except DamagedEntryError:  # not seen before: it was not there, or somebody is at it right now
            set_aside(key)
    raise StorageError(target, "cannot be replaced", "remove it, or set DAYBREAK_CACHE_DIR to another folder")


def _entries() -> Path:
    return cache_dir() / "decoded"


def _temporary(root: Path) -> Path:
    """A new hidden directory with the usual permissions, so that a shared cache can be read by others."""
    folder = root / f".{secrets.token_hex(8)}"
    folder.mkdir()
    return folder


def _remove_stale(root: Path) -> None:
    """What killed processes left behind, once it is a day old."""
    for folder in root.glob(".*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def _seen(where: str) -> Path:
    return cache_dir() / "seen" / f"{hashlib.sha256(where.encode('utf-8', 'surrogatepass')).hexdigest()}.json"
