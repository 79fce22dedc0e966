"""Bodies of requests: bounded in bytes and seconds each, and in memory and disk all together.

Small ones are held in memory; larger ones go to a file without a name. Where those under way take more disk than there
is for all, or there are as many requests as can be worked on, the one that has been coming for the longest is refused:
whoever sends slowly loses, not who comes last.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import IO, cast

from starlette.requests import Request

from daybreak.core.errors import one_line
from daybreak.serve.guard import RefusedError

MAX_BYTES = 16 * 2**20  # of an image
MAX_SECONDS = 20.0  # in which it must have come
IN_MEMORY = 256 * 2**10  # bytes of a body
ALL_BYTES = 2**30  # of all bodies under way


class Uploads:
    """The bodies under way."""

    def __init__(self) -> None:
        self._bytes, self._held = 0, dict[IO[bytes], int]()
        self._coming: dict[asyncio.Timeout, IO[bytes]] = {}  # the oldest first
        self._leaving: dict[IO[bytes], int] = {}  # bytes of those that have been refused and are not gone yet
        self._refused: set[asyncio.Timeout] = set()

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[IO[bytes]]:
        """The whole body of a request, from its beginning.

        Raises:
            RefusedError: it is too large, takes too long, or there is no room for it.
        """
        if int(request.headers.get("content-length", 0)) > MAX_BYTES:
            raise _too_large()
        with tempfile.SpooledTemporaryFile(IN_MEMORY) as spooled:
            file = cast(IO[bytes], spooled)
            try:
                await self._receive(request, file)
                file.seek(0)
                yield file
            finally:
                self._bytes -= self._held.pop(file)
                self._leaving.pop(file, None)

    async def _receive(self, request: Request, file: IO[bytes]) -> None:
        self._held[file] = 0
        deadline = asyncio.timeout(MAX_SECONDS)
        try:
            async with deadline:
                self._coming[deadline] = file
                async for chunk in request.stream():
                    _write(file, chunk)
                    self._held[file] += len(chunk)
                    self._bytes += len(chunk)
                    self._make_room()
        except TimeoutError:
            if deadline in self._refused:
                raise RefusedError(503, "image", "made room for others", "again, faster") from None
            raise RefusedError(408, "image", f"had not come after {MAX_SECONDS:g} s", "again") from None
        finally:
            self._coming.pop(deadline, None)
            self._refused.discard(deadline)

    def let_oldest_go(self) -> bool:
        """Refuse the body that has been coming for the longest; False where none is."""
        if not self._coming:
            return False
        oldest, file = next(iter(self._coming.items()))
        del self._coming[oldest]
        self._leaving[file] = self._held[file]
        if not oldest.expired():  # else it goes anyway
            self._refused.add(oldest)
            oldest.reschedule(asyncio.get_running_loop().time())
        return True

    def _make_room(self) -> None:
        while self._bytes - sum(self._leaving.values()) > ALL_BYTES and self.let_oldest_go():
            pass


def _write(file: IO[bytes], chunk: bytes) -> None:
    if file.tell() + len(chunk) > MAX_BYTES:
        raise _too_large()
    try:
        file.write(chunk)
    except OSError as error:  # the disk is full, or no file may be written
        raise RefusedError(503, "image", one_line(error), "a smaller copy of it, or later") from None


def _too_large() -> RefusedError:
    return RefusedError(413, "image", f"more than {MAX_BYTES // 2**20} MiB", "a smaller copy of it")
