"""From the file names of a folder or an archive to classes and parts: classes are matched by name, not by position."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Container, Iterable
from dataclasses import dataclass
from itertools import chain
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
MAX_LEVELS, MAX_NAME = 100, 4096
# Letters and signs that count as printable and are shown as a blank, and those that are shown as nothing.
BLANKS = (0x115F, 0x1160, 0x2800, 0x3164, 0xFFA0)
MARKS = (0x34F, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))
AS_SHOWN = dict.fromkeys(BLANKS, " ") | dict.fromkeys(MARKS, "")
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
class _Tree:
    """Folders: those that are listed, and those that files lie in, each once; what lies above them is not held."""

    listed: set[PathParts]
    holding: set[PathParts]

    def below(self, parent: PathParts) -> list[PathParts]:
        """The folders directly below another."""
        depth = len(parent)
        found = {path for path in self.listed if len(path) == depth + 1 and path[:depth] == parent}
        found |= {path[: depth + 1] for path in self.holding if len(path) > depth and path[:depth] == parent}
        return sorted(found)


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
        DataError: no or empty class folders, stray images, class names that only look different, or a name that is too
            long or too deep.
    """
    files, folders = list(files), list(folders)
    _refuse_deep(chain(files, folders), where)
    paths = [path for name in files if not _ignored(path := tuple(name.split("/")))]
    listed = {path for name in folders if not _ignored(path := tuple(name.split("/")))}
    tree = _Tree(listed, {path[:-1] for path in paths})
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


def _refuse_deep(names: Iterable[str], where: object) -> None:
    for name in names:
        if len(name) > MAX_NAME or name.count("/") > MAX_LEVELS:
            why = f"a name of {len(name):,} characters and {name.count('/'):,} levels: {name[:50]}…"
            raise DataError(where, why, f"names of up to {MAX_NAME:,} characters and {MAX_LEVELS} levels")


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


def _root(tree: _Tree, paths: list[PathParts], part_names: PartNames) -> PathParts:
    """The folder that holds the class folders or the parts: below single top folders without images of their own."""
    root: PathParts = ()
    with_images = {path[:-1] for path in paths if _is_image(path)}
    while True:
        folders = tree.below(root)
        if len(folders) != 1 or folders[0][-1].lower() in part_names.all():
            return root
        if not tree.below(folders[0]) or root in with_images or folders[0] in with_images:
            return root
        root = folders[0]


def _parts(
    root: PathParts, tree: _Tree, part_names: PartNames, where: object
) -> tuple[dict[int, PathParts], tuple[str, ...]]:
    """The folder of each part that is there, by its code, the training folder first; and the notes to show."""
    found = {folder[-1].lower(): folder for folder in tree.below(root)}
    twice = [folder for folder in tree.below(root) if folder != found[folder[-1].lower()]]
    if twice and twice[0][-1].lower() in part_names.all():
        names = f"{twice[0][-1]}/ and {found[twice[0][-1].lower()][-1]}/"
        raise DataError(where, f"{names} are one part", "one folder for each part")
    train = found.get("train")
    if train is None or not tree.below(train):  # a class may be called "train"
        if found and set(found) <= set(part_names.all()) - {"train"}:
            raise DataError(where, f"{'/, '.join(sorted(found))}/ without a train/ beside it", "add a train/ folder")
        return {TRAIN: root}, ()
    strangers = [folder[-1] for folder in tree.below(root) if folder[-1].lower() not in part_names.all()]
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
    code: int, part: PathParts, tree: _Tree, paths: list[PathParts], where: object
) -> list[tuple[int, str, PathParts]]:
    """(part's code, class, path) of all files in the class folders of a part, by class and then by name."""
    depth = len(part)
    members: dict[str, list[PathParts]] = {folder[-1]: [] for folder in tree.below(part)}
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
        DataError: a name shows nothing or has a NUL in it, or two differ only in case, Unicode form or blanks. (Other
            control characters are shown escaped, wherever a name is shown.)
    """
    for name in classes:
        if not name.translate(AS_SHOWN).strip() or "\0" in name:
            raise DataError(where, f"class name {name!a} is blank or has a NUL in it", "rename it")
    groups = defaultdict(list)
    for name in classes:
        visible = unicodedata.normalize("NFC", name.translate(AS_SHOWN))
        folded = unicodedata.normalize("NFC", visible.casefold())
        groups[" ".join(folded.split())].append(name)
    for names in groups.values():
        if len(names) > 1:
            shown = " and ".join(map(ascii, names))  # escaped: printed plainly, two normal forms look the same
            raise DataError(where, f"class names {shown} differ only in case, blanks or Unicode form", "rename one")
