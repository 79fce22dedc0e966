"""From what a user writes (a name or a path) to a source that can be read."""

import difflib
import hashlib
import os
import re
import time
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from daybreak.core.errors import DataError, one_line
from daybreak.core.machine import cache_dir
from daybreak.data import parquet, shards, table
from daybreak.data.archives import SUFFIXES, open_archive
from daybreak.data.arrays import read_digits, read_npz
from daybreak.data.cache import recall, remember
from daybreak.data.canonical import PUBLISHED, Published, verify
from daybreak.data.dataset import Pictures
from daybreak.data.download import fetch, sha256_of
from daybreak.data.entry import file_stamp
from daybreak.data.files import pictures_of, read_pictures, typical_side
from daybreak.data.folder import Folder
from daybreak.data.layout import PartNames
from daybreak.data.parquet import Parquet, parquet_files
from daybreak.data.remote import copied, is_url

NAMES = (*PUBLISHED, "digits")
FILE_SUFFIXES = (*SUFFIXES, ".npz")  # of files that hold the images themselves
# Archives that are known by their content, whatever their name: (name, title) by SHA-256.
KNOWN_ARCHIVES = {
    "6254f53a1bc70afc08c46178959354e8597763b03706815cc50b5e2cdff16569": ("cifar10-jpeg", "CIFAR-10 (JPEG q75)"),
    "dc091fc83d62d05939d52e9ade409cf322114dfba7cec765d7062869238812a3": ("cifar10", "CIFAR-10"),
}


class Source(Protocol):
    """Something a data set can be read from.

    Attributes:
        where: what an error names.
        name, title: see Dataset.
        notes: what the user should see about the choice of this source.
    """

    where: str
    name: str
    title: str
    notes: tuple[str, ...]

    def stamp(self) -> str:
        """Changes when the content may have changed; costs no reading of it."""

    def digest(self) -> str:
        """SHA-256 over the content (hex)."""

    def read(
        self, size: int | None, left_out: Collection[str], part_names: PartNames
    ) -> AbstractContextManager[Pictures]:
        """The pictures without some of their files, for as long as the block lasts. (Only what consists of image files
        has any to leave out, and only the parts of a user's own data can have one name or another.)"""


def find(data: str | Path) -> tuple[Source, float]:
    """The source, and the seconds that downloading it took.

    A name means the published data set even if a folder is called so: write ./cifar10 for the folder.

    Raises:
        DataError: there is no such thing, or it cannot be downloaded.
    """
    if data == "digits":
        return DigitsSource(), 0.0
    if isinstance(data, str) and data in PUBLISHED:
        return _published(data)
    if is_url(data):
        return _remote(str(data))
    path = _locate(os.fspath(data))
    if path.is_dir():
        return _folder(path), 0.0
    if path.suffix.lower() == parquet.SUFFIX:
        return ParquetSource([path], path), 0.0
    for name, published in PUBLISHED.items():
        if path.name == published.files[0].path:  # a CIFAR archive by its path; MNIST's files do not tell the two sets
            return PublishedSource(name, published, (path,)), 0.0
    if path.suffix.lower() in table.SUFFIXES:
        return TableSource(path), 0.0
    if path.suffix.lower() == shards.SUFFIX and shards.is_shard(path):
        return ShardSource([path], path), 0.0
    return FileSource(path), 0.0


def _folder(path: Path) -> Source:
    if inside := parquet_files(path):
        return ParquetSource(inside, path)
    if inside := shards.shards_in(path):
        return ShardSource(inside, path)
    return FolderSource(path)


def _remote(url: str) -> tuple[Source, float]:
    """A copy of what lies there, as if it lay here."""
    path, seconds = copied(url)
    source, _ = find(path)
    source.where = url
    return source, seconds


def find_here(name: str) -> str | None:
    """Where a data set that has a name is on this machine; nothing is downloaded or read. None if it is not here."""
    if name == "digits":
        return "scikit-learn"
    if name in PUBLISHED:
        paths = [_at_hand(file.path) for file in PUBLISHED[name].files]
        archive = None if all(paths) else _known_archive(name)
        return archive.where if archive else str(paths[0]) if all(paths) else None
    try:
        return str(_locate(name))
    except DataError:
        return None


