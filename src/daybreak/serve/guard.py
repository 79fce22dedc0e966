"""Who is answered: requests that come at once, from our own page, as many as can be worked on.

A connection without a whole request costs nothing but itself: it is closed after a few seconds, the oldest first where
there are too many, and never counts among the requests that are answered with 503 when there are too many of those.
"""

import asyncio
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from daybreak.core.errors import DaybreakError
from daybreak.serve.answers import as_refusal

HEADER_SECONDS = 5.0  # in which the headers of a request must have come
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
    _since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()
        waiting = [p for p in self.connections if isinstance(p, PromptProtocol) and p._deadline]
        if len(self.connections) > MAX_CONNECTIONS and waiting:
            min(waiting, key=lambda protocol: protocol._since)._close()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Set the deadline where a request is awaited, and take it back where one has come."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._unwatch()
        elif self._deadline is None:
            self._since = time.monotonic()
            self._deadline = self.loop.call_later(HEADER_SECONDS, self._close)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close(self) -> None:
        self._unwatch()
        self.transport.close()


class Guard:
    """Refuses what another site asks, and more requests at once than can be worked on."""

    def __init__(self, app: ASGIApp) -> None:
        self.app, self._requests = app, 0

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
        if self._requests >= MAX_REQUESTS:
            return RefusedError(503, "page", f"{MAX_REQUESTS} requests are being answered", "again in a moment")
        return None


def is_foreign(headers: Headers, path: str, method: str) -> bool:
    """Whether a page of another site asks. Browsers say so in one header or the other; what is no browser says
    nothing, and is let in."""
    site, origin = headers.get("sec-fetch-site", "none"), headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != headers.get("host"):
        return True
    is_link_to_us = path in HOME and method == "GET" and headers.get("sec-fetch-mode") == "navigate"
    return site not in ("same-origin", "none") and not is_link_to_us
