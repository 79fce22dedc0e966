"""From the file names of a folder or an archive to classes and parts: classes are matched by name, not by position."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from daybreak.core.errors import DataError
from daybreak.data.dataset import TEST, TRAIN, VALIDATION, Labels, PartCodes

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".apng"}
IGNORED_SUFFIXES = {".txt", ".csv", ".tsv", ".md", ".rst", ".json", ".xml", ".yaml", ".yml", ".html", ".pdf"}
IGNORED_NAMES = {"thumbs.db", "desktop.ini", "__macosx"}
HIDDEN_BY_TOOLS = {
    ".git",
    ".hg",
    ".svn",
    ".cache",
    ".ipynb_checkpoints",
    ".thumbnails",
    ".thumbs",
    ".trash",
}  # no classes
PathParts = tuple[str, ...]


@dataclass(frozen=True)
class PartNames:
    """What the parts beside train/ may be called; of several names the first that is there."""

    validation: tuple[str, ...] = ("validation", "val")
    test: tuple[str, ...] = ("test",)

    def all(self) -> tuple[str, ...]:
        return ("train", *self.validation, *self.test)


PART_NAMES = PartNames()
PART_NAMES_OF_0_1_0 = PartNames(validation=(), test=("test", "val", "validation"))


@dataclass(frozen=True)
class Layout:
    """Files by class and part: `files` as the container calls them, `names` below the data set's own root."""

    classes: tuple[str, ...]
    files: tuple[str, ...]
    names: tuple[str, ...]
    labels_N: Labels
    part_N: PartCodes | None
    notes: tuple[str, ...]


def read_layout(
    files: Iterable[str], folders: Iterable[str], where: object, part_names: PartNames = PART_NAMES
) -> Layout:
    """Find the class folders, optionally below one top folder and below train/, validation/ (or val/) and test/.

    Args:
        files: all files, "/" between the parts of a name.
        folders: all folders, so that an empty one is seen.
        where: what an error names.
        part_names: what the parts may be called.

    Raises:
        DataError: no or empty class folders, stray images, or class names that only look different.
    """
    files = list(files)
    paths = [path for name in files if not _ignored(path := tuple(name.split("/")))]
    tree = {path for name in folders if not _ignored(path := tuple(name.split("/")))}
    tree |= {path[:depth] for path in paths for depth in range(1, len(path))}
    root = _root(tree, paths, part_names)
    parts, notes = _parts(root, tree, part_names, where)
    _refuse_strays(paths, [root, *parts.values()], where)
    rows = [row for code, folder in parts.items() for row in _rows(code, folder, tree, paths, where)]
    classes = tuple(sorted({row[1] for row in rows}))
    check_class_names(classes, where)
    index = {name: i for i, name in enumerate(classes)}
    return Layout(
        classes,
        files=tuple("/".join(path) for _, _, path in rows),
        names=tuple("/".join(path[len(root) :]) for _, _, path in rows),
        labels_N=np.array([index[name] for _, name, _ in rows], np.int64),
        part_N=np.array([code for code, _, _ in rows], np.int8) if len(parts) > 1 else None,
        notes=(*notes, *_hidden(files)),
    )


def _hidden(files: Iterable[str]) -> list[str]:
    """A note where images lie in folders that are passed over because their names begin with a dot."""
    found = Counter(folder for name in files if (folder := hidden_folder_of_image(name)))
    if not found:
        return []
    shown = ", ".join(f"{folder}/ ({count:,})" for folder, count in sorted(found.items())[:10])
    return [f"images in hidden folders are left out: {shown}; rename a folder that is a class"]


def hidden_folder_of_image(name: str) -> str:
    """The hidden folder that an image lies in; "" for none, and for those that tools keep their own files in."""
    path = tuple(name.split("/"))
    hidden = next((part for part in path[:-1] if part.startswith(".")), "")
    return hidden if _is_image(path) and hidden.lower() not in HIDDEN_BY_TOOLS else ""


def _ignored(path: PathParts) -> bool:
    hidden = any(part.startswith(".") or part.lower() in IGNORED_NAMES for part in path)
    return hidden or PurePosixPath(path[-1]).suffix.lower() in IGNORED_SUFFIXES


def _is_image(path: PathParts) -> bool:
    return PurePosixPath(path[-1]).suffix.lower() in IMAGE_SUFFIXES