def photo_side(data: str | Path) -> int | None:
    """The typical shorter side in px of a few images of a folder, a zip, a table, shards or Parquet; None for other
    data. (A tar would have to be read whole.)

    Raises:
        DataError: there is no such thing, or it cannot be read.
    """
    if data in NAMES:
        return None
    source, _ = find(data)
    if isinstance(source, FolderSource | ListedSource):
        return typical_side(source.container, any_name=isinstance(source, ListedSource))
    if not isinstance(source, FileSource) or source.path.suffix.lower() != ".zip":
        return None
    with open_archive(source.path) as container:
        return typical_side(container)


class DigitsSource:
    where = name = title = "digits"
    notes: tuple[str, ...] = ()

    def stamp(self) -> str:
        return "1"

    def digest(self) -> str:
        return hashlib.sha256(b"scikit-learn digits").hexdigest()

    @contextmanager
    def read(self, size: int | None, left_out: Collection[str], part_names: PartNames) -> Iterator[Pictures]:  # noqa: ARG002
        yield read_digits(size)


class PublishedSource:
    def __init__(self, name: str, published: Published, paths: tuple[Path, ...]) -> None:
        self.name, self.title, self.where = name, published.title, str(paths[0].resolve())
        self.notes = _shadowed(name)
        self._published, self._paths = published, paths

    def stamp(self) -> str:
        return " ".join(_file_stamp(path) for path in self._paths)

    def digest(self) -> str:
        verify(self._paths, self._published.files)
        return hashlib.sha256(" ".join(file.sha256 for file in self._published.files).encode()).hexdigest()

    @contextmanager
    def read(self, size: int | None, left_out: Collection[str], part_names: PartNames) -> Iterator[Pictures]:  # noqa: ARG002
        verify(self._paths, self._published.files)  # the digest may have been remembered
        yield self._published.read(self._paths, size)


class FolderSource:
    notes: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self.where = str(path.resolve())
        self.name, self.title = _name_and_title(Path(self.where).name)
        self.container = Folder(path)

    def stamp(self) -> str:
        return self.container.stamp

    def digest(self) -> str:
        return self.container.digest()

    @contextmanager
    def read(self, size: int | None, left_out: Collection[str], part_names: PartNames) -> Iterator[Pictures]:
        yield read_pictures(self.container, size, self.where, left_out, part_names)


class ListedSource:
    """Images that are listed with their labels."""

    notes: tuple[str, ...] = ()
    container: table.Table | Parquet | shards.Shards

    def __init__(self, path: Path) -> None:
        self.where = str(path.resolve())
        self.name, self.title = _name_and_title(path.name if path.is_dir() else path.stem)

    def stamp(self) -> str:
        return self.container.stamp

    def digest(self) -> str:
        return self.container.digest()

    @contextmanager
    def read(self, size: int | None, left_out: Collection[str], part_names: PartNames) -> Iterator[Pictures]:  # noqa: ARG002
        yield pictures_of(self.container, self.container.layout(left_out), size, self.where)


class TableSource(ListedSource):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.container = table.Table(path)


class ParquetSource(ListedSource):
    def __init__(self, paths: list[Path], path: Path) -> None:
        super().__init__(path)
        self.container = Parquet(paths)


class ShardSource(ListedSource):
    def __init__(self, paths: list[Path], path: Path) -> None:
        super().__init__(path)
        self.container = shards.Shards(paths)


