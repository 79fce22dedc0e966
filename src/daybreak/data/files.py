"""Image files in a container (a folder or an archive) as pictures: the size rule, and decoding in order."""

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

from daybreak.core.count import Count
from daybreak.core.damaged import BROKEN
from daybreak.core.errors import BadImagesError
from daybreak.data.archives import Container
from daybreak.data.dataset import Indices, Pictures
from daybreak.data.image import BadImage, DecodeSpec, Header, Pixels, decode, read_header, read_stream
from daybreak.data.layout import IMAGE_SUFFIXES, PART_NAMES, Layout, PartNames, read_layout

log = logging.getLogger(__name__)

DEFAULT_SIZE = 64
PHOTO_SIDE = 96  # px: images that are photos, for which a net trained on ImageNet is worth it
CHUNK = 64
CHUNK_BYTES = 64 * 2**20  # of files that are in memory at a time, beside the one that is being read
# Below this, Pillow holds the interpreter lock for most of an image's time and threads only get in each other's way:
# 10,000 JPEGs of 32 x 32 px took 0.57 s with one thread and 0.9 s with two.
BYTES_WORTH_A_THREAD = 16 * 1024


def read_pictures(
    container: Container,
    size: int | None,
    where: object,
    left_out: Collection[str] = frozenset(),
    part_names: PartNames = PART_NAMES,
) -> Pictures:
    """The images of class folders.

    Args:
        left_out: files that are passed over.
        part_names: what the parts may be called.

    Raises:
        DataError: the folders are not laid out as a data set (see layout.py).
    """
    files = [name for name in container.names if name not in left_out]
    layout = read_layout([*files, *container.names_in_hidden], container.folders, where, part_names)
    return pictures_of(container, layout, size, where)


def pictures_of(container: Container, layout: Layout, size: int | None, where: object) -> Pictures:
    """The images of a layout. Their headers are read at once, their pixels when `images` is called."""
    headers = _headers(container, layout.files)
    spec = choose_spec(headers, size)

    def images(order: Indices) -> Iterator[Pixels]:
        return _decoded(container, [layout.files[i] for i in order], spec, where, len(layout.files))

    notes = (*layout.notes, *_notes(headers, spec))
    return Pictures(layout.classes, layout.names, layout.labels_N, layout.part_N, spec, images, notes)


def typical_side(container: Container, looked_at: int = 25, any_name: bool = False) -> int | None:
    """The median of the shorter sides in px of a few image files, evenly spread; None where none can be read.

    Args:
        any_name: all files are images, whatever they are called.
    """
    names = container.names
    files = [name for name in names if any_name or PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES]
    some = files[:: max(1, len(files) // looked_at)]
    sides = sorted(min(header.width, header.height) for header in _headers(container, tuple(some)).elements())
    return sides[len(sides) // 2] if sides else None


def choose_spec(headers: "Counter[Header]", size: int | None) -> DecodeSpec:
    """Native size if all images are the same small square and no size is asked for; grey if all of them are."""
    sides = {(header.width, header.height) for header in headers}
    width, height = next(iter(sides), (0, 0))
    is_native = len(sides) == 1 and width == height <= DEFAULT_SIZE
    channels = 1 if headers and all(header.grey for header in headers) else 3
    return DecodeSpec(size or (width if is_native else DEFAULT_SIZE), channels)


def _headers(container: Container, files: tuple[str, ...]) -> "Counter[Header]":
    """How often each kind of header occurs. A broken file is passed over here: decoding lists it with all others."""
    headers: Counter[Header] = Counter()
    for name in files:
        try:
            with container.open(name) as file:
                headers[read_header(file)] += 1
        except BROKEN:  # BadImage is a ValueError
            continue
    return headers


def _notes(headers: "Counter[Header]", spec: DecodeSpec) -> list[str]:
    cmyk = sum(count for header, count in headers.items() if header.cmyk)
    animated = sum(count for header, count in headers.items() if header.animated)
    resized = sum(n for header, n in headers.items() if (header.width, header.height) != (spec.size, spec.size))
    sides = sorted({(h.width, h.height) for h in headers}, key=lambda side: side[0] * side[1])
    notes = [f"{plural(cmyk, 'CMYK image')} converted to RGB"] if cmyk else []
    notes += [f"{plural(animated, 'animated image')}: first frame used"] if animated else []
    notes += (
        [f"{plural(resized, 'image')} resized and cropped to {spec.size} x {spec.size} px; {_range(sides)}"]
        if resized
        else []
    )
    return notes


def _range(sides: list[tuple[int, int]]) -> str:
    smallest, largest = (f"{width} x {height}" for width, height in (sides[0], sides[-1]))
    return f"all are {smallest}" if smallest == largest else f"they are {smallest} to {largest}"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _decoded(container: Container, files: list[str], spec: DecodeSpec, where: object, of: int) -> Iterator[Pixels]:
    """The images in order, up to the first bad one; the rest is then only looked at, for one error that names all that
    are bad. (So what has been yielded is the beginning, without gaps: decoding that is broken off can go on there.)"""
    bad: list[tuple[str, BadImage]] = []
    count = Count(log, "decoded", len(files))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for names, blobs in _chunks(container, files):
            is_large = sum(len(blob) for blob in blobs if isinstance(blob, bytes)) > BYTES_WORTH_A_THREAD * len(blobs)
            run = pool.map if is_large else map
            for name, image in zip(names, run(lambda blob: _attempt(blob, spec), blobs), strict=True):
                if isinstance(image, BadImage):
                    bad.append((name, image))
                elif not bad:
                    yield image
            count.add(len(names))
    if bad:
        raise _bad_images(bad, of, where)


def _chunks(container: Container, files: list[str]) -> Iterator[tuple[list[str], list[bytes | BadImage]]]:
    """The files in order, some at a time, with their names."""
    names: list[str] = []
    blobs: list[bytes | BadImage] = []
    held = 0
    for name in files:
        blob = _read(container, name)
        names.append(name)
        blobs.append(blob)
        held += len(blob) if isinstance(blob, bytes) else 0
        if len(names) == CHUNK or held > CHUNK_BYTES:
            yield names, blobs
            names, blobs, held = [], [], 0
    if names:
        yield names, blobs


def _read(container: Container, name: str) -> bytes | BadImage:
    try:
        with container.open(name) as file:
            return read_stream(file)
    except BadImage as bad:
        return BadImage(str(bad))  # anew: this one's traceback holds on to what was read
    except BROKEN as error:
        return BadImage(f"cannot be read ({getattr(error, 'strerror', None) or error})")


def _attempt(blob: bytes | BadImage, spec: DecodeSpec) -> Pixels | BadImage:
    try:
        return blob if isinstance(blob, BadImage) else decode(blob, spec)
    except BadImage as bad:
        return BadImage(str(bad))


def _bad_images(bad: list[tuple[str, BadImage]], total: int, where: object) -> BadImagesError:
    listed = "; ".join(f"{name}: {reason}" for name, reason in bad[:10])
    more = f"; and {len(bad) - 10} more" if len(bad) > 10 else ""
    why = f"{len(bad)} of {total} images cannot be used: {listed}{more}"
    return BadImagesError(where, why, "remove or replace them, or --skip-bad", [name for name, _ in bad])
