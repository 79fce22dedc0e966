"""How something is served: to whom, under which names, with which token."""

import ipaddress
import os
import re
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from daybreak.core.errors import UsageError
from daybreak.evaluation.files import check_reject

HOST = "127.0.0.1"
TOKEN = "DAYBREAK_TOKEN"
SHORTEST = 16  # characters of a token
ALL_INTERFACES = ("", "0.0.0.0", "::")
Log = Literal["none", "text", "json"]


@dataclass(frozen=True)
class ServeOptions:
    """How a run or a bundle is served.

    Attributes:
        port: 0 for any that is free.
        host: the address to listen on. Any but one of this machine alone needs a token.
        token_file: a file that holds the token; by default the environment variable `DAYBREAK_TOKEN` does.
        names: further names under which it may be asked, such as that of a proxy before it. Whoever names one means
            others than this machine, so that a token is needed.
        reject: the probability below which the likeliest class is no answer but "unknown".
        log: one line for each request on stderr, as text or as JSON.

    Raises:
        UsageError: `reject` is no probability, `log` is not known, or a name is none.
    """

    port: int = 8000
    host: str = HOST
    token_file: Path | None = None
    names: tuple[str, ...] = ()
    reject: float | None = None
    log: Log = "none"

    def __post_init__(self) -> None:
        check_reject(self.reject)
        if self.log not in get_args(Log):
            raise UsageError(f"--log {self.log}", "not a valid value", f"one of {', '.join(get_args(Log))}")
        for name in self.names:
            if not re.fullmatch(r"[A-Za-z0-9.-]+|\[[0-9a-f:]+\]", name):
                why = "not the name of a host"
                raise UsageError(f"--allow-host {name}", why, "a name such as cats.example, without port and https://")

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def is_for_this_machine(self) -> bool:
        return self.is_local and not self.names

    def given_token(self) -> str | None:
        """What must be known to ask, as given by the file or the variable.

        Raises:
            UsageError: the file cannot be read, or the token is too short to keep anybody out, or would have to be
                written otherwise in an address.
        """
        token = os.environ.get(TOKEN) if self.token_file is None else self._in_file(self.token_file)
        if token is not None and not re.fullmatch(rf"[\w.~-]{{{SHORTEST},}}", token, re.ASCII):
            why = f"a token has {SHORTEST} letters, digits and signs of ._~- or more"
            raise UsageError(self.token_file or TOKEN, why, "openssl rand -hex 16")
        return token

    def allowed_hosts(self, has_token: bool) -> list[str]:
        """The names that a request may be addressed to.

        A page elsewhere could point a name of its own at this machine; it would still say that name. With a token it
        may: the browser does not give our cookie to it.
        """
        if has_token and not self.names:
            return ["*"]
        of_ours = f"[{self.host}]" if ":" in self.host else self.host
        own = socket.gethostname() if self.host in ALL_INTERFACES else of_ours
        return [HOST, "localhost", "[::1]", own, *self.names]

    @staticmethod
    def _in_file(file: Path) -> str:
        try:
            return file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "no text"
            raise UsageError(f"--token-file {file}", why, "a file with a token in it") from None


def new_token() -> str:
    return secrets.token_urlsafe(24)