class FileSource:
    """An archive or an .npz file."""

    def __init__(self, path: Path, notes: tuple[str, ...] = ()) -> None:
        self.where, self.notes = str(path.resolve()), notes
        suffix = next((suffix for suffix in FILE_SUFFIXES if path.name.lower().endswith(suffix)), None)
        if suffix is None:
            raise DataError(
                path,
                "neither a folder nor a data file",
                f"a folder, or one of {', '.join((*FILE_SUFFIXES, *table.SUFFIXES, parquet.SUFFIX))}",
            )
        self.name, self.title = _name_and_title(path.name[: -len(suffix)])
        self.path, self._is_npz = path, suffix == ".npz"

    def stamp(self) -> str:
        return _file_stamp(self.path)

    def digest(self) -> str:
        try:
            return sha256_of(self.path)
        except OSError as error:
            raise DataError(self.path, f"cannot be read ({error.strerror})", "check its permissions") from None

    @contextmanager
    def read(self, size: int | None, left_out: Collection[str], part_names: PartNames) -> Iterator[Pictures]:
        if self._is_npz:
            yield read_npz(self.path, size, part_names)
        else:
            with open_archive(self.path, spool_dir=cache_dir()) as container:
                yield read_pictures(container, size, self.where, left_out, part_names)


def content_of(source: Source) -> str:
    """The digest of the source's content; read again only if its stamp has changed."""
    stamp = source.stamp()
    content = recall(source.where, stamp)
    if content is None:
        content = source.digest()
        remember(source.where, stamp, content)
    return content


def is_published(source: Source, content: str) -> bool:
    """Whether others train on the very same images, so that records on them are compared."""
    return isinstance(source, DigitsSource | PublishedSource) or content in KNOWN_ARCHIVES


def _published(name: str) -> tuple[Source, float]:
    """The canonical files where they are at hand, else a known archive of the same images, else a download."""
    published = PUBLISHED[name]
    at_hand = [_at_hand(file.path) for file in published.files]
    archive = None if all(at_hand) else _known_archive(name)
    if archive:
        return archive, 0.0
    paths, seconds = [], 0.0
    for file, here in zip(published.files, at_hand, strict=True):
        target = cache_dir() / file.path
        if not here:
            started = time.perf_counter()
            fetch(file, target)
            seconds += time.perf_counter() - started
        paths.append(here or target)
    return PublishedSource(name, published, tuple(paths)), seconds


def _known_archive(name: str) -> FileSource | None:
    """NAME.zip in a search directory, if its content is that of a known archive with this name."""
    path = _at_hand(f"{name}.zip")
    if path is None or all(name != known for known, _ in KNOWN_ARCHIVES.values()):
        return None
    source = FileSource(path, _shadowed(name))
    known, _ = KNOWN_ARCHIVES.get(content_of(source), ("", ""))
    return source if known == name else None


def _shadowed(name: str) -> tuple[str, ...]:
    return (f"./{name} is not used: the name means {PUBLISHED[name].title}",) if os.path.exists(name) else ()


def _at_hand(file: str) -> Path | None:
    """The first file of this name in the search directories."""
    return next((folder / file for folder in _search_dirs() if os.path.isfile(folder / file)), None)


def _search_dirs() -> list[Path]:
    given = os.environ.get("DAYBREAK_DATA_DIR")
    return [*([Path(given)] if given else []), cache_dir()]


def _locate(text: str) -> Path:
    """The path itself, or a file of this name, with or without its suffix, in a search directory."""
    if os.path.exists(text):
        return Path(text)
    folders = [] if os.path.isabs(text) or not text else _search_dirs()
    for folder in folders:
        for suffix in ("", *FILE_SUFFIXES, *table.SUFFIXES):
            if os.path.exists(folder / f"{text}{suffix}"):
                return folder / f"{text}{suffix}"
    places = "".join(
        f", and not in {folder} (with or without {', '.join((*FILE_SUFFIXES, *table.SUFFIXES))})" for folder in folders
    )
    near = difflib.get_close_matches(text, NAMES, n=1)
    remedy = f"{near[0]!r}" if near else f"a path, one of {', '.join(NAMES)}, or set DAYBREAK_DATA_DIR"
    raise DataError(text or "the data set", f"not found as a path{places}", remedy)


def _name_and_title(stem: str) -> tuple[str, str]:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip(".-") or "data", one_line(stem) or "data"


def _file_stamp(path: Path) -> str:
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})", "check the file and its permissions") from None
    return file_stamp(status)
