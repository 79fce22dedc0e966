"""Arrays of images while they are written: in pieces, each summed up and flushed, so that decoding that was killed goes
on behind the last whole piece instead of at the first image.

One file an array, not one a piece: a training maps it into memory as a whole.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from daybreak.core.files import write_text
from daybreak.data.dataset import Part
from daybreak.data.image import Pixels

PROGRESS = "progress.json"
PIECE_BYTES = 256 * 2**20  # a small data set is one piece, and waits for no disk
BYTES_AT_A_TIME = 16 * 2**20
Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Piece:
    """Images of a part: where their bytes lie in its file."""

    path: Path
    images: int
    offset: int
    length: int

    def add_to(self, digest: Any) -> None:
        """Add what is there to a digest."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            left = self.length
            while left and (block := file.read(min(left, BYTES_AT_A_TIME))):
                digest.update(block)
                left -= len(block)

    def sum(self) -> str:
        """SHA-256 over what is there."""
        own = hashlib.sha256()
        self.add_to(own)
        return own.hexdigest()


class Pieces:
    """The arrays of the parts, in order.

    Args:
        folder: where `<part>_images.npy` are, or will be.
        shapes: (N, H, W, C) of each part.
        plan: says what is written (which images, how decoded); what was written by another plan is written again.

    Attributes:
        done: how many images, of all parts in order, are there already.
    """

    def __init__(self, folder: Path, shapes: Mapping[Part, Shape], plan: str) -> None:
        self._folder, self._shapes, self._plan = folder, shapes, plan
        self._pieces = {part: list(_pieces(folder / f"{part}_images.npy", shape)) for part, shape in shapes.items()}
        everything = [piece for pieces in self._pieces.values() for piece in pieces]
        self._sums: list[str] = []
        for piece, planned in zip(everything, _noted(folder, plan), strict=False):
            if not piece.path.exists() or piece.sum() != planned:
                break
            self._sums.append(planned)
        self._kept, self._count = len(self._sums), len(everything)
        self.done = sum(piece.images for piece in everything[: self._kept])

    def write(self, part: Part, images: Iterator[Pixels], digest: Any) -> None:
        """Write what is missing of a part, the next of `images`, and add all of its bytes to a digest.

        Raises:
            OSError: the disk is full.
        """
        path = self._folder / f"{part}_images.npy"
        with path.open("r+b" if self._kept and path.exists() else "wb") as file:
            file.write(_header(self._shapes[part]))
        for piece in self._pieces[part]:
            if self._kept:
                self._kept -= 1
                piece.add_to(digest)
            else:
                self._write(piece, images, digest)

    def _write(self, piece: Piece, images: Iterator[Pixels], digest: Any) -> None:
        own = hashlib.sha256()
        with piece.path.open("r+b") as file:
            file.truncate(piece.offset)
            file.seek(piece.offset)
            for image_HWC in islice(images, piece.images):
                data = image_HWC.tobytes()
                digest.update(data)
                own.update(data)
                file.write(data)
            self._sums.append(own.hexdigest())
            if len(self._sums) == self._count:  # the whole entry is there
                return
            file.flush()
            os.fsync(file.fileno())
        write_text(self._folder / PROGRESS, json.dumps({"plan": self._plan, "sums": self._sums}))

    def finish(self) -> None:
        """Forget how it came about: all is written."""
        (self._folder / PROGRESS).unlink(missing_ok=True)


def _pieces(path: Path, shape: Shape) -> Iterator[Piece]:
    count, an_image = shape[0], int(np.prod(shape[1:]))
    offset, at_a_time = len(_header(shape)), max(1, PIECE_BYTES // an_image)
    for start in range(0, count, at_a_time):
        images = min(at_a_time, count - start)
        yield Piece(path, images, offset + start * an_image, images * an_image)


def _header(shape: Shape) -> bytes:
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return header.getvalue()


def _noted(folder: Path, plan: str) -> list[str]:
    try:
        noted = json.loads((folder / PROGRESS).read_text("utf-8"))
        return [str(piece) for piece in noted["sums"]] if noted["plan"] == plan else []
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
