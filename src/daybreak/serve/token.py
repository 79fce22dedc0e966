"""Who may ask where the service can be reached from a network: those who know the token.

Programs send it as `Authorization: Bearer TOKEN`. A browser brings it once, by the address `/?token=TOKEN`, and gets a
cookie that no script can read. It goes with a link on another site too, as the way in would not work from there
otherwise; whatever else another site asks is refused (`guard`).
"""

import hashlib
import hmac
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from daybreak.serve.guard import POLICY, RefusedError

OPEN = frozenset({"/healthz"})  # what needs no token


class TokenRequired:
    """Refuses those who do not know the token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self._token = app, token
        # Cookies of one machine are shared by its ports: another server's must not replace this one.
        self._name = "daybreak_" + hashlib.sha256(token.encode()).hexdigest()[:8]
        self._value = hmac.new(token.encode(), b"cookie", hashlib.sha256).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer: Response | ASGIApp = self.app
        if scope["type"] == "http" and scope["path"] not in OPEN:
            headers = Headers(scope=scope)
            if scope["path"] == "/" and self._is_in_address(scope):
                answer = self._welcome()
            elif not self._is_in_headers(headers):
                answer = _who_are_you()
        await answer(scope, receive, send)

    def _is_in_address(self, scope: Scope) -> bool:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
        return _equal(given[0], self._token)

    def _is_in_headers(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _equal(given.strip(), self._token):
            return True
        # Not by http.cookies, which stops at the first cookie that it does not like: another server's, maybe.
        pairs = (pair.strip().partition("=") for pair in headers.get("cookie", "").split(";"))
        return any(name == self._name and _equal(value, self._value) for name, _, value in pairs)

    def _welcome(self) -> Response:
        """To the page, without the token in its address."""
        answer = RedirectResponse("./", 303, POLICY)
        answer.set_cookie(self._name, self._value, httponly=True, samesite="lax")
        return answer


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())


def _who_are_you() -> Response:
    answer = RefusedError(
        401, "token", "missing or wrong", "/?token=TOKEN, or the header Authorization: Bearer TOKEN"
    ).answer()
    answer.headers["WWW-Authenticate"] = "Bearer"
    return answer
