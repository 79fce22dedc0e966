"""The files inside a .zip or .tar.*, read without ever unpacking one to its own name.

Names that would leave the archive, links that do, devices, and archives that swell beyond reason are refused.
A tar is read once from front to back, compressed or not: its files go to one anonymous temporary file.
"""

import posixpath
import tarfile
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, BinaryIO, Protocol, cast

from daybreak.core.damaged import BROKEN
from daybreak.core.errors import DataError, StorageError
from daybreak.data.image import MAX_BYTES
from daybreak.data.tar import members_of, opened_tar

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
MAX_MEMBERS = 5_000_000
IN_MEMORY = 256 * 2**20
COPY_BYTES = 2**20
LARGE_MEMBER = 2**20  # is read piece by piece, so that whoever reads it can stop
UTF_8_NAME = 0x800  # flag of a zip member


class Container(Protocol):
    """Files by name, "/" between the parts.

    Attributes:
        names: all files that may be images.
        folders: all folders, so that an empty one is seen.
        names_in_hidden: files in hidden folders that are not among `names`, so that a person can be told of them.
    """

    names: list[str]
    folders: list[str]
    names_in_hidden: list[str]

    def open(self, name: str) -> BinaryIO: ...


@contextmanager
def open_archive(path: Path, spool_dir: Path | None = None) -> Iterator[Container]:
    """The files of an archive, for as long as the block lasts.

    Args:
        path: a file with one of SUFFIXES.
        spool_dir: where a large tar keeps its files meanwhile; the system's temporary folder by default.

    Raises:
        DataError: the archive is broken, encrypted or hostile.
    """
    if path.name.lower().endswith(".zip"):
        with _opened_zip(path) as archive:
            yield _Zip(archive, path)
    else:
        with tempfile.SpooledTemporaryFile(IN_MEMORY, dir=str(spool_dir) if spool_dir else None) as spool:
            yield _Tar(path, spool)


class _Zip:
    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self._archive = archive
        self.names_in_hidden: list[str] = []  # they are among the names
        members = archive.infolist()
        refuse_swelling(path, len(members), sum(member.file_size for member in members), unpacked_limit(path))
        if any(member.flag_bits & 1 for member in members):
            raise DataError(path, "the archive is encrypted", "an archive without a password")
        self._members: dict[str, zipfile.ZipInfo] = {}
        folders: dict[str, None] = {}
        for member in members:
            name = safe_name(_name_in_zip(member), path)
            _refuse_second(name, [self._members] if member.is_dir() else [self._members, folders], path)
            if member.is_dir():
                folders[name] = None
            else:
                _refuse_odd_compression(name, member, path)
                self._members[name] = member
        self.names = list(self._members)
        self.folders = [name for name in folders if name != "."]

    def open(self, name: str) -> BinaryIO:
        member = self._members[name]
        content = cast(BinaryIO, self._archive.open(member))
        if member.file_size > LARGE_MEMBER:
            return content
        return BytesIO(content.read(member.file_size + 1))  # read() inflates up to a gigabyte before it cuts it to size


