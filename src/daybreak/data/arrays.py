"""Data sets that come as arrays: a NumPy .npz file, and the digits that scikit-learn carries."""

import math
import zipfile
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from daybreak.core.damaged import BROKEN_ARRAY, texts_of
from daybreak.core.errors import DataError, one_line
from daybreak.data.archives import MAX_MEMBERS, refuse_swelling, unpacked_limit
from daybreak.data.dataset import PARTS, Indices, Labels, Part, Pictures
from daybreak.data.files import DEFAULT_SIZE, plural
from daybreak.data.image import MAX_PIXELS, DecodeSpec, Pixels, fit
from daybreak.data.layout import PART_NAMES, PartNames, check_class_names, first_there

KEYS = (*(f"{axis}_{name}" for name in PART_NAMES.all() for axis in "xy"), "classes")
MAX_CLASSES = 100_000  # a label beyond is a mistake: there is a name for every number up to it
Arrays = Mapping[str, npt.NDArray[np.generic]]


def from_arrays(
    classes: tuple[str, ...],
    parts: Mapping[Part, tuple[Pixels, Labels]],
    size: int | None,
    names: tuple[str, ...] = (),
) -> Pictures:
    """Pictures of uint8 arrays N,H,W,C and int64 labels; resized where they are not small squares already.

    Args:
        names: of all images, part after part; by default "train/0" and so on.
    """
    blocks = [images_NHWC for images_NHWC, _ in parts.values()]
    height, width, channels = blocks[0].shape[1:]
    native = height if height == width <= DEFAULT_SIZE else DEFAULT_SIZE
    spec = DecodeSpec(size or native, channels)

    def images(order: Indices) -> Iterator[Pixels]:
        for i in order:
            block = bisect_right(ends, i)
            yield _fitted(blocks[block][i - ends[block]], spec)  # counted from the block's end

    ends = list(accumulate(map(len, blocks)))
    numbered = [f"{part}/{i}" for part, (block, _) in parts.items() for i in range(len(block))]
    codes = np.array([PARTS.index(part) for part in parts], np.int8)
    part_N = np.repeat(codes, [len(block) for block in blocks]) if len(parts) > 1 else None
    labels_N = np.concatenate([labels for _, labels in parts.values()])
    resized = sum(map(len, blocks)) if (height, width) != (spec.size, spec.size) else 0
    notes = (f"{plural(resized, 'image')} resized and cropped to {spec.size} x {spec.size} px",) if resized else ()
    return Pictures(classes, names or tuple(numbered), labels_N, part_N, spec, images, notes)


def read_digits(size: int | None) -> Pictures:
    """The 1,797 handwritten digits of scikit-learn (8 x 8 grey, 0..16 scaled to 0..255); no test part of their own."""
    from sklearn.datasets import load_digits  # a second of imports that nothing else here needs

    digits = load_digits()
    images_NHW = np.round(digits.images * 255 / 16).astype(np.uint8)
    train = (images_NHW[..., None], digits.target.astype(np.int64))
    return from_arrays(tuple("0123456789"), {"train": train}, size)


def read_npz(path: Path, size: int | None, part_names: PartNames = PART_NAMES) -> Pictures:
    """Arrays x_train, y_train and optionally x_test, y_test, x_validation, y_validation (or x_val, y_val) and classes.

    Images are uint8, N,H,W or N,H,W,C with C of 1 or 3; labels are integers from 0; classes are strings.

    Raises:
        DataError: naming the key that is missing or wrong. Pickled objects are never loaded.
    """
    arrays = _load(path)
    there = {key.split("_")[1] for key in arrays if key != "classes"}
    validation, notes = first_there(part_names.validation, there, "validation", "x_{}")
    names: dict[Part, str | None] = {"train": "train", "test": "test" if "test" in there else None}
    names["validation"] = validation
    parts = {part: _part(arrays, name, path) for part, name in names.items() if name}
    expected = parts["train"][0].shape[1:]
    for part, (images, _) in parts.items():
        if images.shape[1:] != expected:
            raise _wrong(path, f"x_{names[part]}", f"images of shape {images.shape[1:]}, but {expected} in x_train")
    highest = max(int(labels.max()) for _, labels in parts.values())
    pictures = from_arrays(_classes(arrays, highest, path), parts, size)
    return replace(pictures, notes=(*notes, *pictures.notes))


