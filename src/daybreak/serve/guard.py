"""Who is answered: requests that come at once, from our own page, as many as can be worked on.

A connection without a whole request costs nothing but itself: it is closed after a few seconds, the one that has been
quiet for the longest first where there are too many, and never counts among the requests that are answered with 503
when there are too many of those. Nor does one whose answer is not read hold its place for long. One whose body is
still coming counts, and goes where its place is needed.
"""

import asyncio
import time
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from daybreak.core.errors import DaybreakError
from daybreak.serve.answers import as_refusal

HEADER_SECONDS = 5.0  # in which the headers of a request must have come
READ_SECONDS = 20.0  # in which some of an answer must be read
MAX_CONNECTIONS = 1024
MAX_REQUESTS = 512  # at once; the next ones get 503
HOME = frozenset({"/"})  # what a link on another page may lead to

# Nothing of it is for other sites: not in a frame, not as a picture or script of theirs, and they learn no address.
POLICY = {
    "Cache-Control": "no-store",  # the same address may show another run tomorrow
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class RefusedError(DaybreakError):
    """A request is not answered, for a reason that HTTP has a number for."""

    code = "request"

    def __init__(self, status: int, what: object, why: str, remedy: str) -> None:
        super().__init__(what, why, remedy)
        self.status = status

    def answer(self) -> JSONResponse:
        return JSONResponse(as_refusal(self), self.status, POLICY)


class PromptProtocol(H11Protocol):
    """HTTP on a connection that is closed where it does not bring a whole request soon."""

    _deadline: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _since = 0.0  # the last that was heard of it

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._since = time.monotonic()
        self._watch()
        if len(self.connections) > MAX_CONNECTIONS:
            quiet = [p for p in self.connections if isinstance(p, PromptProtocol) and p._asks_nothing()]
            min(quiet, key=lambda protocol: protocol._since)._close()

    def data_received(self, data: bytes) -> None:
        self._since = time.monotonic()
        super().data_received(data)
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        self._read()
        super().connection_lost(exc)

    def _asks_nothing(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _watch(self) -> None:
        """Set the deadline where a request is awaited, and take it back where one has come."""
        if not self._asks_nothing():
            self._unwatch()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEADER_SECONDS, self._close)

    def _read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close(self) -> None:
        self._unwatch()
        self.transport.close()


class Guard:
    """Refuses what another site asks, and more requests at once than can be worked on; whoever asks whether the service
    lives is told so even then.

    Args:
        make_room: end a request whose body has not come yet; False where there is none.
    """

    def __init__(self, app: ASGIApp, make_room: Callable[[], bool]) -> None:
        self.app, self._make_room, self._requests = app, make_room, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal:
            await refusal.answer()(scope, receive, send)
            return
        self._requests += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._requests -= 1

    def _refusal(self, scope: Scope) -> RefusedError | None:
        if is_foreign(Headers(scope=scope), scope["path"], scope["method"]):
            return RefusedError(403, scope["path"], "asked by the page of another site", "the page itself")
        if self._requests >= MAX_REQUESTS and scope["path"] != "/healthz" and not self._make_room():
            return RefusedError(503, "page", f"{MAX_REQUESTS} requests are being answered", "again in a moment")
        return None


def is_foreign(headers: Headers, path: str, method: str) -> bool:
    """Whether a page of another site asks. Browsers say so in one header or the other; what is no browser says
    nothing, and is let in."""
    site, origin = headers.get("sec-fetch-site", "none"), headers.get("origin")
    if origin is not None and origin.partition("://")[2] != headers.get("host"):
        return True
    is_link_to_us = path in HOME and method == "GET" and headers.get("sec-fetch-mode") == "navigate"
    return site not in ("same-origin", "none") and not is_link_to_us
