"""Small data sets for tests: the same random pixels in every container."""

import gzip
import io
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from daybreak.data import Dataset

CLASSES = ("ant", "bee", "cow")
Files = dict[str, bytes]


def pixels(count: int, side: int = 8, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, channels), np.uint8)


def encode(image_HWC: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    squeezed = image_HWC[..., 0] if image_HWC.ndim == 3 and image_HWC.shape[2] == 1 else image_HWC
    Image.fromarray(squeezed).save(buffer, kind, **options)
    return buffer.getvalue()


def sample_files(
    per_class: int = 2, classes: tuple[str, ...] = CLASSES, parts: tuple[str, ...] = ("train", "test")
) -> Files:
    """PNG files by name; the pixels are those of pixels(...) with the part's number as seed, class after class."""
    files = {}
    for seed, part in enumerate(parts):
        images = iter(pixels(per_class * len(classes), seed=seed))
        for name in classes:
            for i in range(per_class):
                files["/".join(filter(None, (part, name, f"{i:03}.png")))] = encode(next(images))
    return files


def notes_of(dataset: Dataset) -> tuple[str, ...]:
    """A set's notes but the one that its classes are scarce, which all these small sets have."""
    return tuple(note for note in dataset.notes if "fewer than 20 training images" not in note)


def write_folder(root: Path, files: Files) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_zip(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_tar(path: Path, files: Files, mode: str = "w:gz", extra: tuple[tarfile.TarInfo, ...] = ()) -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for member in extra:
            archive.addfile(member)
    return path


def write_npz(path: Path, per_class: int = 2, validation: str | None = None) -> Path:
    """The pixels of sample_files as arrays; a third part under this name."""
    labels = np.repeat(np.arange(len(CLASSES)), per_class)
    count = len(labels)
    np.savez(
        path,
        x_train=pixels(count, seed=0),
        y_train=labels,
        x_test=pixels(count, seed=1),
        y_test=labels,
        classes=CLASSES,
        **({f"x_{validation}": pixels(count, seed=2), f"y_{validation}": labels} if validation else {}),
    )
    return path


def write_part(dataset: Dataset, path: Path, train: int, test: int) -> Path:
    """So many images of each part, evenly from all of it, as arrays."""
    arrays: dict[str, Any] = {"classes": dataset.classes}
    for name, split, n in (("train", dataset.train, train), ("test", dataset.test, test)):
        some = np.linspace(0, len(split.labels_N) - 1, n).astype(int)
        arrays |= {f"x_{name}": split.images_NHWC[some], f"y_{name}": split.labels_N[some]}
    np.savez(path, **arrays)
    return path


def idx(array: np.ndarray) -> bytes:
    """A gzipped idx file of unsigned bytes, as MNIST is published."""
    header = struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes())


def photographs(folder: Path, side: int = 120, per_class: int = 8) -> Path:
    """Two kinds of photographs, in a folder of each."""
    for name, photograph in zip(("flower", "temple"), load_sample_images().images[::-1], strict=True):
        (folder / name).mkdir(parents=True)
        for n in range(per_class):
            left = 440 * n // per_class
            part = Image.fromarray(photograph).crop((left, 20, left + 200, 220)).resize((side + 8, side))
            part.save(folder / name / f"{n}.jpg")
    return folder
