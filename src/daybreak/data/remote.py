"""Data that lie elsewhere: a folder, an archive or a table by its URL, copied into the cache through fsspec.

    <cache directory>/copies/<key of the URL>/   plan.json, and a folder or file under the name that it has there

Whatever fsspec knows is known here: s3://, gs://, az://, http://, sftp://, hf:// …; who may read it is set up as that
service wants it, never in the URL. Files are copied whole, many at a time, because images are read twice (for their
headers, then for their pixels) and an object store answers slowly. What has been copied stays; a copy that was broken
off goes on, and a file that has changed there since is copied again.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

from daybreak.core.count import Count
from daybreak.core.errors import DataError, StorageError, one_line
from daybreak.core.extras import install_command
from daybreak.core.files import flushed, storage_errors, write_text
from daybreak.core.locks import LOCK, locked
from daybreak.core.machine import cache_dir
from daybreak.data import parquet, table
from daybreak.data.archives import MAX_MEMBERS, SUFFIXES, safe_name

FILES = (*SUFFIXES, ".npz", parquet.SUFFIX, *table.SUFFIXES)  # what is one file; all else is a folder
PLAN = "plan.json"
AT_A_TIME = 16  # an object store takes tens of milliseconds for the first byte, however small the file
BLOCK_BYTES = 16 * 2**20
TRIES, PAUSE_SECONDS = 3, 1.0
REMEDY = "set DAYBREAK_CACHE_DIR to a folder with free space"
# What a file system says of a file beside its identity: another address at every look.
VOLATILE = {"url", "name", "Key", "Expires", "atime", "accessed"}
# What stands before a host: https://TOKEN@host, sftp://me:password@host. (A name alone tells an SFTP server who asks.)
LETS_IN = re.compile(r"https?://[^/?#]*@|[^/]*://[^/]*:[^/]*@")
# A word in the name of a parameter that lets one in: X-Amz-Signature, accessToken, rlkey, resourcekey, tempauth.
SECRET = re.compile(r"token|secret|passw|signature|credential|(key|sig|auth|pwd|jwt)$|^(sign|pass)$")
Files = Mapping[str, Mapping[str, Any]]
log = logging.getLogger(__name__)


def is_url(data: str | Path) -> bool:
    """Whether it is a URL (s3://bucket/photos) rather than a name or a path."""
    return isinstance(data, str) and bool(re.match(r"([a-z0-9+.-]+::)*[a-z][a-z0-9+.-]+://", data))


def copied(url: str) -> tuple[Path, float]:
    """The copy of what lies there, and the seconds that copying took.

    Args:
        url: of a folder, or of a file with one of FILES. The images that a table lists are copied with it.

    Raises:
        DataError: it cannot be read, or a name in it is unsafe.
        StorageError: the cache cannot be written, or has no room for it.
    """
    started = time.perf_counter()
    system, path = _reached(url)
    base = _unquoted(_asked_from(path).rstrip("/").rpartition("/")[2], url) or "data"
    name = safe_name(base, url)
    folder = cache_dir() / "copies" / hashlib.sha256(url.encode()).hexdigest()[:16]
    with storage_errors(folder, remedy=REMEDY):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, wait=True, remedy=REMEDY):
        there = _listed(system, path, name, url)
        if name.lower().endswith(table.SUFFIXES):
            there |= _listed_in_table(system, there[name], folder, name, url)
        _renew(folder, there)
        _copy_all(system, there, folder, url)
    return folder / name, time.perf_counter() - started


def _reached(url: str) -> tuple[Any, str]:
    """The file system and the path in it."""
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]

    if "::" in url or LETS_IN.match(url):
        why = "has a password or a user, or a chain of file systems, in it"
        raise DataError(_without_secrets(url), why, "a plain URL; credentials where the service's own tools look")
    if secret := _secret_in(url):
        why = f"has {secret} in it, and a run keeps its URL"
        raise DataError(_asked_from(url), why, "a download, and the file's name in place of the URL")
    try:
        return url_to_fs(url)
    except ImportError as error:
        remedy = install_command("remote") if url.startswith("http") else one_line(str(error))
        raise DataError(url, "needs a package that is not installed", remedy) from None
    except Exception as error:  # every file system raises kinds of its own
        raise DataError(url, f"cannot be reached ({_reason(error)})", "a URL such as s3://bucket/photos") from None


