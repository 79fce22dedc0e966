"""What a disk may hold after a power cut: a model of a file system that keeps only what was flushed for certain.

POSIX promises little. A file's bytes are safe once the file is flushed, an entry of a folder (a new name, a rename, a
removal) once the folder is. All the rest may have reached the disk or not, each piece on its own: bytes without their
name, a name without its bytes, the second of two renames without the first.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

Operation = tuple[str, list[str], bytes]  # what, its arguments, the bytes of a write


def read_log(path: Path) -> list[Operation]:
    """The operations that shim.c has noted."""
    content, at, found = path.read_bytes(), 0, []
    while at < len(content):
        end = content.index(b"\n", at)
        what, _, rest = content[at:end].decode().partition(" ")
        words, at, data = rest.split("\t"), end + 1, b""
        if what == "write":
            length = int(words[2])
            data, at = content[at : at + length], at + length + 1
        found.append((what, words, data))
    return found


@dataclass
class File:
    """Bytes: those that are safe, those that a program would read, and the changes in between, each a place with the
    bytes that it then has; none for a new size."""

    safe: bytes = b""
    now: bytes = b""
    changes: list[tuple[int, bytes]] = field(default_factory=list)

    def change(self, place: int, data: bytes) -> None:
        self.changes.append((place, data))
        self.now = _changed(self.now, place, data)


def _changed(content: bytes, place: int, data: bytes) -> bytes:
    padded = content.ljust(place, b"\0")
    return padded[:place] + (data + padded[place + len(data) :] if data else b"")


@dataclass
class Folder:
    """Entries: those that are safe, those that a program would see, and the changes in between, in their order.

    A change is a name with what it then means; None where it is gone. Those of one rename belong together.
    """

    safe: dict[str, "Node"] = field(default_factory=dict)
    now: dict[str, "Node"] = field(default_factory=dict)
    changes: list[dict[str, "Node | None"]] = field(default_factory=list)

    def change(self, entries: "dict[str, Node | None]") -> None:
        self.changes.append(entries)
        _apply(self.now, entries)


Node = File | Folder


def _apply(entries: dict[str, Node], change: "dict[str, Node | None]") -> None:
    for name, node in change.items():
        if node is None:
            entries.pop(name, None)
        else:
            entries[name] = node


class Disk:
    """The folder of a test, taken through operations; `after_a_cut` says what may be left."""

    def __init__(self, root: Path) -> None:
        self.root, self.top = root, Folder()

    def take(self, operation: Operation) -> None:
        """One operation more."""
        what, words, data = operation
        if what in ("sync", "write", "truncate"):
            node = self._find(words[0])
            if what == "sync":
                _flush(node)
            elif isinstance(node, File):
                node.change(int(words[1]), data)
            return
        folder, name = self._place(words[0])
        if what == "rename":
            target, new_name = self._place(words[1])
            assert target is folder, "renamed from folder to folder: the model does not know that"
            folder.change({name: None, new_name: folder.now[name]})
        else:
            made: dict[str, Node | None] = {"create": File(), "mkdir": Folder()}
            folder.change({name: made.get(what)})

    def after_a_cut(self, survives: Callable[[], bool]) -> "Snapshot":
        """What is found when the power is back.

        Args:
            survives: asked for everything that was not flushed.
        """
        return _left_of(self.top, survives)

    def _find(self, path: str) -> Node:
        node: Node = self.top
        for part in Path(path).relative_to(self.root).parts:
            assert isinstance(node, Folder)
            node = node.now[part]
        return node

    def _place(self, path: str) -> tuple[Folder, str]:
        folder = self._find(str(Path(path).parent))
        assert isinstance(folder, Folder)
        return folder, Path(path).name


Snapshot = dict[str, "bytes | Snapshot"]


def _flush(node: Node) -> None:
    if isinstance(node, File):
        node.safe, node.changes = node.now, []
    else:
        node.safe, node.changes = dict(node.now), []


def _left_of(folder: Folder, survives: Callable[[], bool]) -> Snapshot:
    entries = dict(folder.safe)
    for change in folder.changes:
        if survives():
            _apply(entries, change)
    return {
        name: _left_of(node, survives) if isinstance(node, Folder) else _bytes_left(node, survives)
        for name, node in entries.items()
    }


def _bytes_left(file: File, survives: Callable[[], bool]) -> bytes:
    content = file.safe
    for place, data in file.changes:
        if survives():
            content = _changed(content, place, data)
    return content


def lay_out(found: Snapshot, folder: Path) -> None:
    """As real files."""
    folder.mkdir()
    for name, content in found.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            lay_out(content, folder / name)


def cuts(operations: Iterable[Operation], root: Path, seeds: int) -> Iterator[tuple[int, Snapshot]]:
    """After every operation, with its number, what may be left: nothing that was not flushed; all of it; and what
    chance says, as often as there are seeds."""
    disk = Disk(root)
    for number, operation in enumerate(operations, 1):
        disk.take(operation)
        choices: list[Callable[[], bool]] = [lambda: False, lambda: True]
        choices += [lambda r=random.Random(1000 * number + seed): r.random() < 0.5 for seed in range(seeds)]  # type: ignore[misc]
        for survives in choices:
            yield number, disk.after_a_cut(survives)
