"""Tar shards as WebDataset has them: a sample is the members with one name up to its first dot.

    train-000000.tar    a/0001.jpg  a/0001.cls  a/0002.jpg  a/0002.cls …
    test-000000.tar
    classes.txt         optional: the name of class 0, 1, … where the labels are numbers

The label is in NAME.cls or NAME.txt, or in NAME.json under one of table.LABEL; the part is what the shard's name says.
Nothing is unpacked: members are read where they lie, so that any number of shards takes no more room.
"""

import hashlib
import json
import tarfile
import threading
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from daybreak.core.damaged import BROKEN
from daybreak.core.errors import DataError, one_line
from daybreak.data.archives import MAX_MEMBERS, safe_name
from daybreak.data.dataset import TRAIN
from daybreak.data.download import sha256_of
from daybreak.data.entry import file_stamp
from daybreak.data.files import plural
from daybreak.data.image import MAX_BYTES
from daybreak.data.layout import IMAGE_SUFFIXES, Layout, check_class_names
from daybreak.data.parquet import part_of
from daybreak.data.table import LABEL
from daybreak.data.tar import Member, members_of

SUFFIX, LABELS, CLASSES = ".tar", (".cls", ".txt", ".json"), ("classes.txt", "classnames.txt")
LABEL_BYTES, MAX_DIGITS = 2**20, 18
NAMED = 10  # labels without an image that a note names
Extent = tuple[int, int, int]  # shard, offset, length
Images = dict[str, tuple[str, Extent]]  # by stem
Labels = dict[str, dict[str, list[str]]]  # by stem and suffix


def shards_in(folder: Path) -> list[Path]:
    """The shards of a folder; none where it has folders in it that may be classes."""
    found = sorted(folder.glob(f"*{SUFFIX}"))
    has_folders = found and any(entry.is_dir() and not entry.name.startswith(".") for entry in folder.iterdir())
    return [] if has_folders else found


def is_shard(path: Path) -> bool:
    """Whether a tar begins with a sample rather than with class folders: an image, and beside it a label."""
    try:
        with tarfile.open(path, "r:", tarinfo=Member) as archive:
            first = [member.name for _, member in zip(range(8), archive, strict=False) if member.isfile()]
    except BROKEN:
        return False
    kinds = {(_stem(name), _suffix(name)) for name in first}
    return any(suffix in IMAGE_SUFFIXES and any((stem, label) in kinds for label in LABELS) for stem, suffix in kinds)


