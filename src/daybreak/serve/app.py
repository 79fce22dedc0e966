"""A local web page: drop an image, see its classes and the maps that explain them; browse the files of the run.

Only this machine reaches it, under its own name, and no other site may ask it. An image is decoded as the training
images were, and forgotten. Bodies are bounded in bytes and seconds; the net works on one image at a time, beside the
event loop, for those who still wait for the answer.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import uvicorn
from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from daybreak.core.errors import DataError, DaybreakError, UsageError, one_line
from daybreak.core.files import is_leftover
from daybreak.report.html import render
from daybreak.serve.figures import Figures, Measured
from daybreak.serve.guard import POLICY, Guard, PromptProtocol, RefusedError

HOST = "127.0.0.1"
MAX_BYTES = 16 * 2**20  # of an image
MAX_SECONDS = 20.0  # in which it must have come
TOP = 5  # classes
MAX_WAITING = 8  # for the net; the next ones get 503
APART = POLICY | {
    "Content-Security-Policy": "sandbox allow-scripts"
}  # what a run brings along runs apart from the page

logger = logging.getLogger(__name__)


class Subject(Protocol):
    """What a page is about: a run (`of_run`) or a bundle (`of_bundle`).

    Attributes:
        folder: whose files the page lists.
        names: of the classes, as they are.
        explains: whether an answer can have maps.
    """

    title: str
    folder: Path
    names: tuple[str, ...]
    explains: bool

    def answer(self, data: bytes, target: str | None, against: str | None) -> dict[str, Any]:
        """What it says about an image file: "image", "top" and, where it explains, "maps"; ready for JSON.

        Args:
            target, against: classes by name, for maps.

        Raises:
            DaybreakError: the image or a class cannot be used.
        """


def serve(subject: Subject, port: int, on_ready: Callable[[str], None] = print) -> None:
    """Answer at http://127.0.0.1:PORT/ until a signal comes, which then goes its way.

    Args:
        port: 0 for any that is free.
        on_ready: called with the address once it can be visited.

    Raises:
        UsageError: the port cannot be had, or this thread has an event loop already, as in a notebook.
    """
    _check_no_loop(subject.folder)
    application = application_of(subject)
    with _listen(port) as listening:
        on_ready(f"http://{HOST}:{listening.getsockname()[1]}/")
        server_of(application).run(sockets=[listening])


def server_of(application: Starlette) -> uvicorn.Server:
    quiet: dict[str, Any] = {"log_level": "critical", "access_log": False, "server_header": False}
    return uvicorn.Server(uvicorn.Config(application, http=PromptProtocol, timeout_graceful_shutdown=2, **quiet))


def application_of(subject: Subject) -> Starlette:
    """The page's addresses: `/`, `/predict` for the bytes of an image, `/run/NAME` for the subject's files, and for
    those who watch over it `/healthz` and `/metrics` (Prometheus)."""
    page, figures = _Page(subject), Figures()
    return Starlette(
        routes=[
            Route("/", page.show),
            Route("/predict", page.predict, methods=["POST"]),
            Route("/run/{name:path}", page.file),
            Route("/healthz", page.health),
            Route("/metrics", figures.show),
        ],
        # A page elsewhere could point a name of its own at this machine; it would still say that name.
        middleware=[
            Middleware(Measured, figures=figures),
            Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"]),
            Middleware(Guard),
        ],
        exception_handlers={DaybreakError: _refusal, ClientDisconnect: _nobody, Exception: _unexpected},
    )


class _Page:
    """What the addresses answer. Names of classes go out as one line of text, and come back as such."""

    def __init__(self, subject: Subject) -> None:
        self.subject, self.names = subject, [one_line(name) for name in subject.names]
        self.net = CapacityLimiter(1)

    def show(self, _request: Request) -> Response:
        folder = self.subject.folder
        page = render(
            "serve.html", "serve.js", title=self.subject.title, subtitle=one_line(folder.resolve().name),
            classes=self.names, files=files_of_run(folder), max_bytes=MAX_BYTES, explains=self.subject.explains,
        )  # fmt: skip
        return HTMLResponse(page, headers=POLICY)

    def health(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok", "name": self.subject.title}, headers=POLICY)

    async def predict(self, request: Request) -> Response:
        asked, data = request.query_params, await _body(request)
        target, against = self._class(asked.get("class")), self._class(asked.get("against"))
        if self.net.statistics().tasks_waiting >= MAX_WAITING:
            raise RefusedError(503, "image", f"{MAX_WAITING} others are waiting", "again in a moment")
        async with self.net:
            if await request.is_disconnected():
                raise ClientDisconnect
            return JSONResponse(await to_thread.run_sync(self.answer, data, target, against), headers=POLICY)

    def answer(self, data: bytes, target: str | None, against: str | None) -> dict[str, Any]:
        """The subject's, each class as one line."""
        found = self.subject.answer(data, target, against)
        for row in (*found.get("top", ()), *found.get("maps", ())):
            row["class"] = one_line(row["class"])
        return found

    def _class(self, name: str | None) -> str | None:
        return self.subject.names[self.names.index(name)] if name in self.names else name or None

    def file(self, request: Request) -> Response:
        return FileResponse(file_of_run(self.subject.folder, request.path_params["name"]), headers=APART)


