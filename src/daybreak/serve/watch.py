"""What those who watch over a service see: figures in the text that Prometheus reads, and a line for each request.

Neither has anything of an image, a query or a token in it.
"""

import json
import sys
import time
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from daybreak.core.errors import one_line
from daybreak.serve.guard import POLICY
from daybreak.serve.options import Log

# A label for every address that somebody tries would never end.
KNOWN = ("/", "/predict", "/examples", "/healthz", "/metrics", "/openapi.json")
MAX_PATH = 200  # characters of a path in a line


class Figures:
    """The figures of one application."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter("daybreak_requests", "Requests answered.", ("path", "status"), registry=self._registry)
        self.seconds = Histogram(
            "daybreak_request_seconds", "From a request to its answer.", ("path",), registry=self._registry
        )
        self.under_way = Gauge("daybreak_requests_under_way", "Requests not yet answered.", registry=self._registry)
        self.together = Histogram(
            "daybreak_batch_images", "Images of a forward.", buckets=(1, 2, 4, 8, 16, 32, 64), registry=self._registry
        )

    def show(self) -> Response:
        return Response(generate_latest(self._registry), headers=POLICY | {"Content-Type": CONTENT_TYPE_LATEST})


class Watched:
    """Counts, times and logs what passes through."""

    def __init__(self, app: ASGIApp, figures: Figures, log: Log) -> None:
        self.app, self.figures, self.log = app, figures, log

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
                seconds = time.perf_counter() - begun
                self.figures.requests.labels(label, status).inc()
                self.figures.seconds.labels(label).observe(seconds)
                self._write(scope, status, seconds)

    def _write(self, scope: Scope, status: int, seconds: float) -> None:
        if self.log != "none":
            line = _as_json if self.log == "json" else _as_text
            print(line(_facts(scope, status, seconds)), file=sys.stderr, flush=True)


def _facts(scope: Scope, status: int, seconds: float) -> dict[str, Any]:
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "event": "request",
        "client": one_line((scope.get("client") or ("unknown",))[0]),
        "method": scope["method"],
        "path": one_line(scope["path"])[:MAX_PATH],
        "status": status,
        "seconds": round(seconds, 6),
    }


def _as_json(facts: dict[str, Any]) -> str:
    return json.dumps(facts)


def _as_text(facts: dict[str, Any]) -> str:
    return "{time} {client} {method} {path} {status} {milliseconds:.1f} ms".format(
        **facts, milliseconds=1000 * facts["seconds"]
    )
