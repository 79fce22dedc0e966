"""MNIST and Fashion-MNIST from their published idx files."""

import gzip
import math
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from daybreak.core.damaged import BROKEN
from daybreak.core.errors import DataError
from daybreak.data.arrays import from_arrays
from daybreak.data.dataset import Labels, Pictures
from daybreak.data.image import Pixels

MAX_BYTES = 2**30  # twenty times the largest file here; a header may claim anything


def reader_of_idx(classes: tuple[str, ...]) -> Callable[[tuple[Path, ...], int | None], Pictures]:
    """A reader of MNIST's four idx files: training images and labels, test images and labels; 28 x 28 grey."""

    def read(paths: tuple[Path, ...], size: int | None) -> Pictures:
        train = _idx_images(paths[0]), _idx_labels(paths[1])
        test = _idx_images(paths[2]), _idx_labels(paths[3])
        for (images_NHWC, labels_N), path in ((train, paths[1]), (test, paths[3])):
            check_labels(labels_N, len(images_NHWC), len(classes), path)
        return from_arrays(classes, {"train": train, "test": test}, size)

    return read


def _idx_images(path: Path) -> Pixels:
    return _idx(path, dimensions=3)[..., None]


def _idx_labels(path: Path) -> Labels:
    return _idx(path, dimensions=1).astype(np.int64)


def _idx(path: Path, dimensions: int) -> Pixels:
    """An idx file of unsigned bytes: two zero bytes, type 8, the number of dimensions, each as big-endian uint32."""
    try:
        with gzip.open(path) as file:
            magic, *shape = struct.unpack(f">{1 + dimensions}I", file.read(4 * (1 + dimensions)))
            data = file.read(min(math.prod(shape), MAX_BYTES) + 1)
    except BROKEN as error:
        raise malformed(path, str(error)) from None
    if magic != 0x800 + dimensions or len(data) != math.prod(shape):
        raise malformed(path, f"not an idx file with {dimensions} dimensions")
    return np.frombuffer(data, np.uint8).reshape(shape)


def check_labels(labels_N: Labels, count: int, classes: int, path: Path) -> None:
    if labels_N.shape != (count,) or count == 0 or labels_N.min() < 0 or labels_N.max() >= classes:
        raise malformed(path, f"{len(labels_N)} labels for {count} images of {classes} classes do not match")


def malformed(path: Path, why: str) -> DataError:
    return DataError(path, f"not in the published format ({why})", "remove it, so that it is downloaded again")
