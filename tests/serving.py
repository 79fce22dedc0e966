"""A run served for a test, in a thread of its own."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

from daybreak.runs.directory import RunDirectory
from daybreak.serve.app import application_of
from daybreak.serve.of_run import ServedRun
from daybreak.serve.options import HOST, ServeOptions
from daybreak.serve.server import listen, server_of


@dataclass
class Served:
    """A run and where it is served."""

    run: RunDirectory
    port: int
    server: uvicorn.Server | None = None

    def ask(self, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        """Status and body of an answer; the path goes out as it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET" if body is None else "POST", path, body, headers)
        answer = connection.getresponse()
        found = answer.status, answer.read()
        connection.close()
        return found

    def json(self, path: str, body: bytes | None = None) -> tuple[int, Any]:
        status, text = self.ask(path, body)
        return status, json.loads(text)

    def explained(self, body: bytes, query: str = "") -> tuple[int, Any]:
        """What `/predict` answers with maps."""
        return self.json(f"/predict?explain=true&{query}", body)

    def begin(self, *headers: str, body: bytes = b"") -> socket.socket:
        """A connection on which a POST has begun."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        lines = ["POST /predict HTTP/1.1", f"Host: 127.0.0.1:{self.port}", *headers, "", ""]
        connection.sendall("\r\n".join(lines).encode() + body)
        return connection


@contextmanager
def serving(run: RunDirectory, token: str | None = None, **options: Any) -> Iterator[Served]:
    server = server_of(application_of(ServedRun(run, "cpu"), ServeOptions(**options), token))
    with listen(HOST, 0) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield Served(run, listening.getsockname()[1], server)
        finally:
            server.should_exit = True
            thread.join()