def _below(parent: PathParts, tree: Iterable[PathParts]) -> list[PathParts]:
    depth = len(parent)
    return sorted(path for path in tree if len(path) == depth + 1 and path[:depth] == parent)


def _root(tree: set[PathParts], paths: list[PathParts], part_names: PartNames) -> PathParts:
    """The folder that holds the class folders or the parts: below single top folders without images of their own."""
    root: PathParts = ()
    images = [path for path in paths if _is_image(path)]
    while True:
        folders = _below(root, tree)
        if len(folders) != 1 or folders[0][-1].lower() in part_names.all():
            return root
        if not _below(folders[0], tree) or _below(root, images) or _below(folders[0], images):
            return root
        root = folders[0]


def _parts(
    root: PathParts, tree: set[PathParts], part_names: PartNames, where: object
) -> tuple[dict[int, PathParts], tuple[str, ...]]:
    """The folder of each part that is there, by its code, the training folder first; and the notes to show."""
    found = {folder[-1].lower(): folder for folder in _below(root, tree)}
    train = found.get("train")
    if train is None or not _below(train, tree):  # a class may be called "train"
        if found and set(found) <= set(part_names.all()) - {"train"}:
            raise DataError(where, f"{'/, '.join(sorted(found))}/ without a train/ beside it", "add a train/ folder")
        return {TRAIN: root}, ()
    strangers = [folder[-1] for folder in _below(root, tree) if folder[-1].lower() not in part_names.all()]
    if strangers:
        raise DataError(where, f"folders beside train/: {', '.join(strangers[:10])}", "move or remove them")
    validation, validation_notes = first_there(part_names.validation, found, "validation", "{}/")
    test, test_notes = first_there(part_names.test, found, "test", "{}/")
    parts = {TRAIN: train}
    parts |= {VALIDATION: found[validation]} if validation else {}
    parts |= {TEST: found[test]} if test else {}
    return parts, validation_notes + test_notes


def first_there(
    names: tuple[str, ...], found: Container[str], part: str, shown_as: str
) -> tuple[str | None, tuple[str, ...]]:
    """The first of a part's names that is there, None if none is, and a note for each other one that is not used."""
    there = [name for name in names if name in found]
    used = shown_as.format(there[0]) if there else ""
    notes = tuple(f"{shown_as.format(name)} is not used: {used} is the {part} part" for name in there[1:])
    return there[0] if there else None, notes


def _rows(
    code: int, part: PathParts, tree: set[PathParts], paths: list[PathParts], where: object
) -> list[tuple[int, str, PathParts]]:
    """(part's code, class, path) of all files in the class folders of a part, by class and then by name."""
    depth = len(part)
    members: dict[str, list[PathParts]] = {folder[-1]: [] for folder in _below(part, tree)}
    for path in paths:
        if len(path) > depth + 1 and path[:depth] == part:
            members[path[depth]].append(path)
    empty = ["/".join((*part, name)) for name, found in sorted(members.items()) if not found]
    if empty:
        raise DataError(where, f"no images in class folder {', '.join(empty[:10])}", "remove it or add images")
    if not members:
        raise DataError(where, f"no class folders in {'/'.join(part) or 'it'}", "one folder of images for each class")
    return [(code, name, path) for name in sorted(members) for path in sorted(members[name])]


def _refuse_strays(paths: list[PathParts], levels: list[PathParts], where: object) -> None:
    strays = ["/".join(path) for path in paths if path[:-1] in levels and _is_image(path)]
    if strays:
        more = f" and {len(strays) - 10} more" if len(strays) > 10 else ""
        raise DataError(
            where, f"images outside the class folders: {', '.join(strays[:10])}{more}", "move or remove them"
        )


def check_class_names(classes: tuple[str, ...], where: object) -> None:
    """Refuse names that a person cannot read or tell apart.

    Raises:
        DataError: a name is blank or has a NUL in it, or two differ only in case, Unicode form or blanks. (Other
            control characters are shown escaped, wherever a name is shown.)
    """
    for name in classes:
        if not name.strip() or "\0" in name:
            raise DataError(where, f"class name {name!a} is blank or has a NUL in it", "rename it")
    groups = defaultdict(list)
    for name in classes:
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        groups[" ".join(folded.split())].append(name)
    for names in groups.values():
        if len(names) > 1:
            shown = " and ".join(map(ascii, names))  # escaped: printed plainly, two normal forms look the same
            raise DataError(where, f"class names {shown} differ only in case, blanks or Unicode form", "rename one")
