"""A data set in numbers and in one picture, for `daybreak data`."""

import hashlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from daybreak.core.errors import DataError, one_line
from daybreak.core.files import write_picture
from daybreak.data.advice import advice
from daybreak.data.dataset import Dataset, Part, Split
from daybreak.data.files import plural
from daybreak.data.image import Pixels
from daybreak.data.picture import enlarged
from daybreak.data.statistics import mean_and_std

SHEET_CLASSES, SHEET_IMAGES, SHEET_SIDE, SHEET_LABEL, SHEET_GAP = 20, 10, 64, 180, 4


def describe(dataset: Dataset) -> dict[str, Any]:
    """What `daybreak data --json` prints.

    Returns:
        name, title, fingerprint, classes; `splits` with images and per_class of each; image_size and channels;
        mean and std of each channel over the training images (0..1); `duplicates`, the test images whose exact
        pixels are also in the training part, and `validation_duplicates`, the same of a validation part;
        `conflicts`, the pictures that occur under two labels or more, and up to ten of them by name in
        `conflict_names`; notes; and `advice`, sentences about what to do.
    """
    repeated, conflicts = _repeated(dataset)
    counts = {part: len(names) for part, names in repeated.items()}
    of_validation = {"validation_duplicates": counts["validation"]} if dataset.validation else {}
    mean_C, std_C = mean_and_std(dataset.train.images_NHWC)
    return {
        "name": dataset.name,
        "title": dataset.title,
        "fingerprint": dataset.fingerprint,
        "classes": list(dataset.classes),
        "splits": {part: _counts(split, dataset.classes) for part, split in _parts(dataset).items()},
        "image_size": dataset.decode.size,
        "channels": dataset.decode.channels,
        "mean": mean_C,
        "std": std_C,
        "duplicates": counts["test"],
        **of_validation,
        "conflicts": len(conflicts),
        "conflict_names": conflicts[:10],
        "notes": list(dataset.notes),
        "advice": advice(dataset, duplicates=counts, conflicts=len(conflicts)),
    }


def check_strictly(dataset: Dataset) -> None:
    """For `--strict`: no picture of another part may be in the training part, and none under two labels.

    Raises:
        DataError: it says how many are, and names the first.
    """
    repeated, conflicts = _repeated(dataset)
    for part, names in repeated.items():
        if names:
            why = f"{plural(len(names), f'{part} image')} also in the training part, first {one_line(names[0])}"
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


def _parts(dataset: Dataset) -> dict[Part, Split]:
    """In the order in which they are used."""
    validation: dict[Part, Split] = {"validation": dataset.validation} if dataset.validation else {}
    return {"train": dataset.train, **validation, "test": dataset.test}


def _counts(split: Split, classes: tuple[str, ...]) -> dict[str, Any]:
    per_class = np.bincount(split.labels_N, minlength=len(classes)).tolist()
    return {"images": len(split.labels_N), "per_class": dict(zip(classes, per_class, strict=True))}


def _digests(images_NHWC: Pixels) -> list[bytes]:
    return [hashlib.blake2b(image_HWC.tobytes(), digest_size=16).digest() for image_HWC in images_NHWC]


def _repeated(dataset: Dataset) -> tuple[dict[Part, list[str]], list[list[str]]]:
    """Of each other part the names of images whose exact pixels are in the training part; and the names of pictures
    under several labels."""
    parts = _parts(dataset)
    digests = {part: _digests(split.images_NHWC) for part, split in parts.items()}
    known = set(digests["train"])
    repeated: dict[Part, list[str]] = {
        part: [name for name, digest in zip(split.names, digests[part], strict=True) if digest in known]
        for part, split in parts.items()
        if part != "train"
    }
    return repeated, _conflicts(list(parts.values()), [digest for part in parts for digest in digests[part]])


def _conflicts(splits: list[Split], digests: list[bytes]) -> list[list[str]]:
    """The names of images with the same pixels, wherever their labels differ."""
    labels = np.concatenate([split.labels_N for split in splits]).tolist()
    names = [name for split in splits for name in split.names]
    same: defaultdict[bytes, list[tuple[int, str]]] = defaultdict(list)
    for digest, label, name in zip(digests, labels, names, strict=True):
        same[digest].append((label, name))
    return [[name for _, name in group] for group in same.values() if len({label for label, _ in group}) > 1]


def _shortened(text: str, most: int = 22) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