def _without_secrets(url: str) -> str:
    return re.split(r"[?#]", re.sub(r"://[^/]*@", "://", url), maxsplit=1)[0]


def _is_web(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def _asked_from(url: str) -> str:
    """A web address without what it asks for (photos.zip?download=1); other stores may have ? in a name."""
    return re.split(r"[?#]", url, maxsplit=1)[0] if _is_web(url) else url


def _unquoted(name: str, url: str) -> str:
    """A name as a file has it: a%20b of a web address is "a b"; other stores may have % in a name."""
    return unquote(name) if _is_web(url) else name


def _secret_in(url: str) -> str | None:
    """The name of what lets in whoever has this web address; None if there is nothing of the kind."""
    asked = re.sub("[#;?]", "&", url.removeprefix(_asked_from(url)))
    names = [name for name, _ in parse_qsl(asked, keep_blank_values=True)]
    return next((name for name in names if any(map(SECRET.search, _words(name)))), None)


def _words(name: str) -> list[str]:
    """Of a parameter's name: AWSAccessKeyId has awsaccess, key and id in it."""
    return re.findall("[a-z]+", re.sub("(?<=[a-z])(?=[A-Z])", " ", name).lower())


def _listed(system: Any, path: str, name: str, url: str) -> dict[str, dict[str, Any]]:
    """What the file system says of each file to copy, by its name below the copy's folder."""
    if name.lower().endswith(FILES):
        return _facts(system, {name: path}, url)
    try:
        found = system.find(path, detail=True)
    except Exception as error:
        raise _unreadable(url, error) from None
    files = {entry: facts for entry, facts in found.items() if "?" not in entry}  # a web page's links to sort it by
    if not files:
        raise DataError(url, "no files there", f"a folder of class folders, or a file with {', '.join(FILES)}")
    if len(files) > MAX_MEMBERS:
        raise DataError(url, f"more than {MAX_MEMBERS:,} files", "shards: a folder of .tar files")
    root = path.rstrip("/")
    names: dict[str, str] = {}
    for entry in files:
        inside = safe_name(f"{name}/{_unquoted(entry.removeprefix(root).lstrip('/'), url)}", url)
        if names.setdefault(inside, entry) != entry:
            raise DataError(url, f"two files would be called {inside!r} here", "names that differ in more than that")
    if all(facts.get("size") is not None for facts in files.values()):
        return {name: {**files[entry], "at": entry} for name, entry in names.items()}
    return _facts(system, names, url)


def _listed_in_table(
    system: Any, facts: Mapping[str, Any], folder: Path, name: str, url: str
) -> dict[str, dict[str, Any]]:
    """The images that a table lists. What is not there is left out: opening the table names it among the bad files."""
    planned, stamp = _plan(folder), _stamp(facts)
    if planned.get(name) != stamp or not (folder / name).is_file():
        _part(folder / name).unlink(missing_ok=True)  # it may be of another version
        _copy(system, str(facts["at"]), facts.get("size"), folder / name, url)
        write_text(folder / PLAN, json.dumps(planned | {name: stamp}))
    above = _asked_from(str(facts["at"])).rpartition("/")[0]
    rows = table.Table(folder / name).names
    return _facts(system, {row: f"{above}/{row}" for row in rows}, url, may_be_missing=True)


def _facts(system: Any, paths: Mapping[str, str], url: str, may_be_missing: bool = False) -> dict[str, dict[str, Any]]:
    """What the file system says of files, asked one by one."""

    def ask(at: str) -> dict[str, Any] | None:
        try:
            return {**system.info(at), "at": at}
        except Exception as error:
            if may_be_missing and isinstance(error, FileNotFoundError):
                return None
            raise _unreadable(f"{url}: {at}", error) from None

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        found = zip(paths, pool.map(ask, paths.values()), strict=True)
        return {name: facts for name, facts in found if facts is not None}


def _renew(folder: Path, there: Files) -> None:
    """Remove the copies of files that have changed or gone, then note what the others are copies of."""
    stamps = {name: _stamp(facts) for name, facts in there.items()}
    planned = _plan(folder)
    sound = {folder / name for name, stamp in stamps.items() if planned.get(name) == stamp}
    sound |= {_part(path) for path in sound} | {folder / PLAN, folder / LOCK}
    with storage_errors(folder, remedy=REMEDY):
        for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder before the folder
            if path.is_dir():
                with suppress(OSError):  # it is not empty
                    path.rmdir()
            elif path not in sound:
                path.unlink()
    write_text(folder / PLAN, json.dumps(stamps))


def _plan(folder: Path) -> dict[str, str]:
    """The stamps of what was copied; nothing where that is not known."""
    try:
        return {str(name): str(stamp) for name, stamp in json.loads((folder / PLAN).read_text("utf-8")).items()}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def _stamp(facts: Mapping[str, Any]) -> str:
    """Changes when the file may have changed: size, times, tags, whatever the file system tells."""
    return hashlib.sha256(repr(sorted((k, str(v)) for k, v in facts.items() if k not in VOLATILE)).encode()).hexdigest()


def _copy_all(system: Any, there: Files, folder: Path, url: str) -> None:
    missing = [name for name in there if not _is_whole(folder / name, there[name].get("size"))]
    needed = sum(int(there[name].get("size") or 0) for name in missing)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageError(folder, f"{needed:,} bytes to copy from {url}, {free:,} are free", REMEDY)
    count = Count(log, "copied", len(missing), "files")

    def copy(name: str) -> None:
        target = folder / name
        with storage_errors(target, remedy=REMEDY):
            target.parent.mkdir(parents=True, exist_ok=True)
        _copy(system, str(there[name]["at"]), there[name].get("size"), target, url)
        count.add(1)

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        try:
            _finish(pool.map(copy, missing))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # what is under way ends; nothing new begins
            raise


def _is_whole(path: Path, size: int | None) -> bool:
    return path.is_file() and size in (None, path.stat().st_size)


def _finish(results: Iterable[None]) -> None:
    for _ in results:
        pass


def _copy(system: Any, at: str, size: int | None, target: Path, url: str) -> None:
    """One file, tried anew where the line breaks. It gets its name when it is whole and on the disk."""
    part = _part(target)
    for attempt in range(TRIES):
        try:
            _receive(system, at, size, part)
            break
        except StorageError:
            raise
        except Exception as error:
            if attempt == TRIES - 1 or isinstance(error, FileNotFoundError | PermissionError):
                raise _unreadable(f"{url}: {at}", error) from None
            time.sleep(PAUSE_SECONDS * (attempt + 1))
    with storage_errors(target, remedy=REMEDY):
        part.replace(target)


def _receive(system: Any, at: str, size: int | None, part: Path) -> None:
    """Go on with a part where there is one. Of that the last block is not trusted: it may not have reached the disk."""
    if size is not None and size <= BLOCK_BYTES:
        content = system.cat_file(at)
        with storage_errors(part, remedy=REMEDY):
            part.write_bytes(content)
    else:
        begun = max(0, (part.stat().st_size // BLOCK_BYTES - 1) * BLOCK_BYTES) if part.exists() else 0
        with system.open(at, "rb") as source:
            with suppress(ValueError, OSError):  # a server that can only send all of it
                source.seek(begun)
            _append(source, part, source.tell() if begun else 0)
    with storage_errors(part, remedy=REMEDY):
        flushed(part)
    if size is not None and part.stat().st_size != size:
        got = part.stat().st_size
        part.unlink()
        raise OSError(f"{got:,} bytes came, {size:,} were announced")


def _append(source: Any, part: Path, begun: int) -> None:
    with storage_errors(part, remedy=REMEDY):
        part.touch()
        os.truncate(part, begun)
    while block := source.read(BLOCK_BYTES):
        with storage_errors(part, remedy=REMEDY), part.open("ab") as file:
            file.write(block)
            file.flush()
            os.fsync(file.fileno())


def _part(target: Path) -> Path:
    return target.with_name(f".{target.name}.part")


def _unreadable(what: str, error: Exception) -> DataError:
    return DataError(what, f"cannot be read ({_reason(error)})", "check the URL, the network and who may read it")


def _reason(error: Exception) -> str:
    return one_line(str(error))[:200] or type(error).__name__
