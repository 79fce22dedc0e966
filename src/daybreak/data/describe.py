"""A data set in numbers and in one picture, for `daybreak data`."""

import hashlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from daybreak.core.errors import DataError, one_line
from daybreak.core.files import write_picture
from daybreak.data.dataset import Dataset, Pixels, Split, images_a_block
from daybreak.data.files import plural
from daybreak.data.picture import enlarged

SHEET_CLASSES, SHEET_IMAGES, SHEET_SIDE, SHEET_LABEL, SHEET_GAP = 20, 10, 64, 180, 4


def describe(dataset: Dataset) -> dict[str, Any]:
    """What `daybreak data --json` prints.

    Returns:
        name, title, fingerprint, classes; `splits` with images and per_class of each; image_size and channels;
        mean and std of each channel over the training images (0..1); `duplicates`, the test images whose exact
        pixels are also in the training part; `conflicts`, the pictures that occur under two labels or more, and up
        to ten of them by name in `conflict_names`; notes.
    """
    repeated, conflicts = _repeated(dataset)
    mean_C, std_C = mean_and_std(dataset.train.images_NHWC)
    return {
        "name": dataset.name,
        "title": dataset.title,
        "fingerprint": dataset.fingerprint,
        "classes": list(dataset.classes),
        "splits": {part: _counts(split, dataset.classes) for part, split in _parts(dataset)},
        "image_size": dataset.decode.size,
        "channels": dataset.decode.channels,
        "mean": mean_C,
        "std": std_C,
        "duplicates": len(repeated),
        "conflicts": len(conflicts),
        "conflict_names": conflicts[:10],
        "notes": list(dataset.notes),
    }


def check_strictly(dataset: Dataset) -> None:
    """For `--strict`: no picture may be in both parts, or under two labels.

    Raises:
        DataError: it says how many are, and names the first.
    """
    repeated, conflicts = _repeated(dataset)
    if repeated:
        why = f"{plural(len(repeated), 'test image')} also in the training part, first {one_line(repeated[0])}"
        raise DataError(dataset.name, why, "remove them, or go without --strict")
    if conflicts:
        first = " and ".join(map(one_line, conflicts[0][:2]))
        why = f"{plural(len(conflicts), 'picture')} under two labels, first {first}"
        raise DataError(dataset.name, why, "remove or relabel them, or go without --strict")


def contact_sheet(dataset: Dataset, path: str | Path) -> Path:
    """Draw the first ten training images of each class, up to 20 classes, beside the class name.

    Returns:
        The path of the PNG.

    Raises:
        StorageError: it cannot be written.
    """
    shown = dataset.classes[:SHEET_CLASSES]
    left_out = len(dataset.classes) - len(shown)
    scale = max(1, SHEET_SIDE // dataset.decode.size)
    cell = dataset.decode.size * scale + SHEET_GAP
    size = (SHEET_LABEL + SHEET_IMAGES * cell, (len(shown) + (left_out > 0)) * cell)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for row, name in enumerate(shown):
        draw.text((SHEET_GAP, row * cell + cell // 2), _shortened(one_line(name)), "black", font, anchor="lm")
        for column, index in enumerate(np.flatnonzero(dataset.train.labels_N == row)[:SHEET_IMAGES]):
            image = enlarged(dataset.train.images_NHWC[index], cell - SHEET_GAP)
            sheet.paste(image, (SHEET_LABEL + column * cell, row * cell))
    if left_out:
        draw.text((SHEET_GAP, len(shown) * cell + cell // 2), f"{left_out} more classes", "black", font, anchor="lm")
    return write_picture(path, sheet)


def _parts(dataset: Dataset) -> tuple[tuple[str, Split], tuple[str, Split]]:
    return ("train", dataset.train), ("test", dataset.test)


def _counts(split: Split, classes: tuple[str, ...]) -> dict[str, Any]:
    per_class = np.bincount(split.labels_N, minlength=len(classes)).tolist()
    return {"images": len(split.labels_N), "per_class": dict(zip(classes, per_class, strict=True))}


def _digests(images_NHWC: Pixels) -> list[bytes]:
    return [hashlib.blake2b(image_HWC.tobytes(), digest_size=16).digest() for image_HWC in images_NHWC]


def _repeated(dataset: Dataset) -> tuple[list[str], list[list[str]]]:
    """The names of test images whose exact pixels are in the training part, and of pictures under several labels."""
    train_digests, test_digests = (_digests(split.images_NHWC) for _, split in _parts(dataset))
    known = set(train_digests)
    repeated = [name for name, digest in zip(dataset.test.names, test_digests, strict=True) if digest in known]
    return repeated, _conflicts(dataset, train_digests + test_digests)


def _conflicts(dataset: Dataset, digests: list[bytes]) -> list[list[str]]:
    """The names of images with the same pixels, wherever their labels differ."""
    labels = np.concatenate([split.labels_N for _, split in _parts(dataset)]).tolist()
    names = [name for _, split in _parts(dataset) for name in split.names]
    same: defaultdict[bytes, list[tuple[int, str]]] = defaultdict(list)
    for digest, label, name in zip(digests, labels, names, strict=True):
        same[digest].append((label, name))
    return [[name for _, name in group] for group in same.values() if len({label for label, _ in group}) > 1]


def mean_and_std(images_NHWC: Pixels) -> tuple[list[float], list[float]]:
    """Exact: whole numbers are summed, in blocks that fit in memory."""
    channels = images_NHWC.shape[3]
    total_C, squares_C = np.zeros(channels, np.int64), np.zeros(channels, np.int64)
    block = images_a_block(images_NHWC.shape[1])
    for start in range(0, len(images_NHWC), block):
        for c in range(channels):
            counts = np.bincount(images_NHWC[start : start + block, ..., c].ravel(), minlength=256)
            total_C[c] += counts @ np.arange(256)
            squares_C[c] += counts @ np.arange(256) ** 2
    n = images_NHWC.size // channels
    mean_C = total_C / n
    std_C = np.sqrt(squares_C / n - mean_C**2)
    return (mean_C / 255).tolist(), (std_C / 255).tolist()


def _shortened(text: str, most: int = 22) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