class Shards:
    """The samples of shards as a container of image files, called SHARD/NAME.

    Raises:
        DataError: a shard is broken or compressed or has links in it, or a sample has no label or two.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths, self._lock = paths, threading.Lock()
        self.stamp = self.stamp_now()
        self._images: dict[str, Extent] = {}
        self._labels: dict[str, str] = {}
        self._without_image: list[str] = []
        self._held: tuple[int, BinaryIO] | None = None  # images are asked for in order, and there may be 1,000 shards
        for shard in range(len(paths)):
            self._read(shard)
        if not self._images:
            raise DataError(paths[0], "no images with labels in it", "samples such as 0001.jpg with 0001.cls")
        self.names = list(self._images)
        self.names_in_hidden: list[str] = []
        self.folders: list[str] = []

    def open(self, name: str) -> BytesIO:
        shard, offset, length = self._images[name]
        with self._lock:
            if self._held is None or self._held[0] != shard:
                if self._held:
                    self._held[1].close()
                self._held = (shard, self.paths[shard].open("rb"))
            self._held[1].seek(offset)
            return BytesIO(self._held[1].read(min(length, MAX_BYTES + 1)))

    def stamp_now(self) -> str:
        """`stamp` is that of before they were read."""
        return " ".join(file_stamp(path.stat()) for path in [*self.paths, *self._class_files])

    def digest(self) -> str:
        """SHA-256 over the shards and their names, which say the parts."""
        files = [*self.paths, *self._class_files]
        return hashlib.sha256(" ".join(f"{path.name}\0{sha256_of(path)}" for path in files).encode()).hexdigest()

    def layout(self, left_out: Collection[str]) -> Layout:
        """The shards' own classes and parts, without some of their samples.

        Raises:
            DataError: a number has no name in classes.txt, or class names only look different.
        """
        names = tuple(name for name in self.names if name not in left_out)
        labels = [self._labels[name] for name in names]
        listed = self._listed_classes()
        numbered = all(label.isdecimal() and len(label) <= MAX_DIGITS for label in labels)
        classes = listed or tuple(sorted(set(labels), key=int if numbered else str))
        check_class_names(classes, self.paths[0])
        index = {str(i) if listed and numbered else name: i for i, name in enumerate(classes)}
        for name, label in zip(names, labels, strict=True):
            if label not in index:
                why = f"{name}: label {one_line(label)[:50]!r} is none of the {len(classes)} in it"
                raise DataError(self._class_files[0], why, "a line for each class, the first for 0")
        parts = [part_of(name) for name in names]
        if all(part != TRAIN for part in parts):
            raise DataError(self.paths[0].parent, "no shard of the training part", "one whose name begins with train")
        return Layout(
            classes,
            files=names,
            names=names,
            labels_N=np.array([index[label] for label in labels], np.int64),
            part_N=np.array(parts, np.int8) if len(set(parts)) > 1 else None,
            notes=self._notes(),
        )

    @property
    def _class_files(self) -> list[Path]:
        """The first that is there."""
        return [path for name in CLASSES if (path := self.paths[0].parent / name).is_file()][:1]

    def _listed_classes(self) -> tuple[str, ...]:
        try:
            lines = [line for path in self._class_files for line in path.read_text("utf-8-sig").split("\n")]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(self._class_files[0], f"cannot be read ({one_line(str(error))[:100]})", "UTF-8") from None
        return tuple(line.strip() for line in lines if line)

    def _notes(self) -> tuple[str, ...]:
        found = self._without_image
        if not found:
            return ()
        more = f" and {len(found) - NAMED:,} more" if len(found) > NAMED else ""
        return (f"{plural(len(found), 'label')} without an image left out: {', '.join(found[:NAMED])}{more}",)

    def _read(self, shard: int) -> None:
        path = self.paths[shard]
        images, labels = self._found_in(shard)
        for stem, (name, extent) in images.items():
            self._images[f"{path.stem}/{name}"] = extent
            self._labels[f"{path.stem}/{name}"] = _label_of(stem, name, labels, path)
        lone = sorted(f"{path.stem}/{stem}{min(labels[stem])}" for stem in labels.keys() - images.keys())
        self._without_image += [one_line(name)[:100] for name in lone]
        if len(self._images) > MAX_MEMBERS:
            raise DataError(path, f"more than {MAX_MEMBERS:,} samples", "fewer shards")

    def _found_in(self, shard: int) -> tuple[Images, Labels]:
        path = self.paths[shard]
        images: Images = {}
        labels: Labels = defaultdict(lambda: defaultdict(list))
        try:
            with tarfile.open(path, "r:", tarinfo=Member, encoding="utf-8", errors="surrogateescape") as archive:
                for member in members_of(archive):
                    if member.islnk() or member.issym():
                        raise DataError(path, f"{one_line(member.name)[:100]} is a link", "store the file instead")
                    if member.isfile():
                        self._take(archive, member, shard, images, labels)
        except BROKEN as error:
            why = f"cannot be read as a tar ({one_line(str(error))[:100] or type(error).__name__})"
            remedy = "make or download it again: plain .tar files, as a compressed one can only be read from its start"
            raise DataError(path, why, remedy) from None
        return images, labels

    def _take(
        self, archive: tarfile.TarFile, member: tarfile.TarInfo, shard: int, images: Images, labels: Labels
    ) -> None:
        """Note where a member lies if it is an image, and what it says if it is a label."""
        path, name = self.paths[shard], safe_name(member.name, self.paths[shard])
        stem, suffix = _stem(name), _suffix(name)
        if suffix in IMAGE_SUFFIXES:
            if stem in images:
                raise DataError(
                    path, f"two images are called {one_line(stem)[:100]!r}", "samples with names of their own"
                )
            images[stem] = (name, (shard, member.offset_data, member.size))
        elif suffix in LABELS:
            content = archive.extractfile(member)
            text = content.read(LABEL_BYTES) if content else b""
            if (label := _label(text, suffix)) is not None:
                labels[stem][suffix].append(label)


def _label_of(stem: str, image: str, labels: Labels, path: Path) -> str:
    """A sample's label, in the first kind of file that there is."""
    if stem not in labels:
        raise DataError(path, f"{one_line(image)[:100]} has no label beside it", f"{one_line(stem)[:100]}.cls")
    kind = next(kind for kind in LABELS if kind in labels[stem])
    label, *others = labels[stem][kind]
    if others:
        why = f"{one_line(image)[:100]} has {1 + len(others)} {kind} files with a label"
        raise DataError(path, why, "one label a sample")
    return label


def _label(content: bytes, suffix: str) -> str | None:
    """None where there is none in it."""
    text = content.decode("utf-8-sig").strip()
    if suffix != ".json":
        return text or None
    facts = json.loads(text)
    if not isinstance(facts, Mapping):
        return None
    found = next((facts[name] for name in LABEL if name in facts), None)
    return str(found) if isinstance(found, str | int) else None


def _stem(name: str) -> str:
    """All up to the first dot of the file's own name."""
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file.partition('.')[0]}".lstrip("/")


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()
