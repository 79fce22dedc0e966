"""From the file names of a folder or an archive to classes and parts: classes are matched by name, not by position."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from daybreak.core.errors import DataError
from daybreak.data.dataset import Labels

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".apng"}
IGNORED_SUFFIXES = {".txt", ".csv", ".tsv", ".md", ".rst", ".json", ".xml", ".yaml", ".yml", ".html", ".pdf"}
IGNORED_NAMES = {"thumbs.db", "desktop.ini", "__macosx"}
TEST_PARTS = ("test", "val", "validation")  # the first of them that is there
Parts = tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """Files by class and part: `files` as the container calls them, `names` below the data set's own root."""

    classes: tuple[str, ...]
    files: tuple[str, ...]
    names: tuple[str, ...]
    labels_N: Labels
    is_test_N: npt.NDArray[np.bool_] | None
    notes: tuple[str, ...]


def read_layout(files: Iterable[str], folders: Iterable[str], where: object) -> Layout:
    """Find the class folders, optionally below one top folder and below train/ and test/, val/ or validation/.

    Args:
        files: all files, "/" between the parts of a name.
        folders: all folders, so that an empty one is seen.
        where: what an error names.

    Raises:
        DataError: no or empty class folders, stray images, or class names that only look different.
    """
    paths = [path for name in files if not _ignored(path := tuple(name.split("/")))]
    tree = {path for name in folders if not _ignored(path := tuple(name.split("/")))}
    tree |= {path[:depth] for path in paths for depth in range(1, len(path))}
    root = _root(tree, paths)
    train, test, notes = _parts(root, tree, where)
    _refuse_strays(paths, [root] if train == root else [root, train, test or train], where)
    rows = _rows(train, tree, paths, False, where)
    rows += _rows(test, tree, paths, True, where) if test else []
    classes = tuple(sorted({row[1] for row in rows}))
    _refuse_lookalikes(classes, where)
    index = {name: i for i, name in enumerate(classes)}
    return Layout(
        classes,
        files=tuple("/".join(path) for _, _, path in rows),
        names=tuple("/".join(path[len(root) :]) for _, _, path in rows),
        labels_N=np.array([index[name] for _, name, _ in rows], np.int64),
        is_test_N=np.array([is_test for is_test, _, _ in rows], bool) if test else None,
        notes=notes,
    )


def _ignored(path: Parts) -> bool:
    hidden = any(part.startswith(".") or part.lower() in IGNORED_NAMES for part in path)
    return hidden or PurePosixPath(path[-1]).suffix.lower() in IGNORED_SUFFIXES


def _is_image(path: Parts) -> bool:
    return PurePosixPath(path[-1]).suffix.lower() in IMAGE_SUFFIXES


def _below(parent: Parts, tree: Iterable[Parts]) -> list[Parts]:
    depth = len(parent)
    return sorted(path for path in tree if len(path) == depth + 1 and path[:depth] == parent)


def _root(tree: set[Parts], paths: list[Parts]) -> Parts:
    """The folder that holds the class folders or the parts: below single top folders without images of their own."""
    root: Parts = ()
    images = [path for path in paths if _is_image(path)]
    while True:
        folders = _below(root, tree)
        if len(folders) != 1 or folders[0][-1].lower() in ("train", *TEST_PARTS):
            return root
        if not _below(folders[0], tree) or _below(root, images) or _below(folders[0], images):
            return root
        root = folders[0]


def _parts(root: Parts, tree: set[Parts], where: object) -> tuple[Parts, Parts | None, tuple[str, ...]]:
    """The training folder, the test folder if there is one, and the notes to show."""
    found = {folder[-1].lower(): folder for folder in _below(root, tree)}
    train = found.get("train")
    if train is None or not _below(train, tree):  # a class may be called "train"
        if found and set(found) <= set(TEST_PARTS):
            raise DataError(where, f"{'/, '.join(sorted(found))}/ without a train/ beside it", "add a train/ folder")
        return root, None, ()
    strangers = [folder[-1] for folder in _below(root, tree) if folder[-1].lower() not in ("train", *TEST_PARTS)]
    if strangers:
        raise DataError(where, f"folders beside train/: {', '.join(strangers[:10])}", "move or remove them")
    tests = [part for part in TEST_PARTS if part in found]
    notes = tuple(f"{part}/ is not used: {tests[0]}/ is the test part" for part in tests[1:])
    return train, found[tests[0]] if tests else None, notes


def _rows(
    part: Parts, tree: set[Parts], paths: list[Parts], is_test: bool, where: object
) -> list[tuple[bool, str, Parts]]:
    """(is test, class, path) of all files in the class folders of a part, by class and then by name."""
    depth = len(part)
    members: dict[str, list[Parts]] = {folder[-1]: [] for folder in _below(part, tree)}
    for path in paths:
        if len(path) > depth + 1 and path[:depth] == part:
            members[path[depth]].append(path)
    empty = ["/".join((*part, name)) for name, found in sorted(members.items()) if not found]
    if empty:
        raise DataError(where, f"no images in class folder {', '.join(empty[:10])}", "remove it or add images")
    if not members:
        raise DataError(where, f"no class folders in {'/'.join(part) or 'it'}", "one folder of images for each class")
    return [(is_test, name, path) for name in sorted(members) for path in sorted(members[name])]


def _refuse_strays(paths: list[Parts], levels: list[Parts], where: object) -> None:
    strays = ["/".join(path) for path in paths if path[:-1] in levels and _is_image(path)]
    if strays:
        more = f" and {len(strays) - 10} more" if len(strays) > 10 else ""
        raise DataError(
            where, f"images outside the class folders: {', '.join(strays[:10])}{more}", "move or remove them"
        )


def _refuse_lookalikes(classes: tuple[str, ...], where: object) -> None:
    groups = defaultdict(list)
    for name in classes:
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        groups[folded].append(name)
    for names in groups.values():
        if len(names) > 1:
            shown = " and ".join(map(ascii, names))  # escaped: printed plainly, two normal forms look the same
            raise DataError(where, f"class names {shown} differ only in case or Unicode form", "rename one of them")
