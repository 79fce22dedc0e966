"""One published file from the first mirror that has it: https only, resumed where it broke off, checked, then renamed.

Without a network the caller knows within ten seconds. The file gets its name only after size and SHA-256 match.
"""

import hashlib
import http.client
import logging
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daybreak.core.errors import DataError
from daybreak.core.files import storage_errors
from daybreak.core.locks import locked

CONNECT_SECONDS = 8.0  # for all attempts together, until a server answers
ATTEMPT_SECONDS = 4.0
STALL_SECONDS = 20.0
PAUSE_SECONDS = 0.3
TRIES = 3
BLOCK_BYTES = 2**18
REMEDY = "set DAYBREAK_CACHE_DIR to a folder with free space"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoteFile:
    """A published file: where it belongs below a data directory, what it must be, and who has it."""

    path: str
    size: int
    sha256: str
    urls: tuple[str, ...]


class Lost(Exception):  # noqa: N818 - never leaves this module
    """An attempt failed; the message is the reason."""


def fetch(file: RemoteFile, target: Path, schemes: Sequence[str] = ("https",)) -> None:
    """Download a file to `target`, going on with the `.part` beside it where there is one.

    Args:
        schemes: what a URL, and every redirect of it, may begin with.

    Raises:
        DataError: no mirror had it; tells the URL, the hash and where to put the file.
        StorageError: it cannot be written.
    """
    part = target.with_name(f"{target.name}.part")
    with storage_errors(target, remedy=REMEDY):  # the network's errors have become Lost
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.parent, wait=True, remedy=REMEDY):
            if not target.exists():  # another process may have fetched it meanwhile
                _fetch_part(file, part, target, schemes)
                part.replace(target)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch_part(file: RemoteFile, part: Path, target: Path, schemes: Sequence[str]) -> None:
    reasons: dict[str, str] = {}
    opener = urllib.request.build_opener(_Redirects(schemes))
    deadline = time.monotonic() + CONNECT_SECONDS
    for url in file.urls * TRIES:
        try:
            if _size(part) < file.size:
                with closing(_connect(opener, url, _size(part), deadline, schemes)) as response:
                    try:
                        _receive(response, part, file.size)
                    finally:  # a server that answered and then broke off is worth asking again
                        deadline = time.monotonic() + CONNECT_SECONDS
            return _check(part, file)
        except Lost as lost:
            reasons[url] = str(lost)
        if time.monotonic() > deadline:
            break
        time.sleep(PAUSE_SECONDS)
    raise _unavailable(file, target, reasons)


def _connect(
    opener: urllib.request.OpenerDirector, url: str, offset: int, deadline: float, schemes: Sequence[str]
) -> Any:
    """The response to a request for the bytes from `offset` on.

    Asked in a thread of its own, because no timeout of the socket covers a name server that does not answer.
    """
    _check_scheme(url, schemes)
    headers = {"User-Agent": "daybreak", **({"Range": f"bytes={offset}-"} if offset else {})}
    request = urllib.request.Request(url, headers=headers)
    answers: queue.Queue[Any] = queue.Queue()

    def ask() -> None:
        try:
            answers.put(opener.open(request, timeout=STALL_SECONDS))
        except Exception as error:  # handed to the asking thread
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=max(0.0, min(ATTEMPT_SECONDS, deadline - time.monotonic())))
    except queue.Empty:
        raise Lost("no answer") from None
    if isinstance(answer, Exception):
        raise Lost(_reason(answer)) from None
    return answer


def _receive(response: Any, part: Path, size: int) -> None:
    """Append the body to the part; a server that ignores the range starts it anew.

    Raises:
        Lost: the body cannot be the file's missing bytes, or broke off. What came stays for the next attempt.
    """
    offset = _size(part) if response.status == 206 else 0
    if response.status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
        raise Lost(f"wrong range {response.headers.get('Content-Range')!r}")
    length, kind = response.headers.get("Content-Length"), response.headers.get("Content-Type", "")
    if kind.startswith("text/html") or (length and length != str(size - offset)):
        raise Lost(f"sent {length or 'some'} bytes of {kind or 'something'}, not the {size - offset} expected")
    with part.open("ab" if offset else "wb") as file:
        while block := _read(response):
            file.write(block)
            _log_progress(part, offset, offset := offset + len(block), size)
            if offset > size:
                break
    if offset < size:
        raise Lost(f"broke off after {offset} of {size} bytes")


def _read(response: Any) -> bytes:
    try:
        return bytes(response.read1(BLOCK_BYTES))  # what has come: a line that goes dead takes nothing along
    except (OSError, http.client.HTTPException) as error:
        raise Lost(_reason(error)) from None


def _check(part: Path, file: RemoteFile) -> None:
    size, digest = _size(part), sha256_of(part)
    if (size, digest) != (file.size, file.sha256):
        part.unlink()  # nothing in it can be trusted
        raise Lost(f"wrong content: {size} bytes with SHA-256 {digest}")


def _check_scheme(url: str, schemes: Sequence[str]) -> None:
    if url.split(":", 1)[0].lower() not in schemes:
        raise Lost(f"refused to follow {url}: not {' or '.join(schemes)}")


class _Redirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, schemes: Sequence[str]) -> None:
        self._schemes = schemes

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _check_scheme(newurl, self._schemes)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _log_progress(part: Path, before: int, after: int, size: int) -> None:
    if before == 0 or before * 10 // size < after * 10 // size:
        log.info("downloading %s: %d of %d MB", part.stem, after // 10**6, size // 10**6)


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP status {error.code}"
    reason = getattr(error, "reason", error)
    return str(getattr(reason, "strerror", None) or reason) or type(error).__name__


def _unavailable(file: RemoteFile, target: Path, reasons: dict[str, str]) -> DataError:
    tried = "; ".join(f"{url}: {reason}" for url, reason in reasons.items()) or "no answer"
    remedy = f"get {file.urls[0]} (SHA-256 {file.sha256}) and put it at {target} or $DAYBREAK_DATA_DIR/{file.path}"
    return DataError(file.path, f"cannot be downloaded ({tried})", remedy)