def _load(path: Path) -> Arrays:
    """The known arrays of the file, whose headers are believed only if the file is as long as they say."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            refuse_swelling(path, len(members), sum(member.file_size for member in members), unpacked_limit(path))
            sizes = {member.filename.removesuffix(".npy"): member for member in members}
            if len(sizes) < len(members):
                raise DataError(path, "two of its arrays have one name", "write it with numpy.savez")
            known = [key for key in KEYS if key in sizes]
            for key in known:
                _check_header(archive, sizes[key], key, path)
        with np.load(path, allow_pickle=False) as file:
            return {key: _array(file, key, path) for key in known}
    except BROKEN_ARRAY as error:
        raise DataError(
            path, f"not a readable .npz ({one_line(str(error))[:120]})", "write it with numpy.savez"
        ) from None


def _check_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo, key: str, path: Path) -> None:
    with archive.open(member) as file:
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
        except BROKEN_ARRAY as error:
            raise _wrong(path, key, f"not an array ({one_line(str(error))[:120]})") from None
        if dtype.hasobject:
            raise _wrong(path, key, "Object arrays cannot be loaded: they are pickles")
        if key.startswith("x_") and dtype != np.uint8:  # before it is read: it may be eight times as large
            raise _wrong(path, key, f"{dtype}, but must be uint8 (0..255)")
        if math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
            raise _wrong(path, key, f"shape {shape} of {dtype} does not fit {member.file_size:,} bytes")
        _check_size(key, shape, dtype, path)


def _check_size(key: str, shape: tuple[int, ...], dtype: np.dtype[np.generic], path: Path) -> None:
    """Refuse by its header what takes memory out of proportion to the bytes of the file: they may be compressed, or
    none at all."""
    if key.startswith("x_"):
        if len(shape) not in (3, 4) or shape[3:] not in ((), (1,), (3,)) or 0 in shape:
            raise _wrong(path, key, f"shape {shape}, but must be N,H,W or N,H,W,C with C 1 or 3")
        if shape[1] * shape[2] > MAX_PIXELS:
            raise _wrong(path, key, f"shape {shape}, but an image has up to {MAX_PIXELS // 10**6} million pixels")
    if key.startswith("y_") and not np.issubdtype(dtype, np.integer):
        raise _wrong(path, key, f"{dtype}, but must be integers")
    if dtype.itemsize == 0:
        raise _wrong(path, key, f"{dtype}, of which an item takes no bytes")
    items = shape[0] if key.startswith("x_") else math.prod(shape)
    limit = MAX_CLASSES if key == "classes" else MAX_MEMBERS
    if items > limit:
        raise _wrong(path, key, f"shape {shape}, but up to {limit:,} are read")


def _array(file: Arrays, key: str, path: Path) -> npt.NDArray[np.generic]:
    try:
        return file[key]
    except BROKEN_ARRAY as error:
        raise _wrong(path, key, str(error)) from None


def _part(arrays: Arrays, name: str, path: Path) -> tuple[Pixels, Labels]:
    for key in (f"x_{name}", f"y_{name}"):
        if key not in arrays:
            raise _wrong(path, key, f"missing (found: {', '.join(arrays) or 'none of the known keys'})")
    images, labels = arrays[f"x_{name}"], arrays[f"y_{name}"]  # of types and shapes that their headers were held to
    if images.ndim == 3:
        images = images[..., None]
    return images.astype(np.uint8, copy=False), _labels(labels, len(images), f"y_{name}", path)


def _labels(labels: npt.NDArray[np.generic], count: int, key: str, path: Path) -> Labels:
    if labels.shape not in ((count,), (count, 1)):
        raise _wrong(path, key, f"shape {labels.shape} for {count} images")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > np.iinfo(np.int32).max:
        raise _wrong(path, key, f"labels from {low} to {high}, but must be class indices from 0")
    return labels.reshape(-1).astype(np.int64)


def _classes(arrays: Arrays, highest: int, path: Path) -> tuple[str, ...]:
    if highest >= MAX_CLASSES:
        raise _wrong(path, "labels", f"go to {highest:,}, which are more than {MAX_CLASSES:,} classes")
    if "classes" not in arrays:
        return tuple(map(str, range(highest + 1)))
    try:
        names = tuple(texts_of(arrays["classes"]))
    except ValueError as error:
        raise _wrong(path, "classes", str(error)) from None
    if len(set(names)) != len(names):
        raise _wrong(path, "classes", "has the same name twice")
    if highest >= len(names):
        raise _wrong(path, "classes", f"{len(names)} names, but labels go to {highest}")
    check_class_names(names, path)
    return names


def _wrong(path: Path, key: str, why: str) -> DataError:
    return DataError(path, f"{key}: {why}", "x_train, y_train and optionally x_test, y_test, see docs/images.md")


def _fitted(image_HWC: Pixels, spec: DecodeSpec) -> Pixels:
    if image_HWC.shape == (spec.size, spec.size, spec.channels):
        return image_HWC
    return fit(Image.fromarray(image_HWC[..., 0] if spec.channels == 1 else image_HWC), spec)
