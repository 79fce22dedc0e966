"""Decoded data sets on disk: written once, whole or not at all, then memory-mapped.

    <cache directory>/decoded/<key>/   train_images.npy  train_labels.npy  test_images.npy  test_labels.npy  meta.json
                                       and, of data with a validation part, validation_images.npy  validation_labels.npy
    <cache directory>/seen/            which content a path had, so that the next start reads nothing

The key says what the content was and how it was decoded, not where it came from, so a copy elsewhere finds the same
entry. An entry with a missing file or one of another size is decoded again.
"""

import hashlib
import json
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from daybreak.core.errors import StorageError
from daybreak.core.files import storage_errors, write_text
from daybreak.core.machine import cache_dir
from daybreak.data.dataset import DecodeSpec, Indices, Part, Pictures, Pixels, Split

FORMAT = 2
FORMAT_OF_0_1_0 = 1  # without a validation part
STALE_SECONDS = 24 * 3600
REMEDY = "set DAYBREAK_CACHE_DIR to a folder that can be written and has space"


@dataclass(frozen=True)
class Entry:
    """A decoded data set as the cache holds it."""

    classes: tuple[str, ...]
    train: Split
    test: Split
    validation: Split | None
    decode: DecodeSpec
    fingerprint: str
    notes: tuple[str, ...]


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
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember(where: str, stamp: str, content: str) -> None:
    """Note what was read. Only a shortcut: where it cannot be written, the next start reads again."""
    with suppress(StorageError):
        write_text(_seen(where), json.dumps({"stamp": stamp, "content": content}))


def load(key: str) -> Entry | None:
    """The entry, memory-mapped; None if there is none or it is damaged."""
    folder = cache_dir() / "decoded" / key
    try:
        meta = json.loads((folder / "meta.json").read_text("utf-8"))
        for name, size in meta["sizes"].items():
            if (folder / name).stat().st_size != size:
                return None
        splits = {part: _load_split(folder, part, tuple(names)) for part, names in meta["names"].items()}
        return Entry(
            tuple(meta["classes"]),
            splits["train"],
            splits["test"],
            splits.get("validation"),
            DecodeSpec(**meta["decode"]),
            meta["fingerprint"],
            tuple(meta["notes"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


@contextmanager
def staging() -> Iterator[Path]:
    """A temporary directory beside the entries; gone after the block, unless published.

    Raises:
        StorageError: the cache cannot be written, or the disk is full.
    """
    root = cache_dir() / "decoded"
    with storage_errors(cache_dir(), remedy=REMEDY):
        root.mkdir(parents=True, exist_ok=True)
        _remove_stale(root)
        folder = _temporary(root)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write(folder: Path, pictures: Pictures, parts: Mapping[Part, Indices], notes: tuple[str, ...]) -> None:
    """Decode into a staging directory, part after part; their order is part of the fingerprint.

    Plain writes, not a writable memory map: on a full disk a write is an error, while a map kills the process.

    Raises:
        DataError: from `pictures.images`, if any image is broken.
        StorageError: the disk is full.
    """
    images = pictures.images(np.concatenate(list(parts.values())))
    side, channels = pictures.decode.size, pictures.decode.channels
    digest = hashlib.sha256(json.dumps(pictures.classes).encode())
    with storage_errors(cache_dir(), remedy=REMEDY):  # closing a file writes too, and fails again on a full disk
        for part, index in parts.items():
            shape = (len(index), side, side, channels)
            labels_N = pictures.labels_N[index]
            digest.update(f"{part}{shape}".encode() + labels_N.astype("<i8").tobytes())
            _write_images(folder / f"{part}_images.npy", shape, islice(images, len(index)), digest)
            np.save(folder / f"{part}_labels.npy", labels_N)
        meta = {
            "classes": pictures.classes,
            "decode": asdict(pictures.decode),
            "fingerprint": digest.hexdigest(),
            "names": {part: [pictures.names[i] for i in index] for part, index in parts.items()},
            "notes": notes,
            "sizes": {path.name: path.stat().st_size for path in folder.iterdir()},
        }
        (folder / "meta.json").write_text(json.dumps(meta), "utf-8")


def publish(folder: Path, key: str) -> Entry:
    """Give a staged entry its name. Where another process was faster, its entry is the one; both are the same."""
    target = folder.parent / key
    for _ in range(3):
        try:
            folder.rename(target)
        except OSError:
            if (entry := load(key)) is None:
                _discard(target)  # damaged, or it would have been used before
                continue
            return entry
        if (entry := load(key)) is not None:
            return entry
    raise StorageError(target, "cannot be replaced", "remove it, or set DAYBREAK_CACHE_DIR to another folder")


def _load_split(folder: Path, part: str, names: tuple[str, ...]) -> Split:
    images_NHWC = np.load(folder / f"{part}_images.npy", mmap_mode="r", allow_pickle=False)
    labels_N = np.load(folder / f"{part}_labels.npy", mmap_mode="r", allow_pickle=False)
    if not len(images_NHWC) == len(labels_N) == len(names) or images_NHWC.dtype != np.uint8:
        raise ValueError("parts of different lengths")
    return Split(images_NHWC, labels_N, names)


def _write_images(path: Path, shape: tuple[int, ...], images: Iterator[Pixels], digest: Any) -> None:
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for image_HWC in images:
            data = image_HWC.tobytes()
            digest.update(data)
            file.write(data)


def _temporary(root: Path) -> Path:
    """A new hidden directory with the usual permissions, so that a shared cache can be read by others."""
    folder = root / f".{secrets.token_hex(8)}"
    folder.mkdir()
    return folder


def _discard(folder: Path) -> None:
    """Move aside first: what has its name must be whole at any moment."""
    aside = _temporary(folder.parent)
    with suppress(OSError):  # another process may have done so
        folder.rename(aside / folder.name)
    shutil.rmtree(aside, ignore_errors=True)


def _remove_stale(root: Path) -> None:
    """What killed processes left behind, once it is a day old."""
    for folder in root.glob(".*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def _seen(where: str) -> Path:
    return cache_dir() / "seen" / f"{hashlib.sha256(where.encode('utf-8', 'surrogatepass')).hexdigest()}.json"