class _Tar:
    def __init__(self, path: Path, spool: IO[bytes]) -> None:
        self._spool = spool
        self.names_in_hidden: list[str] = []
        self._extents: dict[str, tuple[int, int]] = {}
        self._folders: dict[str, None] = {}
        links: dict[str, str] = {}
        try:
            with opened_tar(path) as archive:
                limit = unpacked_limit(path)
                for count, member in enumerate(members_of(archive)):
                    refuse_swelling(path, count, spool.tell() + member.size, limit)
                    self._take(archive, member, links, path)
        except BROKEN as error:
            raise _broken(path, error) from None
        self._resolve(links, path)
        self.names = list(self._extents)
        self.folders = [name for name in self._folders if name != "."]

    def _take(self, archive: tarfile.TarFile, member: tarfile.TarInfo, links: dict[str, str], path: Path) -> None:
        name = safe_name(member.name, path)
        files: list[Collection[str]] = [self._extents, links]
        _refuse_second(name, files if member.isdir() else [*files, self._folders], path)
        if member.isdir():
            self._folders[name] = None
        elif member.isfile():
            self._extents[name] = (self._spool.tell(), member.size)
            self._store(archive.extractfile(member), path)
        elif member.issym():
            links[name] = _inside(posixpath.join(posixpath.dirname(name), member.linkname), name, path)
        elif member.islnk():
            links[name] = _inside(member.linkname, name, path)
        else:
            raise DataError(path, f"{member.name!r} is a device or a pipe", "an archive of image files only")

    def _store(self, content: IO[bytes] | None, path: Path) -> None:
        while block := content.read(COPY_BYTES) if content else b"":
            try:
                self._spool.write(block)
            except OSError as error:
                why = f"no room to unpack it ({error.strerror})"
                raise StorageError(path, why, "free space, or DAYBREAK_CACHE_DIR on another disk") from None

    def _resolve(self, links: dict[str, str], path: Path) -> None:
        for name, target in links.items():
            if target not in self._extents:
                raise DataError(path, f"{name!r} links to {target!r}, which is not a file before it", "plain files")
            self._extents[name] = self._extents[target]

    def open(self, name: str) -> BinaryIO:
        offset, length = self._extents[name]
        self._spool.seek(offset)
        return BytesIO(self._spool.read(min(length, MAX_BYTES + 1)))


def safe_name(name: str, where: object) -> str:
    """A member's name without "./"; refuses one that leaves the archive.

    Raises:
        DataError: the name is empty, absolute, climbs with "..", or has a drive letter or a backslash in it.
    """
    parts = name.split("/")
    if not name or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or ":" in parts[0]:
        raise DataError(where, f"unsafe name in the archive: {name!r}", "an archive with plain relative names")
    return posixpath.normpath(name)


def _name_in_zip(member: zipfile.ZipInfo) -> str:
    """The name in UTF-8 if it can be that: macOS writes it so and leaves out the flag, without which it is cp437."""
    if member.flag_bits & UTF_8_NAME:
        return member.filename
    try:
        return member.filename.encode("cp437").decode("utf-8")
    except UnicodeError:  # neither UTF-8 nor, where another field has the name, cp437
        return member.filename


def _refuse_odd_compression(name: str, member: zipfile.ZipInfo, path: Path) -> None:
    """zipfile inflates bzip2 and LZMA without a limit, and does not know the others."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        why = f"{name!r} is compressed by method {member.compress_type}, not by deflate"
        raise DataError(path, why, "an ordinary .zip, or .tar.xz")


def _refuse_second(name: str, taken: Sequence[Collection[str]], path: Path) -> None:
    if any(name in names for names in taken):
        raise DataError(path, f"two members are called {name!r}", "an archive in which every name occurs once")


def _inside(target: str, name: str, where: object) -> str:
    resolved = posixpath.normpath(target)
    if resolved.startswith(("/", "../")) or resolved == "..":
        raise DataError(
            where, f"link {name!r} leaves the archive (to {target!r})", "store the file instead of the link"
        )
    return resolved


def unpacked_limit(path: Path) -> int:
    """Images hardly compress: what holds more than 200 times its own size, and a gigabyte, is a bomb."""
    return 2**30 + 200 * path.stat().st_size


def refuse_swelling(path: Path, members: int, unpacked: int, limit: int) -> None:
    """Raise DataError where an archive holds too many files or bytes."""
    if members > MAX_MEMBERS or unpacked > limit:
        raise DataError(path, f"unpacks to {members} files, {unpacked} bytes: too much for its size", "a plain folder")


@contextmanager
def _opened_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except BROKEN as error:
        raise _broken(path, error) from None
    with archive:
        yield archive


def _broken(path: Path, error: Exception) -> DataError:
    if isinstance(error, OSError) and error.errno is not None:
        return DataError(path, f"cannot be read ({error.strerror})", "check the file and its permissions")
    return DataError(path, f"broken archive ({error or type(error).__name__})", "make or download it again")
