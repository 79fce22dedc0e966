"""Open a data set: from the cache if its content has been decoded before, else decode it into the cache first."""

import time
from collections.abc import Sequence
from pathlib import Path

from daybreak.core.errors import BadImagesError, UsageError
from daybreak.data import cache
from daybreak.data.dataset import Dataset, Request
from daybreak.data.sources import KNOWN_ARCHIVES, NAMES, Source, find
from daybreak.data.split import split_indices

NAMED = 10  # bad images that a note names


def open_dataset(data: str | Path, *, size: int | None = None, split_seed: int = 0, skip_bad: bool = False) -> Dataset:
    """Open a data set by its name or path.

    Args:
        data: cifar10, cifar100, mnist, fashion-mnist, digits; or a folder of class folders, a .zip or .tar.* of one,
            or an .npz file. A relative path is also looked for in $DAYBREAK_DATA_DIR and in the cache directory.
        size: side in pixels. By default the images' own where all are the same square of at most 64 px, else 64.
        split_seed: decides the test part where the source has none.
        skip_bad: leave out images that cannot be used, and say in `notes` which; by default they are an error.

    Raises:
        DataError: it cannot be had, or is no usable data set.
        StorageError: the cache cannot be written.
        UsageError: the size is not positive.
    """
    if size is not None and size < 1:
        raise UsageError("size", f"{size} is not a number of pixels", "--size 64")
    started = time.perf_counter()
    source, download_seconds = find(data)
    content = _content(source)
    entry, decode_seconds = cache.load(cache.entry_key(content, size, None, skip_bad)), 0.0
    entry = entry or cache.load(cache.entry_key(content, size, split_seed, skip_bad))
    if entry is None:
        decoding = time.perf_counter()
        entry = _decode(source, content, size, split_seed, skip_bad)
        decode_seconds = time.perf_counter() - decoding
    name, title = KNOWN_ARCHIVES.get(content, (source.name, source.title))
    open_seconds = time.perf_counter() - started - download_seconds - decode_seconds
    seconds = {"download": download_seconds, "decode": decode_seconds, "open": open_seconds}
    notes = (*source.notes, *entry.notes)
    return Dataset(
        name=name,
        title=title,
        fingerprint=entry.fingerprint,
        classes=entry.classes,
        train=entry.train,
        test=entry.test,
        decode=entry.decode,
        notes=notes,
        seconds=seconds,
        request=Request(_absolute(data), size, split_seed, skip_bad),
    )


def _absolute(data: str | Path) -> str:
    """A path as the whole path, so that a run can be judged from another directory; a name as it is."""
    is_name = isinstance(data, str) and data in NAMES
    return str(data) if is_name or not Path(data).exists() else str(Path(data).absolute())


def _content(source: Source) -> str:
    stamp = source.stamp()
    content = cache.recall(source.where, stamp)
    if content is None:
        content = source.digest()
        cache.remember(source.where, stamp, content)
    return content


def _decode(source: Source, content: str, size: int | None, split_seed: int, skip_bad: bool) -> cache.Entry:
    try:
        return _write(source, content, size, split_seed, skip_bad, bad=())
    except BadImagesError as error:
        if not skip_bad:
            raise
        return _write(source, content, size, split_seed, skip_bad, error.names)


def _write(
    source: Source, content: str, size: int | None, split_seed: int, skip_bad: bool, bad: Sequence[str]
) -> cache.Entry:
    """Decode into the cache, without the files that are known to be bad."""
    with cache.staging() as folder, source.read(size, frozenset(bad)) as pictures:
        train, test, split_notes = split_indices(pictures, split_seed, source.where)
        cache.write(folder, pictures, train, test, (*pictures.notes, *split_notes, *_skipped(bad)))
        seed = split_seed if pictures.is_test_N is None else None
        return cache.publish(folder, cache.entry_key(content, size, seed, skip_bad))


def _skipped(bad: Sequence[str]) -> list[str]:
    if not bad:
        return []
    more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    return [f"{len(bad)} images that cannot be used are left out: {', '.join(bad[:NAMED])}{more}"]
