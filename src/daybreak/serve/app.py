"""A web page and a service: send an image, get its classes and the maps that explain them; browse the files of the run.

An image is decoded as the training images were, and forgotten.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from importlib.metadata import version
from typing import IO, Annotated, Any, TypeVar

import numpy as np
from fastapi import FastAPI, Query, Request, Response, Security
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from daybreak.core.errors import DataError, DaybreakError, UsageError, one_line
from daybreak.evaluation.files import likeliest
from daybreak.report.html import render
from daybreak.serve.answers import Answer, Examples, Health, as_refusal, described, refusals
from daybreak.serve.batching import Batches
from daybreak.serve.files import file_of_run, files_of_run
from daybreak.serve.guard import POLICY, Guard, RefusedError
from daybreak.serve.options import ServeOptions
from daybreak.serve.subject import Subject
from daybreak.serve.token import TokenRequired
from daybreak.serve.uploads import MAX_BYTES, Uploads
from daybreak.serve.watch import Figures, Watched

TOP = 5  # classes
MAX_EXPLAINING = 32  # who wait for maps; the next ones get 503
APART = POLICY | {
    "Content-Security-Policy": "sandbox allow-scripts"
}  # what a run brings along runs apart from the page
IMAGE = {"schema": {"type": "string", "format": "binary"}}
BODY = {"requestBody": {"required": True, "content": {"image/*": IMAGE}}}

NAME = r"^[\w-]+(\.[\w-]+)*(/[\w-]+(\.[\w-]+)*)*$"  # of a file, in the description
T = TypeVar("T")
logger = logging.getLogger(__name__)


def application_of(subject: Subject, options: ServeOptions | None = None, token: str | None = None) -> FastAPI:
    """The service: the page at `/`, `/predict` for the bytes of an image, `/run/NAME` for the subject's files,
    `/openapi.json`, and for those who watch over it `/healthz` and `/metrics` (Prometheus).

    Args:
        token: what a request must bring, if anything.
    """
    options, figures = options or ServeOptions(), Figures()
    page = _Page(subject, options, figures)
    application = FastAPI(
        title=one_line(subject.title),
        version=version("daybreak"),
        docs_url=None,  # both would load their scripts from elsewhere
        redoc_url=None,
        lifespan=page.lifespan,
        middleware=[
            Middleware(Watched, figures=figures, log=options.log),
            Middleware(TrustedHostMiddleware, allowed_hosts=options.allowed_hosts(token is not None)),
            Middleware(Guard, make_room=page.uploads.let_oldest_go),
            *([Middleware(TokenRequired, token=token)] if token else []),
        ],
    )
    for kind, handler in HANDLERS.items():
        application.add_exception_handler(kind, handler)
    application.openapi = partial(described, application, page.names if subject.explains else None)  # type: ignore[method-assign]
    locked = (401,) if token else ()
    add = partial(application.add_api_route, dependencies=[Security(HTTPBearer(auto_error=False))] if token else [])
    add("/", page.show, response_class=HTMLResponse, responses=refusals(*locked, 403, 503))
    add(
        "/predict", page.predict, methods=["POST"], response_model=Answer, openapi_extra=BODY,
        responses=refusals(400, *locked, 403, 408, 413, 422, 500, 503, of_json=True),
    )  # fmt: skip
    add("/examples", page.examples, response_model=Examples, responses=refusals(*locked, 403, 503, of_json=True))
    add("/run/{name:path}", page.file, response_class=FileResponse, responses=refusals(400, *locked, 403, 404, 503))
    application.add_api_route(
        "/healthz", page.health, response_model=Health, responses=refusals(403, 503, of_json=True)
    )
    add("/metrics", figures.show, response_class=Response, responses=refusals(*locked, 403, 503))
    return application


class _Page:
    """What the addresses answer. Names of classes go out as one line of text, and come back as such."""

    def __init__(self, subject: Subject, options: ServeOptions, figures: Figures) -> None:
        self.subject, self.options, self.figures = subject, options, figures
        self.names = [one_line(name) for name in subject.names]
        self.uploads = Uploads()
        self.found: list[dict[str, str]] | None = None  # the examples

    @asynccontextmanager
    async def lifespan(self, _application: FastAPI) -> AsyncIterator[None]:
        with ThreadPoolExecutor(1, "net") as self.net, ThreadPoolExecutor(os.cpu_count(), "decode") as self.decoders:
            self.batches = Batches(self._classify, self.subject.at_once, self.net)
            self.turn, self.looking, self.explaining = asyncio.Lock(), asyncio.Lock(), 0
            yield

    def show(self) -> Response:
        subject, folder = self.subject, self.subject.folder
        page = render(
            "serve.html", ("pictures.css", "serve.css"), ("serve.js",),
            title=one_line(subject.title), subtitle=one_line(folder.resolve().name),
            measured=subject.measured, classes=self.names, files=files_of_run(folder), max_bytes=MAX_BYTES,
            explains=subject.explains, reject=self.options.reject,
        )  # fmt: skip
        return HTMLResponse(page, headers=POLICY)

    async def health(self) -> Response:
        return JSONResponse({"status": "ok"}, headers=POLICY)

    async def examples(self) -> Response:
        async with self.looking:  # once, and beside the net: the data may have to be verified
            if self.found is None:
                found = await self._in(self.decoders, self.subject.examples)
                self.found = [row | {"class": one_line(row["class"])} for row in found]
        return JSONResponse({"examples": self.found}, headers=POLICY)

    async def predict(
        self,
        request: Request,
        target: Annotated[str | None, Query(alias="class", description="The class that maps are for.")] = None,
        against: Annotated[str | None, Query(description="A class against which maps are.")] = None,
        explain: Annotated[bool, Query(description="Whether the answer has the net's input and maps.")] = False,
    ) -> Response:
        """The likeliest classes of an image. The body is the image file itself: PNG, JPEG, WEBP, BMP, GIF or TIFF."""
        async with self.uploads.body(request) as file:
            image_HWC = await self._in(self.decoders, self._decode, file)
        if not (explain or target or against):
            found, _ = await self._answer(request, image_HWC)
        else:
            with self._place_for_maps():
                found, predicted = await self._answer(request, image_HWC)
                found |= await self._explained(request, image_HWC, predicted, self._class(target), self._class(against))
        return JSONResponse(found, headers=POLICY)

    def file(self, name: Annotated[str, PathParameter(json_schema_extra={"pattern": NAME})]) -> Response:
        return FileResponse(file_of_run(self.subject.folder, name), headers=APART)

    async def _answer(self, request: Request, image_HWC: np.ndarray) -> tuple[dict[str, Any], int]:
        """What is said about an image, and its likeliest class."""
        probability_K, energy = await self.batches.ask(image_HWC, request.is_disconnected)
        found = {"top": likeliest(probability_K, self.names, TOP), "energy": energy}
        if self.options.reject is not None:
            found["unknown"] = bool(probability_K.max() < self.options.reject)
        return found, int(probability_K.argmax())

    @contextmanager
    def _place_for_maps(self) -> Iterator[None]:
        if self.explaining >= MAX_EXPLAINING:
            raise RefusedError(503, "image", f"{MAX_EXPLAINING} others wait for maps", "again in a moment")
        self.explaining += 1
        try:
            yield
        finally:
            self.explaining -= 1

    async def _explained(
        self, request: Request, image_HWC: np.ndarray, predicted: int, target: str | None, against: str | None
    ) -> dict[str, Any]:
        async with self.turn:
            if await request.is_disconnected():
                raise ClientDisconnect
            found = await self._in(self.net, self.subject.explain, image_HWC, predicted, target, against)
        for row in found.get("maps", ()):
            row["class"] = one_line(row["class"])
        return found

    def _decode(self, file: IO[bytes]) -> np.ndarray:
        return self.subject.decode(file.read())

    def _classify(self, images_NHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.figures.together.observe(len(images_NHWC))
        return self.subject.classify(images_NHWC)

    def _class(self, name: str | None) -> str | None:
        return self.subject.names[self.names.index(name)] if name in self.names else name or None

    async def _in(self, threads: ThreadPoolExecutor, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(threads, partial(function, *arguments))


def _refusal(_request: Request, error: Exception) -> Response:
    assert isinstance(error, DaybreakError)
    usual = 400 if isinstance(error, DataError | UsageError) else 500
    status = error.status if isinstance(error, RefusedError) else usual
    unread = {"Connection": "close"} if status in (408, 413, 503) else {}  # or the rest of a body would hold it
    return JSONResponse(as_refusal(error), status, POLICY | unread)


def _nobody(_request: Request, _error: Exception) -> Response:
    return Response(status_code=400)  # who asked is gone


def _unexpected(request: Request, error: Exception) -> Response:
    logger.warning("error: %s: %s", type(error).__name__, one_line(error))
    return _refusal(request, DaybreakError(type(error).__name__, str(error) or "unexpected", "another image"))


def _as_http_says(request: Request, error: Exception) -> Response:
    """No such address, another method: what the framework refuses."""
    assert isinstance(error, HTTPException)
    refusal = RefusedError(error.status_code, request.url.path, str(error.detail), "an address of /openapi.json")
    answer = refusal.answer()
    answer.headers.update(error.headers or {})
    return answer


def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return RefusedError(
        422, ".".join(map(str, first["loc"])), first["msg"], "a value that /openapi.json allows"
    ).answer()


HANDLERS = {
    DaybreakError: _refusal,
    ClientDisconnect: _nobody,
    HTTPException: _as_http_says,
    RequestValidationError: _invalid,
    Exception: _unexpected,
}
