"""CIFAR-10 and CIFAR-100 from their published archives of Python pickles.

The archives are read only after their SHA-256 matched, and even then by a reader that knows nothing but numbers,
strings, lists, dictionaries and uint8 arrays: whatever else a pickle asks for is refused.
"""

import math
import pickle
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from daybreak.data.arrays import from_arrays
from daybreak.data.dataset import Labels, Pictures
from daybreak.data.idx import check_labels, malformed
from daybreak.data.image import Pixels

Part = tuple[Pixels, Labels, tuple[str, ...]]
MAX_NAME = 255  # bytes


def read_cifar10(paths: tuple[Path, ...], size: int | None) -> Pictures:
    """CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images, 32 x 32 RGB."""
    members = _pickles(
        paths[0], "cifar-10-batches-py/", [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]
    )
    batches = [_cifar_part(members[f"data_batch_{i}"], b"labels", "train", paths[0]) for i in range(1, 6)]
    train = (
        np.concatenate([images_NHWC for images_NHWC, _, _ in batches]),
        np.concatenate([labels_N for _, labels_N, _ in batches]),
        tuple(name for _, _, names in batches for name in names),
    )
    test = _cifar_part(members["test_batch"], b"labels", "test", paths[0])
    return _cifar(members["batches.meta"], b"label_names", train, test, size, paths[0])


def read_cifar100(paths: tuple[Path, ...], size: int | None) -> Pictures:
    """CIFAR-100 (Krizhevsky 2009) with its 100 fine labels: 50,000 training and 10,000 test images, 32 x 32 RGB."""
    members = _pickles(paths[0], "cifar-100-python/", ["train", "test", "meta"])
    train, test = (_cifar_part(members[part], b"fine_labels", part, paths[0]) for part in ("train", "test"))
    return _cifar(members["meta"], b"fine_label_names", train, test, size, paths[0])


def _cifar(meta: Any, key: bytes, train: Part, test: Part, size: int | None, path: Path) -> Pictures:
    names = meta.get(key) if isinstance(meta, dict) else None
    if not isinstance(names, list) or not _are(bytes, names):
        raise malformed(path, f"no class names under {key!r}")
    for images_NHWC, labels_N, _ in (train, test):
        check_labels(labels_N, len(images_NHWC), len(names), path)
    classes = tuple(name.decode("utf-8", "surrogateescape") for name in names)
    return from_arrays(classes, {"train": train[:2], "test": test[:2]}, size, train[2] + test[2])


def _cifar_part(batch: Any, key: bytes, part: str, path: Path) -> Part:
    """Rows of 3,072 bytes are the red, the green and the blue plane, each 32 x 32."""
    rows = batch.get(b"data") if isinstance(batch, dict) else None
    if not isinstance(rows, _Array) or rows.shape[1:] != (3072,):
        raise malformed(path, f"no rows of 3072 bytes in the {part} part")
    images_NHWC = rows.array().reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    labels, files = batch.get(key), batch.get(b"filenames")
    if not _are(int, labels) or not _are(bytes, files):
        raise malformed(path, f"bad labels or file names in the {part} part (they are no lists of int and of bytes)")
    try:
        labels_N = np.array(labels, np.int64)
        names = tuple(f"{part}/{name.decode()}" for name in files)
    except (ValueError, OverflowError) as error:
        raise malformed(path, f"bad labels or file names in the {part} part ({error})") from None
    if len(names) != len(images_NHWC):
        raise malformed(path, f"{len(names)} file names for {len(images_NHWC)} images in the {part} part")
    return images_NHWC, labels_N, names


def _are(kind: type, values: Any) -> bool:
    """Whether it is a flat list of these, and the names are short. A pickle can refer to one value any number of times:
    forty lists of two references each are a million million labels."""
    is_flat = type(values) is list and all(type(value) is kind for value in values)
    return is_flat and (kind is not bytes or all(len(value) <= MAX_NAME for value in values))


def _pickles(path: Path, folder: str, names: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    try:
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                name = member.name.removeprefix(folder)
                content = archive.extractfile(member) if name in names and member.isfile() else None
                if content:
                    found[name] = _InertUnpickler(BytesIO(content.read()), encoding="bytes").load()
    except Exception as error:  # a hostile pickle can make the unpickler raise anything
        raise malformed(path, str(error)) from None
    missing = [name for name in names if name not in found]
    if missing:
        raise malformed(path, f"{folder}{missing[0]} is missing")
    return found


class _Array:
    """What a pickled NumPy array becomes: its shape and bytes, looked at before NumPy sees them."""

    shape: tuple[int, ...] = ()
    data: bytes = b""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, data = state
        if not isinstance(dtype, _Dtype) or dtype.kind not in ("u1", b"u1") or is_fortran or type(data) is not bytes:
            raise pickle.UnpicklingError("an array that is not plain uint8")
        if not all(type(side) is int and side >= 0 for side in shape) or math.prod(shape) != len(data):
            raise pickle.UnpicklingError("an array whose bytes do not match its shape")
        self.shape, self.data = tuple(shape), data

    def array(self) -> Pixels:
        return np.frombuffer(self.data, np.uint8).reshape(self.shape)


class _Dtype:
    def __init__(self, kind: str | bytes, *_: object) -> None:
        self.kind = kind

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Byte order and alignment mean nothing for single bytes."""


def _new_array(*_: object) -> _Array:
    return _Array()


def _latin1(text: str, *_: object) -> bytes:
    """How Python 3 writes bytes into an old pickle."""
    return text.encode("latin1")


_STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): _new_array,
    ("numpy._core.multiarray", "_reconstruct"): _new_array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _latin1,
}


class _InertUnpickler(pickle._Unpickler):
    """Builds none of the classes a pickle names, only harmless stand-ins for the four it needs.

    By the standard library's Python, as a table in its C grows to any number that a pickle writes behind a "remember":
    five bytes can ask for 32 GB. Without its bytearrays: they are made as long as is written before they are read.
    """

    def load_bytearray8(self) -> None:
        raise pickle.UnpicklingError("the pickle asks for a bytearray, which is not allowed")

    dispatch: ClassVar[dict[int, Any]] = pickle._Unpickler.dispatch | {pickle.BYTEARRAY8[0]: load_bytearray8}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"the pickle asks for {module}.{name}, which is not allowed")
        return _STAND_INS[module, name]
