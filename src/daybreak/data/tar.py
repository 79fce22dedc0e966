"""Tar archives, in which what tarfile passes over without a word is an error.

Python's own reader takes a damaged header, or a missing one, for the end of the archive; it believes any size that a
header states; and it stops at the end of the first of several archives. Left out: sparse files.
"""

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tarfile import HeaderError, ReadError, TarError, TarFile, TarInfo
from typing import IO, NoReturn, Self, cast

HEADERS = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, b"g", tarfile.SOLARIS_XHDTYPE)
MAX_HEADER = 2**15  # bytes of a long name or a pax header: they are read whole, and searched in quadratic time
MAX_MEMBER = 2**60  # a position behind this is none that a file can have
MAX_BEHIND = 2**26  # bytes after the end: it is filled up to a whole record
BLOCK, PIECE = 512, 2**20
END = tarfile.EOFHeaderError  # type: ignore[attr-defined]  # a block of zeros
SPARSE = "a sparse file in it"


class Member(TarInfo):
    """A member whose headers make sense.

    Raises:
        ReadError: one of them does not. (TarFile.next() would end there as if all had been read, wait for ever on a
            negative size, or read gigabytes at once as a name.)
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        if not buf:
            raise ReadError("cut short: its end is not marked")
        found = super().frombuf(buf, encoding, errors)
        _check_size(found.size, MAX_HEADER if found.type in HEADERS else MAX_MEMBER)
        if found.type == tarfile.GNUTYPE_SPARSE:
            raise ReadError(SPARSE)
        return found

    @classmethod
    def fromtarfile(cls, tarfile: TarFile) -> Self:
        try:
            found = super().fromtarfile(tarfile)
        except END:
            raise
        except HeaderError as error:
            raise ReadError(f"damaged or cut short after {tarfile.offset:,} bytes: {error}") from None
        _check_size(found.size, MAX_MEMBER)  # a pax header may have said another
        return found

    def _proc_gnusparse_00(self, *_: object) -> NoReturn:
        raise ReadError(SPARSE)

    _proc_gnusparse_01 = _proc_gnusparse_10 = _proc_gnusparse_00  # before their maps are read, however long


@contextmanager
def opened_tar(path: Path) -> Iterator[TarFile]:
    """A tar to be read once from front to back, compressed or not, whatever it is called.

    It is not tarfile that decompresses: it would do so without a limit, up to the end of the first stream, and would
    leave the checksum aside.
    """
    with (
        _content(path) as file,
        tarfile.open(fileobj=file, mode="r|", tarinfo=Member, encoding="utf-8", errors="surrogateescape") as archive,
    ):
        yield archive


def members_of(archive: TarFile) -> Iterator[TarInfo]:
    """The members in order, none of which is kept, and then a look at what follows the last.

    Raises:
        ReadError: the archive is damaged, cut short, or followed by another.
    """
    for member in archive:
        yield member
        archive.members.clear()  # type: ignore[attr-defined]  # else all of them stay in memory
    _look_behind(archive)


def _content(path: Path) -> IO[bytes]:
    """The file's bytes, decompressed as they are asked for."""
    with path.open("rb") as file:
        start = file.read(10)
    if start.startswith(b"\x1f\x8b\x08"):
        return cast(IO[bytes], gzip.open(path))
    if start.startswith(b"BZh") and start[4:] == b"1AY&SY":
        return bz2.open(path)
    if start.startswith((b"\x5d\x00\x00\x80", b"\xfd7zXZ")):
        return lzma.open(path)
    return path.open("rb")


def _look_behind(archive: TarFile) -> None:
    """Read on from the end of the archive: zeros should follow, and of a compressed file the checksum."""
    for _ in range(MAX_BEHIND // PIECE + 1):
        piece = archive.fileobj.read(PIECE)
        if not piece:
            return
        is_empty = piece.count(0) == len(piece)
        if not is_empty and any(_is_header(piece[at : at + BLOCK]) for at in range(0, len(piece), BLOCK)):
            raise ReadError("a second archive begins after its end: unpack both and pack them as one")
    raise ReadError(f"more than {MAX_BEHIND:,} bytes follow its end")


def _is_header(block: bytes) -> bool:
    try:
        TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except TarError:
        return False
    return True


def _check_size(size: int, limit: int) -> None:
    if not 0 <= size <= limit:
        raise ReadError(f"a header says that {size} bytes follow it")
