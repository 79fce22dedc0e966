"""Listen, answer until a signal comes, and then answer what has been asked."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from daybreak.core.errors import UsageError
from daybreak.serve.app import application_of
from daybreak.serve.guard import PromptProtocol
from daybreak.serve.options import ALL_INTERFACES, ServeOptions, new_token
from daybreak.serve.subject import Subject

DRAIN_SECONDS = 8  # for what has been asked when a signal comes; container engines kill after ten
BACKLOG = 512  # connections that the system holds until they are taken
OPEN_FILES = 4096


def serve(subject: Subject, options: ServeOptions | None = None, on_ready: Callable[[str], None] = print) -> None:
    """Answer at http://HOST:PORT/ until a signal comes, which then goes its way.

    Args:
        on_ready: called with the address once it can be visited. It has the token in it if that is new.

    Raises:
        UsageError: the address cannot be had, the token cannot be used, or this thread has an event loop already, as
            in a notebook.
    """
    _check_no_loop(subject.folder)
    options = options or ServeOptions()
    token = options.given_token()
    is_new = token is None and not options.is_for_this_machine
    token = new_token() if is_new else token
    application = application_of(subject, options, token)
    _allow_open_files()
    with listen(options.host, options.port) as listening:
        address = address_of(options.host, listening.getsockname()[1])
        on_ready(f"{address}?token={token}" if is_new else address)
        server_of(application).run(sockets=[listening])


def server_of(application: ASGIApp) -> uvicorn.Server:
    limits: dict[str, Any] = {"timeout_graceful_shutdown": DRAIN_SECONDS, "backlog": BACKLOG, "lifespan": "on"}
    quiet: dict[str, Any] = {"log_level": "critical", "access_log": False, "server_header": False}
    return uvicorn.Server(uvicorn.Config(application, http=PromptProtocol, **limits, **quiet))


def listen(host: str, port: int) -> socket.socket:
    """
    Raises:
        UsageError: host or port cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
        # Connections inherit it. asyncio sets it only for sockets that were made with a protocol, which this is not;
        # without it, the body of an answer waits 40 ms for the other side to acknowledge the headers.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        if isinstance(error, socket.gaierror):
            raise UsageError(f"--host {host}", why, "an address of this machine, such as 127.0.0.1") from None
        raise UsageError(f"--port {port}", why, "another port, or 0 for any that is free") from None


def address_of(host: str, port: int) -> str:
    """Where to visit what listens there: an address for all interfaces is none that a browser can ask."""
    name = socket.gethostname() if host in ALL_INTERFACES else host
    return f"http://[{name}]:{port}/" if ":" in name else f"http://{name}:{port}/"


def _allow_open_files() -> None:
    """Each connection is an open file, and so is each large upload; the usual limit is 1,024."""
    with suppress(ImportError, OSError, ValueError):  # not on Windows; what is allowed already is not lowered
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _check_no_loop(folder: Path) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise UsageError("serve", "a notebook's event loop is running here", f"daybreak serve {folder}, in a terminal")
