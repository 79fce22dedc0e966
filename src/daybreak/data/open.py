"""Open a data set: from the cache if its content has been decoded before, else decode it into the cache first."""

import copy
import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from daybreak.core.errors import BadImagesError, DataError, UsageError
from daybreak.data import cache
from daybreak.data.dataset import Dataset, Request, Split
from daybreak.data.entry import DamagedEntryError, Entry
from daybreak.data.folder import Folder
from daybreak.data.layout import PART_NAMES, PART_NAMES_OF_0_1_0
from daybreak.data.sources import (
    KNOWN_ARCHIVES,
    NAMES,
    FolderSource,
    ListedSource,
    Source,
    content_of,
    find,
    is_published,
)
from daybreak.data.split import check_share, default_share, few_images, hold_out, split_indices
from daybreak.data.table import Table

NAMED = 10  # bad images that a note names


def open_dataset(
    data: str | Path,
    *,
    size: int | None = None,
    split_seed: int = 0,
    skip_bad: bool = False,
    validate: float | None = None,
    parts_of_0_1_0: bool = False,
    verify: bool = False,
) -> Dataset:
    """Open a data set by its name or path.

    Args:
        data: cifar10, cifar100, mnist, fashion-mnist, digits; or a folder of class folders, a .zip or .tar.* of one,
            an .npz, .csv, .tsv or .parquet file, a folder of .parquet files or tar shards; or the URL of one of these
            (remote.py). A relative path is also looked for in $DAYBREAK_DATA_DIR and in the cache directory.
        size: side in pixels. By default the images' own where all are the same square of at most 64 px, else 64.
        split_seed: decides the test part where the source has none, and which training images are held out.
        skip_bad: leave out images that cannot be used, and say in `notes` which; by default they are an error.
        validate: share of the training images of each class to hold out as the validation part, where the source has
            none of its own; 0 for no validation part, also where the source has one. By default the source's own; else
            none of a published data set, and of other data a tenth if every class has 20 training images or more.
        parts_of_0_1_0: understand the parts as daybreak 0.1.0 did, for the runs that it wrote: the test part may be
            called val/ or validation/, and there is no validation part unless `validate` says so.
        verify: read all of a decoded copy that is large, too, to see whether it is what was written. (A copy of up to
            512 MiB is always verified, a larger one once, until its files change.) A damaged one is set aside and
            decoded again, and a note says so.

    Raises:
        DataError: it cannot be had, is no usable data set, has too few images to hold any out, or changes while it is
            decoded.
        StorageError: the cache cannot be written.
        UsageError: the size is not positive; `validate` is no share, or the data has a validation part of its own.
    """
    if size is not None and size < 1:
        raise UsageError("size", f"{size} is not a number of pixels", "--size 64")
    check_share(validate)
    started = time.perf_counter()
    source, download_seconds = find(data)
    stamp = source.stamp()  # before the content is read, so that a change at any time after it is seen
    content = content_of(source)
    request = Request(_absolute(data), size, split_seed, skip_bad, validate, parts_of_0_1_0)
    entry, decode_seconds, damage = _entry(source, stamp, content, request, verify)
    published = is_published(source, content)
    train, validation, validation_notes = _validation(entry, request, published, source.where)
    scarce = () if published else few_images(entry.train.labels_N, entry.classes)
    name, title = KNOWN_ARCHIVES.get(content, (source.name, source.title))
    open_seconds = time.perf_counter() - started - download_seconds - decode_seconds
    return Dataset(
        name=name,
        title=title,
        fingerprint=entry.fingerprint,
        classes=entry.classes,
        train=train,
        test=entry.test,
        decode=entry.decode,
        notes=(*source.notes, *damage, *entry.notes, *validation_notes, *scarce),
        seconds={"download": download_seconds, "decode": decode_seconds, "open": open_seconds},
        request=request,
        validation=validation,
    )


def _absolute(data: str | Path) -> str:
    """A path as the whole path, so that a run can be evaluated from another directory; a name as it is."""
    is_name = isinstance(data, str) and data in NAMES
    return str(data) if is_name or not Path(data).exists() else str(Path(data).absolute())


