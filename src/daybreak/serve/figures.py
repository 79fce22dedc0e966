"""How many requests there were, and how long they took, in the text that Prometheus reads."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

KNOWN = ("/", "/predict", "/healthz", "/metrics")  # a label for every address that somebody tries would never end


class Figures:
    """The figures of one application."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter("daybreak_requests", "Requests answered.", ("path", "status"), registry=self._registry)
        self.seconds = Histogram(
            "daybreak_request_seconds", "From a request to its answer.", ("path",), registry=self._registry
        )
        self.under_way = Gauge("daybreak_requests_under_way", "Requests not yet answered.", registry=self._registry)

    def show(self, _request: Request) -> Response:
        return Response(generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


class Measured:
    """Counts and times what passes through."""

    def __init__(self, app: ASGIApp, figures: Figures) -> None:
        self.app, self.figures = app, figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, begun, path = 500, time.perf_counter(), scope["path"]
        label = path if path in KNOWN else "/run" if path.startswith("/run/") else "other"

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self.figures.under_way.track_inprogress():
            try:
                await self.app(scope, receive, sent)
            finally:
                self.figures.requests.labels(label, status).inc()
                self.figures.seconds.labels(label).observe(time.perf_counter() - begun)