async def _body(request: Request) -> bytes:
    """A request's body, unless it is too large or takes too long."""
    too_large = RefusedError(413, "image", f"more than {MAX_BYTES // 2**20} MiB", "a smaller copy of it")
    if int(request.headers.get("content-length", 0)) > MAX_BYTES:
        raise too_large
    data = bytearray()
    try:
        async with asyncio.timeout(MAX_SECONDS):
            async for chunk in request.stream():
                data += chunk
                if len(data) > MAX_BYTES:
                    raise too_large
    except TimeoutError:
        raise RefusedError(408, "image", f"had not come after {MAX_SECONDS:g} s", "again") from None
    return bytes(data)


def file_of_run(folder: Path, name: str) -> Path:
    """A file of a run by its name below it.

    Raises:
        RefusedError: the name leads out, is no name of a file, or there is no such file.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or any(c in name for c in "\0\\:"):
        raise RefusedError(400, f"/run/{name}", "not the name of a file of the run", "a link of the page")
    path = folder / name
    try:
        inside, there = path.resolve().is_relative_to(folder.resolve()), path.is_file()
    except (OSError, RuntimeError):  # too long a name, a loop of links, a folder that may not be read
        inside, there = True, False
    if not inside:
        raise RefusedError(403, f"/run/{name}", "leads out of the run", "a link of the page")
    if not there:
        raise RefusedError(404, f"/run/{name}", "not there", "a link of the page")
    return path


def files_of_run(folder: Path) -> list[str]:
    """All files of a run that a person may want to look at and that can be had, the report first."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if not is_leftover(path)]
    shown = [name for name in names if not name.startswith((".", "checkpoints/")) and not name.endswith(".safetensors")]
    return sorted(filter(lambda n: _can_be_had(folder, n), shown), key=lambda n: (n != "report.html", n.count("/"), n))


def _can_be_had(folder: Path, name: str) -> bool:
    try:
        return one_line(name) == name and file_of_run(folder, name).is_file()
    except RefusedError:
        return False


def _refusal(_request: Request, error: Exception) -> Response:
    assert isinstance(error, DaybreakError)
    usual = 400 if isinstance(error, DataError | UsageError) else 500
    status = error.status if isinstance(error, RefusedError) else usual
    unread = {"Connection": "close"} if status in (408, 413) else {}  # or the rest of a body would hold the connection
    return JSONResponse(error.as_json() | {"message": str(error)}, status, POLICY | unread)


def _nobody(_request: Request, _error: Exception) -> Response:
    return Response(status_code=400)  # who asked is gone


def _unexpected(request: Request, error: Exception) -> Response:
    logger.warning("error: %s: %s", type(error).__name__, one_line(error))
    return _refusal(request, DaybreakError(type(error).__name__, str(error) or "unexpected", "another image"))


def _check_no_loop(folder: Path) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise UsageError("serve", "a notebook's event loop is running here", f"daybreak serve {folder}, in a terminal")


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"--port {port}", why, "another port, or 0 for any that is free") from None