def _validation(
    entry: Entry, request: Request, published: bool, where: str
) -> tuple[Split, Split | None, tuple[str, ...]]:
    """The training and the validation part, and the notes to show."""
    share = request.validate
    if entry.validation is not None:
        if share is None:
            return entry.train, entry.validation, ()
        if share > 0:
            remedy = "leave --validate out, or --validate 0 to leave that part unused"
            raise UsageError(f"--validate {share:g}", "the data has a validation part of its own", remedy)
        return entry.train, None, ("the validation part is not used: --validate 0",)
    if share is None:
        as_it_is = published or request.parts_of_0_1_0
        share = 0.0 if as_it_is else default_share(entry.train.labels_N, len(entry.classes))
    if share == 0:
        return entry.train, None, ()
    return hold_out(entry.train, share, request.split_seed, entry.classes, where)


def _entry(source: Source, stamp: str, content: str, request: Request, verify: bool) -> tuple[Entry, float, list[str]]:
    """The decoded data set, the seconds that decoding it took, and what was wrong with the copy that was there."""
    damage: list[str] = []
    if (entry := _cached(content, request, verify, damage)) is not None:
        return entry, 0.0, damage
    started = time.perf_counter()
    with cache.turn(_key(content, request, request.split_seed)):
        entry = _cached(content, request, verify, damage)  # another process may have decoded it meanwhile
        entry = entry or _decode(source, stamp, content, request)
    return entry, time.perf_counter() - started, damage


def _cached(content: str, request: Request, verify: bool, damage: list[str]) -> Entry | None:
    """What is in the cache; what was wrong with it is added to `damage`."""
    sizes = dict.fromkeys((request.size, None))  # what was decoded at its own size may have the one that is wanted
    for size, seed in product(sizes, (None, request.split_seed)):
        key = _key(content, replace(request, size=size), seed)
        try:
            entry = cache.load(key, verify)
            if entry is not None and request.size in (None, entry.decode.size):
                return entry
        except DamagedEntryError as error:
            if aside := cache.set_aside(key):
                damage.append(f"the decoded copy in the cache was damaged ({error}): decoded again; it is in {aside}")
    return None


def _key(content: str, request: Request, split_seed: int | None) -> str:
    return cache.entry_key(content, request.size, split_seed, request.skip_bad, request.parts_of_0_1_0)


def _decode(source: Source, stamp: str, content: str, request: Request) -> Entry:
    try:
        return _write(source, stamp, content, request, bad=())
    except BadImagesError as error:
        _check_unchanged(source, stamp)
        if not request.skip_bad:
            raise
        return _write(source, stamp, content, request, error.names)


def _write(source: Source, stamp: str, content: str, request: Request, bad: Sequence[str]) -> Entry:
    """Decode into the cache, without the files that are known to be bad."""
    part_names = PART_NAMES_OF_0_1_0 if request.parts_of_0_1_0 else PART_NAMES
    # Of these very files: pieces of what has changed since then are not gone on with, even if it has been put back.
    asked = hashlib.sha256(f"{_key(content, request, request.split_seed)} {stamp}".encode()).hexdigest()
    with cache.staging(asked) as folder, source.read(request.size, frozenset(bad), part_names) as pictures:
        parts, split_notes = split_indices(pictures, request.split_seed, source.where)
        cache.write(folder, pictures, parts, (*pictures.notes, *split_notes, *_skipped(bad)))
        _check_unchanged(source, stamp)
        seed = None if pictures.has_test_part else request.split_seed
        return cache.publish(folder, _key(content, request, seed))


def _check_unchanged(source: Source, stamp: str) -> None:
    """An entry is found by its content's digest; images of another content would be there for good."""
    try:
        is_unchanged = _stamp_now(source) == stamp
    except (DataError, OSError):  # a file or a folder is gone
        is_unchanged = False
    if not is_unchanged:
        raise DataError(source.where, "changed while it was read", "again, once nobody writes there")


def _stamp_now(source: Source) -> str:
    """Not that of when the source was found."""
    again = copy.copy(source)
    if isinstance(again, FolderSource):
        again.container = Folder(again.container.root)
    elif isinstance(again, ListedSource):
        if not isinstance(again.container, Table):
            return again.container.stamp_now()
        again.container = Table(again.container.path)
    return again.stamp()


def _skipped(bad: Sequence[str]) -> list[str]:
    if not bad:
        return []
    more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    return [f"{len(bad)} images that cannot be used are left out: {', '.join(bad[:NAMED])}{more}"]
