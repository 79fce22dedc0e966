"""The files of a folder on disk. Links may not lead out of it, and no folder is visited twice."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from io import BufferedReader
from pathlib import Path

from daybreak.core.errors import DataError
from daybreak.data.entry import file_stamp
from daybreak.data.layout import MAX_LEVELS, hidden_folder_of_image


class Folder:
    """A folder as a container: names relative to it, "/" between the parts.

    Raises:
        DataError: a folder cannot be listed or lies too deep, a link leaves the folder, or something is neither file
            nor folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))
        self.names: list[str] = []
        self.names_in_hidden: list[str] = []
        self.folders: list[str] = []
        stamp = hashlib.sha256()
        for name, status in sorted(self._walk("")):
            stamp.update(f"{name}\0{file_stamp(status)}\0".encode("utf-8", "surrogatepass"))
            self.names.append(name)
        stamp.update(self._structure())
        self.stamp = stamp.hexdigest()

    def open(self, name: str) -> BufferedReader:
        return (self.root / name).open("rb")

    def digest(self) -> str:
        """SHA-256 over names and bytes; the same for a copy elsewhere. An unreadable file counts by its name."""
        digest = hashlib.sha256(self._structure())
        for name in self.names:
            digest.update(f"{name}\0".encode("utf-8", "surrogatepass"))
            try:
                with self.open(name) as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
            except OSError:
                continue  # decoding lists it among the bad files
        return digest.hexdigest()

    def _structure(self) -> bytes:
        """What is there beside the files that are read: folders, and images in hidden ones, as a note tells of them."""
        hidden = f"hidden {self.names_in_hidden!r}" if self.names_in_hidden else ""
        return f"{sorted(self.folders)!r}{hidden}".encode("utf-8", "surrogatepass")

    def _walk(self, folder: str) -> Iterator[tuple[str, os.stat_result]]:
        path = self.root / folder
        if folder.count("/") > MAX_LEVELS:  # of Python's own levels there are about a thousand
            raise DataError(self.root, f"folders of more than {MAX_LEVELS} levels: {folder[:50]}…", "fewer levels")
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(path, f"cannot be listed ({error.strerror})", "check its permissions") from None
        for entry in entries:
            name = f"{folder}{entry.name}"
            if entry.name.startswith("."):
                self._look_into(entry, name)
                continue
            if entry.is_symlink():
                self._check_link(entry)
            if entry.is_dir(follow_symlinks=False):
                self.folders.append(name)
                yield from self._walk(f"{name}/")
            elif entry.is_file():
                yield name, entry.stat()
            elif not os.path.exists(entry.path):  # a dangling link: decoding lists it among the bad files
                yield name, entry.stat(follow_symlinks=False)
            elif not entry.is_dir():
                raise DataError(entry.path, "neither a file nor a folder", "remove it")
            # What remains links to a folder inside, which is visited under its own name.

    def _look_into(self, hidden: os.DirEntry[str], name: str) -> None:
        """Images that lie directly in a hidden folder are named, so that a person can be told, and never opened."""
        if hidden.is_dir(follow_symlinks=False):
            with suppress(OSError):
                found = sorted(f"{name}/{entry.name}" for entry in os.scandir(hidden.path))
                self.names_in_hidden += filter(hidden_folder_of_image, found)

    def _check_link(self, entry: os.DirEntry[str]) -> None:
        target = os.path.realpath(entry.path)
        if os.path.commonpath([self.root, target]) != str(self.root):
            raise DataError(entry.path, f"the link leaves the data folder (to {target})", "copy the file to its place")
