"""One decoded data set on disk: what is written, and how it is known that what is read is that.

`meta.json` describes the arrays and holds two sums: `fingerprint` over class names, labels and pixels, and `sum` over
the description itself. An entry whose description or arrays are not what was written is never used.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from daybreak.core.damaged import BROKEN_ARRAY
from daybreak.core.errors import StorageError, one_line
from daybreak.core.files import write_text
from daybreak.core.sections import Text
from daybreak.data.dataset import Indices, Labels, Part, Pictures, Split, release
from daybreak.data.image import DecodeSpec
from daybreak.data.pieces import Pieces

META, VERIFIED = "meta.json", "verified.json"
# The arrays of a smaller entry are summed up at every start, which takes a fraction of a second; those of a larger one
# when the files are not the ones that were summed up before, or when asked to.
BYTES_ALWAYS_VERIFIED = 512 * 2**20
BYTES_AT_A_TIME = 16 * 2**20


class DamagedEntryError(Exception):
    """There is an entry, and it is not what was written; the text says why, in a few words."""


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


class _Decode(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    size: int = Field(ge=1)
    channels: Literal[1, 3]


class _Meta(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    classes: list[Text] = Field(min_length=1)
    decode: _Decode
    fingerprint: str = Field(pattern="^[0-9a-f]{64}$")
    names: dict[Part, list[Text]]
    notes: list[Text]
    sizes: dict[str, int]
    sum: str


def write_entry(folder: Path, pictures: Pictures, parts: Mapping[Part, Indices], notes: tuple[str, ...]) -> None:
    """Decode into a folder, part after part; their order is part of the fingerprint. Where the folder has pieces of the
    same in it, from a process that was killed, decoding goes on behind them.

    Plain writes, not a writable memory map: on a full disk a write is an error, while a map kills the process.

    Raises:
        DataError: from `pictures.images`, if any image is broken.
        OSError: the disk is full.
    """
    side, channels = pictures.decode.size, pictures.decode.channels
    shapes = {part: (len(index), side, side, channels) for part, index in parts.items()}
    facts: dict[str, Any] = {
        "classes": list(pictures.classes),
        "decode": asdict(pictures.decode),
        "names": {part: [pictures.names[i] for i in index] for part, index in parts.items()},
    }
    pieces = Pieces(folder, shapes, _sum_of(facts))
    images = pictures.images(np.concatenate(list(parts.values()))[pieces.done :])
    digest = _begun(pictures.classes)
    for part, index in parts.items():
        labels_N = pictures.labels_N[index]
        digest.update(_of_part(part, shapes[part], labels_N))
        pieces.write(part, images, digest)
        np.save(folder / f"{part}_labels.npy", labels_N)
    pieces.finish()
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    meta = facts | {"fingerprint": digest.hexdigest(), "notes": list(notes), "sizes": sizes}
    (folder / META).write_text(json.dumps(meta | {"sum": _sum_of(meta)}), "utf-8")


def read_entry(folder: Path, verify: bool = False) -> Entry | None:
    """The entry, memory-mapped; None if there is none.

    Args:
        verify: sum up the arrays in any case.

    Raises:
        DamagedEntryError: it is not what was written, or was written by a version that kept no sum of the description.
    """
    if not folder.is_dir():
        return None
    meta = _read_meta(folder)
    for name, size in meta.sizes.items():
        if _size(folder / name) != size:
            raise DamagedEntryError(f"{name} is missing or has another size")
    splits = {part: _read_split(folder, part, meta) for part in meta.names}
    if not {"train", "test"} <= set(splits):
        raise DamagedEntryError("a part is missing")
    entry = Entry(
        tuple(meta.classes),
        splits["train"],
        splits["test"],
        splits.get("validation"),
        DecodeSpec(meta.decode.size, meta.decode.channels),
        meta.fingerprint,
        tuple(meta.notes),
    )
    _verify(folder, entry, splits, verify or sum(meta.sizes.values()) <= BYTES_ALWAYS_VERIFIED)
    return entry


def _read_meta(folder: Path) -> _Meta:
    try:
        found = json.loads((folder / META).read_text("utf-8"))
        meta = _Meta.model_validate(found)
    except OSError as error:
        raise DamagedEntryError(f"{META} cannot be read") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, or not ours
        raise DamagedEntryError(f"{META} is no description of an entry") from error
    if _sum_of({key: value for key, value in found.items() if key != "sum"}) != meta.sum:
        raise DamagedEntryError(f"{META} is not what was written")
    return meta


def _sum_of(meta: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (OSError, ValueError):  # a name with a NUL in it is a ValueError
        return None


def _read_split(folder: Path, part: Part, meta: _Meta) -> Split:
    names = tuple(meta.names[part])
    try:
        images_NHWC, labels_N = (_array(folder / f"{part}_{name}.npy") for name in ("images", "labels"))
    except BROKEN_ARRAY as error:
        raise DamagedEntryError(f"an array of the {part} part cannot be read ({one_line(str(error))[:80]})") from error
    shape = (len(names), meta.decode.size, meta.decode.size, meta.decode.channels)
    if images_NHWC.shape != shape or images_NHWC.dtype != np.uint8 or not images_NHWC.flags.c_contiguous:
        raise DamagedEntryError(f"the images of the {part} part are not as described")
    if labels_N.shape != shape[:1] or labels_N.dtype != np.int64:
        raise DamagedEntryError(f"the labels of the {part} part are not as described")
    if len(labels_N) and not 0 <= int(labels_N.min()) <= int(labels_N.max()) < len(meta.classes):
        raise DamagedEntryError(f"a label of the {part} part is none of the classes")
    return Split(images_NHWC, labels_N, names)


def _array(path: Path) -> np.ndarray:
    found = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(found, np.ndarray):  # numpy opens an archive too, whatever its name
        raise ValueError("no array")
    return found


def _verify(folder: Path, entry: Entry, splits: Mapping[Part, Split], in_any_case: bool) -> None:
    """Sum up what is there, unless these very files have been summed up before."""
    stamps = {path.name: file_stamp(path.stat()) for path in sorted(folder.glob("*.npy"))}
    if not in_any_case and _read_stamps(folder) == stamps:
        return
    digest = _begun(entry.classes)
    for part, split in splits.items():
        digest.update(_of_part(part, split.images_NHWC.shape, split.labels_N))
        at_a_time = max(1, BYTES_AT_A_TIME // max(1, split.images_NHWC[:1].nbytes))
        for start in range(0, len(split.names), at_a_time):
            digest.update(split.images_NHWC[start : start + at_a_time].data)
            release(split.images_NHWC)
    if digest.hexdigest() != entry.fingerprint:
        raise DamagedEntryError("images or labels are not what was written")
    if not in_any_case:
        with suppress(StorageError):  # only a shortcut, as in a cache that is not ours to write
            write_text(folder / VERIFIED, json.dumps(stamps))


def _read_stamps(folder: Path) -> object:
    try:
        return json.loads((folder / VERIFIED).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def file_stamp(status: os.stat_result) -> str:
    """Changes when a file may have changed. A size and a time can be put back; inode and time of change cannot."""
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def _begun(classes: tuple[str, ...]) -> Any:
    return hashlib.sha256(json.dumps(classes).encode())


def _of_part(part: Part, shape: tuple[int, ...], labels_N: Labels) -> bytes:
    return f"{part}{shape}".encode() + labels_N.astype("<i8").tobytes()
